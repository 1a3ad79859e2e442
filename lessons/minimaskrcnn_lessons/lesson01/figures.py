"""Figures of lesson 01."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from minimaskrcnn.data.transforms import Target
from minimaskrcnn.ops import box_iou
from minimaskrcnn_lessons.lesson01.canvas import PAPER, bitmap, note, numbered_runs, outline, plane
from minimaskrcnn_lessons.style import BLUE, GREEN, GREY, INK, ORANGE, PINK, RED, SKY, WIDTH

# Wider than it is tall, so that rows and columns cannot be confused.
HEART = np.array([list(row) for row in ("0110110", "1111111", "0111110", "0011100", "0001000")]) == "1"
DASHES = ("-", "--", ":")
MASK_COLOURS = (SKY, ORANGE, GREEN, PINK)


def three_readings(numbers: list[float], readings: dict[str, torch.Tensor], truth: str) -> Figure:
    """The same four numbers as three boxes; each with its size and its IoU with the one that was meant."""
    listed = ", ".join(f"{number:g}" for number in numbers)
    figure, axes = plt.subplots(1, len(readings), figsize=(WIDTH, 3.0), sharey=True)
    for panel, (name, box), dash in zip(axes, readings.items(), DASHES):
        plane(panel, (9, 9), f"as {name}", step=2)
        outline(panel, readings[truth], GREY, width=1.5, fill=0.12)
        colour = BLUE if name == truth else RED
        outline(panel, box, colour, dash=dash)
        iou = box_iou(box[None], readings[truth][None]).item()
        x1, y1, x2, y2 = box.tolist()
        panel.set_xlabel(f"{x2 - x1:g} × {y2 - y1:g} pixels, IoU {iou:.2f}")
    figure.suptitle(f"[{listed}] read in three ways; grey: what was meant")
    return figure


def one_pixel_costs(sizes: torch.Tensor, extra: torch.Tensor, shifted: torch.Tensor) -> Figure:
    """IoU lost to one pixel, by the side of a square object."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2))
    axes.plot(sizes, extra, color=BLUE, marker="o", label="one pixel too wide and too tall")
    axes.plot(
        sizes, shifted, color=RED, marker="s", linestyle="--", label="shifted by one pixel right and down"
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.set(xlabel="side of the object, pixels", ylabel="IoU with the right box", ylim=(0, 1.03))
    axes.axhline(0.5, color=GREY, linewidth=1)
    axes.text(sizes[-1].item(), 0.47, "0.5: a positive of Mask R-CNN", ha="right", va="top", color=INK)
    axes.set_title("One pixel costs a large object little and a small one much")
    axes.legend(loc="upper left", bbox_to_anchor=(0.42, 0.42))
    return figure


def scene(image: torch.Tensor, target: Target, names: dict[int, str], crowd: np.ndarray) -> Figure:
    """A picture with its boxes; beside it the masks of its objects and, hatched, the crowd region."""
    height, width = crowd.shape
    extent = (0, width, height, 0)
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.5))
    axes[0].imshow(image.permute(1, 2, 0), extent=extent)
    shades = np.full((height, width, 3), 255, np.uint8)
    for number, (box, mask) in enumerate(zip(target["boxes"], target["masks"])):
        colour = MASK_COLOURS[number % len(MASK_COLOURS)]
        shades[mask.numpy()] = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
        outline(axes[0], box, "white", width=4.5)
        outline(axes[0], box, colour, width=2.2)
        x1, y1, x2, y2 = box.tolist()
        name, large = names[int(target["labels"][number])], (x2 - x1) * (y2 - y1) > width * height / 6
        where = ((x1 + x2) / 2, (y1 + y2) / 2) if large else (x2 + 4, (y1 + y2) / 2)
        note(axes[1], *where, name, ha="center" if large else "left")
    axes[1].imshow(shades, extent=extent)
    centres = np.arange(width) + 0.5, np.arange(height) + 0.5
    axes[1].contourf(*centres, crowd, levels=[0.5, 1.5], colors="none", hatches=["////"])
    axes[1].contour(*centres, crowd, levels=[0.5], colors=INK, linewidths=1.2)
    rows, columns = np.nonzero(crowd)
    note(axes[1], columns.mean(), rows.max() + 9, "crowd")
    for panel, title in zip(axes, ("boxes of the objects", "masks; the crowd region is hatched")):
        panel.set(title=title, xlim=(0, width), ylim=(height, 0))
    return figure


def three_forms(mask: np.ndarray, loops: list[list[int]], counts: list[int], text: str) -> Figure:
    """One mask as a bitmap with its box, as a polygon, and as runs down the columns."""
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 3.1))
    bitmap(axes[0], mask, "bitmap and box", numbers=True)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    outline(axes[0], (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), ORANGE)
    plane(axes[1], mask.shape, "polygon")
    for loop in loops:
        points = np.array(loop).reshape(-1, 2)
        axes[1].add_patch(Polygon(points, facecolor=PAPER, edgecolor=GREEN, linewidth=2.2, clip_on=False))
        axes[1].plot(*points.T, "o", color=GREEN, markersize=5, clip_on=False)
    numbered_runs(axes[2], mask, "runs, down the columns")
    axes[0].set_xlabel(f"{mask.size} pixels")
    axes[1].set_xlabel(f"{sum(map(len, loops)) // 2} corners, clockwise")
    axes[2].set_xlabel(f"{len(counts)} runs")
    figure.suptitle(f"runs {counts}\npacked {text}")
    return figure
