"""Lesson 00's exercises: what is asked, on which inputs."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from minimaskrcnn_lessons.exercise import Exercise
from minimaskrcnn_lessons.lesson00 import drawings, misconceptions, mistakes

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
    # At least 2 rows and 3 columns: a wrong shape then says which axis is left.
    shape = (draw(st.integers(1, 3)), 1, draw(st.integers(2, 3)), draw(st.integers(3, 4)))
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
    truth = [draw(_box())]
    if draw(st.booleans()):
        # One near the first, too: two objects that want the same detection.
        truth.append(draw(st.one_of(_box(), _near(truth[0]))))
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
    misconceptions=misconceptions.COUNT,
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
    misconceptions=misconceptions.AREAS,
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
    misconceptions=misconceptions.TIGHT,
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
    misconceptions=misconceptions.BEST,
    hints=(
        "`box_iou(gt_boxes, boxes)` is a table with a row for each object. What is asked for in each row?",
        "`max(dim=1)` gives the largest value of each row and where it is. `torch.where(condition, a, b)` puts -1 "
        "where that value is too small.",
    ),
    draw=drawings.best_boxes,
    picture=drawings.matching,
)

EXERCISES = (COUNT, AREAS, TIGHT, BEST)
