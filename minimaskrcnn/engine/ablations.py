"""The paper's ablations in miniature: its tables, as rows that differ in a field or two.

Each `Table` is one comparison of Mask R-CNN (2017): tables 2a to 2e, 5 and 6, and the class-agnostic masks of section
4.2.  A row is the change of a configuration, beside what the paper reports for it.  All rows of a table share
network, generated scenes, steps, batch, optimiser and schedule; `ablation_run.py` trains them.

The networks are ResNets of width 16 without pre-training, and a run takes minutes of one core, so the paper's
numbers are not to be reached: what can show is their order.  Scenes and budgets were chosen by looking at one row of
a table alone, the paper's own choice (RoIAlign, sigmoid), until its AP left room for a difference; then they were
frozen.  Left out: tables 1, 3 and 4, which compare whole systems.

The letters of backbones are the paper's: C4 and C5 are the single maps of stride 16 and 32, FPN the pyramid.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from minimaskrcnn.box_head import Res5BoxHeadConfig
from minimaskrcnn.data.toybox import ToyboxConfig
from minimaskrcnn.data.transforms import AugmentConfig
from minimaskrcnn.engine.recipes import TOY
from minimaskrcnn.engine.train import TrainConfig
from minimaskrcnn.keypoint_head import KeypointHeadConfig
from minimaskrcnn.mask_head import MLPMaskHeadConfig, SigmoidMasks, SoftmaxMasks
from minimaskrcnn.mask_rcnn import MaskRCNNConfig
from minimaskrcnn.pooler import PoolerConfig, RoIPoolConfig, RoIWarpConfig
from minimaskrcnn.presets import maskrcnn_toy

Change = Callable[[MaskRCNNConfig], MaskRCNNConfig]
Column = tuple[str, str]
"""(kind, metric) as `evaluate.Metrics` has them."""

KINDS = {"segm": "mask", "bbox": "box", "keypoints": "keypoint"}
MASK: tuple[Column, ...] = (("segm", "AP"), ("segm", "AP50"), ("segm", "AP75"))
BOX: tuple[Column, ...] = (("bbox", "AP"), ("bbox", "AP50"), ("bbox", "AP75"))
KEYPOINT: tuple[Column, ...] = (("keypoints", "AP"), ("keypoints", "AP50"), ("keypoints", "AP75"))
# Table 5 has one number of each kind.
ONE_OF_EACH: tuple[Column, ...] = (("bbox", "AP"), ("segm", "AP"), ("keypoints", "AP"))


# ---- scenes and training

# An ablation says when a run of it is done, not how far it is.
BUDGET = replace(TOY, steps=800, augment=AugmentConfig(), checkpoint_every=100, say_seconds=0)
# Square roots of areas are 18 to 51 pixels: one to three cells of stride 16.  Figures only, as people take longer to
# learn.
LARGE = ToyboxConfig(
    min_size=(128, 128),
    max_size=(128, 128),
    objects=(1, 4),
    empty_share=0.0,
    crowd_share=0.0,
    person_share=0.0,
    bands=((0.02, 0.05), (0.05, 0.16)),
    band_shares=(0.5, 0.5),
)
# 45 to 101 pixels: one and a half to three cells of stride 32.
SCENES_C5 = replace(
    LARGE, min_size=(160, 160), max_size=(160, 160), objects=(1, 2), bands=((0.08, 0.18), (0.18, 0.4))
)
# Classes do not tell overlapping objects of one class apart.
SCENES_2B = replace(LARGE, same_class_share=0.5)
SCENES_PEOPLE = replace(LARGE, objects=(1, 3), person_share=1.0, bands=((0.05, 0.09), (0.09, 0.16)))


# ---- what a table is


class Row(NamedTuple):
    """One line of a table: what is changed, and what the paper reports, a number for each column, in percent."""

    name: str
    change: Change
    paper: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """One comparison; `network` takes the number of classes (with background)."""

    name: str
    title: str
    paper_network: str
    network: Callable[[int], MaskRCNNConfig]
    rows: tuple[Row, ...]
    scenes: ToyboxConfig = LARGE
    training: TrainConfig = BUDGET
    columns: tuple[Column, ...] = MASK
    people: bool = False
    """Scenes of people only, with their keypoints."""
    note: str = ""
    """What stands for what."""
    train_scenes: int = 1000
    val_scenes: int = 200


def of(part: str, **fields: Any) -> Change:
    """The change of some fields of one part of a network's configuration."""
    return lambda config: replace(config, **{part: replace(getattr(config, part), **fields)})


