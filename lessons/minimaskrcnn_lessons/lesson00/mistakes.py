"""The right answers of lesson 00's exercises where the package has none under that signature, and the wrong ones."""

import torch
from torch import Tensor

from minimaskrcnn.ops import box_iou, masks_to_boxes, match_boxes


def count_detections(scores: Tensor, labels: Tensor, label: int, threshold: float) -> int:
    """How many detections have the label and a score of at least the threshold."""
    pairs = zip(scores.tolist(), labels.tolist())
    return len([score for score, of in pairs if of == label and score >= threshold])


def count_strictly(scores: Tensor, labels: Tensor, label: int, threshold: float) -> int:
    return int(((scores > threshold) & (labels == label)).sum())


def count_every_class(scores: Tensor, labels: Tensor, label: int, threshold: float) -> int:
    return int((scores >= threshold).sum())


def count_from_zero(scores: Tensor, labels: Tensor, label: int, threshold: float) -> int:
    return int(((scores >= threshold) & (labels == label - 1)).sum())


def count_by_adding(scores: Tensor, labels: Tensor, label: int, threshold: float) -> float:
    return float(scores[(scores >= threshold) & (labels == label)].sum())


def count_whole_class(scores: Tensor, labels: Tensor, label: int, threshold: float) -> int:
    return int((labels == label).sum())


def count_without_brackets(scores: Tensor, labels: Tensor, label: int, threshold: float) -> int:
    return int((labels == (label & (scores >= threshold))).sum())


def count_either(scores: Tensor, labels: Tensor, label: int, threshold: float) -> int:
    return int(((labels == label) | (scores >= threshold)).sum())


def count_as_mask(scores: Tensor, labels: Tensor, label: int, threshold: float) -> Tensor:
    return (labels == label) & (scores >= threshold)


def visible_areas(masks: Tensor, threshold: float) -> Tensor:
    """Pixels of each mask `[n, 1, h, w]` whose value exceeds the threshold."""
    return torch.tensor([int((mask > threshold).sum()) for mask in masks], dtype=torch.int64)


def areas_at_least(masks: Tensor, threshold: float) -> Tensor:
    return (masks >= threshold).sum(dim=(1, 2, 3))


def areas_soft(masks: Tensor, threshold: float) -> Tensor:
    return masks.sum(dim=(1, 2, 3))


def areas_with_channel(masks: Tensor, threshold: float) -> Tensor:
    return (masks > threshold).sum(dim=(2, 3))


def areas_in_all(masks: Tensor, threshold: float) -> Tensor:
    return (masks > threshold).sum()


def areas_as_shares(masks: Tensor, threshold: float) -> Tensor:
    return (masks > threshold).float().mean(dim=(1, 2, 3))


def areas_at_half(masks: Tensor, threshold: float) -> Tensor:
    return (masks > 0.5).sum(dim=(1, 2, 3))


def areas_soft_above(masks: Tensor, threshold: float) -> Tensor:
    return (masks * (masks > threshold)).sum(dim=(1, 2, 3))


def areas_selected(masks: Tensor, threshold: float) -> Tensor:
    return masks[masks > threshold].sum()


def areas_of_columns(masks: Tensor, threshold: float) -> Tensor:
    return (masks > threshold).sum(dim=(1, 2))


def tight_box(mask: Tensor) -> Tensor:
    """(first column, first row, last column, last row) of a mask `[h, w]`; zeros where it is empty."""
    return masks_to_boxes(mask[None])[0]


def _corners(mask: Tensor) -> list[int] | None:
    rows, columns = mask.nonzero(as_tuple=True)
    if len(rows) == 0:
        return None
    return [int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())]


def _as_box(numbers: list[int] | None) -> Tensor:
    return torch.zeros(4) if numbers is None else torch.tensor(numbers, dtype=torch.float32)


def box_rows_first(mask: Tensor) -> Tensor:
    found = _corners(mask)
    return _as_box(found and [found[1], found[0], found[3], found[2]])


def box_one_past(mask: Tensor) -> Tensor:
    found = _corners(mask)
    return _as_box(found and [found[0], found[1], found[2] + 1, found[3] + 1])


def box_as_xywh(mask: Tensor) -> Tensor:
    found = _corners(mask)
    return _as_box(found and [found[0], found[1], found[2] - found[0] + 1, found[3] - found[1] + 1])


def box_as_differences(mask: Tensor) -> Tensor:
    found = _corners(mask)
    return _as_box(found and [found[0], found[1], found[2] - found[0], found[3] - found[1]])


def box_of_reading_order(mask: Tensor) -> Tensor:
    places = mask.nonzero()
    if len(places) == 0:
        return torch.zeros(4)
    return torch.cat([places[0].flip(0), places[-1].flip(0)]).float()


