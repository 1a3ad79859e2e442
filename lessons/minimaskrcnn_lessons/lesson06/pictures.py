"""Pictures of the exercises of lesson 06: memory as strips of numbers, the reader's beside the right one."""

from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from minimaskrcnn_lessons.exercise import Inputs
from minimaskrcnn_lessons.style import BLUE, GREY, INK, RED, WIDTH

PALE_BLUE, PALE_RED, PALE, PALE_ORANGE = "#D6E8F5", "#F9DCCB", "#F1F1F1", "#FBEBC8"


def number(value: float) -> str:
    """A number in few characters."""
    return f"{value:.4g}"


def strip(
    ax: Axes,
    values: Sequence[float],
    y: float,
    label: str,
    *,
    fills: Sequence[str],
    marked: Sequence[bool] = (),
) -> None:
    """A row of numbered cells at height y; marked ones have a thick edge in red."""
    for i, value in enumerate(values):
        bad = bool(marked) and marked[i]
        ax.add_patch(
            plt.Rectangle(
                (i + 0.04, y),
                0.92,
                0.8,
                facecolor=fills[i],
                edgecolor=RED if bad else GREY,
                lw=3 if bad else 1,
            )
        )
        ax.text(i + 0.5, y + 0.4, number(value), ha="center", va="center", color=INK, fontsize=12)
    ax.text(-0.2, y + 0.4, label, ha="right", va="center", fontsize=12)


def canvas(columns: int, rows: float, title: str, height: float) -> tuple[Figure, Axes]:
    """An empty axis of `columns` cells with room for labels on the left."""
    figure, ax = plt.subplots(figsize=(WIDTH, height))
    ax.set(xlim=(-3.2, max(columns, 8) + 0.2), ylim=(rows, -0.6), title=title)
    ax.axis("off")
    return figure, ax


def differing(yours: Tensor, right: Tensor) -> list[bool]:
    """Where the two are not the same number; NaN is NaN."""
    return (~torch.isclose(yours.double(), right.double(), 1e-5, 1e-5, equal_nan=True)).tolist()


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _words(values: Sequence[float]) -> str:
    return ", ".join(number(v) for v in values)


# add_vectors


def draw_vectors(inputs: Inputs, yours: Tensor, right: Tensor) -> tuple[Figure, str]:
    """Memory of x, y and both outputs; what belongs to n is blue."""
    n, length = inputs["n"], len(right)
    fills = [PALE_BLUE] * n + [PALE] * (length - n)
    wrong = differing(yours, right)
    figure, ax = canvas(length, 4.9, f"n = {n}: numbers 0 to n - 1 (blue) are ours, the rest is not", 3.1)
    strip(ax, inputs["x"].tolist(), 0, "x", fills=fills)
    strip(ax, inputs["y"].tolist(), 1, "y", fills=fills)
    strip(ax, yours.tolist(), 2.3, "your out", fills=fills, marked=wrong)
    strip(ax, right.tolist(), 3.3, "right out", fills=fills)
    for start in range(0, length + 1, 4):
        ax.plot([start, start], [-0.1, 4.2], color=BLUE, lw=1.5, ls="--")
    ax.text(0, 4.6, "dashed: blocks of 4; a red edge: different", fontsize=12)
    first = wrong.index(True)
    alt = (
        f"Strips of memory for n = {n}. "
        f"Your out differs from the right one first at number {first}: {number(yours[first])}, "
        f"expected {number(right[first])}."
    )
    return figure, alt


def picture_vectors(f: Callable[..., Tensor]) -> tuple[Figure, str]:
    """Ten sums in blocks of four."""
    x, y = torch.arange(1.0, 17), torch.full((16,), 10.0)
    out = f(x=x, y=y, out=torch.full((16,), -1.0), n=10)
    fills = [PALE_BLUE] * 10 + [PALE] * 6
    figure, ax = canvas(16, 4.2, "n = 10 in blocks of 4: the third program has two lanes to spare", 2.7)
    for i, (values, label) in enumerate([(x, "x"), (y, "y"), (out, "out")]):
        strip(ax, values.tolist(), i, label, fills=fills)
    for p in range(3):
        ax.annotate("", (4 * p, 3.15), (4 * p + 4, 3.15), arrowprops={"arrowstyle": "<->", "color": BLUE})
        ax.text(4 * p + 2, 3.6, f"program {p}", ha="center", color=BLUE, fontsize=12)
    return (
        figure,
        "Three strips of 16 numbers. "
        f"The first ten of out are {_words(out[:10].tolist())}; "
        "the last six keep their -1. "
        "Three programs of four lanes cover numbers 0 to 11.",
    )


# row_maximum


