"""Figures of lesson 06: who writes where, what one program reads, how two programs meet, and the three plans."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from minimaskrcnn_lessons.style import BLUE, GREY, INK, ORANGE, RED, WIDTH

PALE = "#F1F1F1"


def lost_updates(first: Tensor, second: Tensor) -> Figure:
    """Two boxes' gradients of a map [H, W]: added up, and with the second written over the first."""
    right = first + second
    stored = torch.where(second != 0, second, first)
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 3.1))
    most = right.max().item()
    titles = ["what must come out", "each box writes its own", "what was lost"]
    for ax, values, title in zip(axes, [right, stored, right - stored], titles):
        height, width = values.shape
        image = ax.imshow(values, vmin=0, vmax=most, extent=(0, width, height, 0))
        ax.set(
            title=f"{title}\nsum {values.sum():.2f}",
            xticks=range(0, width + 1, 4),
            yticks=range(0, height + 1, 4),
        )
    figure.colorbar(image, ax=axes, shrink=0.75, label="gradient of a cell")
    return figure


def one_program(
    box: Sequence[float], bins: int, ph: int, size: tuple[int, int], channels: int
) -> tuple[Figure, int]:
    """What the program of a row of bins reads: its samples' cells, how many, and its lanes along the channels.

    `box` is x1, y1, x2, y2 in cells; two samples a bin and axis; a cell's value lies at its centre.
    """
    (x1, y1, x2, y2), (height, width) = box, size
    ys = [y1 + (ph + (i + 0.5) / 2) * (y2 - y1) / bins for i in range(2)]
    xs = [x1 + (i + 0.5) / 2 * (x2 - x1) / bins for i in range(2 * bins)]
    read = {(int(y - 0.5) + dy, int(x - 0.5) + dx) for y in ys for x in xs for dy in (0, 1) for dx in (0, 1)}
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 4.0), width_ratios=[1.55, 1])
    for r in range(height):
        for c in range(width):
            face = "#CFE3F2" if (r, c) in read else "white"
            left.add_patch(plt.Rectangle((c, r), 1, 1, facecolor=face, edgecolor="#BBBBBB", lw=0.8))
    for i in range(bins + 1):
        x, y = x1 + i * (x2 - x1) / bins, y1 + i * (y2 - y1) / bins
        left.plot([x, x], [y1, y2], color=GREY, lw=1)
        left.plot([x1, x2], [y, y], color=GREY, lw=1)
    row = y1 + ph * (y2 - y1) / bins
    left.add_patch(plt.Rectangle((x1, row), x2 - x1, (y2 - y1) / bins, fill=False, edgecolor=ORANGE, lw=3.5))
    left.plot([x for _ in ys for x in xs], [y for y in ys for _ in xs], "o", color=RED, ms=5)
    left.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xlabel="x, in cells", ylabel="y, in cells")
    left.set_title(f"One program: bin row {ph} of one box.\nIt reads {len(read)} cells (blue)")
    _lanes(right, channels)
    return figure, len(read)


def _lanes(ax: Axes, channels: int) -> None:
    """One cell's channels in memory, each read by a lane."""
    shown = 8
    for i in range(shown):
        y = i if i < shown - 1 else i + 1
        label = i if i < shown - 1 else channels - 1
        ax.add_patch(plt.Rectangle((1.7, y), 2.6, 0.85, facecolor="#CFE3F2", edgecolor=GREY))
        ax.text(3.0, y + 0.43, f"channel {label}", ha="center", va="center", fontsize=11)
        ax.annotate("", (1.6, y + 0.43), (0.9, y + 0.43), arrowprops={"arrowstyle": "<-", "color": INK})
        ax.text(0.8, y + 0.43, f"lane {label}", ha="right", va="center", fontsize=11)
    ax.text(3.0, shown - 0.57, "⋮", ha="center", va="center", fontsize=14)
    ax.set(xlim=(-1.2, 4.6), ylim=(shown + 1.2, -0.4))
    ax.set_title("Each cell: all channels at once,\nneighbours in memory")
    ax.axis("off")


