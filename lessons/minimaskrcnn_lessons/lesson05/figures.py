"""Lesson 05's figures.  Each takes what a cell has measured and draws it."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from minimaskrcnn_lessons.style import BLUE, GREEN, GREY, INK, RED, WIDTH

# Colour, dash and marker of each pooling, everywhere.
LOOK = {
    "RoIPool": {"color": RED, "linestyle": "-", "marker": "s"},
    "RoIWarp": {"color": GREEN, "linestyle": "--", "marker": "^"},
    "RoIAlign": {"color": BLUE, "linestyle": "-", "marker": "o"},
    "RoIAlign, aligned=False": {"color": GREY, "linestyle": ":", "marker": "v"},
}
STRIDES = (4, 8, 16, 32)


def pasted(image: np.ndarray, box: Tensor, truth: Tensor, masks: dict[str, Tensor]) -> Figure:
    """The object, and each pooling's mask over it."""
    figure, axes = plt.subplots(1, len(masks) + 1, figsize=(WIDTH, 2.4))
    for ax, (title, mask) in zip(axes, [("truth", truth), *masks.items()]):
        # Grey and pale, so that the mask stands out.
        ax.imshow(image.mean(2), extent=(0, 320, 320, 0), cmap="gray", vmin=-300, vmax=255)
        # Pixel i covers [i, i + 1): contours go through centres.
        grid = np.arange(320) + 0.5
        ax.contourf(grid, grid, mask.numpy(), levels=[0.5, 1.5], colors=[BLUE], alpha=0.6)
        ax.contour(grid, grid, truth.numpy(), levels=[0.5], colors=["black"], linewidths=2)
        rectangle(ax, box, edgecolor=INK, linewidth=1.5, linestyle="--")
        ax.set(title=title, xlim=(34, 150), ylim=(124, 8), xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return figure


def sliding(shift: Tensor, values: dict[str, Tensor]) -> Figure:
    """One bin's value while the box slides, a panel for each pooling."""
    figure, axes = plt.subplots(1, len(values), figsize=(WIDTH, 3.0), sharey=True)
    for ax, (name, value) in zip(axes, values.items()):
        ax.plot(shift, value, ".", markersize=3, color=LOOK[name]["color"])
        ax.set(title=name, xlabel="box moved by (pixels)", xticks=range(0, 33, 8))
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("value of one bin")
    return figure


def misplaced(found: dict[str, list[dict[str, float]]]) -> Figure:
    """Mean and worst misplacement of bins against the stride, with the bounds by hand."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.8), sharey=True)
    for ax, what in ((left, "mean"), (right, "worst")):
        for name, rows in found.items():
            ax.plot(STRIDES, [row[what] for row in rows], label=name, markersize=8, **LOOK[name])
        ax.set(title=f"{what} misplacement of a bin", xlabel="stride (pixels per cell)", xticks=STRIDES)
        ax.grid(alpha=0.3)
    for factor, text in ((1.0, "bound:\nstride"), (0.5, "bound:\nstride / 2")):
        right.plot(STRIDES, [factor * s for s in STRIDES], color=INK, linewidth=1, linestyle=(0, (1, 2)))
        right.text(33.5, 32 * factor, text, va="center")
    right.set_xlim(2, 43)
    left.set_ylabel("pixels")
    left.legend(loc="upper left")
    return figure


def edges(x1: Tensor, seen: dict[str, Tensor], truth: float) -> Figure:
    """Where each pooling puts an edge, against where the box lies."""
    figure, ax = plt.subplots(figsize=(WIDTH, 3.6))
    ax.axhline(truth, color=INK, linewidth=1)
    ax.text(x1[0], truth + 0.5, "the edge", va="bottom")
    for name, value in seen.items():
        look = {**LOOK[name], "linestyle": ""}
        ax.plot(x1, value, markersize=4, label=name.replace(", ", ",\n"), **look)
    ax.set(xlabel="left side of the box (pixels)", ylabel="edge read back (pixels)")
    ax.set(ylim=(None, truth + 4), title="One edge, read through a box that slides")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2)
    return figure


def mask_quality(found: dict[str, list[Tensor]], moved: dict[str, list[Tensor]]) -> Figure:
    """IoU of the pasted masks with the truth at each stride: mean, and a bar from the worst to the best box."""
    figure, ax = plt.subplots(figsize=(WIDTH, 4.6))
    for k, (name, rows) in enumerate(found.items()):
        place = np.arange(len(STRIDES)) + (k - 1) * 0.18
        look = {**LOOK[name], "linestyle": "", "markersize": 8, "capsize": 4}
        ax.errorbar(place, *_spread(rows), label=name, **look)
        if name in moved:
            label = f"{name}, boxes moved back half a cell"
            ax.errorbar(place + 0.08, *_spread(moved[name]), label=label, fillstyle="none", **look)
    ax.set(xticks=range(len(STRIDES)), xticklabels=[f"stride {s}" for s in STRIDES], ylim=(0, 1))
    ax.set(ylabel="IoU with the true mask")
    ax.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _spread(rows: list[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each row, and how far its least and its largest number lie from that."""
    low, mean, high = (
        np.array([f(row).item() for row in rows]) for f in (Tensor.min, Tensor.mean, Tensor.max)
    )
    return mean, np.stack([mean - low, high - mean])


def half_pixel(stride: int = 8, cells: int = 4) -> Figure:
    """Where cell i has its value: at its middle, and where aligned=False takes it to be."""
    figure, ax = plt.subplots(figsize=(WIDTH, 2.7))
    for i in range(cells):
        ax.add_patch(Rectangle((i * stride, 0), stride, 0.8, facecolor="#E8E8E8", edgecolor=GREY))
        ax.text((i + 0.5) * stride, 0.4, f"cell {i}", ha="center", va="center")
        for x, y, color, marker in (((i + 0.5) * stride, 1.3, BLUE, "o"), (i * stride, 2.1, GREY, "v")):
            ax.plot([x, x], [0.8, y], color=color, linewidth=1)
            ax.plot(x, y, marker, color=color, markersize=11)
    ax.text(cells * stride + 1, 1.3, "aligned=True: value\nin the middle of its cell", va="center")
    ax.text(cells * stride + 1, 2.1, "aligned=False: value\nat the cell's first pixel", va="center")
    ax.set(xlim=(-1, cells * stride + 17), ylim=(0, 2.6), yticks=[], xlabel="pixels of the image")
    ax.set_xticks(range(0, cells * stride + 1, stride // 2))
    ax.spines["left"].set_visible(False)
    return figure


def losses(shift: Tensor, found: dict[str, Tensor]) -> Figure:
    """Loss against the place of the box."""
    figure, axes = plt.subplots(1, len(found), figsize=(WIDTH, 3.0), sharey=True)
    for ax, (name, loss) in zip(axes, found.items()):
        ax.plot(shift, loss, ".", markersize=3, color=LOOK[name]["color"])
        ax.axvline(0, color=INK, linewidth=1, linestyle=":")
        ax.set(title=name, xlabel="box moved by (pixels)")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("loss")
    return figure


def descent(image: np.ndarray, path: list[Tensor], truth: Tensor, ious: list[float]) -> Figure:
    """The box on its way, and its IoU with the star's box."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.7))
    left.imshow(image, extent=(0, 320, 320, 0))
    for k in range(0, len(path), 12):
        rectangle(left, path[k], edgecolor="white", linewidth=1.5)
    rectangle(left, path[0], edgecolor=RED, linewidth=3)
    rectangle(left, path[-1], edgecolor=BLUE, linewidth=3)
    left.text(path[0][2] + 3, path[0][3] - 2, "start", backgroundcolor="white", va="bottom")
    left.text(path[-1][0], path[-1][3] + 5, "end", backgroundcolor="white", va="top")
    left.set(xlim=(30, 200), ylim=(140, 0), xticks=[], yticks=[])
    left.spines[:].set_visible(False)
    right.plot(ious, color=BLUE, linewidth=2.5, label="through RoIAlign")
    right.axhline(ious[0], color=RED, linestyle="--", label="through RoIPool: no gradient")
    right.set(xlabel="step", ylabel="IoU with the star's box", ylim=(0, 1.02))
    right.legend(loc="lower right")
    return figure


def axis_matrices(down: Tensor, across: Tensor) -> Figure:
    """The two small matrices of one box, with their numbers."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.7))
    for ax, matrix, what in zip(axes, (down, across), ("rows: A_y", "columns: A_x")):
        ax.imshow(matrix, cmap="Blues", vmin=0, vmax=1.2)
        for (row, column), number in np.ndenumerate(matrix.numpy()):
            ax.text(column, row, f"{number:.2f}" if number else "0", ha="center", va="center")
        ax.set(title=what, xlabel="cells", ylabel="bins", xticks=range(matrix.shape[1]), yticks=[0, 1])
        ax.spines[:].set_visible(False)
    return figure


def three_ways(image: np.ndarray, box: Tensor, stride: int, bins: int = 3) -> Figure:
    """What each pooling reads for one box: its bins, and how far its sides are from the box's."""
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 3.5))
    first = np.floor(box[:2].numpy() / stride + 0.5)
    last = np.floor(box[2:].numpy() / stride + 0.5)
    whole = np.concatenate([first, last + 1]) * stride
    for ax, name in zip(axes, ("RoIPool", "RoIWarp", "RoIAlign")):
        color = LOOK[name]["color"]
        ax.imshow(image, extent=(0, 320, 320, 0))
        for line in range(0, 321, stride):
            ax.axhline(line, color="white", linewidth=0.8)
            ax.axvline(line, color="white", linewidth=0.8)
        read = box.numpy() if name == "RoIAlign" else whole
        rectangle(ax, read, facecolor=color, alpha=0.25, fill=True)
        _bins(ax, name, read, stride, bins, color)
        rectangle(ax, box, edgecolor=INK, linewidth=2.5)
        miss = np.abs(read - box.numpy()).max()
        ax.set(title=f"{name}\nworst side: {miss:.0f} px off", xlim=(16, 192), ylim=(192, 16))
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return figure


def _bins(ax: Axes, name: str, read: np.ndarray, stride: int, bins: int, color: str) -> None:
    """RoIPool's bins as rectangles of whole cells; the samples of the others as points."""
    if name != "RoIPool":
        xs, ys = (np.linspace(a, b, 4 * bins + 1)[1::2] for a, b in (read[0::2], read[1::2]))
        ax.plot(*(grid.ravel() for grid in np.meshgrid(xs, ys)), "o", color=color, markersize=5, mec="white")
        return
    for low_x, high_x in _cells(read[0::2] / stride, bins):
        for low_y, high_y in _cells(read[1::2] / stride, bins):
            corner = (low_x * stride + 2, low_y * stride + 2)
            size = ((high_x - low_x) * stride - 4, (high_y - low_y) * stride - 4)
            ax.add_patch(Rectangle(corner, *size, fill=False, edgecolor=color, linewidth=2))


def _cells(ends: np.ndarray, bins: int) -> list[tuple[int, int]]:
    size = (ends[1] - ends[0]) / bins
    return [(ends[0] + np.floor(b * size), ends[0] + np.ceil((b + 1) * size)) for b in range(bins)]


def rectangle(ax: Axes, box: Tensor | np.ndarray, **look) -> None:
    """A box (x1, y1, x2, y2)."""
    x1, y1, x2, y2 = (float(corner) for corner in box)
    ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **{"fill": False, **look}))


def table(rows: list[str], columns: tuple[int, ...], numbers: list[list[float]]) -> None:
    """Print numbers in columns, each under its stride."""
    wide = max(map(len, rows))
    print(f"{'stride':<{wide}}" + "".join(f"{c:>8}" for c in columns))
    for row, found in zip(rows, numbers):
        # abs: no "-0.00" for what rounds to 0; all of these are sizes.
        print(f"{row:<{wide}}" + "".join(f"{abs(number):>8.2f}" for number in found))
