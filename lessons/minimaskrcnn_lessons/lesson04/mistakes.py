"""Right answers to lesson 04's exercises, and the wrong ones that people write."""

import torch
from torch import Tensor
from torch.nn import functional as F

from minimaskrcnn.matching import match, sample
from minimaskrcnn.ops import batched_nms, box_iou

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


def loss_right(deltas: Tensor, targets: Tensor, positive: Tensor, beta: float) -> Tensor:
    """The lines of `minimaskrcnn.rpn.rpn_losses` that make loss_rpn_box_reg, for valid samples."""
    each = F.smooth_l1_loss(deltas, targets, beta=beta, reduction="none")
    return (each * positive[:, None]).sum() / len(deltas)


def loss_over_positives(deltas: Tensor, targets: Tensor, positive: Tensor, beta: float) -> Tensor:
    each = F.smooth_l1_loss(deltas, targets, beta=beta, reduction="none")
    return (each * positive[:, None]).sum() / positive.sum().clamp(min=1)


def loss_mean(deltas: Tensor, targets: Tensor, positive: Tensor, beta: float) -> Tensor:
    return loss_right(deltas, targets, positive, beta) / 4


def loss_of_negatives(deltas: Tensor, targets: Tensor, positive: Tensor, beta: float) -> Tensor:
    return F.smooth_l1_loss(deltas, targets, beta=beta, reduction="sum") / len(deltas)


def loss_huber(deltas: Tensor, targets: Tensor, positive: Tensor, beta: float) -> Tensor:
    each = F.huber_loss(deltas, targets, delta=beta, reduction="none")
    return (each * positive[:, None]).sum() / len(deltas)


def loss_beta_one(deltas: Tensor, targets: Tensor, positive: Tensor, beta: float) -> Tensor:
    return loss_right(deltas, targets, positive, 1.0)


def loss_half_beta(deltas: Tensor, targets: Tensor, positive: Tensor, beta: float) -> Tensor:
    error = (deltas - targets).abs()
    each = torch.where(error < beta, 0.5 * error**2, error - 0.5)
    return (each * positive[:, None]).sum() / len(deltas)


def loss_without_abs(deltas: Tensor, targets: Tensor, positive: Tensor, beta: float) -> Tensor:
    error = deltas - targets
    each = torch.where(error < beta, 0.5 * error**2 / beta, error - 0.5 * beta)
    return (each * positive[:, None]).sum() / len(deltas)


def nms_right(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> list[int]:
    """The package's `batched_nms`."""
    return batched_nms(boxes, scores, groups, threshold).tolist()


def _greedy(iou: Tensor, order: list[int], hits) -> list[int]:
    kept: list[int] = []
    for j in order:
        if not any(hits(iou[i, j].item(), i, j) for i in kept):
            kept.append(j)
    return kept


def _order(scores: Tensor) -> list[int]:
    return scores.argsort(descending=True, stable=True).tolist()


def nms_at_least(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> list[int]:
    def hits(iou: float, i: int, j: int) -> bool:
        return iou >= threshold and bool(groups[i] == groups[j])

    return _greedy(box_iou(boxes, boxes), _order(scores), hits)


def nms_by_removed(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> list[int]:
    iou, order = box_iou(boxes, boxes), _order(scores)
    return [
        j
        for place, j in enumerate(order)
        if not any(iou[i, j] > threshold and groups[i] == groups[j] for i in order[:place])
    ]


def nms_ascending(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> list[int]:
    def hits(iou: float, i: int, j: int) -> bool:
        return iou > threshold and bool(groups[i] == groups[j])

    return _greedy(box_iou(boxes, boxes), scores.argsort(stable=True).tolist(), hits)


def nms_in_order(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> list[int]:
    def hits(iou: float, i: int, j: int) -> bool:
        return iou > threshold and bool(groups[i] == groups[j])

    return _greedy(box_iou(boxes, boxes), list(range(len(boxes))), hits)


def nms_across_groups(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> list[int]:
    return _greedy(box_iou(boxes, boxes), _order(scores), lambda iou, i, j: iou > threshold)


def nms_by_index(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> list[int]:
    return sorted(nms_right(boxes, scores, groups, threshold))


def nms_of_smaller(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> list[int]:
    """Intersection over the smaller area in place of IoU."""
    lower = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    upper = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    inter = (upper - lower).clamp(min=0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)

    def hits(share: float, i: int, j: int) -> bool:
        return share > threshold and bool(groups[i] == groups[j])

    return _greedy(inter / torch.minimum(area[:, None], area), _order(scores), hits)
