"""What the tests of model and engine share: a network of 40 thousand parameters and scenes of 64 pixels."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minimaskrcnn.anchors import AnchorConfig
from minimaskrcnn.box_head import BoxHeadConfig, FCBoxHeadConfig, Res5BoxHeadConfig
from minimaskrcnn.data.toybox import ToyboxConfig, write_toybox
from minimaskrcnn.data.transforms import Target, TransformConfig
from minimaskrcnn.fpn import FPNConfig
from minimaskrcnn.keypoint_head import KeypointHeadConfig
from minimaskrcnn.mask_head import FCNMaskHeadConfig
from minimaskrcnn.mask_rcnn import MaskRCNN, MaskRCNNConfig
from minimaskrcnn.pooler import RoIAlignConfig
from minimaskrcnn.resnet import ResNetConfig
from minimaskrcnn.rpn import RPNConfig

SCENES = ToyboxConfig(min_size=(48, 48), max_size=(64, 64), size_step=16)


def tiny_config(num_classes: int = 9) -> MaskRCNNConfig:
    """Three levels of 16 channels; group norm, so that a picture's features do not depend on its batch."""
    return MaskRCNNConfig(
        num_classes=num_classes,
        transform=TransformConfig(
            min_sizes=(64,), max_size=64, size_divisor=64, mean=(0.5,) * 3, std=(0.25,) * 3
        ),
        # Not narrower: oneDNN (torch 2.9 to 2.13) corrupts the heap in the bfloat16 backward of a strided 1×1
        # convolution of 8 channels.
        resnet=ResNetConfig(depth=18, width=16, stages=3, norm="group", frozen_stages=0),
        fpn=FPNConfig(channels=16, pool_level=False),
        anchors=AnchorConfig(sizes=((8.0,), (16.0,), (32.0,)), round_corners=False, stride_from_grid=False),
        rpn=RPNConfig(
            anchors_per_image=32, pre_nms_train=40, pre_nms_test=40, post_nms_train=30, post_nms_test=30
        ),
        pooler=RoIAlignConfig(aligned=True, canonical_size=32.0, canonical_level=3),
        box_head=FCBoxHeadConfig(pooled_size=4, hidden=32, rois_per_image=16, detections_per_image=20),
        mask_head=FCNMaskHeadConfig(pooled_size=6, channels=16, convs=1),
    )


def tiny_c4(config: MaskRCNNConfig) -> MaskRCNNConfig:
    """`config` without a pyramid: the map of stride 16, and the fifth stage on every RoI."""
    return replace(
        config,
        fpn=None,
        anchors=replace(config.anchors, sizes=((8.0, 16.0, 32.0),)),
        box_head=Res5BoxHeadConfig(**numbers_of(config.box_head)),
        mask_head=replace(config.mask_head, convs=0),
    )


def numbers_of(config: BoxHeadConfig) -> dict[str, Any]:
    """The fields that all box heads have."""
    return {field.name: getattr(config, field.name) for field in fields(BoxHeadConfig)}


def with_keypoints(config: MaskRCNNConfig) -> MaskRCNNConfig:
    """`config` with a small keypoint head."""
    head = KeypointHeadConfig(pooled_size=5, channels=16, convs=1)
    return replace(config, keypoint_head=head)


def tiny_model(num_classes: int = 9, *, masks: bool = True, norm: str = "group", seed: int = 0) -> MaskRCNN:
    """Random weights whose class and mask logits are spread out, so that detections differ."""
    config = tiny_config(num_classes)
    config = replace(config, resnet=replace(config.resnet, norm=norm))
    torch.manual_seed(seed)
    model = MaskRCNN(config if masks else replace(config, mask_head=None))
    with torch.no_grad():
        model.rpn.objectness.weight.mul_(50)
        model.rpn.deltas.weight.mul_(10)
        model.box_head.classifier.weight.mul_(10)
    return model


def random_image(height: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Blobs of colour rather than white noise, so that features differ from place to place."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=generator, dtype=dtype)
    image = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    return image[0].clamp(0, 1)


def random_target(
    height: int,
    width: int,
    count: int,
    seed: int = 0,
    num_classes: int = 9,
    dtype: torch.dtype = torch.float32,
) -> Target:
    """`count` boxes of at least 6 pixels a side, each with the left half of it as mask, and 17 keypoints."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([width, height], dtype=dtype)
    corner = (torch.rand(count, 2, generator=generator, dtype=dtype) * (size - 12)).floor()
    other = corner + 6 + torch.rand(count, 2, generator=generator, dtype=dtype) * (size - 6 - corner)
    boxes = torch.cat([corner, torch.minimum(other, size)], dim=1)
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.long().tolist()):
        mask[y1:y2, x1 : (x1 + x2) // 2 + 1] = True
    labels = torch.randint(1, num_classes, (count,), generator=generator)
    # Some joints not labelled, some outside of their box.
    points = torch.rand(count, 17, 2, generator=generator, dtype=dtype) * 1.2 - 0.1
    points = (boxes[:, None, :2] + points * (boxes[:, None, 2:] - boxes[:, None, :2])).floor()
    seen = torch.randint(0, 3, (count, 17, 1), generator=generator).to(dtype)
    keypoints = torch.cat([points, seen], dim=2)
    return {"boxes": boxes, "labels": labels, "masks": masks, "keypoints": keypoints}


def write_scenes(root: Path, train: int = 6, val: int = 4) -> Path:
    """Toybox scenes of 48 to 64 pixels in COCO's layout; returns `root`."""
    for split, count in (("train", train), ("val", val)):
        write_toybox(root, split=split, num_images=count, seed=0, config=SCENES)
    return root
