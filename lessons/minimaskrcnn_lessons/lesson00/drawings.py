"""Pictures of lesson 00's exercises: a counterexample (yours and the right one), and what a right answer gives."""

from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from minimaskrcnn.ops import box_iou
from minimaskrcnn_lessons.exercise import Drawing, Inputs
from minimaskrcnn_lessons.style import BLUE, GREEN, GREY, INK, ORANGE, RED, WIDTH

# Detections of a made-up picture for "what a right answer gives": scores, and labels 1 (heart) to 3 (ring).
SCORES = torch.tensor([0.97, 0.91, 0.8, 0.62, 0.5, 0.31, 0.12])
LABELS = torch.tensor([1, 2, 1, 1, 1, 3, 1])


def counts(inputs: Inputs, yours: Any, right: int) -> Drawing:
    """Scores as bars, those of the class filled, and both numbers."""
    scores, labels = inputs["scores"].tolist(), inputs["labels"].tolist()
    label, threshold = inputs["label"], inputs["threshold"]
    figure, axis = plt.subplots(figsize=(WIDTH, 2.6))
    _bars(axis, scores, labels, label, threshold)
    mine = yours.tolist() if isinstance(yours, Tensor) else yours
    axis.set_title(f"Class {label}, scores from {threshold:g} on: yours {mine}, right {right}")
    listed = ", ".join(f"{score:g} for class {of}" for score, of in zip(scores, labels)) or "none"
    return figure, f"Detections: {listed}. Class {label} from {threshold:g} on: yours {mine}, right {right}."


def counting(function: Callable[..., int]) -> Drawing:
    """The number of detections of one class against the threshold."""
    figure, (left, axis) = plt.subplots(1, 2, figsize=(WIDTH, 3.0))
    _bars(left, SCORES.tolist(), LABELS.tolist(), 1, 0.5)
    left.set_title("Seven detections, five of class 1")
    thresholds = [step / 100 for step in range(101)]
    found = [int(function(SCORES, LABELS, 1, threshold)) for threshold in thresholds]
    axis.step(thresholds, found, where="post", color=BLUE, linewidth=2)
    axis.set(xlabel="score threshold", ylabel="detections of class 1", ylim=(0, 5.5))
    at_half = int(function(SCORES, LABELS, 1, 0.5))
    axis.plot([0.5], [at_half], "o", color=RED)
    axis.annotate(f"at 0.5: {at_half}", (0.5, at_half), (8, 4), textcoords="offset points")
    axis.set_title("The number falls as the threshold rises")
    text = f"Left, bars of seven scores. Right, detections of class 1: 5 at threshold 0, {at_half} at 0.5, 0 at 1."
    return figure, text


def _bars(axis: Axes, scores: list[float], labels: list[int], label: int, threshold: float) -> None:
    for place, (score, of) in enumerate(zip(scores, labels)):
        colour = ORANGE if of == label else "#dddddd"
        axis.bar(place, score, color=colour, edgecolor=INK, hatch="" if of == label else "//")
        axis.text(place, score + 0.03, f"{score:g}", ha="center")
    axis.axhline(threshold, color=BLUE, linestyle="--")
    places = max(len(scores), 4)
    axis.text(places + 0.1, threshold + 0.02, f"{threshold:g}", ha="right", va="bottom", color=BLUE)
    axis.set_xticks(range(len(labels)), [f"class {of}" if len(labels) < 6 else str(of) for of in labels])
    axis.set(xlim=(-0.6, places + 0.1), ylim=(0, 1.25), ylabel="score", yticks=[0, 0.5, 1])
    if len(labels) >= 6:
        axis.set_xlabel("class of each detection")


