"""Counterexamples and expected pictures of lesson 01's exercises."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from minimaskrcnn_lessons.exercise import Drawing, Inputs
from minimaskrcnn_lessons.lesson01.canvas import note, numbered_runs, outline, plane
from minimaskrcnn_lessons.lesson01.figures import HEART
from minimaskrcnn_lessons.style import BLUE, GREEN, GREY, INK, ORANGE, RED, WIDTH


def _text(values: Any) -> str:
    return "(" + ", ".join(f"{float(v):.4g}" for v in values) + ")"


def _first_different(yours: Tensor, right: Tensor) -> tuple[int, ...]:
    """The first row or cell in which they differ."""
    apart = ~torch.isclose(yours.double(), right.double(), 1e-5, 1e-5, equal_nan=True)
    return tuple(apart.nonzero()[0].tolist()) if apart.any() else (0,) * right.ndim


def _window(*boxes: Sequence[float]) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 around all that is finite, in whole pixels."""
    corners = np.array([[float(v) for v in box] for box in boxes])
    corners = corners[np.isfinite(corners).all(1)]
    low, high = corners.min(0), corners.max(0)
    x1, y1 = np.floor(min(low[0], low[2]) - 0.5), np.floor(min(low[1], low[3]) - 0.5)
    return x1, y1, np.ceil(max(high[0], high[2]) + 0.5), np.ceil(max(high[1], high[3]) + 0.5)


def _look_at(axes: Axes, window: tuple[float, float, float, float], title: str) -> None:
    """Show that part of the plane; where one side is far longer than the other, not to scale."""
    x1, y1, x2, y2 = window
    plane(axes, (y2, x2), title)
    axes.set(xlim=(x1, x2), ylim=(y2, y1))
    if max(x2 - x1, y2 - y1) > 4 * min(x2 - x1, y2 - y1):
        axes.set_aspect("auto")
    for axis in (axes.xaxis, axes.yaxis):
        # Not the outermost, which would touch in the corner.
        axis.set_major_locator(MaxNLocator(9, integer=True, prune="both"))


def _other_shape(yours: Any, right: Tensor) -> Drawing | None:
    """Both tables with their shapes, if they differ: then no row is the other's."""
    mine = torch.as_tensor(yours).detach()
    if mine.shape == right.shape:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.2))
    for panel, name, found in ((axes[0], "yours", mine), (axes[1], "right", right)):
        table = found.double().reshape(len(found) if found.ndim else 1, -1)
        panel.imshow(torch.zeros(table.shape), cmap="Blues", vmin=0, vmax=1)
        for i, j in np.ndindex(*table.shape):
            panel.text(j, i, f"{table[i, j]:.3g}", ha="center", va="center")
        panel.set(title=f"{name}: shape {list(found.shape)}", xticks=[], yticks=[])
        panel.spines[:].set_visible(True)
    return (
        figure,
        f"Two tables of numbers. Yours has the shape {list(mine.shape)}, the right one {list(right.shape)}.",
    )


