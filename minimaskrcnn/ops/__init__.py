"""Pure functions on boxes, masks and feature maps, and the modules of them, under torchvision's names.

`reference` holds the definitions.
"""

from minimaskrcnn.ops.boxes import (
    box_area,
    box_convert,
    box_iou,
    clip_boxes_to_image,
    masks_to_boxes,
    remove_small_boxes,
)
from minimaskrcnn.ops.crop import crop_masks
from minimaskrcnn.ops.keypoints import decode_keypoints
from minimaskrcnn.ops.levels import fpn_levels
from minimaskrcnn.ops.match_boxes import MatchedBoxes, match_boxes
from minimaskrcnn.ops.modules import MultiScaleRoIAlign, RoIAlign, RoIPool
from minimaskrcnn.ops.nms import batched_nms, nms, nms_padded
from minimaskrcnn.ops.paste import paste_masks, paste_masks_rle
from minimaskrcnn.ops.roi_align import multiscale_roi_align, roi_align
from minimaskrcnn.ops.roi_pool import multiscale_roi_pool, roi_pool
from minimaskrcnn.ops.roi_warp import multiscale_roi_warp, roi_warp

__all__ = [
    "MatchedBoxes",
    "MultiScaleRoIAlign",
    "RoIAlign",
    "RoIPool",
    "batched_nms",
    "box_area",
    "box_convert",
    "box_iou",
    "clip_boxes_to_image",
    "crop_masks",
    "decode_keypoints",
    "fpn_levels",
    "masks_to_boxes",
    "match_boxes",
    "multiscale_roi_align",
    "multiscale_roi_pool",
    "multiscale_roi_warp",
    "nms",
    "nms_padded",
    "paste_masks",
    "paste_masks_rle",
    "remove_small_boxes",
    "roi_align",
    "roi_pool",
    "roi_warp",
]