def areas(inputs: Inputs, yours: Any, right: Tensor) -> Drawing:
    """Each mask with its values, pixels above the threshold outlined, and both areas."""
    masks, threshold = inputs["masks"], inputs["threshold"]
    figure, axes = plt.subplots(1, len(masks), figsize=(WIDTH, 2.9), squeeze=False)
    given = torch.as_tensor(yours)
    for index, axis in enumerate(axes[0]):
        _values(axis, masks[index, 0], threshold)
        mine = f"{given[index].item():g}" if given.shape == right.shape else "?"
        axis.set_title(f"mask {index}: yours {mine}, right {right[index]}")
    figure.supxlabel(f"outlined: above {threshold:g}", fontsize=11)
    if given.shape != right.shape:
        figure.suptitle(f"Yours has shape {tuple(given.shape)}, expected {tuple(right.shape)}", fontsize=12)
    text = f"Values of the masks: {masks[:, 0].tolist()}."
    answers = f"Above {threshold:g}: yours {given.tolist()}, right {right.tolist()}."
    return figure, f"{answers} {text}"[:500]


def measuring(function: Callable[..., Tensor]) -> Drawing:
    """Two masks and their areas at two thresholds."""
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    distance = ((x - 3.5) ** 2 + (y - 3.5) ** 2).sqrt()
    disc, ring = (4.2 - distance).clamp(0, 1), (1.5 - (distance - 2.5).abs()).clamp(0, 1)
    masks = torch.stack([disc, ring])[:, None]
    figure, axes = plt.subplots(1, 4, figsize=(WIDTH, 2.4))
    found = []
    for column, threshold in enumerate([0.5, 0.9]):
        found.append(function(masks, threshold).tolist())
        for index in range(2):
            axis = axes[2 * column + index]
            _values(axis, masks[index, 0], threshold, numbers=False)
            axis.set_title(f"above {threshold:g}: {found[-1][index]}")
    return (
        figure,
        f"A soft disc and a soft ring of 8 by 8 pixels. Above 0.5 they have {found[0]} pixels, above 0.9 {found[1]}.",
    )


def _values(axis: Axes, values: Tensor, threshold: float, numbers: bool = True) -> None:
    height, width = values.shape
    axis.imshow(values, cmap="Blues", vmin=0, vmax=2, extent=(0, width, height, 0))
    for row, line in enumerate(values.tolist()):
        for column, value in enumerate(line):
            if numbers:
                axis.text(column + 0.5, row + 0.5, f"{value:g}", ha="center", va="center")
            if value > threshold:
                cell = (column + 0.06, row + 0.06)
                axis.add_patch(Rectangle(cell, 0.88, 0.88, fill=False, edgecolor=RED, linewidth=2))
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(True)


def tight_boxes(inputs: Inputs, yours: Any, right: Tensor) -> Drawing:
    """The bitmap with column and row numbers; each box drawn round the pixels that it names."""
    mask = inputs["mask"]
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.2))
    pairs = (("yours", torch.as_tensor(yours), RED, "--"), ("right", right, GREEN, "-"))
    for axis, (name, box, colour, dash) in zip(axes, pairs):
        _bitmap(axis, mask)
        if box.shape == right.shape:
            x1, y1, x2, y2 = box.tolist()
            patch = Rectangle((x1, y1), x2 + 1 - x1, y2 + 1 - y1, fill=False, edgecolor=colour, linewidth=3)
            patch.set_linestyle(dash)
            axis.add_patch(patch)
            if min(x2 - x1, y2 - y1) < 0:
                axis.set_xlabel("column (this box ends before it begins)")
        axis.set_title(f"{name}: {[round(number, 2) for number in box.flatten().tolist()]}")
    height, width = mask.shape
    text = f"A mask of {height} by {width} pixels: {mask.int().tolist()}."
    return figure, f"Yours {pairs[0][1].tolist()}, right {right.tolist()}. {text}"[:500]


def boxing(function: Callable[[Tensor], Tensor]) -> Drawing:
    """A mask whose leftmost, topmost, rightmost and lowest pixels lie in different rows."""
    rows = ("........", "...##...", "..####..", ".##..##.", "..#####.", "....#...")
    mask = torch.tensor([[letter == "#" for letter in row] for row in rows])
    box = function(mask)
    x1, y1, x2, y2 = box.tolist()
    figure, axis = plt.subplots(figsize=(WIDTH, 3.4))
    _bitmap(axis, mask)
    axis.add_patch(Rectangle((x1, y1), x2 + 1 - x1, y2 + 1 - y1, fill=False, edgecolor=GREEN, linewidth=3))
    axis.set_title(f"first column and row, last column and row: {[int(number) for number in box.tolist()]}")
    return figure, f"A blob in a mask of 6 by 8 pixels; the box round it is {[int(n) for n in box.tolist()]}."


