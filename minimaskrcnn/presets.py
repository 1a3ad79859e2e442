"""Presets: the networks that have names.

Each is a function from the number of classes (with background) to a model, and its `..._config` twin gives the
configuration alone, for `dataclasses.replace`.  They start from random weights; `minimaskrcnn.weights` reads
what people already have.
"""

from dataclasses import replace

from minimaskrcnn.anchors import AnchorConfig
from minimaskrcnn.box_head import BoxHeadConfig
from minimaskrcnn.data.transforms import TransformConfig
from minimaskrcnn.fpn import FPNConfig
from minimaskrcnn.mask_head import MaskHeadConfig
from minimaskrcnn.mask_rcnn import MaskRCNN, MaskRCNNConfig
from minimaskrcnn.pooler import PoolerConfig
from minimaskrcnn.resnet import ResNetConfig
from minimaskrcnn.rpn import RPNConfig


def maskrcnn_resnet50_fpn_config(num_classes: int = 91) -> MaskRCNNConfig:
    """The paper's ResNet-50-FPN with torchvision's semantics: every default of every configuration."""
    return MaskRCNNConfig(num_classes=num_classes)


def maskrcnn_resnet101_fpn_config(num_classes: int = 91) -> MaskRCNNConfig:
    """The paper's ResNet-101-FPN."""
    return replace(maskrcnn_resnet50_fpn_config(num_classes), resnet=ResNetConfig(depth=101))


def maskrcnn_resnet18_fpn_config(num_classes: int = 91) -> MaskRCNNConfig:
    """A light one that trains from scratch: ResNet-18 with batch norm."""
    resnet = ResNetConfig(depth=18, norm="batch", frozen_stages=0)
    return replace(maskrcnn_resnet50_fpn_config(num_classes), resnet=resnet)


def fasterrcnn_resnet50_fpn_config(num_classes: int = 91) -> MaskRCNNConfig:
    """Faster R-CNN with RoIAlign: Mask R-CNN without the mask branch (the paper's table 3)."""
    return replace(maskrcnn_resnet50_fpn_config(num_classes), mask_head=None)


def maskrcnn_toy_config(num_classes: int = 9) -> MaskRCNNConfig:
    """Small enough to learn generated scenes from scratch on two CPU cores in minutes (`make demo`)."""
    return MaskRCNNConfig(
        num_classes=num_classes,
        transform=TransformConfig(
            min_sizes=(192,), max_size=288, size_divisor=16, mean=(0.5,) * 3, std=(0.25,) * 3
        ),
        resnet=ResNetConfig(depth=18, width=32, stages=3, norm="batch", frozen_stages=0),
        fpn=FPNConfig(channels=48, pool_level=False, norm="batch"),
        anchors=AnchorConfig(sizes=((10.0,), (24.0,), (56.0,)), round_corners=False, stride_from_grid=False),
        rpn=RPNConfig(
            anchors_per_image=64, pre_nms_train=200, pre_nms_test=200, post_nms_train=100, post_nms_test=100
        ),
        # Everything up to 200 pixels is read at stride 4: shapes this small need the detail.
        pooler=PoolerConfig(aligned=True, canonical_size=400.0, canonical_level=3),
        # Positives of an IoU under 0.6 hold little of such small objects: with 0.5 the classifier learns more slowly.
        box_head=BoxHeadConfig(
            hidden=256, rois_per_image=32, positive_fraction=0.5, positive_iou=0.6, detections_per_image=50
        ),
        mask_head=MaskHeadConfig(channels=48, convs=3, norm="group"),
    )


def maskrcnn_small_config(num_classes: int = 91) -> MaskRCNNConfig:
    """Real pictures at half the paper's size, from scratch, on a machine without a GPU."""
    toy = maskrcnn_toy_config(num_classes)
    return replace(
        toy,
        transform=replace(toy.transform, min_sizes=(480,), max_size=800, size_divisor=32),
        resnet=replace(toy.resnet, stages=4),
        fpn=replace(toy.fpn, channels=64),
        anchors=replace(toy.anchors, sizes=((12.0,), (32.0,), (96.0,), (256.0,))),
        rpn=RPNConfig(
            anchors_per_image=128, pre_nms_train=500, pre_nms_test=500, post_nms_train=300, post_nms_test=300
        ),
        pooler=PoolerConfig(aligned=True),
        box_head=BoxHeadConfig(hidden=256, rois_per_image=64, positive_fraction=0.5),
        mask_head=replace(toy.mask_head, channels=64),
    )


def maskrcnn_resnet50_fpn(num_classes: int = 91) -> MaskRCNN:
    """Mask R-CNN, ResNet-50-FPN."""
    return MaskRCNN(maskrcnn_resnet50_fpn_config(num_classes))


def maskrcnn_resnet101_fpn(num_classes: int = 91) -> MaskRCNN:
    """Mask R-CNN, ResNet-101-FPN."""
    return MaskRCNN(maskrcnn_resnet101_fpn_config(num_classes))


def maskrcnn_resnet18_fpn(num_classes: int = 91) -> MaskRCNN:
    """Mask R-CNN, ResNet-18-FPN with batch norm, for training from scratch."""
    return MaskRCNN(maskrcnn_resnet18_fpn_config(num_classes))


def fasterrcnn_resnet50_fpn(num_classes: int = 91) -> MaskRCNN:
    """Faster R-CNN with RoIAlign, ResNet-50-FPN."""
    return MaskRCNN(fasterrcnn_resnet50_fpn_config(num_classes))


def maskrcnn_toy(num_classes: int = 9) -> MaskRCNN:
    """The network of `make demo`."""
    return MaskRCNN(maskrcnn_toy_config(num_classes))


def maskrcnn_small(num_classes: int = 91) -> MaskRCNN:
    """Mask R-CNN for real pictures without a GPU."""
    return MaskRCNN(maskrcnn_small_config(num_classes))
