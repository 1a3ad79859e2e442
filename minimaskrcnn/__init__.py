"""Mask R-CNN that people can read, run, take apart and be taught by.

    import minimaskrcnn
    model = minimaskrcnn.maskrcnn_resnet50_fpn(num_classes=91)
    found = minimaskrcnn.load("runs/coco/last.safetensors").find("street.jpg")

`minimaskrcnn.ops` has the operations on their own; README lists the files in reading order.
"""

from minimaskrcnn.mask_rcnn import MaskRCNN, MaskRCNNConfig
from minimaskrcnn.predictor import load
from minimaskrcnn.presets import (
    fasterrcnn_resnet50_fpn,
    keypoint_maskrcnn_resnet50_fpn,
    keypointrcnn_resnet50_fpn,
    keypointrcnn_toy,
    maskrcnn_resnet18_fpn,
    maskrcnn_resnet50_c4,
    maskrcnn_resnet50_c5,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet101_c4,
    maskrcnn_resnet101_fpn,
    maskrcnn_resnext101_fpn,
    maskrcnn_small,
    maskrcnn_toy,
)

__version__ = "0.1.0"
__all__ = [
    "MaskRCNN",
    "MaskRCNNConfig",
    "fasterrcnn_resnet50_fpn",
    "keypoint_maskrcnn_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
    "keypointrcnn_toy",
    "load",
    "maskrcnn_resnet18_fpn",
    "maskrcnn_resnet50_c4",
    "maskrcnn_resnet50_c5",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet101_c4",
    "maskrcnn_resnet101_fpn",
    "maskrcnn_resnext101_fpn",
    "maskrcnn_small",
    "maskrcnn_toy",
]
