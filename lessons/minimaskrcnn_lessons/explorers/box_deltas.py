"""Box deltas (lesson 01): drag a reference and a target, read the four numbers between them."""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from minimaskrcnn.boxes import BOX_HEAD_WEIGHTS, RPN_WEIGHTS, decode_deltas, encode_deltas
from minimaskrcnn.ops import box_convert, box_iou
from minimaskrcnn_lessons.explorers import Explorer

START = {"reference": [4.0, 4.0, 12.0, 10.0], "target": [8.0, 6.0, 18.0, 14.0], "weights": "rpn"}
WEIGHTS = {"rpn": RPN_WEIGHTS, "head": BOX_HEAD_WEIGHTS}


def box_deltas(**state: Any) -> Explorer:
    """The explorer; `reference` and `target` are (x1, y1, x2, y2) in a plane 24 × 16, `weights` "rpn" or "head"."""
    state = START | state
    if state["weights"] not in WEIGHTS:
        raise ValueError(f"weights {state['weights']!r}: expected one of {', '.join(WEIGHTS)}")
    return Explorer("box_deltas", state, *_still(state))


def golden() -> list[dict[str, Any]]:
    """What the module's functions must give, computed by the package in float64."""
    boxes = [[4.0, 4.0, 12.0, 10.0], [8.0, 6.0, 18.0, 14.0], [1.25, 2.5, 1.5, 2.75], [0.0, 0.0, 24.0, 16.0]]
    found = [_case("centreForm", [box], box_convert(_row(box), "xyxy", "cxcywh")) for box in boxes]
    for reference in boxes:
        for box in boxes:
            found.append(_case("boxIou", [reference, box], box_iou(_row(reference), _row(box))[0]))
            for weights in WEIGHTS.values():
                deltas = encode_deltas(_row(box), _row(reference), weights)
                found.append(_case("encodeDeltas", [box, reference, list(weights)], deltas))
                decoded = decode_deltas(deltas, _row(reference), weights)
                found.append(_case("decodeDeltas", [deltas[0].tolist(), reference, list(weights)], decoded))
    return found


def _row(box: Sequence[float]) -> Tensor:
    return torch.tensor([box], dtype=torch.float64)


def _case(function: str, args: list[Any], result: Tensor) -> dict[str, Any]:
    value = result[0].tolist()
    return {"function": function, "args": args, "result": value}


def _still(state: dict[str, Any]) -> tuple[Figure, str]:
    import matplotlib.pyplot as plt

    from minimaskrcnn_lessons.lesson01.canvas import note, outline, plane
    from minimaskrcnn_lessons.style import BLUE, RED, WIDTH

    reference, target = state["reference"], state["target"]
    deltas = encode_deltas(_row(target), _row(reference), WEIGHTS[state["weights"]])[0]
    numbers = ", ".join(
        f"{name} = {value:.3f}" for name, value in zip(("dx", "dy", "dw", "dh"), deltas.tolist())
    )
    figure, axes = plt.subplots(figsize=(WIDTH, 5.2))
    plane(axes, (16, 24), numbers, step=2)
    for name, box, colour, dash in (("reference", reference, BLUE, "--"), ("target", target, RED, "-")):
        outline(axes, box, colour, dash=dash, fill=0.1)
        note(axes, box[0] + 1.8, box[1] - 0.6, name, fontsize=12)
    (x1, y1), (x2, y2) = (((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in (reference, target))
    axes.annotate("", (x2, y2), (x1, y1), arrowprops={"arrowstyle": "->", "linewidth": 1.5})
    alt = (
        f"A reference box {tuple(reference)}, dashed, and a target box {tuple(target)} on a plane of "
        f"24 by 16 pixels, with an arrow from centre to centre. The deltas are {numbers}."
    )
    return figure, alt