def box_of_first_row(mask: Tensor) -> Tensor:
    found = _corners(mask)
    if found is None:
        return torch.zeros(4)
    first = mask[found[1]].nonzero()[:, 0]
    return _as_box([int(first.min()), found[1], int(first.max()), found[3]])


def box_by_axis(mask: Tensor) -> Tensor:
    return tight_box(mask)[[0, 2, 1, 3]]


def box_as_column(mask: Tensor) -> Tensor:
    return tight_box(mask)[:, None] if mask.any() else torch.zeros(4)


def best_detection(gt_boxes: Tensor, boxes: Tensor) -> Tensor:
    """For each ground truth the detection of largest IoU, or -1 where that is under 0.5."""
    everywhere = torch.ones(1, len(boxes), dtype=torch.bool)
    found = match_boxes(
        boxes[None], everywhere, gt_boxes[None], torch.ones(1, len(gt_boxes), dtype=torch.bool)
    )
    return torch.where(found.iou[0] >= 0.5, found.index[0], -1)


def _first_best(values: Tensor) -> tuple[Tensor, Tensor]:
    """The largest value of each row and the first column that has it."""
    best = values.amax(dim=1)
    return best, (values == best[:, None]).int().argmax(dim=1)


def best_for_each_detection(gt_boxes: Tensor, boxes: Tensor) -> Tensor:
    best, index = _first_best(box_iou(boxes, gt_boxes))
    return torch.where(best >= 0.5, index, -1)


def best_for_each_detection_whatever_iou(gt_boxes: Tensor, boxes: Tensor) -> Tensor:
    return _first_best(box_iou(boxes, gt_boxes))[1]


def best_whatever_iou(gt_boxes: Tensor, boxes: Tensor) -> Tensor:
    return _first_best(box_iou(gt_boxes, boxes))[1]


def best_above_half(gt_boxes: Tensor, boxes: Tensor) -> Tensor:
    best, index = _first_best(box_iou(gt_boxes, boxes))
    return torch.where(best > 0.5, index, -1)


def best_by_intersection(gt_boxes: Tensor, boxes: Tensor) -> Tensor:
    corner = torch.maximum(gt_boxes[:, None, :2], boxes[None, :, :2])
    sides = (torch.minimum(gt_boxes[:, None, 2:], boxes[None, :, 2:]) - corner).clamp(min=0)
    best, index = _first_best(sides.prod(dim=-1))
    areas = (gt_boxes[:, 2:] - gt_boxes[:, :2]).prod(dim=1)
    return torch.where(best >= 0.5 * areas, index, -1)


def best_of_xywh(gt_boxes: Tensor, boxes: Tensor) -> Tensor:
    moved = [torch.cat([some[:, :2], some[:, :2] + some[:, 2:]], dim=1) for some in (gt_boxes, boxes)]
    best, index = _first_best(box_iou(*moved))
    return torch.where(best >= 0.5, index, -1)


def best_with_plus_one(gt_boxes: Tensor, boxes: Tensor) -> Tensor:
    last = torch.tensor([0.0, 0.0, 1.0, 1.0])
    best, index = _first_best(box_iou(gt_boxes + last, boxes + last))
    return torch.where(best >= 0.5, index, -1)


def best_or_zero(gt_boxes: Tensor, boxes: Tensor) -> Tensor:
    return best_detection(gt_boxes, boxes).clamp(min=0)


def best_of_found(gt_boxes: Tensor, boxes: Tensor) -> Tensor:
    best = best_detection(gt_boxes, boxes)
    return best[best >= 0]


def best_iou(gt_boxes: Tensor, boxes: Tensor) -> Tensor:
    best = box_iou(gt_boxes, boxes).amax(dim=1)
    return torch.where(best >= 0.5, best, -1)


def best_is_first(gt_boxes: Tensor, boxes: Tensor) -> Tensor:
    enough = box_iou(gt_boxes, boxes) >= 0.5
    return torch.where(enough.any(dim=1), enough.int().argmax(dim=1), -1)


def best_is_last(gt_boxes: Tensor, boxes: Tensor) -> Tensor:
    best, index = _first_best(box_iou(gt_boxes, boxes).flip(1))
    return torch.where(best >= 0.5, len(boxes) - 1 - index, -1)


def best_given_once(gt_boxes: Tensor, boxes: Tensor) -> Tensor:
    iou, found = box_iou(gt_boxes, boxes), []
    for row in range(len(iou)):
        best, index = _first_best(iou[row : row + 1])
        found.append(int(index) if best >= 0.5 else -1)
        iou[:, index] *= best < 0.5
    return torch.tensor(found)
