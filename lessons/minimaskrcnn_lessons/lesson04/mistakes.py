"""Right answers to lesson 04's first two exercises, and the wrong ones that people write."""

import torch
from torch import Tensor

from minimaskrcnn.matching import match, sample
from minimaskrcnn.ops import box_iou

Matched = tuple[Tensor, Tensor]


def match_right(gt_boxes: Tensor, anchors: Tensor, high: float, low: float) -> Matched:
    """The package's `match`, for one picture."""
    gt_valid = torch.ones(1, len(gt_boxes), dtype=torch.bool)
    valid = torch.ones(1, len(anchors), dtype=torch.bool)
    found = match(
        gt_boxes[None], gt_valid, anchors[None], valid,
        positive_iou=high, negative_iou=low, allow_low_quality=True,
    )  # fmt: skip
    return found.index[0], found.label[0]


def _labels(positive: Tensor, negative: Tensor) -> Tensor:
    return torch.where(positive, 1, torch.where(negative & ~positive, 0, -1))


def _low_quality(iou: Tensor) -> Tensor:
    highest = iou.amax(dim=1, keepdim=True)
    return ((iou == highest) & (highest > 0)).any(dim=0)


def match_wrong_axis(gt_boxes: Tensor, anchors: Tensor, high: float, low: float) -> Matched:
    best, index = box_iou(gt_boxes, anchors).max(dim=1)
    return index, _labels(best >= high, best < low)


def match_strict(gt_boxes: Tensor, anchors: Tensor, high: float, low: float) -> Matched:
    iou = box_iou(gt_boxes, anchors)
    best, index = iou.max(dim=0)
    return index, _labels((best > high) | _low_quality(iou), best < low)


def match_low_inclusive(gt_boxes: Tensor, anchors: Tensor, high: float, low: float) -> Matched:
    iou = box_iou(gt_boxes, anchors)
    best, index = iou.max(dim=0)
    return index, _labels((best >= high) | _low_quality(iou), best <= low)


def match_no_low_quality(gt_boxes: Tensor, anchors: Tensor, high: float, low: float) -> Matched:
    best, index = box_iou(gt_boxes, anchors).max(dim=0)
    return index, _labels(best >= high, best < low)


def match_nothing_ignored(gt_boxes: Tensor, anchors: Tensor, high: float, low: float) -> Matched:
    iou = box_iou(gt_boxes, anchors)
    best, index = iou.max(dim=0)
    return index, ((best >= high) | _low_quality(iou)).long()


def match_one_each(gt_boxes: Tensor, anchors: Tensor, high: float, low: float) -> Matched:
    iou = box_iou(gt_boxes, anchors)
    best, index = iou.max(dim=0)
    most, first = iou.max(dim=1)
    positive = best >= high
    positive[first[most > 0]] = True
    return index, _labels(positive, best < low)


def match_untouched(gt_boxes: Tensor, anchors: Tensor, high: float, low: float) -> Matched:
    iou = box_iou(gt_boxes, anchors)
    best, index = iou.max(dim=0)
    taken = (iou == iou.amax(dim=1, keepdim=True)).any(dim=0)
    return index, _labels((best >= high) | taken, best < low)


def match_one_each_always(gt_boxes: Tensor, anchors: Tensor, high: float, low: float) -> Matched:
    iou = box_iou(gt_boxes, anchors)
    best, index = iou.max(dim=0)
    positive = best >= high
    positive[iou.argmax(dim=1)] = True
    return index, _labels(positive, best < low)


def match_negative_last(gt_boxes: Tensor, anchors: Tensor, high: float, low: float) -> Matched:
    index, label = match_right(gt_boxes, anchors, high, low)
    return index, torch.where(box_iou(gt_boxes, anchors).amax(dim=0) < low, 0, label)


def match_label_first(gt_boxes: Tensor, anchors: Tensor, high: float, low: float) -> Matched:
    index, label = match_right(gt_boxes, anchors, high, low)
    return label, index


def match_reassigned(gt_boxes: Tensor, anchors: Tensor, high: float, low: float) -> Matched:
    index, label = match_right(gt_boxes, anchors, high, low)
    for g, row in enumerate(box_iou(gt_boxes, anchors)):
        if row.max() > 0:
            index[row == row.max()] = g
    return index, label


def match_codes_exchanged(gt_boxes: Tensor, anchors: Tensor, high: float, low: float) -> Matched:
    index, label = match_right(gt_boxes, anchors, high, low)
    return index, torch.where(label > 0, 1, -1 - label)


