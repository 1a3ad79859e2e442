"""The pictures of lesson 02: toybox scenes of one size, and the anchors of the toy network on that size."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minimaskrcnn.anchors import AnchorConfig, grid_anchors
from minimaskrcnn.data.toybox import ToyboxConfig, make_scene
from minimaskrcnn.data.toybox.coco_masks import bounding_box
from minimaskrcnn.ops import box_convert

# (height, width); a multiple of every stride of the toy network, so that nothing is padded.
SIZE = (192, 256)
STRIDES = [4, 8, 16]


class Picture(NamedTuple):
    """A picture and the boxes of its objects, crowds left out."""

    image: np.ndarray
    boxes: Tensor


def picture(index: int) -> Picture:
    """Toybox scene number `index`, 192 × 256 pixels."""
    scene = make_scene(ToyboxConfig(min_size=SIZE, max_size=SIZE), 0, index)
    boxes = [bounding_box(thing.mask) for thing in scene.objects if not thing.iscrowd]
    xywh = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Picture(scene.image, box_convert(xywh, "xywh", "xyxy"))


def boxes_of(number: int) -> Tensor:
    """The boxes of the first `number` scenes, one below the other: `[G, 4]`."""
    return torch.cat([picture(index).boxes for index in range(number)])


def anchors_of(config: AnchorConfig) -> Tensor:
    """All anchors that the configuration places on these pictures, levels one below the other: `[A, 4]`."""
    grids = [(SIZE[0] // stride, SIZE[1] // stride) for stride in STRIDES]
    return torch.cat(grid_anchors(grids, STRIDES, SIZE, config, torch.zeros(0)))