def _draw_matrix(
    matrix: Tensor, columns: list[tuple[str, Tensor, list[bool]]], title: str
) -> tuple[Figure, str]:
    rows, width = matrix.shape
    span = int((matrix.stride(0) * (rows - 1) + matrix.stride(1) * (width - 1)) + 1)
    shown = min(span + 2, 22)
    place = {r * matrix.stride(0) + c * matrix.stride(1): r for r in range(rows) for c in range(width)}
    shades = [PALE_BLUE, PALE_ORANGE, PALE_RED]
    figure, ax = canvas(shown, rows + 2.9, title, 0.62 * rows + 2.2)
    for r in range(rows):
        strip(ax, matrix[r].tolist(), r, f"row {r}", fills=[shades[r]] * width)
    for k, (label, values, marked) in enumerate(columns):
        x = width + 1 + 2 * k
        ax.text(x + 0.5, -0.25, label, ha="center", fontsize=12)
        for r in range(rows):
            edge = RED if marked[r] else GREY
            ax.add_patch(
                plt.Rectangle((x, r), 1, 0.8, facecolor="white", edgecolor=edge, lw=3 if marked[r] else 1)
            )
            ax.text(x + 0.5, r + 0.4, number(values[r]), ha="center", va="center", fontsize=12)
    memory = matrix.as_strided((shown,), (1,)).tolist()
    fills = [shades[place[i]] if i in place else PALE for i in range(shown)]
    strip(ax, memory, rows + 0.8, "memory", fills=fills)
    ax.text(
        0,
        rows + 2.2,
        f"row stride {matrix.stride(0)}, column stride {matrix.stride(1)}; grey: not of this matrix",
        fontsize=12,
    )
    return (
        figure,
        f"A matrix of {_many(rows, 'row')} and {_many(width, 'column')} with strides {matrix.stride(0)} and "
        f"{matrix.stride(1)}, and where its numbers lie in memory.",
    )


def draw_rows(inputs: Inputs, yours: Tensor, right: Tensor) -> tuple[Figure, str]:
    """The matrix, both results, and the memory that it lies in."""
    wrong = differing(yours, right)
    figure, alt = _draw_matrix(
        inputs["matrix"],
        [("yours", yours, wrong), ("right", right, [False] * len(right))],
        "The largest of each row",
    )
    row = wrong.index(True)
    return figure, f"{alt} Row {row}: yours is {number(yours[row])}, expected {number(right[row])}."


def picture_rows(f: Callable[..., Tensor]) -> tuple[Figure, str]:
    """A matrix with a column between any two columns."""
    memory = torch.tensor([-3.0, 7, -1, 9, -5, 8, -2, 6, -4, 5, -6, 9, 1, 4, 2, 3, 0, 8, 3])
    matrix = memory.as_strided((3, 3), (6, 2))
    best = f(matrix=matrix)
    figure, alt = _draw_matrix(
        matrix, [("maximum", best, [False] * 3)], "Three rows whose numbers are not neighbours"
    )
    return figure, f"{alt} The largest numbers of the rows: {_words(best.tolist())}."


# bilinear_channels


def _draw_map(features: Tensor, y: float, x: float, results: list[tuple[str, Tensor, list[bool]]]) -> Figure:
    height, width, channels = features.shape
    # Every channel is a line of its cell.
    tall = max(3.6, 0.8 + 0.2 * height * min(channels, 6))
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, tall), width_ratios=[1.2, 1])
    left.imshow(
        features[:, :, 0], cmap="Greys", vmin=-4, vmax=40, extent=(-0.5, width - 0.5, height - 0.5, -0.5)
    )
    for r in range(height):
        for c in range(width):
            text = "\n".join(number(v) for v in features[r, c, :6].tolist())
            left.text(c - 0.42, r, text, ha="left", va="center", fontsize=11)
    for edge in range(1, height):
        left.axhline(edge - 0.5, color=GREY, lw=1)
    for edge in range(1, width):
        left.axvline(edge - 0.5, color=GREY, lw=1)
    left.plot(x, y, "o", color=RED, ms=9, mec="white")
    left.set(
        xticks=range(width), yticks=range(height), xlabel="x", ylabel="y",
        title=f"All channels of each cell; point y = {number(y)}, x = {number(x)}",
    )  # fmt: skip
    left.title.set_fontsize(11)
    places = len(results[0][1])
    right.set(xlim=(-0.2, 2.4 * len(results) + 0.6), ylim=(places, -0.9))
    right.set_title(f"out: {_many(channels, 'channel')} (blue), the rest not ours", fontsize=11)
    right.axis("off")
    for k, (label, values, marked) in enumerate(results):
        at = 0.6 + 2.4 * k
        right.text(at + 1, -0.3, label, ha="center", fontsize=12)
        for c in range(places):
            edge, fill = RED if marked[c] else GREY, PALE_BLUE if c < channels else PALE
            right.add_patch(
                plt.Rectangle((at, c), 2, 0.85, facecolor=fill, edgecolor=edge, lw=3 if marked[c] else 1)
            )
            right.text(at + 1, c + 0.43, number(values[c]), ha="center", va="center", fontsize=12)
    for c in range(places):
        right.text(0.4, c + 0.43, str(c), ha="right", va="center", color=INK, fontsize=12)
    return figure


