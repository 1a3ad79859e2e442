"""Presets: the networks that have names, and how each is trained.

A preset is one definition: a function from the number of classes (with background) to a configuration, under
`@preset(TRAINING)`.  `maskrcnn_toy(9)` is then a model with random weights, `maskrcnn_toy.config(9)` its
configuration for `dataclasses.replace`, and `maskrcnn_toy.training` its recipe; `PRESETS` has them all by name, for
the command line.  `minimaskrcnn.weights` reads what people already have.

Where the two reference systems differ, the configurations are torchvision's; `as_detectron2` makes them detectron2's,
a field for each difference.
"""

from dataclasses import replace

from minimaskrcnn.anchors import AnchorConfig
from minimaskrcnn.box_head import FCBoxHeadConfig, Res5BoxHeadConfig
from minimaskrcnn.data.transforms import TransformConfig
from minimaskrcnn.engine.recipes import (
    KEYPOINT_SIZES,
    KEYPOINTS,
    PAPER,
    PAPER_GPUS,
    PEOPLE,
    RESNEXT,
    SMALL,
    TOY,
    TOY_KEYPOINTS,
    Preset,
    preset,
)
from minimaskrcnn.fpn import FPNConfig
from minimaskrcnn.keypoint_head import KeypointHeadConfig
from minimaskrcnn.mask_head import FCNMaskHeadConfig
from minimaskrcnn.mask_rcnn import MaskRCNNConfig
from minimaskrcnn.pooler import RoIAlignConfig
from minimaskrcnn.resnet import ResNetConfig
from minimaskrcnn.rpn import RPNConfig

# All five sizes at each cell of a single map (Faster R-CNN has three of them, FPN and Mask R-CNN five).
ONE_MAP = AnchorConfig(sizes=((32.0, 64.0, 128.0, 256.0, 512.0),))


@preset(PAPER, PAPER_GPUS)
def maskrcnn_resnet50_fpn(num_classes: int = 91) -> MaskRCNNConfig:
    """The paper's ResNet-50-FPN with torchvision's semantics: every default of every configuration."""
    return MaskRCNNConfig(num_classes=num_classes)


@preset(PAPER, PAPER_GPUS)
def maskrcnn_resnet101_fpn(num_classes: int = 91) -> MaskRCNNConfig:
    """The paper's ResNet-101-FPN."""
    return replace(maskrcnn_resnet50_fpn.config(num_classes), resnet=ResNetConfig(depth=101))


@preset(PAPER, PAPER_GPUS)
def maskrcnn_resnet18_fpn(num_classes: int = 91) -> MaskRCNNConfig:
    """A light one that trains from scratch: ResNet-18 with batch norm."""
    resnet = ResNetConfig(depth=18, norm="batch", frozen_stages=0)
    return replace(maskrcnn_resnet50_fpn.config(num_classes), resnet=resnet)


@preset(RESNEXT, PAPER_GPUS)
def maskrcnn_resnext101_fpn(num_classes: int = 91) -> MaskRCNNConfig:
    """The paper's best single model's backbone, ResNeXt-101-FPN (tables 1 to 3), as 32x8d."""
    resnet = ResNetConfig(depth=101, groups=32, group_width=8)
    return replace(maskrcnn_resnet50_fpn.config(num_classes), resnet=resnet)


@preset(PAPER, PAPER_GPUS)
def maskrcnn_resnet50_c4(num_classes: int = 91) -> MaskRCNNConfig:
    """The paper's ResNet-50-C4 (tables 2a to 2c): the map of stride 16, and ResNet's fifth stage on every RoI.

    64 RoIs an image in training, 300 proposals at test time (section 3.1).
    """
    return MaskRCNNConfig(
        num_classes=num_classes,
        resnet=ResNetConfig(stages=3),
        fpn=None,
        anchors=ONE_MAP,
        # Faster R-CNN's implementations rank this many before NMS on a single map.
        rpn=RPNConfig(pre_nms_train=12000, pre_nms_test=6000, post_nms_test=300),
        box_head=Res5BoxHeadConfig(rois_per_image=64),
        mask_head=FCNMaskHeadConfig(convs=0),
    )


@preset(PAPER, PAPER_GPUS)
def maskrcnn_resnet101_c4(num_classes: int = 91) -> MaskRCNNConfig:
    """The paper's ResNet-101-C4 (tables 1 and 2a)."""
    config = maskrcnn_resnet50_c4.config(num_classes)
    return replace(config, resnet=replace(config.resnet, depth=101))


@preset(PAPER, PAPER_GPUS)
def maskrcnn_resnet50_c5(num_classes: int = 91) -> MaskRCNNConfig:
    """The paper's ResNet-50-C5 (table 2d): the map of stride 32, where RoIPool's rounding hurts most.

    The paper does not describe its heads; these are the pyramid's.  `dilated_c5` of its `ResNetConfig` makes it the
    "DC5" of stride 16.
    """
    c4 = maskrcnn_resnet50_c4.config(num_classes)
    return replace(
        c4, resnet=ResNetConfig(), box_head=FCBoxHeadConfig(rois_per_image=64), mask_head=FCNMaskHeadConfig()
    )