def pooled_by(kind: type[PoolerConfig], **fields: Any) -> Change:
    """The change of the pooler, levels as they are."""

    def change(config: MaskRCNNConfig) -> MaskRCNNConfig:
        size = config.pooler.canonical_size
        pooler = kind(canonical_size=size, canonical_level=config.pooler.canonical_level, **fields)
        return replace(config, pooler=pooler)

    return change


def mlp(hidden_layers: int) -> Change:
    """The change of the mask branch to fully connected layers of 256 units."""

    def change(config: MaskRCNNConfig) -> MaskRCNNConfig:
        size = config.mask_head.pooled_size
        return replace(
            config, mask_head=MLPMaskHeadConfig(pooled_size=size, hidden=256, hidden_layers=hidden_layers)
        )

    return change


def unchanged(config: MaskRCNNConfig) -> MaskRCNNConfig:
    """The row that is the network itself."""
    return config


# ---- networks


def fpn_config(num_classes: int = 9) -> MaskRCNNConfig:
    """The toy's pyramid of strides 4 to 16 at half its width, with half as many RoIs, for pictures of 128 pixels."""
    toy = maskrcnn_toy.config(num_classes)
    return replace(
        toy,
        transform=replace(toy.transform, min_sizes=(128,), max_size=256),
        resnet=replace(toy.resnet, width=16),
        fpn=replace(toy.fpn, channels=32),
        anchors=replace(toy.anchors, sizes=((16.0,), (32.0,), (64.0,))),
        rpn=replace(toy.rpn, pre_nms_train=100, pre_nms_test=100, post_nms_train=48, post_nms_test=48),
        box_head=replace(toy.box_head, hidden=128, rois_per_image=16, detections_per_image=20),
    )


def c4_config(num_classes: int = 9) -> MaskRCNNConfig:
    """The map of stride 16 and ResNet's fifth stage on every RoI (figure 4 left): 7×7 bins, masks of 14×14."""
    pyramid = fpn_config(num_classes)
    return replace(
        pyramid,
        fpn=None,
        anchors=replace(pyramid.anchors, sizes=((20.0, 36.0, 64.0),)),
        rpn=replace(pyramid.rpn, post_nms_train=32, post_nms_test=32),
        # The usual threshold again: the toy's 0.6 is for smaller objects.
        box_head=Res5BoxHeadConfig(
            rois_per_image=pyramid.box_head.rois_per_image,
            positive_fraction=pyramid.box_head.positive_fraction,
            detections_per_image=pyramid.box_head.detections_per_image,
        ),
        mask_head=replace(pyramid.mask_head, convs=0),
    )


def c5_config(num_classes: int = 9) -> MaskRCNNConfig:
    """The map of stride 32, with the pyramid's heads, for pictures of 160 pixels."""
    pyramid = fpn_config(num_classes)
    return replace(
        pyramid,
        transform=replace(pyramid.transform, min_sizes=(160,), max_size=320, size_divisor=32),
        resnet=replace(pyramid.resnet, stages=4),
        fpn=None,
        anchors=replace(pyramid.anchors, sizes=((48.0, 72.0, 104.0),)),
        box_head=replace(pyramid.box_head, positive_iou=0.5),
    )


def keypoint_config(num_classes: int = 2) -> MaskRCNNConfig:
    """The pyramid with keypoints instead of masks."""
    pyramid = fpn_config(num_classes)
    head = KeypointHeadConfig(channels=48, convs=4, norm="group")
    return replace(pyramid, mask_head=None, keypoint_head=head)


def both_heads_config(num_classes: int = 2) -> MaskRCNNConfig:
    """The pyramid with masks and keypoints."""
    return replace(keypoint_config(num_classes), mask_head=fpn_config().mask_head)


# ---- tables


def backbone(depth: int, network: Callable[[int], MaskRCNNConfig]) -> Change:
    """The row of another backbone: `network` with a ResNet of `depth`."""
    return lambda config: of("resnet", depth=depth)(network(config.num_classes))


