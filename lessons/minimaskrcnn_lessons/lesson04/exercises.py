"""Lesson 04's exercises: what is asked, on which inputs, and the wrong answers that are known."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from minimaskrcnn_lessons.exercise import Exercise
from minimaskrcnn_lessons.lesson04 import (
    drawings,
    misconceptions,
    misconceptions_later,
    mistakes,
    mistakes_later,
)


def _bars(spans: list[tuple[int, int]], height: int) -> Tensor:
    """Boxes of one height from (x, width) in cells: their IoU is often exactly 1/4, 1/2 or 3/4."""
    return torch.tensor([[x, 0, x + width, height] for x, width in spans], dtype=torch.float32)


def _spans(least: int, most: int, last: int = 4) -> st.SearchStrategy[list[tuple[int, int]]]:
    return st.lists(st.tuples(st.integers(0, last), st.integers(1, 4)), min_size=least, max_size=most)


@st.composite
def _match_inputs(draw) -> dict:
    high, low = draw(st.sampled_from([(0.5, 0.25), (0.75, 0.25), (0.75, 0.5)]))
    kind = draw(st.sampled_from(["exact", "small", "any"]))
    if kind == "any":
        objects, anchors = draw(_spans(1, 2)), draw(_spans(1, 4))
        # Two that tie for every object.
        anchors = [*anchors, anchors[-1]] if draw(st.booleans()) else anchors
    else:
        # Anchors that start with the object meet the thresholds exactly; small ones are under `low` and yet the best.
        # The second object may be out of reach.
        objects = draw(st.sampled_from([[(0, 4)], [(0, 4), (6, 2)], [(0, 4), (2, 4)]]))
        widths = st.integers(1, 4 if kind == "exact" else 1)
        anchors = draw(st.lists(st.tuples(st.just(0), widths), min_size=2, max_size=4))
    return {"gt_boxes": _bars(objects, 4), "anchors": _bars(anchors, 4), "high": high, "low": low}


@st.composite
def _sample_inputs(draw) -> dict:
    label = torch.tensor(draw(st.lists(st.sampled_from([0, 1, -1]), min_size=1, max_size=8)))
    keys = torch.tensor(draw(st.permutations(range(len(label))))) / 10 + 0.05
    return {
        "label": label,
        "keys": keys,
        "number": draw(st.sampled_from([2, 4, 6])),
        "fraction": draw(st.sampled_from([0.5, 0.25])),
    }


@st.composite
def _loss_inputs(draw) -> dict:
    count = draw(st.integers(1, 3))

    def numbers() -> Tensor:
        eighths = draw(st.lists(st.integers(-8, 8), min_size=4 * count, max_size=4 * count))
        return torch.tensor(eighths, dtype=torch.float32).view(count, 4) / 8

    positive = torch.tensor(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    beta = draw(st.sampled_from([0.5, 0.25, 1 / 9]))
    return {"deltas": numbers(), "targets": numbers(), "positive": positive, "beta": beta}


@st.composite
def _nms_inputs(draw) -> dict:
    # The second kind overlaps its neighbours and not those further on.
    chain = st.lists(st.integers(0, 4), min_size=3, max_size=4, unique=True)
    if draw(st.booleans()):
        spans = [(x, 4) for x in draw(chain)]
        groups = [0] * len(spans)
    else:
        spans = draw(_spans(1, 4, last=2))
        groups = draw(st.lists(st.sampled_from([0, 1]), min_size=len(spans), max_size=len(spans)))
    scores = draw(st.lists(st.integers(1, 8), min_size=len(spans), max_size=len(spans)))
    return {
        "boxes": _bars(spans, 3),
        "scores": torch.tensor(scores) / 8,
        "groups": torch.tensor(groups),
        "threshold": draw(st.sampled_from([0.5, 0.25, 0.375])),
    }


MATCH = Exercise(
    name="match_anchors",
    title="Which anchor learns which object",
    difficulty=2,
    minutes=20,
    points=3,
    right=mistakes.match_right,
    inputs=_match_inputs(),
    examples=200,
    misconceptions=misconceptions.MATCH,
    hints=(
        "`box_iou(gt_boxes, anchors)` has a row for each object and a column for each anchor. One question asks "
        "for the maximum of a column, the other for the maximum of a row.",
        "`best, index = iou.max(dim=0)` gives each anchor's object. The anchors that an object takes are where "
        "`iou == iou.amax(dim=1, keepdim=True)`, if that maximum is above 0; `.any(dim=0)` over the objects. "
        "Write -1 everywhere, then 0, then 1 over it.",
    ),
    draw=drawings.match_counterexample,
    picture=drawings.match_picture,
)

SAMPLE = Exercise(
    name="sample_anchors",
    title="Which anchors are asked",
    difficulty=1,
    minutes=12,
    points=2,
    right=mistakes.sample_right,
    inputs=_sample_inputs(),
    examples=150,
    misconceptions=misconceptions.SAMPLE,
    hints=(
        "Do the positives first. How many negatives fit in depends on how many positives there were, "
        "and not on how many there might have been.",
        "`rows = torch.where(label > 0)[0]`, sorted by `keys[rows].argsort(descending=True)` and cut to "
        "`int(number * fraction)`; the same with `label == 0`, cut to `number - len(positive)`.",
    ),
    draw=drawings.sample_counterexample,
    picture=drawings.sample_picture,
)

LOSS = Exercise(
    name="rpn_box_loss",
    title="Smooth L1 and its divisor",
    difficulty=1,
    minutes=12,
    points=2,
    right=mistakes_later.loss_right,
    inputs=_loss_inputs(),
    examples=100,
    misconceptions=misconceptions_later.LOSS,
    hints=(
        "Both branches need the absolute error. They have the same value, and the same slope, where it equals beta.",
        "`torch.where(error < beta, 0.5 * error**2 / beta, error - 0.5 * beta)` with `error` the absolute "
        "difference; keep the positive rows, add everything up, divide by `len(deltas)`.",
    ),
    draw=drawings.loss_counterexample,
    picture=drawings.loss_picture,
)

NMS = Exercise(
    name="greedy_nms",
    title="Greedy suppression",
    difficulty=2,
    minutes=20,
    points=3,
    right=mistakes_later.nms_right,
    inputs=_nms_inputs(),
    examples=200,
    misconceptions=misconceptions_later.NMS,
    hints=(
        "Walk down the boxes from the highest score. Keep a list of those kept so far, and let only them decide.",
        "`order = scores.argsort(descending=True, stable=True).tolist()`; for `j` in it, look for an `i` in `kept` "
        "with `groups[i] == groups[j]` and `iou[i, j] > threshold`; if there is none, append `j`.",
    ),
    draw=drawings.nms_counterexample,
    picture=drawings.nms_picture,
)

EXERCISES = (MATCH, SAMPLE, LOSS, NMS)