def _two_boxes(yours: Tensor, right: Tensor, others: dict[str, Tensor], title: str) -> plt.Figure:
    """Both results over the same plane, the reader's left; `others` are drawn grey on both."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.6))
    window = _window(yours, right, *others.values())
    for panel, name, box, colour in ((axes[0], "yours", yours, RED), (axes[1], "right", right, BLUE)):
        _look_at(panel, window, f"{name}: {_text(box)}")
        for other in others.values():
            outline(panel, other, GREY, dash="--", width=2)
        outline(panel, box, colour, fill=0.15)
    figure.suptitle(title)
    return figure


def coco_boxes(inputs: Inputs, yours: Tensor, right: Tensor) -> Drawing:
    """The first box that differs, in its picture."""
    if (other := _other_shape(yours, right)) is not None:
        return other
    row = _first_different(yours, right)[0]
    height, width = inputs["image_size"]
    given = _text(inputs["bbox"][row])
    title = f"bbox {given}; grey: the picture, height {height}, width {width}"
    figure = _two_boxes(yours[row], right[row], {"picture": torch.tensor([0.0, 0, width, height])}, title)
    alt = (
        f"A picture {height} high and {width} wide. Of the bbox {given} yours makes {_text(yours[row])}, "
        f"right is {_text(right[row])}."
    )
    return figure, alt


def coco_boxes_picture(f: Callable[..., Tensor]) -> Drawing:
    """Two annotations of a picture, one of which leaves it."""
    size, given = (6, 9), torch.tensor([[1.0, 1.0, 4.0, 3.0], [6.0, 2.5, 4.5, 3.0]])
    found = f(given, size)
    figure, axes = plt.subplots(figsize=(WIDTH, 3.4))
    plane(axes, (6, 16), f"a picture of height {size[0]} and width {size[1]} (grey)")
    outline(axes, (0, 0, size[1], size[0]), GREY, width=4)
    for bbox, box, colour, at in zip(given, found, (BLUE, GREEN), ((3, 2.5), (13.3, 4))):
        x, y, w, h = bbox.tolist()
        outline(axes, (x, y, x + w, y + h), colour, dash=":", width=2)
        outline(axes, box, colour, fill=0.15)
        note(axes, *at, f"bbox {_text(bbox)}\nbox {_text(box)}")
    alt = (
        f"Two boxes in a picture 9 wide and 6 high: {_text(given[0])} becomes {_text(found[0])}, and "
        f"{_text(given[1])}, which leaves the picture on the right (dotted), is cut to {_text(found[1])}."
    )
    return figure, alt


def pairs(inputs: Inputs, yours: Tensor, right: Tensor) -> Drawing:
    """The first pair whose IoU differs."""
    if (other := _other_shape(yours, right)) is not None:
        return other
    i, j = _first_different(yours, right)
    one, two = inputs["boxes1"][i], inputs["boxes2"][j]
    mine, wanted = yours[i, j].item(), right[i, j].item()
    figure, axes = plt.subplots(figsize=(WIDTH, 3.8))
    _look_at(axes, _window(one, two), f"pair [{i}, {j}]: yours {mine:.4g}, right {wanted:.4g}")
    outline(axes, one, BLUE, fill=0.15)
    outline(axes, two, ORANGE, dash="--", fill=0.15)
    axes.set_xlabel(f"boxes1[{i}] {_text(one)}, solid;   boxes2[{j}] {_text(two)}, dashed")
    alt = f"Boxes {_text(one)} and {_text(two)} on a grid of pixels. Your IoU is {mine:.4g}, right is {wanted:.4g}."
    return figure, alt


def pairs_picture(f: Callable[..., Tensor]) -> Drawing:
    """Two boxes against three, and the table of their IoU."""
    boxes1 = torch.tensor([[0.0, 0, 4, 4], [5.0, 1, 9, 5]])
    boxes2 = torch.tensor([[0.0, 0, 4, 4], [2.0, 1, 6, 5], [6.0, 2, 8, 4]])
    table = f(boxes1, boxes2)
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.2), width_ratios=(1.3, 1))
    plane(axes[0], (6, 10), "boxes1 solid, boxes2 dashed")
    for row, (box, at) in enumerate(zip(boxes1, ((1.0, 1.0), (8.5, 4.5)))):
        outline(axes[0], box, BLUE, fill=0.12)
        note(axes[0], *at, f"1[{row}]", color=BLUE)
    for row, (box, x) in enumerate(zip(boxes2, (1.0, 4.5, 7.0))):
        outline(axes[0], box, RED, dash="--")
        note(axes[0], x, 3.0, f"2[{row}]", color="#A34700")
    axes[1].imshow(table, cmap="Blues", vmin=0, vmax=1.6)
    for i, j in np.ndindex(2, 3):
        axes[1].text(j, i, f"{table[i, j]:.3f}", ha="center", va="center", fontsize=13)
    axes[1].set(title="IoU, [2, 3]", xticks=range(3), yticks=range(2), xlabel="boxes2", ylabel="boxes1")
    rows = "; ".join(", ".join(f"{value:.3f}" for value in row) for row in table.tolist())
    return (
        figure,
        f"Two boxes against three on a grid of pixels, and the table of their IoU, row by row: {rows}.",
    )


def deltas(inputs: Inputs, yours: Tensor, right: Tensor) -> Drawing:
    """The first box that differs, with its reference."""
    if (other := _other_shape(yours, right)) is not None:
        return other
    row = _first_different(yours, right)[0]
    reference, given = inputs["references"][row], inputs["deltas"][row]
    title = (
        f"deltas {_text(given)}, weights {_text(inputs['weights'])}\ndashed: the reference {_text(reference)}"
    )
    figure = _two_boxes(yours[row], right[row], {"reference": reference}, title)
    alt = (
        f"Deltas {_text(given)} with weights {_text(inputs['weights'])} on the reference {_text(reference)}: "
        f"yours is {_text(yours[row])}, right is {_text(right[row])}."
    )
    return figure, alt


def deltas_picture(f: Callable[..., Tensor]) -> Drawing:
    """One reference moved by four deltas."""
    reference = torch.tensor([[4.0, 4.0, 8.0, 8.0]])
    moves = torch.tensor(
        [[0.0, 0, 0, 0], [0.5, 0, 0, 0], [0, 0, 0.6931472, 0], [0, -0.25, -0.6931472, 0.6931472]]
    )
    names = ("(0, 0, 0, 0)", "(0.5, 0, 0, 0)", "(0, 0, log 2, 0)", "(0, −1/4, −log 2, log 2)")
    found = f(moves, reference.expand(4, 4), (1.0, 1.0, 1.0, 1.0))
    figure, axes = plt.subplots(1, 4, figsize=(WIDTH, 2.5), sharey=True)
    for panel, box, name in zip(axes, found, names):
        plane(panel, (12, 12), "", step=4)
        panel.set_title(name, fontsize=11)
        outline(panel, reference[0], GREY, dash="--", width=2)
        outline(panel, box, BLUE, fill=0.15)
        panel.set_xlabel(_text(box), fontsize=11)
    results = "; ".join(f"{name} gives {_text(box)}" for name, box in zip(names, found))
    return figure, f"The reference (4, 4, 8, 8), dashed, and what four deltas make of it: {results}."


def _strip(axes: Axes, counts: Sequence[int], title: str) -> None:
    """Run lengths as a line of blocks, white for background."""
    start = 0
    for number, count in enumerate(counts):
        axes.barh(0, count, left=start, color=("white", "#56B4E9")[number % 2], edgecolor=INK)
        axes.text(start + count / 2, 0 if count else 0.6, str(count), ha="center", va="center")
        start += count
    axes.set(xlim=(-0.5, max(start, 1) + 0.5), ylim=(-0.5, 0.8), yticks=[], title=title)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.spines["left"].set_visible(False)


def runs(inputs: Inputs, yours: list[int], right: list[int]) -> Drawing:
    """The bitmap with the order of its pixels, and both lists as strips."""
    mask, mine = inputs["bitmap"].numpy(), [int(run) for run in yours]
    figure, axes = plt.subplot_mosaic([["map", "yours"], ["map", "right"]], figsize=(WIDTH, 3.2))
    numbered_runs(axes["map"], mask, "mask tinted; the order of the pixels")
    _strip(axes["yours"], mine, f"yours: {mine}")
    _strip(axes["right"], right, f"right: {right}")
    rows = " / ".join("".join(str(int(pixel)) for pixel in row) for row in mask)
    return figure, f"The bitmap {rows} (rows from the top). Your runs are {mine}, the right ones {right}."


def runs_picture(f: Callable[..., list[int]]) -> Drawing:
    """The heart and its runs."""
    counts = f(torch.from_numpy(HEART))
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.8), width_ratios=(1, 1.7))
    numbered_runs(axes[0], HEART, "a heart, 5 × 7")
    _strip(axes[1], counts, f"{counts}")
    axes[1].set_xlabel("pixel, counted down the columns")
    return (
        figure,
        f"A heart in 5 rows and 7 columns, its pixels numbered down the columns. Its runs are {counts}.",
    )