TABLE_2A = Table(
    name="2a",
    title="Backbone",
    paper_network="ResNets of depth 50 and 101, and ResNeXt-101",
    network=fpn_config,
    rows=(
        Row("ResNet-18-C4", backbone(18, c4_config), (30.3, 51.2, 31.5)),
        Row("ResNet-34-C4", backbone(34, c4_config), (32.7, 54.2, 34.3)),
        Row("ResNet-18-FPN", unchanged, (33.6, 55.2, 35.3)),
        Row("ResNet-34-FPN", of("resnet", depth=34), (35.4, 57.3, 37.5)),
        # 8 channels a group at this width: four times as wide within as the plain ResNet, as 32x8d is.
        Row("ResNeXt-50-FPN", of("resnet", depth=50, groups=8, group_width=32), (36.7, 59.5, 38.9)),
    ),
    note="Depth 18 stands for the paper's 50, 34 for its 101, and a ResNeXt-50 of 8 groups for its ResNeXt-101.",
)
TABLE_2B = Table(
    name="2b",
    title="Masks: classes that compete in each pixel, or not",
    paper_network="ResNet-50-C4",
    network=c4_config,
    scenes=SCENES_2B,
    rows=(
        Row("softmax", of("mask_head", activation=SoftmaxMasks()), (24.8, 44.1, 25.1)),
        Row("sigmoid", unchanged, (30.3, 51.2, 31.5)),
    ),
    note="Half of the objects that are placed to overlap another one are of its class.",
)
TABLE_2C = Table(
    name="2c",
    title="Pooling of RoIs at stride 16",
    paper_network="ResNet-50-C4",
    network=c4_config,
    rows=(
        Row("RoIPool, max", pooled_by(RoIPoolConfig), (26.9, 48.8, 26.4)),
        Row("RoIWarp, max", pooled_by(RoIWarpConfig, mode="max"), (27.2, 49.2, 27.1)),
        Row("RoIWarp, average", pooled_by(RoIWarpConfig), (27.1, 48.9, 27.1)),
        Row("RoIAlign, max", of("pooler", mode="max"), (30.2, 51.0, 31.8)),
        Row("RoIAlign, average", unchanged, (30.3, 51.2, 31.5)),
    ),
)
TABLE_2D = Table(
    name="2d",
    title="Pooling of RoIs at stride 32",
    paper_network="ResNet-50-C5",
    network=c5_config,
    scenes=SCENES_C5,
    columns=MASK + BOX,
    rows=(
        Row("RoIPool", pooled_by(RoIPoolConfig), (23.6, 46.5, 21.6, 28.2, 52.7, 26.9)),
        Row("RoIAlign", unchanged, (30.9, 51.8, 32.1, 34.0, 55.3, 36.4)),
    ),
)
TABLE_2E = Table(
    name="2e",
    title="Mask branch",
    paper_network="ResNet-50-FPN",
    network=fpn_config,
    rows=(
        Row("MLP", mlp(2), (31.5, 53.7, 32.8)),
        Row("deeper MLP", mlp(3), (31.5, 54.0, 32.6)),
        Row("FCN", unchanged, (33.6, 55.2, 35.3)),
    ),
    note="The hidden layers have 256 units, a quarter of the paper's.",
)
AGNOSTIC = Table(
    name="agnostic",
    title="One mask for all classes, or one for each (section 4.2)",
    paper_network="ResNet-50-C4",
    network=c4_config,
    rows=(
        Row("class-agnostic", of("mask_head", activation=SigmoidMasks(class_agnostic=True)), (29.7, None, None)),
        Row("class-specific", unchanged, (30.3, 51.2, 31.5)),
    ),
)
TABLE_5 = Table(
    name="5",
    title="Tasks of one network, people only",
    paper_network="ResNet-50-FPN",
    network=both_heads_config,
    scenes=SCENES_PEOPLE,
    columns=ONE_OF_EACH,
    people=True,
    rows=(
        Row(
            "Faster R-CNN",
            lambda config: replace(config, mask_head=None, keypoint_head=None),
            (52.5, None, None),
        ),
        Row("mask only", lambda config: replace(config, keypoint_head=None), (53.6, 45.8, None)),
        Row("keypoint only", lambda config: replace(config, mask_head=None), (50.7, None, 64.2)),
        Row("keypoint and mask", unchanged, (52.0, 45.1, 64.7)),
    ),
)
TABLE_6 = Table(
    name="6",
    title="Pooling of RoIs for keypoints",
    paper_network="ResNet-50-FPN",
    network=keypoint_config,
    scenes=SCENES_PEOPLE,
    columns=KEYPOINT,
    people=True,
    rows=(
        Row("RoIPool", pooled_by(RoIPoolConfig), (59.8, 86.2, 66.7)),
        Row("RoIAlign", unchanged, (64.2, 86.6, 69.7)),
    ),
)
TABLES = {
    table.name: table
    for table in (TABLE_2A, TABLE_2B, TABLE_2C, TABLE_2D, TABLE_2E, AGNOSTIC, TABLE_5, TABLE_6)
}
