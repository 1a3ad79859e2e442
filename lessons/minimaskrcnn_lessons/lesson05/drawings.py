"""Pictures of lesson 05's exercises: what a right answer produces, and counterexamples."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from minimaskrcnn_lessons.exercise import Drawing, Inputs
from minimaskrcnn_lessons.style import BLUE, GREY, INK, RED, WIDTH


def numbers(axes: Axes, grid: Tensor, title: str, top: float = 9.0, like: Tensor | None = None) -> None:
    """A grid of numbers over its colours, darkest at `top`; cells that differ from `like` have a red frame."""
    grid = torch.as_tensor(grid).double()
    axes.imshow(grid, vmin=0, vmax=max(top, 1) * 2, cmap="Blues")
    for (row, column), number in np.ndenumerate(grid.numpy()):
        axes.text(column, row, f"{number:.3g}", ha="center", va="center")
        if like is not None and abs(number - float(like[row, column])) > 1e-5:
            corner = (column - 0.46, row - 0.46)
            axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=RED, linewidth=2))
    axes.set(title=title, xticks=range(grid.shape[1]), yticks=range(grid.shape[0]))
    axes.spines[:].set_visible(False)


def _panels(*grid: int, **how) -> tuple[Figure, Any]:
    """Axes with room for the titles above maps that fill them."""
    figure, axes = plt.subplots(*grid, layout="constrained", **how)
    figure.get_layout_engine().set(h_pad=0.1)
    return figure, axes


def bilinear(inputs: Inputs, yours: float, right: float) -> Drawing:
    """The plane, the point, and both numbers."""
    plane, y, x = inputs["plane"], inputs["y"], inputs["x"]
    figure, axes = _panels(figsize=(5, 4))
    title = f"value at the ring, y = {y:g}, x = {x:g}:\nyours {float(yours):.4g}, right {right:.4g}"
    numbers(axes, plane, title, plane.max().item())
    # A ring, as the point may lie on a number.
    axes.plot(x, y, "o", color=RED, markersize=24, markerfacecolor="none", markeredgewidth=3)
    _room(axes, plane, [x], [y])
    alt = f"A map of {plane.shape[0]} by {plane.shape[1]} numbers and a ring at row {y:g}, column {x:g}."
    return figure, f"{alt} Your value is {float(yours):.4g}, the right one {right:.4g}."


def bilinear_surface(f) -> Drawing:
    """The values between and around the cells of a small map."""
    plane = torch.tensor([[0.0, 2, 8], [4, 6, 1]], dtype=torch.float64)
    ys, xs = torch.linspace(-1.5, 2.5, 81), torch.linspace(-1.5, 3.5, 101)
    values = [[f(plane, y, x) for x in xs.tolist()] for y in ys.tolist()]
    figure, axes = plt.subplots(figsize=(6, 4.4))
    image = axes.imshow(values, extent=(-1.525, 3.525, 2.525, -1.525), cmap="Blues", vmin=0, vmax=9)
    for (row, column), number in np.ndenumerate(plane.numpy()):
        axes.plot(column, row, "o", color="white", markersize=20, markeredgecolor=INK)
        axes.text(column, row, f"{number:.0f}", ha="center", va="center")
    axes.set(title="A map of 2 × 3 cells, sampled everywhere", xlabel="x (cells)", ylabel="y (cells)")
    figure.colorbar(image, ax=axes, label="value")
    return figure, (
        "The six numbers 0, 2, 8 and 4, 6, 1 as points on a plane of colours that blend between them. Up to one "
        "cell outside the edge's value goes on; beyond that the plane is 0."
    )


def points(inputs: Inputs, yours: Tensor, right: Tensor) -> Drawing:
    """Both sets of points on a ruler of cells."""
    start, end, stride = inputs["start"], inputs["end"], inputs["stride"]
    figure, axes = plt.subplots(figsize=(WIDTH, 2.9))
    _ruler(axes, start, end, stride, inputs["bins"])
    for height, color, marker, what, found in ((1, BLUE, "o", "right", right), (2, RED, "X", "yours", yours)):
        place = torch.as_tensor(found).double().flatten()
        axes.plot(place, [height] * len(place), marker, color=color, markersize=9, linestyle="")
        text = ", ".join(f"{p:.3g}" for p in place.tolist())
        axes.text(axes.get_xlim()[0], height + 0.28, f"{what}: {text}", color=INK)
    axes.set(title=f"Box from {start:g} to {end:g} pixels, stride {stride:g}: sample points in cells")
    alt = f"Sample points of a box from {start:g} to {end:g} pixels at stride {stride:g} on a ruler of cells:"
    shown = [", ".join(f"{p:.3g}" for p in torch.as_tensor(t).flatten().tolist()) for t in (yours, right)]
    return figure, f"{alt} yours at {shown[0]}, right at {shown[1]}."[:490]


def points_of_a_box(f) -> Drawing:
    """Two bins, two samples each, of a box of three and a half cells."""
    figure, axes = plt.subplots(figsize=(WIDTH, 2.4))
    found = f(10.0, 38.0, 8.0, 2, 2)
    _ruler(axes, 10.0, 38.0, 8.0, 2)
    axes.plot(found.flatten(), [1] * found.numel(), "o", color=BLUE, markersize=9)
    for place in found.flatten().tolist():
        axes.text(place, 1.3, f"{place:g}", ha="center")
    axes.set(title="Box from 10 to 38 pixels, stride 8, 2 bins, 2 samples a bin", ylim=(-0.2, 2))
    text = ", ".join(f"{place:g}" for place in found.flatten().tolist())
    return figure, (
        f"A ruler of cells, each value at its number, with a box from 0.75 to 4.25 cut into two bins. "
        f"Sample points lie at {text}."
    )


def align(inputs: Inputs, yours: Tensor, right: Tensor) -> Drawing:
    """The map with the box and its samples, and both results."""
    feature, box, stride = inputs["feature"], inputs["box"], inputs["stride"]
    figure, (left, middle, last) = _panels(1, 3, figsize=(WIDTH, 3.6), width_ratios=(1.15, 1, 1))
    corners = ", ".join(f"{c:g}" for c in box.tolist())
    top = feature.max().item()
    numbers(left, feature, f"box ({corners}) px,\nstride {stride:g}", top)
    x1, y1, x2, y2 = (box / stride - 0.5).tolist()
    left.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=INK, linewidth=2))
    places = [(torch.arange(4) + 0.5) / 4 * (b - a) + a for a, b in ((x1, x2), (y1, y2))]
    xs, ys = (p.flatten() for p in torch.meshgrid(*places, indexing="xy"))
    left.plot(xs, ys, "o", color=BLUE, markersize=5, markeredgecolor="white")
    _room(left, feature, [x1, x2], [y1, y2])
    numbers(middle, yours, "yours", top, like=right)
    numbers(last, right, "right", top)
    found = (" ".join(f"{n:.3g}" for n in torch.as_tensor(t).flatten().tolist()) for t in (yours, right))
    return figure, "A map with a box ({}) at stride {:g}. Your bins are {}; the right ones {}.".format(
        corners, stride, *found
    )


def align_of_a_ramp(f) -> Drawing:
    """RoIAlign of a map that rises by 2 a column and 1 a row."""
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(5.0), indexing="ij")
    feature, box = (rows + 2 * columns).double(), torch.tensor([6.0, 6.0, 30.0, 26.0], dtype=torch.float64)
    right = f(feature, box, 2, 8.0, 2)
    inputs = {"feature": feature, "box": box, "stride": 8.0}
    figure, (left, last) = _panels(1, 2, figsize=(7, 3.6), width_ratios=(1.5, 1))
    numbers(left, feature, "A ramp, and the box (6, 6, 30, 26)\nat stride 8")
    x1, y1, x2, y2 = (box / inputs["stride"] - 0.5).tolist()
    left.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=INK, linewidth=2))
    numbers(last, right, "pooled to 2 × 2")
    text = ", ".join(f"{n:g}" for n in right.flatten().tolist())
    return figure, (
        f"A map of 4 by 5 cells that rises by 2 a column and 1 a row, with a box of 2.5 by 3 cells. Pooled: {text}."
    )


def pool_cells(inputs: Inputs, yours: list, right: list) -> Drawing:
    """Both sets of bins as bars over a ruler of cells."""
    extent, stride = inputs["extent"], inputs["stride"]
    start, end = inputs["start"] / stride, inputs["end"] / stride
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2))
    _cells(axes, extent, start, end)
    _bars(axes, right, 1.0, BLUE, "right")
    _bars(axes, yours, 2.6, RED, "yours")
    axes.set(
        title=f"Box {start:g} to {end:g} in cells (stride {stride:g}): cells of each bin", ylim=(4.1, -0.9)
    )
    alt = f"A row of {extent} cells and a box from {start:g} to {end:g} of them. Bins (first, one past the last):"
    return figure, f"{alt} yours {yours}, right {right}."[:490]


def pool_cells_of_a_box(f) -> Drawing:
    """Three bins of a box of four cells."""
    figure, axes = plt.subplots(figsize=(WIDTH, 2.4))
    found = f(13.0, 38.0, 8.0, 3, 8)
    _cells(axes, 8, 13 / 8, 38 / 8)
    _bars(axes, found, 1.0, BLUE, "bins")
    axes.set(title="Box 13 to 38 pixels, stride 8 (1.625 to 4.75 cells), 3 bins", ylim=(2.5, -0.9))
    return figure, (
        f"A row of 8 cells and a box from 1.625 to 4.75 of them. Rounded, it has cells 2 to 5; its three bins take "
        f"cells (first, one past the last) {found}: neighbours share a cell."
    )


def level(inputs: Inputs, yours: int, right: int) -> Drawing:
    """The box among the levels' borders."""
    width, height = inputs["width"], inputs["height"]
    figure, axes = plt.subplots(figsize=(5.4, 4.4))
    _levels(axes)
    axes.plot(width, height, "X", color=RED, markersize=14, markeredgecolor="white")
    axes.set(title=f"A box of {width:g} × {height:g} pixels: yours P{yours:.4g}, right P{right}")
    return figure, (
        f"Width against height, cut into levels P2 to P5 by curves of equal area. The box of {width:g} by "
        f"{height:g} pixels is marked; your level is {yours:.4g}, the right one {right}."
    )


