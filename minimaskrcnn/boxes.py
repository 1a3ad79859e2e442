"""Boxes and the deltas between them: how a network says "move this box there".

A box is (x1, y1, x2, y2) in absolute pixels with continuous coordinates: pixel i covers [i, i + 1), so a box
has width x2 - x1 and nothing is ever "+ 1".  A network does not predict a box but its *deltas* from a box it
was given (an anchor, a proposal):

    dx = wx (cx' - cx) / w        dw = ww log(w' / w)
    dy = wy (cy' - cy) / h        dh = wh log(h' / h)

which no scale or shift of the picture changes (R-CNN, appendix C; Faster R-CNN, equation 2).  The weights
(wx, wy, ww, wh) bring the four to about unit variance; they travel with the deltas wherever these go.
Areas, IoU, clipping and conversions are in `minimaskrcnn.ops`.

Lesson 01, `lessons/01_boxes_masks_coco.ipynb`, teaches this.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

Weights = tuple[float, float, float, float]

RPN_WEIGHTS: Weights = (1.0, 1.0, 1.0, 1.0)
BOX_HEAD_WEIGHTS: Weights = (10.0, 10.0, 5.0, 5.0)
# exp(dw) is bounded so that one wild prediction cannot overflow: 1000 / 16 = 62.5 times the given size.
MAX_LOG_SCALE = math.log(1000.0 / 16)


def _centers_and_sizes(boxes: Float[Tensor, "*batch 4"]) -> tuple[Tensor, Tensor]:
    sizes = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * sizes, sizes


def encode_deltas(
    boxes: Float[Tensor, "*batch 4"], references: Float[Tensor, "*batch 4"], weights: Weights
) -> Float[Tensor, "*batch 4"]:
    """The deltas that take `references` to `boxes`; infinite or NaN where a reference or a box has no area."""
    center, size = _centers_and_sizes(boxes)
    reference_center, reference_size = _centers_and_sizes(references)
    shift = (center - reference_center) / reference_size
    return torch.cat([shift, torch.log(size / reference_size)], dim=-1) * boxes.new_tensor(weights)


def decode_deltas(
    deltas: Float[Tensor, "*batch 4"], references: Float[Tensor, "*#batch 4"], weights: Weights
) -> Float[Tensor, "*batch 4"]:
    """The boxes that `deltas` make of `references`: the inverse of `encode_deltas`.

    Growth is cut at 62.5 times (`MAX_LOG_SCALE`).  Leading dimensions broadcast, so one reference can take a
    delta for every class.
    """
    center, size = _centers_and_sizes(references)
    deltas = deltas / deltas.new_tensor(weights)
    new_center = deltas[..., :2] * size + center
    half = 0.5 * torch.exp(deltas[..., 2:].clamp(max=MAX_LOG_SCALE)) * size
    return torch.cat([new_center - half, new_center + half], dim=-1)
