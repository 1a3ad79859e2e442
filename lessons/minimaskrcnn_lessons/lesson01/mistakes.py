"""Wrong answers about boxes and IoU that people really give: lesson 01."""

import torch
from torch import Tensor

from minimaskrcnn_lessons.exercise import Misconception

Size = tuple[int, int]


def _converted(bbox: Tensor, image_size: Size, *, minus: float = 0.0) -> Tensor:
    height, width = image_size
    x, y, w, h = bbox.unbind(-1)
    corners = torch.stack([x, y, x + w - minus, y + h - minus], -1)
    return torch.minimum(corners.clamp(min=0), corners.new_tensor([width, height, width, height]))


def taken_for_xyxy(bbox: Tensor, image_size: Size) -> Tensor:
    x, y, w, h = bbox.unbind(-1)
    return _converted(torch.stack([x, y, w - x, h - y], -1), image_size)


def unchanged(bbox: Tensor, image_size: Size) -> Tensor:
    return bbox


def last_pixel(bbox: Tensor, image_size: Size) -> Tensor:
    return _converted(bbox, image_size, minus=1.0)


def swapped_size(bbox: Tensor, image_size: Size) -> Tensor:
    return _converted(bbox, image_size[::-1])


def not_clipped(bbox: Tensor, image_size: Size) -> Tensor:
    return torch.cat([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]], 1)


def clipped_to_last_index(bbox: Tensor, image_size: Size) -> Tensor:
    return _converted(bbox, (image_size[0] - 1, image_size[1] - 1))


def clipped_first(bbox: Tensor, image_size: Size) -> Tensor:
    return _converted(torch.cat([bbox[:, :2].clamp(min=0), bbox[:, 2:]], 1), image_size)


def clipped_at_zero(bbox: Tensor, image_size: Size) -> Tensor:
    return not_clipped(bbox, image_size).clamp(min=0)


def clipped_at_the_end(bbox: Tensor, image_size: Size) -> Tensor:
    corners, (height, width) = not_clipped(bbox, image_size), image_size
    return torch.minimum(corners, corners.new_tensor([width, height, width, height]))


def by_axis(bbox: Tensor, image_size: Size) -> Tensor:
    return _converted(bbox, image_size)[:, [0, 2, 1, 3]]


def about_the_centre(bbox: Tensor, image_size: Size) -> Tensor:
    return _converted(torch.cat([bbox[:, :2] - bbox[:, 2:] / 2, bbox[:, 2:]], 1), image_size)


def boxes_as_columns(bbox: Tensor, image_size: Size) -> Tensor:
    return _converted(bbox, image_size).T


COCO_BOXES = (
    Misconception(
        name="xywh taken for xyxy",
        sentence="This is the bbox taken for (x1, y1, x2, y2): its last two numbers are a width and a height.",
        answer=taken_for_xyxy,
    ),
    Misconception(
        name="not converted",
        sentence="This is the bbox as it came: its last two numbers are a width and a height, and nothing "
        "is clipped.",
        answer=unchanged,
    ),
    Misconception(
        name="last pixel",
        sentence="This is x2 as the index of the last pixel. Coordinates here are continuous: the box ends where "
        "the last pixel ends, so nothing is taken away.",
        answer=last_pixel,
    ),
    Misconception(
        name="size swapped",
        sentence="This is the size read as (width, height). It is (height, width), so x is cut at size[1].",
        answer=swapped_size,
    ),
    Misconception(
        name="not clipped",
        sentence="This is the conversion without the clip: annotations do leave the picture. `clamp` gives a new "
        "tensor, so keep its result.",
        answer=not_clipped,
    ),
    Misconception(
        name="clipped to the last index",
        sentence="This is a clip at width - 1 and height - 1. The last pixel covers [width - 1, width): the "
        "picture ends at width.",
        answer=clipped_to_last_index,
    ),
    Misconception(
        name="clipped before adding",
        sentence="This is a corner clipped before the width was added, which moves the box instead of cutting it. "
        "Convert first.",
        answer=clipped_first,
    ),
    Misconception(
        name="clipped at 0 only",
        sentence="This is a clip at 0 only: the picture ends on the right and below as well.",
        answer=clipped_at_zero,
    ),
    Misconception(
        name="clipped at the far sides only",
        sentence="This is a clip at the width and the height only: no coordinate is below 0 either.",
        answer=clipped_at_the_end,
    ),
    Misconception(
        name="x1, x2, y1, y2",
        sentence="This is (x1, x2, y1, y2): the corners are asked for one after the other, (x1, y1, x2, y2).",
        answer=by_axis,
    ),
    Misconception(
        name="corner taken for centre",
        sentence="This is x and y taken for the centre of the box: they are its upper left corner.",
        answer=about_the_centre,
    ),
    Misconception(
        name="a box in each column",
        sentence="This is a box in each column, [4, N]. `torch.stack` needs `dim=1` to put one into each row.",
        answer=boxes_as_columns,
    ),
)


