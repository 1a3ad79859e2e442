"""The explorer of lesson 05: RoIPool, RoIWarp and RoIAlign of a box that is dragged by quarters of a pixel."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minimaskrcnn.ops import reference
from minimaskrcnn_lessons.explorers import Explorer

WIDTH, HEIGHT, BINS, SAMPLES = 256, 192, 4, 2
START: dict[str, Any] = {"box": [54.0, 29.0, 131.0, 104.0], "stride": 16, "pooling": "RoIPool"}


def roi_alignment(**state: Any) -> Explorer:
    """The explorer, started at `box` (x1, y1, x2, y2), `stride` (4, 8, 16 or 32) and `pooling` (a name)."""
    state = START | state
    return Explorer("roi_alignment", state, *_still(state))


def plane(stride: int) -> list[list[float]]:
    """The module's picture at a stride: a soft disc and a bar, 0..0.9."""

    def soft(inside: float) -> float:
        return 1 / (1 + math.exp(-inside / (stride / 4)))

    def value(y: float, x: float) -> float:
        disc = 0.9 * soft(40 - math.hypot(x - 100, y - 84))
        return max(disc, 0.6 * soft(12 - abs(y - 120)) * soft(56 - abs(x - 168)))

    rows, columns = range(HEIGHT // stride), range(WIDTH // stride)
    return [[value((i + 0.5) * stride, (j + 0.5) * stride) for j in columns] for i in rows]


def pooled(pooling: str, rows: list[list[float]], box: list[float], stride: int) -> list[list[float]]:
    """A box pooled from a map by the definition."""
    feature = torch.tensor(rows, dtype=torch.float64)[None, None]
    roi, size = torch.tensor([[0.0, *box]], dtype=torch.float64), (BINS, BINS)
    if pooling == "RoIPool":
        return reference.roi_pool(feature, roi, size, 1 / stride)[0, 0].tolist()
    if pooling == "RoIWarp":
        return reference.roi_warp(feature, roi, size, 1 / stride, SAMPLES)[0, 0].tolist()
    return reference.roi_align(feature, roi, size, 1 / stride, SAMPLES, True)[0, 0].tolist()


def whole_cells(box: list[float], stride: int) -> list[int]:
    """Left, top, right, bottom of the cells that RoIPool gives a box, the last two past the end."""
    (x, width), (y, height) = (
        reference._whole_cells(np.float64(box[axis] / stride), np.float64(box[axis + 2] / stride))
        for axis in (0, 1)
    )
    return [x, y, x + width, y + height]


def golden() -> list[dict[str, Any]]:
    """Calls of the module's functions with the package's results."""
    boxes = [
        START["box"],
        [60.25, 40.0, 84.75, 71.5],
        [200.0, 150.25, 255.5, 191.75],
        [8.0, 24.0, 40.0, 56.0],
    ]
    coarse = plane(32)
    made = [_call("plane", [32], coarse)]
    for box in boxes:
        align = [coarse, box, 32, BINS, SAMPLES]
        made += [
            _call("roiAlign", align, pooled("RoIAlign", coarse, box, 32)),
            _call("roiWarp", align, pooled("RoIWarp", coarse, box, 32)),
            _call("roiPool", align[:4], pooled("RoIPool", coarse, box, 32)),
        ]
        for stride in (4, 8, 16, 32):
            cells, ends = whole_cells(box, stride), (box[0] / stride - 0.5, box[2] / stride - 0.5)
            off = [cell * stride - side for cell, side in zip(cells, box)]
            points = reference._sample_points(*ends, BINS, SAMPLES, True)
            made += [
                _call("wholeCells", [box, stride], cells),
                _call("misalignment", ["RoIPool", box, stride], off),
                _call("misalignment", ["RoIAlign", box, stride], [0.0] * 4),
                _call("samplePoints", [box[0], box[2], stride, BINS, SAMPLES], points),
            ]
    small = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    for y, x in ((0.25, 1.5), (-0.5, 2.75), (1.5, -1.0), (2.25, 0.0), (0.0, -1.25)):
        made.append(_call("bilinear", [small, y, x], reference.bilinear(small, y, x)))
    return made


def _call(function: str, args: list[Any], result: Any) -> dict[str, Any]:
    return {"function": function, "args": args, "result": result}


def _still(state: dict[str, Any]) -> tuple[Any, str]:
    """The start as a picture: the box on the map, what each pooling reads, and its numbers."""
    import matplotlib.pyplot as plt

    from minimaskrcnn_lessons.style import BLUE, GREEN, RED
    from minimaskrcnn_lessons.style import WIDTH as INCHES

    box, stride = state["box"], state["stride"]
    figure, axes = plt.subplots(2, 3, figsize=(INCHES, 5.4), height_ratios=(1, 1))
    rows, worst = plane(stride), {}
    for column, (name, color) in enumerate((("RoIPool", RED), ("RoIWarp", GREEN), ("RoIAlign", BLUE))):
        cells = [cell * stride for cell in whole_cells(box, stride)]
        read = box if name == "RoIAlign" else cells
        worst[name] = max(abs(a - b) for a, b in zip(read, box))
        above, below = axes[:, column]
        above.imshow(rows, extent=(0, WIDTH, HEIGHT, 0), cmap="Blues", vmin=0, vmax=1.3)
        for corners, look in (
            (read, {"facecolor": color, "alpha": 0.35}),
            (box, {"fill": False, "linewidth": 2.5}),
        ):
            size = corners[2] - corners[0], corners[3] - corners[1]
            above.add_patch(plt.Rectangle(corners[:2], *size, **look))
        numbers = pooled(name, rows, box, stride)
        _numbers(below, torch.tensor(numbers))
        above.set(title=f"{name}\n{worst[name]:g} px off at worst", xticks=[], yticks=[])
        for ax in (above, below):
            ax.spines[:].set_visible(False)
    alt = (
        f"A box on a feature map of stride {stride}, and the 4 by 4 numbers pooled from it. RoIPool and RoIWarp read "
        f"whole cells, {worst['RoIPool']:g} pixels off at the worst side; RoIAlign reads the box itself."
    )
    return figure, alt


def _numbers(axes: Any, grid: Tensor) -> None:
    axes.imshow(grid, cmap="Blues", vmin=0, vmax=1.3)
    for i in range(BINS):
        for j in range(BINS):
            axes.text(j, i, f"{100 * grid[i, j]:.0f}", ha="center", va="center")
    axes.set(xticks=[], yticks=[], xlabel="pooled, in hundredths")
