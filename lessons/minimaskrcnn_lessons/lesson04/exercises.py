"""Lesson 04's exercises: what is asked, on which inputs, and the wrong answers that are known."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from minimaskrcnn_lessons.exercise import Exercise, Misconception
from minimaskrcnn_lessons.lesson04 import drawings, mistakes


def _bars(spans: list[tuple[int, int]], height: int) -> Tensor:
    """Boxes of one height from (x, width) in cells: their IoU is often exactly 1/4, 1/2 or 3/4."""
    return torch.tensor([[x, 0, x + width, height] for x, width in spans], dtype=torch.float32)


def _spans(least: int, most: int, last: int = 4) -> st.SearchStrategy[list[tuple[int, int]]]:
    return st.lists(st.tuples(st.integers(0, last), st.integers(1, 4)), min_size=least, max_size=most)


@st.composite
def _match_inputs(draw) -> dict:
    high, low = draw(st.sampled_from([(0.5, 0.25), (0.75, 0.25), (0.75, 0.5)]))
    if draw(st.booleans()):
        # Anchors that start with the object meet the thresholds exactly; the second object may be out of reach.
        objects = draw(st.sampled_from([[(0, 4)], [(0, 4), (6, 2)], [(0, 4), (2, 4)]]))
        anchors = draw(st.lists(st.tuples(st.just(0), st.integers(1, 4)), min_size=2, max_size=4))
    else:
        objects, anchors = draw(_spans(1, 2)), draw(_spans(1, 4))
        # Two that tie for every object.
        anchors = [*anchors, anchors[-1]] if draw(st.booleans()) else anchors
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
        groups = draw(st.lists(st.sampled_from([0, 0, 1]), min_size=len(spans), max_size=len(spans)))
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
    misconceptions=(
        Misconception(
            name="maximum over the wrong axis",
            sentence="This is the best anchor of each object: the label needs the best object of each anchor.",
            answer=mistakes.match_wrong_axis,
        ),
        Misconception(
            name="> for >= at the upper threshold",
            sentence="This is a strict comparison at the upper threshold: an IoU equal to `high` is positive.",
            answer=mistakes.match_strict,
        ),
        Misconception(
            name="<= for < at the lower threshold",
            sentence="This is <= at the lower threshold: an IoU equal to `low` is ignored, only less is negative.",
            answer=mistakes.match_low_inclusive,
        ),
        Misconception(
            name="no rule for low quality",
            sentence="This is matching by the two thresholds alone: an object under `high` everywhere gets no "
            "anchor. Add the anchors that overlap it most.",
            answer=mistakes.match_no_low_quality,
        ),
        Misconception(
            name="ignored taken for negative",
            sentence="This is a label 0 for everything that is not positive: between the thresholds the label is -1.",
            answer=mistakes.match_nothing_ignored,
        ),
        Misconception(
            name="one anchor for each object",
            sentence="This is the low-quality rule for the first anchor only: all that tie for the highest IoU "
            "with an object are positive.",
            answer=mistakes.match_one_each,
        ),
        Misconception(
            name="an object that nothing touches takes all",
            sentence="This is a maximum of 0 taken for an overlap: an object that no anchor touches makes every "
            "anchor positive here. It should take none.",
            answer=mistakes.match_untouched,
        ),
    ),
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
    misconceptions=(
        Misconception(
            name="places of missing positives stay empty",
            sentence="This is a fixed number of negatives: where positives are few, negatives fill their places.",
            answer=mistakes.sample_fixed_negatives,
        ),
        Misconception(
            name="no limit on positives",
            sentence="This is every positive there is room for: at most `int(number * fraction)` are taken.",
            answer=mistakes.sample_all_positives,
        ),
        Misconception(
            name="ignored sampled as negative",
            sentence="This is a sample with ignored anchors among the negatives: label -1 is neither.",
            answer=mistakes.sample_with_ignored,
        ),
        Misconception(
            name="lowest keys",
            sentence="This is the choice of the lowest keys: the highest are wanted, in descending order.",
            answer=mistakes.sample_lowest_keys,
        ),
        Misconception(
            name="keys unused",
            sentence="This is the choice of the first rows: the keys decide, or the same anchors would be asked "
            "in every step.",
            answer=mistakes.sample_in_order,
        ),
        Misconception(
            name="as many negatives as positives",
            sentence="This is one negative for each positive: negatives fill up to `number`, however few "
            "positives there are.",
            answer=mistakes.sample_balanced,
        ),
    ),
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
    right=mistakes.loss_right,
    inputs=_loss_inputs(),
    examples=100,
    misconceptions=(
        Misconception(
            name="divided by the positives",
            sentence="This is the sum divided by the number of positives: the divisor is the number of all samples.",
            answer=mistakes.loss_over_positives,
        ),
        Misconception(
            name="mean over the four coordinates",
            sentence="This is a quarter of the loss: the four coordinates are added up, not averaged.",
            answer=mistakes.loss_mean,
        ),
        Misconception(
            name="negatives take part",
            sentence="This is the loss of all samples: a negative anchor has no box to be moved to.",
            answer=mistakes.loss_of_negatives,
        ),
        Misconception(
            name="Huber's loss",
            sentence="This is Huber's loss, beta times the smooth L1: the line should have slope 1.",
            answer=mistakes.loss_huber,
        ),
        Misconception(
            name="beta left out",
            sentence="This is smooth L1 with beta 1: use the argument `beta` in both branches.",
            answer=mistakes.loss_beta_one,
        ),
        Misconception(
            name="beta in the comparison only",
            sentence="This is beta in the comparison only: the two branches then do not meet. The parabola is "
            "divided by beta, and the line is lowered by half of it.",
            answer=mistakes.loss_half_beta,
        ),
        Misconception(
            name="no absolute value",
            sentence="This is a comparison of the signed error: large negative errors must be on the line too.",
            answer=mistakes.loss_without_abs,
        ),
    ),
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
    right=mistakes.nms_right,
    inputs=_nms_inputs(),
    examples=200,
    misconceptions=(
        Misconception(
            name=">= for >",
            sentence="This is suppression from the threshold on: a box goes only where IoU exceeds it.",
            answer=mistakes.nms_at_least,
        ),
        Misconception(
            name="removed boxes still suppress",
            sentence="This is suppression by any better box: only one that was kept itself may remove another.",
            answer=mistakes.nms_by_removed,
        ),
        Misconception(
            name="worst first",
            sentence="This is ascending order: begin with the highest score.",
            answer=mistakes.nms_ascending,
        ),
        Misconception(
            name="not sorted",
            sentence="This is suppression in the order of the rows: sort by score first.",
            answer=mistakes.nms_in_order,
        ),
        Misconception(
            name="groups ignored",
            sentence="This is suppression across groups: compare boxes of the same group only.",
            answer=mistakes.nms_across_groups,
        ),
        Misconception(
            name="result by index",
            sentence="This is the right set in the order of the rows: return it by descending score.",
            answer=mistakes.nms_by_index,
        ),
        Misconception(
            name="intersection over the smaller box",
            sentence="This is intersection over the smaller area: divide by the area of the union.",
            answer=mistakes.nms_of_smaller,
        ),
    ),
    hints=(
        "Walk down the boxes from the highest score. Keep a list of those kept so far, and let only them decide.",
        "`order = scores.argsort(descending=True, stable=True).tolist()`; for `j` in it, look for an `i` in `kept` "
        "with `groups[i] == groups[j]` and `iou[i, j] > threshold`; if there is none, append `j`.",
    ),
    draw=drawings.nms_counterexample,
    picture=drawings.nms_picture,
)

EXERCISES = (MATCH, SAMPLE, LOSS, NMS)