def interleavings(schedules: Sequence[tuple[str, float]], additions: tuple[float, float]) -> Figure:
    """Orders in which the steps of programs A and B happen, as "AAABBB" and what the cell holds afterwards."""
    figure, axes = plt.subplots(len(schedules), 1, figsize=(WIDTH, 1.75 * len(schedules)))
    names = ("load", "add", "store")
    for ax, (order, result) in zip(np.atleast_1d(axes), schedules):
        done = {"A": 0, "B": 0}
        for time, who in enumerate(order):
            y, colour = (0, BLUE) if who == "A" else (1, RED)
            ax.add_patch(
                plt.Rectangle((time + 0.05, y + 0.1), 0.9, 0.8, facecolor="white", edgecolor=colour, lw=2.5)
            )
            ax.text(time + 0.5, y + 0.5, names[done[who]], ha="center", va="center", fontsize=12)
            done[who] += 1
        for y, (name, amount) in enumerate(zip("AB", additions)):
            ax.text(-0.15, y + 0.5, f"program {name} adds {amount:g}", ha="right", va="center", fontsize=12)
        verdict = "right" if result == sum(additions) else "an update is lost"
        ax.text(6.2, 1.0, f"the cell holds {result:g}:\n{verdict}", va="center", fontsize=12)
        ax.set(xlim=(-2.6, 8.8), ylim=(2.05, -0.05))
        ax.axis("off")
    return figure


def sums(found: Tensor, exact: float) -> Figure:
    """How often each float32 sum came out."""
    values, counts = found.unique(return_counts=True)
    figure, ax = plt.subplots(figsize=(WIDTH, 3.0))
    ax.vlines((values.double() - exact) * 1e6, 0, counts, color=BLUE, lw=7)
    ax.set(
        xlabel="float32 sum minus the exact sum, in millionths", ylabel="orders with this sum", ylim=(0, None),
        title=f"The same numbers in {len(found)} orders: {len(values)} different sums",
    )  # fmt: skip
    return figure


def keep() -> Figure:
    """Forward, scatter, gather: who owns what."""
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 3.9))
    plans = [
        ("Forward", "a program owns a bin row,\nreads cells: no race", "read"),
        ("Backward, scatter", "a program owns a bin row,\nadds to cells: atomics", "add"),
        ("Backward, gather", "a program owns cells,\nreads bins: no race", "gather"),
    ]
    for ax, (title, text, kind) in zip(axes, plans):
        _plan(ax, kind)
        ax.set_title(title)
        ax.text(3, 5.35, text, ha="center", va="top", fontsize=11)
        ax.set(xlim=(-0.2, 6.2), ylim=(6.5, -0.2))
        ax.axis("off")
    return figure


def _plan(ax: Axes, kind: str) -> None:
    """Two bins above, six cells below, and arrows between them; the middle cells belong to both bins."""
    reach = {0: range(0, 4), 1: range(2, 6)}
    colours = {0: BLUE, 1: RED}
    for b in (0, 1):
        edge = GREY if kind == "gather" else colours[b]
        ax.add_patch(plt.Rectangle((0.35 + 3 * b, 0.2), 2.3, 0.9, facecolor=PALE, edgecolor=edge, lw=2.5))
        ax.text(1.5 + 3 * b, 0.65, f"bin row {b}", ha="center", va="center", fontsize=10.5)
    for c in range(6):
        both = c in reach[0] and c in reach[1]
        owner = colours[c // 3] if kind == "gather" else GREY
        face = "#FBEBC8" if both and kind == "add" else PALE
        ax.add_patch(plt.Rectangle((c + 0.07, 4.0), 0.86, 0.8, facecolor=face, edgecolor=owner, lw=2.5))
    for b in (0, 1):
        for c in reach[b]:
            bin_end, cell_end = (1.5 + 3 * b + 0.25 * (c - reach[b][0] - 1.5), 1.15), (c + 0.5, 3.95)
            start, end = (cell_end, bin_end) if kind == "read" else (bin_end, cell_end)
            colour = colours[c // 3] if kind == "gather" else colours[b]
            dash = "--" if colour == RED else "-"
            ax.annotate(
                "", end, start, arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.6, "ls": dash}
            )
    if kind == "add":
        ax.text(3, 5.1, "two programs meet", ha="center", va="center", fontsize=10.5, color=INK)
