"""Greedy NMS step by step: boxes to drag, a threshold, and who removes whom with which IoU."""

from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from minimaskrcnn.ops import box_iou
from minimaskrcnn.ops import nms as suppress
from minimaskrcnn_lessons.explorers import Explorer
from minimaskrcnn_lessons.style import GREEN, GREY, WIDTH

START = {
    "boxes": [
        [40, 60, 160, 180], [60, 70, 180, 190], [95, 75, 205, 195], [250, 40, 360, 130], [258, 56, 372, 150],
    ],
    "scores": [0.95, 0.9, 0.8, 0.85, 0.6],
    "threshold": 0.5,
    "step": 0,
}  # fmt: skip


def nms(**state: Any) -> Explorer:
    """The explorer; `boxes` [[x1, y1, x2, y2]] in a canvas of 400 × 250, `scores`, `threshold`, `step`."""
    state = START | state
    kept = _kept(state["boxes"], state["scores"], state["threshold"])
    names = ", ".join(_name(row) for row in kept)
    alt = (
        f"{len(state['boxes'])} boxes with scores and an IoU threshold of {state['threshold']:.2f}. Greedy NMS keeps "
        f"{names}, drawn solid green; the others are dashed grey."
    )
    return Explorer("nms", state, _still(state, kept), alt)


def golden() -> list[dict[str, Any]]:
    """Arguments and results of the module's functions, by the package, in float64 as JavaScript counts."""
    out: list[dict[str, Any]] = []
    generator = torch.Generator().manual_seed(0)
    for case in range(6):
        corner = torch.randint(0, 120, (6, 2), generator=generator)
        size = torch.randint(20, 90, (6, 2), generator=generator)
        boxes = torch.cat([corner, corner + size], dim=1).tolist()
        # Tenths: some scores are equal.
        scores = (torch.randint(1, 10, (6,), generator=generator) / 10).double().tolist()
        for threshold in (0.1, 0.3, 0.5):
            args = [boxes, scores, threshold]
            out.append({"function": "nms", "args": args, "result": _kept(*args)})
        pair = [boxes[case % 6], boxes[(case + 1) % 6]]
        out.append({"function": "iou", "args": pair, "result": _iou(*pair)})
    half = [[0, 0, 40, 20], [0, 0, 20, 20]]
    out.append({"function": "iou", "args": half, "result": _iou(*half)})
    chain = [[0, 0, 40, 20], [10, 0, 50, 20], [20, 0, 60, 20]]
    for boxes, scores, threshold in (
        (half, [0.5, 0.5], 0.5), (half, [0.5, 0.5], 0.49), (chain, [0.9, 0.8, 0.7], 0.5),
        (START["boxes"], START["scores"], START["threshold"]),
    ):  # fmt: skip
        args = [boxes, scores, threshold]
        out.append({"function": "nms", "args": args, "result": _kept(*args)})
    return out


def _kept(boxes: list[list[float]], scores: list[float], threshold: float) -> list[int]:
    tensors = torch.tensor(boxes, dtype=torch.float64), torch.tensor(scores, dtype=torch.float64)
    return suppress(*tensors, threshold).tolist()


def _iou(a: list[float], b: list[float]) -> float:
    return box_iou(torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)).item()


def _name(row: int) -> str:
    return chr(ord("A") + row)


def _still(state: dict[str, Any], kept: list[int]) -> Figure:
    figure, axis = plt.subplots(figsize=(WIDTH, 5))
    for row, (x1, y1, x2, y2) in enumerate(state["boxes"]):
        stays = row in kept
        look = {"edgecolor": GREEN if stays else GREY, "lw": 4 if stays else 2, "ls": "-" if stays else "--"}
        axis.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **look))
        right, low = row % 2 == 1, row % 4 > 1
        axis.text(
            x2 - 4 if right else x1 + 4, y2 - 4 if low else y1 + 4, f"{_name(row)} {state['scores'][row]:.2f}",
            ha="right" if right else "left", va="bottom" if low else "top", fontsize=12,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    axis.set_xlim(0, 400)
    axis.set_ylim(250, 0)
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_visible(True)
    axis.set_title(f"Greedy NMS at IoU > {state['threshold']:.2f} keeps {', '.join(map(_name, kept))}")
    return figure