def _bitmap(axis: Axes, mask: Tensor) -> None:
    height, width = mask.shape
    axis.imshow(mask, cmap="Blues", vmin=0, vmax=1.6, extent=(0, width, height, 0))
    axis.set_xticks([column + 0.5 for column in range(width)], range(width))
    axis.set_yticks([row + 0.5 for row in range(height)], range(height))
    axis.set(xlabel="column", ylabel="row", xlim=(-1.1, width + 2.1), ylim=(height + 2.1, -1.1))
    axis.set_aspect("equal")


def best_boxes(inputs: Inputs, yours: Any, right: Tensor) -> Drawing:
    """Objects and detections with their numbers, the table of IoU, and both answers."""
    truth, boxes = inputs["gt_boxes"], inputs["boxes"]
    figure, (left, axis) = plt.subplots(1, 2, figsize=(WIDTH, 3.6))
    _boxes(left, truth, boxes)
    _iou_table(axis, truth, boxes)
    given = torch.as_tensor(yours)
    figure.suptitle(f"yours {given.tolist()}, right {right.tolist()} (-1: missed)", fontsize=12)
    text = f"Objects {truth.tolist()}, detections {boxes.tolist()}. Yours {given.tolist()}, right {right.tolist()}."
    return figure, text[:500]


def matching(function: Callable[[Tensor, Tensor], Tensor]) -> Drawing:
    """Three objects, of which one is missed, and four detections."""
    truth = torch.tensor([[1.0, 1, 5, 5], [7, 1, 9, 6], [2, 6, 6, 8]])
    boxes = torch.tensor([[2.0, 1, 6, 5], [1, 1, 5, 6], [7, 2, 9, 6], [4, 6, 9, 9]])
    figure, (left, axis) = plt.subplots(1, 2, figsize=(WIDTH, 3.6))
    _boxes(left, truth, boxes)
    _iou_table(axis, truth, boxes)
    found = function(truth, boxes).tolist()
    figure.suptitle(f"the best detection of each object: {found} (-1: missed)", fontsize=12)
    return (
        figure,
        f"Objects A to C as solid boxes, detections 0 to 3 as dashed ones. The best of each object: {found}.",
    )


def _boxes(axis: Axes, truth: Tensor, boxes: Tensor) -> None:
    for index, (x1, y1, x2, y2) in enumerate(truth.tolist()):
        axis.add_patch(
            Rectangle((x1, y1), x2 - x1, y2 - y1, facecolor="#0072B222", edgecolor=BLUE, linewidth=2)
        )
        # Side by side where boxes are equal, as are the numbers below.
        axis.text(x1 + 0.15 + 0.4 * index, y1 + 0.15, "ABCDEFGH"[index], color=BLUE, va="top", fontsize=13)
    for index, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        patch = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=RED, linewidth=2, linestyle="--")
        axis.add_patch(patch)
        axis.text(
            x2 - 0.15 - 0.4 * index, y2 - 0.15, str(index), color=RED, ha="right", va="bottom", fontsize=13
        )
    corners = torch.cat([truth, boxes])
    right, bottom = corners[:, 2].max().item() + 1, corners[:, 3].max().item() + 1
    axis.set(xlim=(-0.5, right), ylim=(bottom, -0.5), title="letters: objects; dashed: detections")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_aspect("equal")


def _iou_table(axis: Axes, truth: Tensor, boxes: Tensor) -> None:
    table = box_iou(truth, boxes)
    axis.imshow(table, cmap="Blues", vmin=0, vmax=2, aspect="auto")
    for row, line in enumerate(table.tolist()):
        for column, value in enumerate(line):
            axis.text(column, row, f"{value:.2f}", ha="center", va="center")
    axis.set_xticks(range(len(boxes)))
    axis.set_yticks(range(len(truth)), list("ABCDEFGH"[: len(truth)]))
    axis.set(xlabel="detection", ylabel="object", title="IoU")
    axis.spines[:].set_color(GREY)
