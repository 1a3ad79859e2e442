"""Wrong answers about boxes that people really give: lesson 01."""

import torch
from torch import Tensor

from minimaskrcnn.boxes import MAX_LOG_SCALE, Weights
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
        sentence="This is the conversion without the clip: annotations do leave the picture.",
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
)


def _moved(
    deltas: Tensor,
    references: Tensor,
    *,
    low: float | None = None,
    high: float | None = MAX_LOG_SCALE,
    by_size: bool = True,
    half: float = 0.5,
) -> Tensor:
    sizes = references[:, 2:] - references[:, :2]
    centres = (references[:, :2] + references[:, 2:]) / 2
    centres = centres + deltas[:, :2] * (sizes if by_size else 1.0)
    grown = sizes * deltas[:, 2:].clamp(low, high).exp()
    return torch.cat([centres - half * grown, centres + half * grown], 1)


def unclamped(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    return _moved(deltas / deltas.new_tensor(weights), references, high=1e9)


def multiplied(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    return _moved(deltas * deltas.new_tensor(weights), references)


def weights_ignored(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    return _moved(deltas, references)


def clamped_early(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    cut = torch.cat([deltas[:, :2], deltas[:, 2:].clamp(max=MAX_LOG_SCALE)], 1)
    return _moved(cut / deltas.new_tensor(weights), references)


def clamped_both_ways(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    return _moved(deltas / deltas.new_tensor(weights), references, low=-MAX_LOG_SCALE)


def in_pixels(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    return _moved(deltas / deltas.new_tensor(weights), references, by_size=False)


def size_for_half(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    return _moved(deltas / deltas.new_tensor(weights), references, half=1.0)


def corner_moved(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    d = deltas / deltas.new_tensor(weights)
    sizes = references[:, 2:] - references[:, :2]
    corner = references[:, :2] + d[:, :2] * sizes
    return torch.cat([corner, corner + sizes * d[:, 2:].clamp(max=MAX_LOG_SCALE).exp()], 1)


DELTAS = (
    Misconception(
        name="no clamp of growth",
        sentence="This is the decoding without the bound on growth: cut dw and dh at MAX_LOG_SCALE before exp.",
        answer=unclamped,
    ),
    Misconception(
        name="weights multiplied",
        sentence="This is a multiplication by the weights. Encoding multiplied by them, so decoding divides.",
        answer=multiplied,
    ),
    Misconception(
        name="weights ignored",
        sentence="This is the decoding for weights of 1: divide the deltas by their weights first.",
        answer=weights_ignored,
    ),
    Misconception(
        name="clamp before the weights",
        sentence="This is a clamp of deltas that still carry their weights. Divide first: the "
        "bound is one on log(w' / w).",
        answer=clamped_early,
    ),
    Misconception(
        name="clamp on both sides",
        sentence="This is a clamp at -MAX_LOG_SCALE too. Only growth can overflow; shrinking is not bounded.",
        answer=clamped_both_ways,
    ),
    Misconception(
        name="shift in pixels",
        sentence="This is a shift by dx pixels. dx counts widths of the reference, so multiply by that.",
        answer=in_pixels,
    ),
    Misconception(
        name="corner moved",
        sentence="This is the corner moved and the box grown from it. Deltas move the centre, and the box grows "
        "about its new centre.",
        answer=corner_moved,
    ),
    Misconception(
        name="whole size each side",
        sentence="This is a box of twice the size: from the centre it is half a width to either side.",
        answer=size_for_half,
    ),
)
