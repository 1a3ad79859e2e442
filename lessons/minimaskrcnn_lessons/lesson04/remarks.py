"""What a counterexample's picture says of a wrong sample, whichever mistake made it."""

from typing import Any

import torch

from minimaskrcnn_lessons.exercise import Inputs


def of_sample(inputs: Inputs, yours: Any, right: Any) -> list[str]:
    """At most two remarks on the pair (positives, negatives) that was returned."""
    parts = [torch.as_tensor(part) for part in yours]
    if any(part.dtype == torch.bool for part in parts):
        return ["yours has masks: asked are indices"]
    lists = [part.long().flatten().tolist() for part in parts]
    expected = [part.tolist() for part in right]
    if lists == expected:
        return ["this time yours is right: does it draw random numbers of its own? The keys decide"]
    found = _repeated(lists) + _of_the_wrong_kind(inputs, lists) + _too_many(inputs, lists)
    if not found and [sorted(part) for part in lists] == [sorted(part) for part in expected]:
        found = ["the right anchors in another order: the highest key comes first"]
    return found[:2]


def _repeated(lists: list[list[int]]) -> list[str]:
    twice = sorted({k for part in lists for k in part if part.count(k) > 1})
    if not twice:
        return []
    return [f"yours takes anchor {twice[0]} more than once: draw without replacement"]


def _of_the_wrong_kind(inputs: Inputs, lists: list[list[int]]) -> list[str]:
    label = inputs["label"].tolist()
    for part, wanted, name in zip(lists, (1, 0), ("positives", "negatives")):
        for k in part:
            if not 0 <= k < len(label):
                return [f"yours has {k} among the {name}: there are anchors 0 to {len(label) - 1}"]
            if label[k] != wanted:
                return [f"yours has anchor {k} among the {name}: its label is {label[k]}"]
    return []


def _too_many(inputs: Inputs, lists: list[list[int]]) -> list[str]:
    number, fraction = inputs["number"], inputs["fraction"]
    most, positive, total = int(number * fraction), len(lists[0]), len(lists[0]) + len(lists[1])
    found = []
    if positive > most:
        found.append(f"positives: yours {positive}, at most int({number} · {fraction:g}) = {most}")
    if total > number:
        found.append(f"in all: yours {total}, at most number = {number}")
    return found
