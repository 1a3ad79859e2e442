"""Wrong answers about run lengths that people really give: lesson 01."""

import torch
from torch import Tensor

from minimaskrcnn.ops.reference import run_lengths
from minimaskrcnn_lessons.exercise import Misconception


def by_rows(bitmap: Tensor) -> list[int]:
    return run_lengths(bitmap.T)


def no_leading_zero(bitmap: Tensor) -> list[int]:
    runs = run_lengths(bitmap)
    return runs[1:] if runs[0] == 0 else runs


def by_rows_no_leading_zero(bitmap: Tensor) -> list[int]:
    return no_leading_zero(bitmap.T)


def foreground_first(bitmap: Tensor) -> list[int]:
    return run_lengths(~bitmap)


def ends_with_column(bitmap: Tensor) -> list[int]:
    runs: list[int] = []
    for column in bitmap.T:
        part = run_lengths(column[:, None])
        runs += part if part[0] or not runs else part[1:]
    return runs


def last_run_missing(bitmap: Tensor) -> list[int]:
    return run_lengths(bitmap)[:-1]


def ends_of_runs(bitmap: Tensor) -> list[int]:
    return torch.tensor(run_lengths(bitmap)).cumsum(0).tolist()


def one_short_after_a_change(bitmap: Tensor) -> list[int]:
    first, *others = run_lengths(bitmap)
    return [first, *(run - 1 for run in others)]


def mask_runs_only(bitmap: Tensor) -> list[int]:
    return run_lengths(bitmap)[1::2]


def always_in_pairs(bitmap: Tensor) -> list[int]:
    runs = run_lengths(bitmap)
    return runs + [0] * (len(runs) % 2)


RUNS = (
    Misconception(
        name="row by row",
        sentence="This is the bitmap read row by row. COCO's order runs down the columns.",
        answer=by_rows,
    ),
    Misconception(
        name="row by row, no leading zero",
        sentence="This is the bitmap read row by row, with a first run that may be the mask. Read down the columns, "
        "and begin with background, if need be with 0 pixels of it.",
        answer=by_rows_no_leading_zero,
    ),
    Misconception(
        name="no leading zero",
        sentence="This is a list whose first run may be the mask. It is always background: where the first pixel "
        "belongs to the mask, that run is 0 pixels long.",
        answer=no_leading_zero,
    ),
    Misconception(
        name="mask first",
        sentence="This is a list that counts the mask first. The first run is background.",
        answer=foreground_first,
    ),
    Misconception(
        name="a run ends with its column",
        sentence="This is a list of runs that end with their column. A run goes on at the top of the next one.",
        answer=ends_with_column,
    ),
    Misconception(
        name="last run missing",
        sentence="This is a list without the last run: it ends with the picture, without a change of value.",
        answer=last_run_missing,
    ),
    Misconception(
        name="ends of runs",
        sentence="This is a list of where the runs end. A run is given by its length.",
        answer=ends_of_runs,
    ),
    Misconception(
        name="one short after a change",
        sentence="This is one too few in every run but the first: the pixel at which the value changes belongs "
        "to the new run, so that counts from 1.",
        answer=one_short_after_a_change,
    ),
    Misconception(
        name="runs of the mask only",
        sentence="This is the runs of the mask only. Those of the background stand between them.",
        answer=mask_runs_only,
    ),
    Misconception(
        name="always in pairs",
        sentence="This is a list with a run of 0 at its end. Only the first run can be 0: the list may end "
        "with background.",
        answer=always_in_pairs,
    ),
)
