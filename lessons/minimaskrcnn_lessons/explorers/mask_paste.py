"""Lesson 00's explorer: a small mask resized onto a box that is dragged, and cut at a threshold."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from minimaskrcnn.ops import paste_masks
from minimaskrcnn_lessons.explorers import Explorer
from minimaskrcnn_lessons.style import INK, ORANGE, RED, WIDTH

Grid = Sequence[Sequence[float]]
# A heart of 7×7 probabilities, soft at its rim.
HEART: Grid = (
    (0.1, 0.7, 0.8, 0.2, 0.8, 0.7, 0.1),
    (0.6, 1.0, 1.0, 0.8, 1.0, 1.0, 0.6),
    (0.7, 1.0, 1.0, 1.0, 1.0, 1.0, 0.7),
    (0.4, 1.0, 1.0, 1.0, 1.0, 1.0, 0.4),
    (0.1, 0.7, 1.0, 1.0, 1.0, 0.7, 0.1),
    (0.0, 0.2, 0.8, 1.0, 0.8, 0.2, 0.0),
    (0.0, 0.0, 0.2, 0.7, 0.2, 0.0, 0.0),
)


def mask_paste(
    mask: Grid = HEART,
    box: Sequence[float] = (4.25, 2.5, 13.0, 10.75),
    threshold: float = 0.5,
    height: int = 14,
    width: int = 18,
) -> Explorer:
    """Drag the box over a picture of `height` × `width` pixels; the pixels that the mask then covers are marked."""
    state = {
        "mask": [[round(float(value), 3) for value in row] for row in mask],
        "box": [float(number) for number in box],
        "threshold": float(threshold),
        "height": height,
        "width": width,
    }
    figure, area = _still(state)
    alt = (
        f"A mask of {len(mask)} by {len(mask)} probabilities, and a picture of {height} by {width} pixels in which "
        f"it is resized onto the box {tuple(state['box'])}: {area} pixels lie above the threshold {threshold:g}."
    )
    return Explorer("mask_paste", state, figure, alt)


def golden() -> list[dict[str, Any]]:
    """What `mask_paste.js` must compute, as `paste_masks` does in float64."""
    bar = [[0.2, 0.9], [0.4, 0.6]]
    cases = [
        (HEART, [4.25, 2.5, 13.0, 10.75], 14, 18, 0.5),
        (HEART, [4.5, 2.5, 13.25, 10.75], 14, 18, 0.5),
        (HEART, [-3.25, 6.0, 5.5, 17.75], 14, 18, 0.3),
        (HEART, [15.0, 0.0, 18.0, 3.0], 14, 18, 0.75),
        (bar, [2.0, 2.0, 3.0, 3.0], 6, 6, 0.25),
        (bar, [0.25, 1.0, 5.75, 4.5], 6, 6, 0.4),
        ([[0.75]], [1.5, 1.5, 3.0, 2.5], 5, 5, 0.35),
    ]
    rows = []
    for mask, box, height, width, threshold in cases:
        masks = torch.tensor(mask, dtype=torch.float64)[None]
        boxes, size = torch.tensor([box], dtype=torch.float64), (height, width)
        values = paste_masks(masks, boxes, size, threshold=None)[0].tolist()
        pixels = paste_masks(masks, boxes, size, threshold)[0].tolist()
        given = [[list(row) for row in mask], box, height, width]
        rows.append({"function": "pasteValues", "args": given, "result": values})
        rows.append({"function": "pastePixels", "args": [*given, threshold], "result": pixels})
    return rows


def _still(state: dict[str, Any]) -> tuple[Figure, int]:
    mask, box = torch.tensor(state["mask"]), state["box"]
    size = (state["height"], state["width"])
    values = paste_masks(mask[None], torch.tensor([box]), size, threshold=None)[0]
    inside = values > state["threshold"]
    figure, (left, axis) = plt.subplots(1, 2, figsize=(WIDTH, 3.6), width_ratios=(1, 2))
    left.imshow(mask, cmap="Blues", vmin=0, vmax=1, extent=(0, len(mask), len(mask), 0))
    left.set(title=f"the mask, {len(mask)} × {len(mask)}", xticks=[], yticks=[])
    axis.imshow(values, cmap="Blues", vmin=0, vmax=1, extent=(0, size[1], size[0], 0))
    for row, column in inside.nonzero().tolist():
        cell = (column + 0.08, row + 0.08)
        axis.add_patch(Rectangle(cell, 0.84, 0.84, fill=False, edgecolor=ORANGE, linewidth=1.5))
    x1, y1, x2, y2 = box
    axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=RED, linewidth=2.5))
    axis.set_xticks(range(0, size[1] + 1, 2))
    axis.set_yticks(range(0, size[0] + 1, 2))
    axis.set_title(f"pasted into the box: {int(inside.sum())} pixels above {state['threshold']:g}")
    for spine in (*left.spines.values(), *axis.spines.values()):
        spine.set(visible=True, color=INK)
    return figure, int(inside.sum())