def draw_point(inputs: Inputs, yours: Tensor, right: Tensor) -> tuple[Figure, str]:
    """The map with all its channels, the point, and both results."""
    y, x, wrong = inputs["y"], inputs["x"], differing(yours, right)
    figure = _draw_map(
        inputs["features"], y, x, [("yours", yours, wrong), ("right", right, [False] * len(right))]
    )
    c = wrong.index(True)
    return (
        figure,
        f"A map of {tuple(inputs['features'].shape)} and the point y = {number(y)}, x = {number(x)}. "
        f"Number {c} of out: yours is {number(yours[c])}, expected {number(right[c])}.",
    )


def picture_point(f: Callable[..., Tensor]) -> tuple[Figure, str]:
    """Three channels: one grows along x, one along y, one is constant."""
    yy, xx = torch.meshgrid(torch.arange(3.0), torch.arange(4.0), indexing="ij")
    features = torch.stack([xx, 10 * yy, torch.full_like(xx, 7)], -1)
    out = f(features=features, y=0.5, x=2.25, out=torch.full((8,), -1.0))
    figure = _draw_map(features, 0.5, 2.25, [("expected", out, [False] * 8)])
    return (
        figure,
        "A map of 3 by 4 cells whose three channels are x, 10 y and 7. "
        f"At y = 0.5, x = 2.25 the result is {_words(out[:3].tolist())}; the other numbers of out keep their -1.",
    )


# scatter_gradient


def _draw_samples(grad: Tensor, x: Tensor, rows: list[tuple[str, Tensor, list[bool]]]) -> Figure:
    width = len(rows[0][1])
    figure, ax = canvas(
        width, 2.5 + len(rows), "Each sample adds to the cell before it and the cell after it", 3.4
    )
    # Samples at one point are stacked, and the room above grows with them.
    most = max(x.tolist().count(point) for point in x.tolist())
    ax.set_ylim(2.5 + len(rows), 1.1 - 0.42 * min(most - 1, 4))
    heights = {}
    for point, g in zip(x.tolist(), grad.tolist()):
        level = heights[point] = heights.get(point, -1) + 1
        y = 1.5 - 0.42 * min(level, 4)
        if level == 0:
            style = {"arrowstyle": "->", "color": GREY}
            ax.annotate("", (point + 0.5, 2.3), (point + 0.5, y + 0.16), arrowprops=style)
        ax.text(point + 0.5, y, number(g), ha="center", va="center", fontsize=12, color=INK,
                bbox={"boxstyle": "round,pad=0.15", "fc": PALE_ORANGE, "ec": GREY})  # fmt: skip
    ax.text(-0.2, 1.5, "gradient of\nthe samples", ha="right", va="center", fontsize=12)
    for k, (label, values, marked) in enumerate(rows):
        strip(ax, values.tolist(), 2.4 + 1.0 * k, label, fills=[PALE_BLUE] * width, marked=marked)
    return figure


def draw_scatter(inputs: Inputs, yours: Tensor, right: Tensor) -> tuple[Figure, str]:
    """The samples above the cells, and both gradients."""
    wrong = differing(yours, right)
    figure = _draw_samples(
        inputs["grad"],
        inputs["x"],
        [("your cells", yours, wrong), ("right cells", right, [False] * len(right))],
    )
    cell = wrong.index(True)
    return (
        figure,
        f"{_many(len(inputs['x']), 'sample')} at {_words(inputs['x'].tolist()[:8])}. "
        f"Cell {cell}: yours is {number(yours[cell])}, expected {number(right[cell])}.",
    )


def picture_scatter(f: Callable[..., Tensor]) -> tuple[Figure, str]:
    """Six samples on five cells, the last one past the last cell."""
    grad, x = torch.tensor([4.0, 2, 4, 1, 1, 2]), torch.tensor([0.0, 1.5, 1.75, 3.25, 3.25, 4.5])
    cells = f(grad=grad, x=x, width=5)
    figure = _draw_samples(grad, x, [("cells", cells, [False] * 5)])
    return (
        figure,
        "Samples at 0, 1.5, 1.75, twice 3.25 and 4.5 with gradients 4, 2, 4, 1, 1 and 2 leave "
        f"{_words(cells.tolist())} in five cells: {number(cells.sum())} in all, as much as came. "
        "Both shares of the last sample are in the last cell.",
    )