def match_index_of_positives(gt_boxes: Tensor, anchors: Tensor, high: float, low: float) -> Matched:
    index, label = match_right(gt_boxes, anchors, high, low)
    return torch.where(label > 0, index, -1), label


def sample_right(label: Tensor, keys: Tensor, number: int, fraction: float) -> Matched:
    """The package's `sample`, for one picture, cut into positives and negatives."""
    chosen = sample(label[None], keys[None], number, fraction)
    index, positive, valid = chosen.index[0], chosen.positive[0], chosen.valid[0]
    return index[positive & valid], index[valid & ~positive]


def _first(mask: Tensor, keys: Tensor, count: int, descending: bool = True) -> Tensor:
    rows = torch.where(mask)[0]
    return rows[keys[rows].argsort(descending=descending)][:count]


def sample_fixed_negatives(label: Tensor, keys: Tensor, number: int, fraction: float) -> Matched:
    most = int(number * fraction)
    return _first(label > 0, keys, most), _first(label == 0, keys, number - most)


def sample_all_positives(label: Tensor, keys: Tensor, number: int, fraction: float) -> Matched:
    positive = _first(label > 0, keys, number)
    return positive, _first(label == 0, keys, number - len(positive))


def sample_with_ignored(label: Tensor, keys: Tensor, number: int, fraction: float) -> Matched:
    positive = _first(label > 0, keys, int(number * fraction))
    return positive, _first(label <= 0, keys, number - len(positive))


def sample_lowest_keys(label: Tensor, keys: Tensor, number: int, fraction: float) -> Matched:
    positive = _first(label > 0, keys, int(number * fraction), descending=False)
    return positive, _first(label == 0, keys, number - len(positive), descending=False)


def sample_in_order(label: Tensor, keys: Tensor, number: int, fraction: float) -> Matched:
    positive = torch.where(label > 0)[0][: int(number * fraction)]
    return positive, torch.where(label == 0)[0][: number - len(positive)]


def sample_balanced(label: Tensor, keys: Tensor, number: int, fraction: float) -> Matched:
    positive = _first(label > 0, keys, int(number * fraction))
    return positive, _first(label == 0, keys, len(positive))


def sample_everything_positive(label: Tensor, keys: Tensor, number: int, fraction: float) -> Matched:
    positive = _first(label > 0, keys, len(label))
    return positive, _first(label == 0, keys, number - len(positive))


def sample_by_key_alone(label: Tensor, keys: Tensor, number: int, fraction: float) -> Matched:
    chosen = _first(label >= 0, keys, number)
    return chosen[label[chosen] > 0], chosen[label[chosen] == 0]


def sample_half(label: Tensor, keys: Tensor, number: int, fraction: float) -> Matched:
    return sample_right(label, keys, number, 0.5)


def sample_share_of_positives(label: Tensor, keys: Tensor, number: int, fraction: float) -> Matched:
    positive = _first(label > 0, keys, int(int((label > 0).sum()) * fraction))
    return positive, _first(label == 0, keys, number - len(positive))


def sample_negatives_not_reduced(label: Tensor, keys: Tensor, number: int, fraction: float) -> Matched:
    return _first(label > 0, keys, int(number * fraction)), _first(label == 0, keys, number)


def sample_by_index(label: Tensor, keys: Tensor, number: int, fraction: float) -> Matched:
    positive, negative = sample_right(label, keys, number, fraction)
    return positive.sort().values, negative.sort().values


def sample_ascending(label: Tensor, keys: Tensor, number: int, fraction: float) -> Matched:
    positive, negative = sample_right(label, keys, number, fraction)
    return positive.flip(0), negative.flip(0)


def sample_negative_first(label: Tensor, keys: Tensor, number: int, fraction: float) -> Matched:
    positive, negative = sample_right(label, keys, number, fraction)
    return negative, positive


def sample_places_among_their_kind(label: Tensor, keys: Tensor, number: int, fraction: float) -> Matched:
    positive = keys[label > 0].argsort(descending=True)[: int(number * fraction)]
    return positive, keys[label == 0].argsort(descending=True)[: number - len(positive)]


def sample_repeated(label: Tensor, keys: Tensor, number: int, fraction: float) -> Matched:
    positive = _first(label > 0, keys, int(number * fraction))
    negative, places = _first(label == 0, keys, len(label)), number - len(positive)
    return positive, negative.repeat(places)[:places]
