"""Explorer of lesson 02: a grid of anchors and an object to be dragged over it; every anchor's IoU."""

import math
from typing import Any

import torch

from minimaskrcnn.anchors import AnchorConfig, cell_anchors, grid_anchors
from minimaskrcnn.ops import box_iou
from minimaskrcnn_lessons.explorers import Explorer

WIDTH, HEIGHT = 256, 160
RATIOS = {"1": (1.0,), "3": (0.5, 1.0, 2.0), "5": (0.25, 0.5, 1.0, 2.0, 4.0)}
SIZES = {"32": (32.0,), "64": (64.0,), "32,64": (32.0, 64.0), "32,64,128": (32.0, 64.0, 128.0)}
START: dict[str, Any] = {"stride": 8, "sizes": "32", "ratios": "3", "box": [86, 58, 120, 92]}


def anchors(**state: Any) -> Explorer:
    """The explorer; `state` overrides the start's stride, sizes ("32,64"), ratios ("1", "3", "5") and box."""
    from minimaskrcnn_lessons.lesson02 import figures

    start = START | state
    rows, columns = math.ceil(HEIGHT / start["stride"]), math.ceil(WIDTH / start["stride"])
    every = _anchors(rows, columns, start["stride"], SIZES[start["sizes"]], RATIOS[start["ratios"]])
    iou = box_iou(torch.tensor([start["box"]], dtype=torch.float64), every)[0]
    best = every[int(iou.argmax())].tolist()
    alt = (
        f"A grid of {rows} × {columns} cells of {start['stride']} pixels. On each cell's corner a dot shows the best "
        f"IoU of its anchors with an object at {start['box']}. {len(every)} anchors: {int((iou >= 0.7).sum())} of at "
        f"least 0.7, {int((iou < 0.3).sum())} under 0.3. The best, IoU {iou.max():.3f}, is "
        f"({', '.join(f'{value:.1f}' for value in best)})."
    )
    return Explorer(
        "anchors",
        start,
        figures.explorer_still(rows, columns, start["stride"], start["box"], every, iou),
        alt,
    )


def _anchors(
    rows: int,
    columns: int,
    stride: int,
    sizes: tuple[float, ...],
    ratios: tuple[float, ...],
    rounded: bool = False,
) -> torch.Tensor:
    config = AnchorConfig(sizes=(sizes,), aspect_ratios=ratios, round_corners=rounded, stride_from_grid=False)
    like = torch.zeros(0, dtype=torch.float64)
    return grid_anchors([(rows, columns)], [stride], (rows * stride, columns * stride), config, like)[0]


def golden() -> list[dict[str, Any]]:
    """What the module's functions must give, computed by the package."""
    found = []

    def add(function: str, args: list[Any], result: Any) -> None:
        found.append({"function": function, "args": args, "result": result})

    for sizes in ((32.0,), (5.0,), (16.0, 64.0)):
        for ratios in RATIOS.values():
            for rounded in (False, True):
                add("cellAnchors", [sizes, ratios, rounded], cell_anchors(sizes, ratios, rounded).tolist())
    grids = [
        (2, 3, 16, (32.0,), RATIOS["3"], False),
        (3, 2, 8, (16.0, 32.0), (1.0, 2.0), True),
        (1, 1, 32, (64.0,), (0.5,), False),
    ]
    for grid in grids:
        add("gridAnchors", list(grid), _anchors(*grid).tolist())
    boxes = [[88, 52, 122, 104], [0, 0, 10, 10], [5, 5, 15, 15], [20.5, 3.25, 30, 9], [10, 10, 20, 20]]
    for one in boxes:
        for other in boxes:
            add("boxIou", [one, other], _iou(one, [other])[0])
    for box in boxes[:2]:
        every = _anchors(5, 8, 32, SIZES["32,64"], RATIOS["3"])
        iou = _iou(box, every.tolist())
        add("overlaps", [box, every.tolist()], iou)
        high, low = sum(v >= 0.7 for v in iou), sum(v < 0.3 for v in iou)
        counts = {"total": len(iou), "high": high, "low": low, "between": len(iou) - high - low}
        add("summary", [iou, 0.7, 0.3], counts | {"best": iou.index(max(iou)), "iou": max(iou)})
    return found


def _iou(box: list[float], others: list[list[float]]) -> list[float]:
    one, many = torch.tensor([box], dtype=torch.float64), torch.tensor(others, dtype=torch.float64)
    return box_iou(one, many)[0].tolist()