def levels(f) -> Drawing:
    """Levels of boxes of many shapes."""
    figure, axes = plt.subplots(figsize=(5.4, 4.4))
    _levels(axes)
    for width, height in ((64, 64), (112, 112), (448, 112), (224, 224), (500, 500), (40, 800)):
        axes.plot(width, height, "o", color=BLUE)
        text = f"{width}×{height}: P{f(float(width), float(height))}"
        axes.text(width / 1.12, height / 1.1, text, ha="right", va="top", backgroundcolor="#FFFFFFCC")
    axes.set(title="Boxes of equal area share a level")
    return figure, (
        "Width against height with curves of equal area at sides 112, 224 and 448. 64×64 is on P2, 112×112 on P3, "
        "224×224 and 448×112 on P4, 500×500 on P5 and 40×800 on P3."
    )


def _levels(axes: Axes) -> None:
    sides = np.geomspace(7, 1100, 60)
    for side in (112, 224, 448):
        axes.plot(sides, side**2 / sides, color=GREY, linestyle="--", linewidth=1.5)
    for k, width, height in ((2, 24, 24), (3, 800, 30), (4, 800, 120), (5, 900, 560)):
        axes.text(width, height, f"P{k}", color=GREY, ha="center", va="center", fontsize=15)
    axes.set(xscale="log", yscale="log", xlim=(7, 1100), ylim=(7, 1100))
    axes.set(xlabel="width (pixels)", ylabel="height (pixels)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(plt.FixedLocator([14, 28, 56, 112, 224, 448, 896]))
        axis.set_major_formatter("{x:.0f}")
        axis.set_minor_locator(plt.NullLocator())


def _ruler(axes: Axes, start: float, end: float, stride: float, bins: int) -> None:
    """Cell values at their numbers, the box in cells, its bins."""
    low, high = start / stride - 0.5, end / stride - 0.5
    for border in np.linspace(low, high, bins + 1):
        axes.plot([border, border], [-0.1, 0.5], color=INK, linewidth=2)
    axes.plot([low, high], [0.2, 0.2], color=INK, linewidth=2)
    first, last = int(np.floor(low)) - 1, int(np.ceil(high)) + 2
    axes.set(xlim=(first, last), ylim=(-0.2, 2.8), yticks=[], xlabel="cells: the value of cell i lies at i")
    axes.set_xticks(range(first, last + 1, max(1, (last - first) // 12)))
    axes.spines["left"].set_visible(False)


def _cells(axes: Axes, extent: int, start: float, end: float) -> None:
    """The row of cells, cell i from i to i + 1, and the box above it."""
    for cell in range(extent):
        axes.add_patch(Rectangle((cell, 0), 1, 0.6, facecolor="#E8E8E8", edgecolor=GREY))
        axes.text(cell + 0.5, 0.3, str(cell), ha="center", va="center")
    axes.plot([start, end], [-0.3, -0.3], color=INK, linewidth=4, solid_capstyle="butt")
    axes.text((start + end) / 2, -0.42, "box", ha="center", va="bottom")
    axes.set(xlim=(-1.2, max(extent, end) + 1), yticks=[], xticks=[])
    axes.spines[:].set_visible(False)


def _bars(axes: Axes, bins: list, height: float, color: str, what: str) -> None:
    axes.text(-1.1, height + 0.2, what)
    for b, (low, high) in enumerate(bins):
        y = height + 0.42 * b
        axes.plot([low + 0.06, high - 0.06], [y, y], color=color, linewidth=7, solid_capstyle="butt")
        axes.text(max(high, low) + 0.1, y, f"({low}, {high})", va="center")


def _room(axes: Axes, grid: Tensor, xs: list[float], ys: list[float]) -> None:
    """Limits that hold the grid and the points."""
    axes.set_xlim(min(-0.5, min(xs) - 0.4), max(grid.shape[1] - 0.5, max(xs) + 0.4))
    axes.set_ylim(max(grid.shape[0] - 0.5, max(ys) + 0.4), min(-0.5, min(ys) - 0.4))