def _sides(boxes1: Tensor, boxes2: Tensor, plus: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Sides of the overlaps [N, M, 2], which may be negative, and the areas [N, 1] and [1, M]."""
    lower = torch.maximum(boxes1[:, None, :2], boxes2[None, :, :2])
    upper = torch.minimum(boxes1[:, None, 2:], boxes2[None, :, 2:])
    area1 = (boxes1[:, 2:] - boxes1[:, :2] + plus).prod(1)
    area2 = (boxes2[:, 2:] - boxes2[:, :2] + plus).prod(1)
    return upper - lower + plus, area1[:, None], area2[None]


def plus_one(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    sides, area1, area2 = _sides(boxes1, boxes2, 1.0)
    inter = sides.clamp(min=0).prod(-1)
    return inter / (area1 + area2 - inter)


def no_clamp(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    sides, area1, area2 = _sides(boxes1, boxes2)
    inter = sides.prod(-1)
    return inter / (area1 + area2 - inter)


def clamped_product(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    sides, area1, area2 = _sides(boxes1, boxes2)
    inter = sides.prod(-1).clamp(min=0)
    return inter / (area1 + area2 - inter)


def counted_twice(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    sides, area1, area2 = _sides(boxes1, boxes2)
    return sides.clamp(min=0).prod(-1) / (area1 + area2)


def over_the_smaller(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    sides, area1, area2 = _sides(boxes1, boxes2)
    return sides.clamp(min=0).prod(-1) / torch.minimum(area1, area2)


def sizes_as_corners(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    sides, _, _ = _sides(boxes1, boxes2)
    inter = sides.clamp(min=0).prod(-1)
    return inter / (boxes1[:, 2:].prod(1)[:, None] + boxes2[:, 2:].prod(1)[None] - inter)


def in_step(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    lower, upper = torch.maximum(boxes1[:, :2], boxes2[:, :2]), torch.minimum(boxes1[:, 2:], boxes2[:, 2:])
    inter = (upper - lower).clamp(min=0).prod(1)
    area1, area2 = ((boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (boxes1, boxes2))
    return inter / (area1 + area2 - inter)


def lists_swapped(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    sides, area1, area2 = _sides(boxes2, boxes1)
    inter = sides.clamp(min=0).prod(-1)
    return inter / (area1 + area2 - inter)


def areas_in_step(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    sides, area1, area2 = _sides(boxes1, boxes2)
    inter = sides.clamp(min=0).prod(-1)
    return inter / (area1[:, 0] + area2[0] - inter)


def over_the_first(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    sides, area1, _ = _sides(boxes1, boxes2)
    return sides.clamp(min=0).prod(-1) / area1


def over_the_hull(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    sides, _, _ = _sides(boxes1, boxes2)
    lower = torch.minimum(boxes1[:, None, :2], boxes2[None, :, :2])
    upper = torch.maximum(boxes1[:, None, 2:], boxes2[None, :, 2:])
    return sides.clamp(min=0).prod(-1) / (upper - lower).prod(-1)


def smaller_start(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    _, area1, area2 = _sides(boxes1, boxes2)
    lower = torch.minimum(boxes1[:, None, :2], boxes2[None, :, :2])
    inter = (torch.maximum(boxes1[:, None, 2:], boxes2[None, :, 2:]) - lower).prod(-1)
    return inter / (area1 + area2 - inter)


IOU = (
    Misconception(
        name="plus one",
        sentence="This is the IoU of pixel indices, with + 1 in every width. In continuous coordinates a width "
        "is x2 - x1.",
        answer=plus_one,
    ),
    Misconception(
        name="no clamp",
        sentence="This is the product of overlaps that may be negative: boxes apart have a negative overlap, "
        "and two negatives make a positive area.",
        answer=no_clamp,
    ),
    Misconception(
        name="clamp after the product",
        sentence="This is a clamp of the product. Boxes apart both in x and in y have two negative overlaps, "
        "whose product is positive: clamp each side.",
        answer=clamped_product,
    ),
    Misconception(
        name="overlap counted twice",
        sentence="This is the sum of the areas for the union: the overlap is in both of them.",
        answer=counted_twice,
    ),
    Misconception(
        name="over the smaller",
        sentence="This is the overlap divided by the smaller area. A small box inside a large one has a small "
        "IoU; divide by the union.",
        answer=over_the_smaller,
    ),
    Misconception(
        name="corner taken for size",
        sentence="This is the area as x2 · y2, which is right for (x, y, w, h) only. The boxes are (x1, y1, x2, y2).",
        answer=sizes_as_corners,
    ),
    Misconception(
        name="boxes in step",
        sentence="This is the first box with the first, the second with the second: every box of one list "
        "meets every box of the other.",
        answer=in_step,
    ),
    Misconception(
        name="lists swapped",
        sentence="This is a row for each box of boxes2. Rows are for boxes1: [N, M].",
        answer=lists_swapped,
    ),
    Misconception(
        name="areas in step",
        sentence="This is right but for the shapes of the areas, [N] and [M]: as [N, 1] and [1, M] they meet "
        "as the boxes do.",
        answer=areas_in_step,
    ),
    Misconception(
        name="over the first",
        sentence="This is the overlap divided by the area of the first box. Divide by the union.",
        answer=over_the_first,
    ),
    Misconception(
        name="over the box around both",
        sentence="This is the overlap divided by the box around both, which has corners that neither covers. "
        "The union is the sum of the areas less the overlap.",
        answer=over_the_hull,
    ),
    Misconception(
        name="minimum and maximum swapped",
        sentence="This is the box around both for the overlap: the overlap begins at the later start and ends "
        "at the earlier end.",
        answer=smaller_start,
    ),
)
