"""Lesson 00's exercises: what is asked, on which inputs, and the wrong answers that are known."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from minimaskrcnn_lessons.exercise import Exercise, Misconception
from minimaskrcnn_lessons.lesson00 import drawings, mistakes

QUARTERS = [0.0, 0.25, 0.5, 0.75, 1.0]


@st.composite
def _scored(draw) -> dict:
    count = draw(st.integers(0, 4))
    scores = [draw(st.sampled_from(QUARTERS)) for _ in range(count)]
    labels = [draw(st.integers(1, 3)) for _ in range(count)]
    return {
        "scores": torch.tensor(scores, dtype=torch.float32),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "label": draw(st.integers(1, 3)),
        "threshold": draw(st.sampled_from([0.5, 0.25, 0.75])),
    }


@st.composite
def _masks(draw) -> dict:
    shape = (draw(st.integers(1, 3)), 1, draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    size = shape[0] * shape[2] * shape[3]
    values = draw(st.lists(st.sampled_from(QUARTERS), min_size=size, max_size=size))
    return {"masks": torch.tensor(values).view(shape), "threshold": draw(st.sampled_from([0.5, 0.25, 0.75]))}


@st.composite
def _bitmap(draw) -> dict:
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    bits = draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    return {"mask": torch.tensor(bits).view(height, width)}


@st.composite
def _box(draw) -> tuple[int, int, int, int]:
    x, y = draw(st.integers(0, 5)), draw(st.integers(0, 4))
    return x, y, x + draw(st.sampled_from([2, 4])), y + draw(st.sampled_from([2, 3, 4]))


def _near(box: tuple[int, int, int, int]) -> st.SearchStrategy[tuple[int, int, int, int]]:
    """Boxes of IoU 1, exactly 1/2 (half of the box, or twice), and a little off."""
    x1, y1, x2, y2 = box
    half = (x1 + x2) // 2
    return st.sampled_from(
        [box, (x1, y1, half, y2), (x1, y1, 2 * x2 - x1, y2), (x1 + 1, y1, x2 + 1, y2), (x1, y1, x2, y2 + 3)]
    )


@st.composite
def _pairs(draw) -> dict:
    truth = draw(st.lists(_box(), min_size=1, max_size=2))
    found = [draw(_near(box)) for box in truth for _ in range(draw(st.integers(0, 2)))]
    found += draw(st.lists(_box(), min_size=0 if found else 1, max_size=1))
    return {"gt_boxes": _tensor(truth), "boxes": _tensor(draw(st.permutations(found)))}


def _tensor(boxes: list[tuple[int, int, int, int]]) -> Tensor:
    return torch.tensor(boxes, dtype=torch.float32).view(-1, 4)


COUNT = Exercise(
    name="count_detections",
    title="How many hearts?",
    difficulty=1,
    minutes=6,
    points=1,
    right=mistakes.count_detections,
    inputs=_scored(),
    misconceptions=(
        Misconception(
            name="strictly above the threshold",
            sentence="This is the number of scores above the threshold: a score equal to it counts too.",
            answer=mistakes.count_strictly,
        ),
        Misconception(
            name="class forgotten",
            sentence="This is the number of detections of all classes: ask for the label as well.",
            answer=mistakes.count_every_class,
        ),
        Misconception(
            name="labels counted from 0",
            sentence="This is the class before the one asked for: label 0 is the background, so classes start at 1 "
            "and nothing is subtracted.",
            answer=mistakes.count_from_zero,
        ),
        Misconception(
            name="scores added up",
            sentence="This is the sum of the scores: count the detections, each as one.",
            answer=mistakes.count_by_adding,
        ),
        Misconception(
            name="score forgotten",
            sentence="This is the number of detections of the class whatever their score: ask for the score as well.",
            answer=mistakes.count_whole_class,
        ),
    ),
    hints=(
        "Two comparisons give two boolean tensors of shape `[n]`. Which operator is true where both are?",
        "`&` binds more tightly than `>=` and `==`, so put brackets round each comparison. The sum of a boolean "
        "tensor is the number of its trues; `int(...)` makes a Python number of it.",
    ),
    draw=drawings.counts,
    picture=drawings.counting,
)

AREAS = Exercise(
    name="visible_areas",
    title="How large is each mask?",
    difficulty=1,
    minutes=8,
    points=1,
    right=mistakes.visible_areas,
    inputs=_masks(),
    misconceptions=(
        Misconception(
            name="at least the threshold",
            sentence="This is the number of pixels at or above the threshold: a mask holds the pixels strictly above "
            "it.",
            answer=mistakes.areas_at_least,
        ),
        Misconception(
            name="probabilities added up",
            sentence="This is the sum of the probabilities: compare with the threshold first, then count.",
            answer=mistakes.areas_soft,
        ),
        Misconception(
            name="channel axis kept",
            sentence="This is one row for each mask, of shape [n, 1]: the axis of length 1 has to go too.",
            answer=mistakes.areas_with_channel,
        ),
        Misconception(
            name="one number for all masks",
            sentence="This is the area of all masks together: sum over every axis but the first.",
            answer=mistakes.areas_in_all,
        ),
        Misconception(
            name="share of the picture",
            sentence="This is the share of the picture that each mask covers: count pixels, and do not divide.",
            answer=mistakes.areas_as_shares,
        ),
        Misconception(
            name="always one half",
            sentence="This is the area at threshold 0.5 whatever is asked for: use the argument.",
            answer=mistakes.areas_at_half,
        ),
    ),
    hints=(
        "First decide pixel by pixel, then count. Over which of the four axes do you sum?",
        "`(masks > threshold)` is boolean, of shape `[n, 1, h, w]`; `sum` takes a tuple of axes: `dim=(1, 2, 3)`.",
    ),
    draw=drawings.areas,
    picture=drawings.measuring,
)

TIGHT = Exercise(
    name="tight_box",
    title="The box of a mask",
    difficulty=2,
    minutes=12,
    points=2,
    right=mistakes.tight_box,
    inputs=_bitmap(),
    misconceptions=(
        Misconception(
            name="x and y swapped",
            sentence="This is (y1, x1, y2, x2): `nonzero` gives rows first, and a box begins with x, the column.",
            answer=mistakes.box_rows_first,
        ),
        Misconception(
            name="one past the last pixel",
            sentence="This is the box that covers the pixels to their far edge: here x2 and y2 are asked for as the "
            "indices of the last column and row.",
            answer=mistakes.box_one_past,
        ),
        Misconception(
            name="width and height",
            sentence="This is COCO's (x, y, width, height): the last two numbers asked for are the last column and "
            "row.",
            answer=mistakes.box_as_xywh,
        ),
        Misconception(
            name="differences of indices",
            sentence="This is (x1, y1, x2 - x1, y2 - y1): the last two numbers asked for are the last column and row "
            "themselves.",
            answer=mistakes.box_as_differences,
        ),
        Misconception(
            name="first and last pixel in reading order",
            sentence="This is the box from the first pixel to the last in reading order: the leftmost pixel can lie "
            "in any row.",
            answer=mistakes.box_of_reading_order,
        ),
        Misconception(
            name="columns of the first row only",
            sentence="This is as wide as the first row of the object: the columns of all rows count.",
            answer=mistakes.box_of_first_row,
        ),
    ),
    hints=(
        "Which columns have a true pixel in any row? And which rows have one in any column?",
        "`mask.any(dim=0)` says it for the columns; `nonzero()` lists the true ones in order, so the first and the "
        "last of that list are x1 and x2. Treat the empty mask before anything else.",
    ),
    draw=drawings.tight_boxes,
    picture=drawings.boxing,
)

BEST = Exercise(
    name="best_detection",
    title="Which detection found it?",
    difficulty=2,
    minutes=15,
    points=2,
    right=mistakes.best_detection,
    inputs=_pairs(),
    misconceptions=(
        Misconception(
            name="the other axis",
            sentence="This is the best object for each detection: for each object the best detection is asked for, "
            "so the maximum runs over the other axis.",
            answer=mistakes.best_for_each_detection,
        ),
        Misconception(
            name="the other axis and no limit",
            sentence="This is the best object for each detection, however little they overlap: the maximum runs over "
            "the other axis, and below an IoU of 0.5 the answer is -1.",
            answer=mistakes.best_for_each_detection_whatever_iou,
        ),
        Misconception(
            name="no limit",
            sentence="This is the best detection however little it overlaps: below an IoU of 0.5 the object counts "
            "as missed, -1.",
            answer=mistakes.best_whatever_iou,
        ),
        Misconception(
            name="strictly above one half",
            sentence="This is the rule IoU > 0.5: an IoU of exactly 0.5 is enough.",
            answer=mistakes.best_above_half,
        ),
        Misconception(
            name="intersection for IoU",
            sentence="This is the largest intersection, which a huge box always wins: divide by the union.",
            answer=mistakes.best_by_intersection,
        ),
        Misconception(
            name="xyxy taken for xywh",
            sentence="This is right for boxes (x, y, width, height): these are (x1, y1, x2, y2).",
            answer=mistakes.best_of_xywh,
        ),
        Misconception(
            name="one pixel too wide",
            sentence="This is the IoU of boxes one pixel wider and higher: a width is x2 - x1, and nothing is + 1.",
            answer=mistakes.best_with_plus_one,
        ),
    ),
    hints=(
        "`box_iou(gt_boxes, boxes)` is a table with a row for each object. What is asked for in each row?",
        "`max(dim=1)` gives the largest value of each row and where it is. `torch.where(condition, a, b)` puts -1 "
        "where that value is too small.",
    ),
    draw=drawings.best_boxes,
    picture=drawings.matching,
)

EXERCISES = (COUNT, AREAS, TIGHT, BEST)
