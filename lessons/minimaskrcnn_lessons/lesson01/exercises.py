"""The exercises of lesson 01: COCO's boxes, IoU, deltas, run lengths."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from minimaskrcnn.boxes import BOX_HEAD_WEIGHTS, RPN_WEIGHTS, decode_deltas
from minimaskrcnn.ops import box_convert, box_iou, clip_boxes_to_image
from minimaskrcnn.ops.reference import run_lengths
from minimaskrcnn_lessons.exercise import Exercise
from minimaskrcnn_lessons.lesson01 import drawings
from minimaskrcnn_lessons.lesson01.mistakes import COCO_BOXES, IOU
from minimaskrcnn_lessons.lesson01.mistakes_deltas import DELTAS
from minimaskrcnn_lessons.lesson01.mistakes_runs import RUNS

Size = tuple[int, int]


def right_boxes(bbox: Tensor, image_size: Size) -> Tensor:
    return clip_boxes_to_image(box_convert(bbox, "xywh", "xyxy"), image_size)


def _halves(low: int, high: int) -> st.SearchStrategy[float]:
    """low, low + 0.5, ... high; shrinks to 0 or to the bound nearest to it."""
    return st.integers(2 * low, 2 * high).map(lambda number: number / 2)


def _tensor(*columns: st.SearchStrategy[float]) -> st.SearchStrategy[Tensor]:
    """One to three rows."""
    return st.lists(st.tuples(*columns), min_size=1, max_size=3).map(torch.tensor)


def _corners(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    return box[0], box[1], box[0] + box[2], box[1] + box[3]


_IMAGE_SIZE = st.tuples(st.integers(5, 9), st.integers(5, 9))
_BBOX = _tensor(_halves(-2, 4), _halves(-2, 4), _halves(1, 8), _halves(1, 8))
_XYXY = st.tuples(_halves(0, 6), _halves(0, 6), _halves(1, 5), _halves(1, 5)).map(_corners)
_BOXES = st.lists(_XYXY, min_size=1, max_size=3).map(torch.tensor)
_WHOLE = st.tuples(*[st.integers(low, 4).map(float) for low in (0, 0, 1, 1)]).map(_corners)
# 5 is more than the bound on growth, which shifts do not have.
_SHIFT = st.sampled_from([0.0, 0.5, -0.5, 1.0, 5.0])
_GROWTH = st.sampled_from([0.0, 0.5, -0.5, 1.0, -1.0, 5.0, -5.0])


@st.composite
def _movement(draw: st.DrawFn) -> dict[str, object]:
    weights = draw(st.sampled_from([RPN_WEIGHTS, BOX_HEAD_WEIGHTS]))
    rows = draw(st.lists(st.tuples(_WHOLE, _SHIFT, _SHIFT, _GROWTH, _GROWTH), min_size=1, max_size=2))
    references, raw = torch.tensor([row[0] for row in rows]), torch.tensor([row[1:] for row in rows])
    return {"deltas": raw * torch.tensor(weights), "references": references, "weights": weights}


@st.composite
def _bitmap(draw: st.DrawFn) -> Tensor:
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    pixels = st.lists(st.booleans(), min_size=height * width, max_size=height * width)
    return torch.tensor(draw(pixels)).reshape(height, width)


EXERCISES = (
    Exercise(
        name="coco_boxes",
        title="From COCO's bbox to a box in the picture",
        difficulty=1,
        minutes=8,
        points=2,
        right=right_boxes,
        inputs=st.fixed_dictionaries({"bbox": _BBOX, "image_size": _IMAGE_SIZE}),
        misconceptions=COCO_BOXES,
        hints=(
            "The last two columns are sizes: add the first two to them. `torch.cat` glues columns. Only then clip.",
            "`x = corners[:, 0::2].clamp(0, width)` clips both x at once, `1::2` both y. "
            "`torch.stack([x, y], -1).flatten(1)` puts them back as x1, y1, x2, y2.",
        ),
        draw=drawings.coco_boxes,
        picture=drawings.coco_boxes_picture,
    ),
    Exercise(
        name="iou_of_pairs",
        title="IoU of every pair",
        difficulty=2,
        minutes=15,
        points=3,
        right=box_iou,
        inputs=st.fixed_dictionaries({"boxes1": _BOXES, "boxes2": _BOXES}),
        misconceptions=IOU,
        hints=(
            "`boxes1[:, None]` has shape [N, 1, 4] and `boxes2[None]` [1, M, 4]: an operation on both gives all "
            "N × M pairs. The overlap starts at the larger of two starts and ends at the smaller of two ends.",
            "`sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])` may be "
            "negative: clamp each side at 0, then multiply the two. The union is the sum of areas minus that.",
        ),
        draw=drawings.pairs,
        picture=drawings.pairs_picture,
    ),
    Exercise(
        name="apply_deltas",
        title="Let deltas move a box",
        difficulty=2,
        minutes=15,
        points=3,
        right=decode_deltas,
        inputs=_movement(),
        misconceptions=DELTAS,
        hints=(
            "Undo the encoding in the opposite order: divide by the weights (a tuple: make it a tensor first); cut "
            "dw and dh; find the new centre and the new size; from them the corners.",
            "With `size = references[:, 2:] - references[:, :2]` the new centre is `center + d[:, :2] * size`, the "
            "new size is `size * d[:, 2:].clamp(max=MAX_LOG_SCALE).exp()`, and a corner is half a size away.",
        ),
        draw=drawings.deltas,
        picture=drawings.deltas_picture,
        tolerance=1e-4,
    ),
    Exercise(
        name="bitmap_runs",
        title="Run lengths of a bitmap",
        difficulty=2,
        minutes=12,
        points=2,
        right=run_lengths,
        inputs=st.fixed_dictionaries({"bitmap": _bitmap()}),
        misconceptions=RUNS,
        hints=(
            "`bitmap.T.flatten().tolist()` is the mask as one line in COCO's order. Walk along it and keep two "
            "things: the value of the current run and its length so far.",
            "Start with the value False and the length 0. At a pixel of the other value, append the length and start "
            "anew; the leading 0 then comes by itself. After the last pixel, append once more.",
        ),
        draw=drawings.runs,
        picture=drawings.runs_picture,
    ),
)