@preset(KEYPOINTS, PAPER_GPUS)
def keypointrcnn_resnet50_fpn(num_classes: int = 2) -> MaskRCNNConfig:
    """Keypoints of people, without masks (section 5, table 4): shorter sides of 640 to 800 in training."""
    return replace(
        maskrcnn_resnet50_fpn.config(num_classes),
        transform=TransformConfig(min_sizes=KEYPOINT_SIZES),
        mask_head=None,
        keypoint_head=KeypointHeadConfig(),
    )


@preset(KEYPOINTS, PAPER_GPUS)
def keypoint_maskrcnn_resnet50_fpn(num_classes: int = 2) -> MaskRCNNConfig:
    """Keypoints and masks of people in one network (tables 4 and 5)."""
    return replace(keypointrcnn_resnet50_fpn.config(num_classes), mask_head=FCNMaskHeadConfig())


@preset(PAPER, PAPER_GPUS)
def fasterrcnn_resnet50_fpn(num_classes: int = 91) -> MaskRCNNConfig:
    """Faster R-CNN with RoIAlign: Mask R-CNN without the mask branch (in the paper's table 3 with ResNet-101)."""
    return replace(maskrcnn_resnet50_fpn.config(num_classes), mask_head=None)


@preset(TOY)
def maskrcnn_toy(num_classes: int = 9) -> MaskRCNNConfig:
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
        # Everything up to 400 pixels is read at stride 4: shapes this small need the detail.
        pooler=RoIAlignConfig(aligned=True, canonical_size=400.0, canonical_level=3),
        # Positives of an IoU under 0.6 hold little of such small objects: with 0.5 the classifier learns more slowly.
        box_head=FCBoxHeadConfig(
            hidden=256, rois_per_image=32, positive_fraction=0.5, positive_iou=0.6, detections_per_image=50
        ),
        mask_head=FCNMaskHeadConfig(channels=48, convs=3, norm="group"),
    )


@preset(TOY_KEYPOINTS, toybox=PEOPLE)
def keypointrcnn_toy(num_classes: int = 2) -> MaskRCNNConfig:
    """The toy's network for the keypoints of generated people, from scratch on two CPU cores."""
    toy = maskrcnn_toy.config(num_classes)
    return replace(
        toy,
        # Half of the toy's: a scene's four people fill eight places.
        box_head=replace(toy.box_head, rois_per_image=16),
        mask_head=None,
        # Eight convolutions as in the paper: with four a joint does not see the whole of its person.
        keypoint_head=KeypointHeadConfig(channels=64, norm="group"),
    )


@preset(SMALL)
def maskrcnn_small(num_classes: int = 91) -> MaskRCNNConfig:
    """Real pictures at half the paper's size, from scratch, on a machine without a GPU."""
    toy = maskrcnn_toy.config(num_classes)
    return replace(
        toy,
        transform=replace(toy.transform, min_sizes=(480,), max_size=800, size_divisor=32),
        resnet=replace(toy.resnet, stages=4),
        fpn=replace(toy.fpn, channels=64),
        anchors=replace(toy.anchors, sizes=((12.0,), (32.0,), (96.0,), (256.0,))),
        rpn=RPNConfig(
            anchors_per_image=128, pre_nms_train=500, pre_nms_test=500, post_nms_train=300, post_nms_test=300
        ),
        pooler=RoIAlignConfig(aligned=True),
        box_head=FCBoxHeadConfig(hidden=256, rois_per_image=64, positive_fraction=0.5),
        mask_head=replace(toy.mask_head, channels=64),
    )


# Every preset above, by name.
PRESETS = {name: value for name, value in list(globals().items()) if isinstance(value, Preset)}


def as_detectron2(config: MaskRCNNConfig) -> MaskRCNNConfig:
    """`config` with detectron2's semantics, as its model zoo was trained: weights from there mean this.

    Left as they are: its resized sides are rounded where torchvision's are cut off, and it smooths a picture that
    shrinks.
    """
    plain = config.resnet.groups == 1
    pyramid = config.fpn is not None
    people = config.keypoint_head
    box_head = replace(config.box_head, smooth_l1_beta=0.5 if people else 0.0)
    if isinstance(box_head, Res5BoxHeadConfig):
        box_head = replace(box_head, pooled_size=14, stride=2)
    pooler = config.pooler
    if isinstance(pooler, RoIAlignConfig):
        pooler = replace(pooler, aligned=True, sampling_ratio=0)
    mask_head = config.mask_head
    if mask_head is not None:
        mask_head = replace(mask_head, binary_targets=True, exact_paste=True)
    if people is not None:
        people = replace(people, score="softmax", pixel_centres=True)
    kept = {"post_nms_train": 1500 if people else 1000} if pyramid else {"post_nms_test": 1000}
    return replace(
        config,
        transform=replace(
            config.transform,
            bgr=True,
            scale=255.0,
            mean=(103.53, 116.28, 123.675),
            std=(1.0,) * 3 if plain else (57.375, 57.12, 58.395),
            size_divisor=config.transform.size_divisor if pyramid else 1,
        ),
        resnet=replace(config.resnet, stride_on_1x1=plain and config.resnet.depth >= 50),
        anchors=replace(config.anchors, round_corners=False, stride_from_grid=False),
        rpn=replace(config.rpn, smooth_l1_beta=0.0, loss_divisor="nominal", **kept),
        pooler=pooler,
        box_head=replace(box_head, rois_per_image=512),
        mask_head=mask_head,
        keypoint_head=people,
    )
