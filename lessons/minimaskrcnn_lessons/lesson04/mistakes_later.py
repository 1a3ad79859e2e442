"""Right answers to lesson 04's last two exercises, and the wrong ones that people write."""

import torch
from torch import Tensor
from torch.nn import functional as F

from minimaskrcnn.ops import batched_nms, box_iou


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


def loss_over_positives_or_none(deltas: Tensor, targets: Tensor, positive: Tensor, beta: float) -> Tensor:
    return loss_right(deltas, targets, positive, beta) * len(deltas) / positive.sum()


def loss_mean_of_positives(deltas: Tensor, targets: Tensor, positive: Tensor, beta: float) -> Tensor:
    return F.smooth_l1_loss(deltas[positive], targets[positive], beta=beta)


def loss_sum(deltas: Tensor, targets: Tensor, positive: Tensor, beta: float) -> Tensor:
    return loss_right(deltas, targets, positive, beta) * len(deltas)


def loss_absolute(deltas: Tensor, targets: Tensor, positive: Tensor, beta: float) -> Tensor:
    return (deltas - targets)[positive].abs().sum() / len(deltas)


def loss_without_half(deltas: Tensor, targets: Tensor, positive: Tensor, beta: float) -> Tensor:
    error = (deltas - targets)[positive].abs()
    return torch.where(error < beta, error**2 / beta, error - 0.5 * beta).sum() / len(deltas)


def loss_lowered_by_half(deltas: Tensor, targets: Tensor, positive: Tensor, beta: float) -> Tensor:
    error = (deltas - targets)[positive].abs()
    return torch.where(error < beta, 0.5 * error**2 / beta, error - 0.5).sum() / len(deltas)


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


def nms_places_in_order(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> list[int]:
    order = scores.argsort(descending=True, stable=True)
    return nms_right(boxes[order], scores[order], groups[order], threshold)


def nms_group_after_group(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> list[int]:
    kept = nms_right(boxes, scores, groups, threshold)
    return sorted(kept, key=lambda k: int(groups[k]))


def nms_last_of_equals(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> list[int]:
    def hits(iou: float, i: int, j: int) -> bool:
        return iou > threshold and bool(groups[i] == groups[j])

    return _greedy(box_iou(boxes, boxes), scores.argsort(stable=True).tolist()[::-1], hits)


def nms_keeps_overlapping(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> list[int]:
    def hits(iou: float, i: int, j: int) -> bool:
        return iou < threshold and bool(groups[i] == groups[j])

    return _greedy(box_iou(boxes, boxes), _order(scores), hits)


def nms_asks_the_last(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> list[int]:
    iou, kept = box_iou(boxes, boxes), []
    for j in _order(scores):
        if not kept or iou[kept[-1], j] <= threshold or groups[kept[-1]] != groups[j]:
            kept.append(j)
    return kept


def nms_mask(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    mask = torch.zeros(len(boxes), dtype=torch.bool)
    mask[nms_right(boxes, scores, groups, threshold)] = True
    return mask
