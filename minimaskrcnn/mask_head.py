"""Mask head: which pixels of a detected box belong to the object.

The branch that makes Faster R-CNN Mask R-CNN (section 3): a small fully convolutional network predicts one m×m
mask for each class, and only the mask of the class that the box head chose is used.  Classes therefore do not
compete: a sigmoid for each pixel, average binary cross-entropy on the ground-truth class's mask, for positive
RoIs only.  The target is the ground-truth bitmap pooled by RoIAlign in the RoI.

What the paper compares it with is a part each: classes that compete in each pixel (`SoftmaxMasks`, table 2b), one
mask for all classes (`class_agnostic`, section 4.2), fully connected layers (`MLPMaskHead`, table 2e).

Letters: R positive RoIs, N classes with background, M masks that are predicted (N, or fewer if class-agnostic), m
mask size, G bitmaps of the whole batch.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from minimaskrcnn.box_head import RoIs
from minimaskrcnn.data.targets import GroundTruth
from minimaskrcnn.losses import Loss, full_precision
from minimaskrcnn.norms import Norm, make_norm
from minimaskrcnn.ops import crop_masks, roi_align
from minimaskrcnn.options import CheckedOptions
from minimaskrcnn.padded import Rows


@dataclass(frozen=True, kw_only=True)
class MaskActivation(CheckedOptions):
    """How the logits of a pixel become probabilities, and their loss; `SigmoidMasks` or `SoftmaxMasks`."""

    class_agnostic: bool = False
    """One mask whatever the class (section 4.2)."""
    agnostic_maps: ClassVar[int]
    """How many maps that takes; the last of them is the mask."""

    def maps(self, num_classes: int) -> int:
        """How many are predicted."""
        return self.agnostic_maps if self.class_agnostic else num_classes

    def of_labels(self, maps: Float[Tensor, "R M m m"], labels: Int[Tensor, " R"]) -> Float[Tensor, "R m m"]:
        """Each row's map of its label."""
        channel = torch.full_like(labels, self.agnostic_maps - 1) if self.class_agnostic else labels
        return maps[torch.arange(len(labels), device=labels.device), channel]


class SigmoidMasks(MaskActivation):
    """A sigmoid for each class in each pixel: classes do not compete (section 3)."""

    agnostic_maps = 1

    def losses(
        self, logits: Float[Tensor, "R M m m"], labels: Int[Tensor, " R"], targets: Float[Tensor, "R m m"]
    ) -> Float[Tensor, "R m m"]:
        """Binary cross-entropy of each pixel of the label's map."""
        return F.binary_cross_entropy_with_logits(self.of_labels(logits, labels), targets, reduction="none")

    def probs(self, logits: Float[Tensor, "R M m m"], labels: Int[Tensor, " R"]) -> Float[Tensor, "R m m"]:
        """The probability mask of each RoI's own class."""
        return self.of_labels(logits, labels).sigmoid()


class SoftmaxMasks(MaskActivation):
    """A softmax over classes and background in each pixel (table 2b)."""

    agnostic_maps = 2

    def losses(
        self, logits: Float[Tensor, "R M m m"], labels: Int[Tensor, " R"], targets: Float[Tensor, "R m m"]
    ) -> Float[Tensor, "R m m"]:
        """Cross-entropy of each pixel, the label's class against all others; the target is a share of it."""
        log_probs = logits.log_softmax(1)
        return -(targets * self.of_labels(log_probs, labels) + (1 - targets) * log_probs[:, 0])

    def probs(self, logits: Float[Tensor, "R M m m"], labels: Int[Tensor, " R"]) -> Float[Tensor, "R m m"]:
        """The probability mask of each RoI's own class."""
        return self.of_labels(logits.softmax(1), labels)


@dataclass(frozen=True, kw_only=True)
class MaskHeadConfig(CheckedOptions):
    """What every mask head has; the base of the heads' configurations, and of your own."""

    pooled_size: int = 14
    """Bins along each side.  Masks have twice as many, but as many where the box head's res5 halves them first."""
    activation: MaskActivation = field(default_factory=SigmoidMasks)
    """Whether classes compete."""
    binary_targets: bool = False
    """Targets of 0 and 1: the bitmap pooled at half-pixel centres, at least half (detectron2); else shares."""
    exact_paste: bool = False
    """Paste masks at the box's real coordinates (detectron2) or into the box cut to integers (torchvision)."""

    def build(self, channels: int, size: int, num_classes: int) -> nn.Module:
        """The head, with its `config`, on features of `channels` and size × size, to the logits of all maps."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class FCNMaskHeadConfig(MaskHeadConfig):
    """Convolutions, which keep the layout (figure 4 right)."""

    channels: int = 256
    """Of the convolutions and the deconvolution."""
    convs: int = 4
    """3×3 convolutions before the deconvolution."""
    norm: Norm = "none"
    """After each of them; for training from scratch."""

    def build(self, channels: int, size: int, num_classes: int) -> "FCNMaskHead":
        """The head with random weights; masks have twice the size."""
        return FCNMaskHead(channels, num_classes, self)


@dataclass(frozen=True, kw_only=True)
class MLPMaskHeadConfig(MaskHeadConfig):
    """Fully connected layers, which do not (table 2e)."""

    hidden_layers: int = 2
    """Before the predictor: 2, or 3 for the deeper one (table 2e)."""
    hidden: int = 1024
    """Width of these (table 2e)."""

    def build(self, channels: int, size: int, num_classes: int) -> "MLPMaskHead":
        """The head with random weights; masks have twice the size."""
        return MLPMaskHead(channels, size, num_classes, self)


def mask_targets(
    masks: Bool[Tensor, "G H W"],
    mask_index: Int[Tensor, " R"],
    boxes: Float[Tensor, "R 4"],
    size: int,
    config: MaskHeadConfig,
) -> Float[Tensor, "R m m"]:
    """What each RoI's mask should be: its object's bitmap, pooled in the RoI to size × size (section 3.1).

    Where the boxes carry a gradient (`RPNConfig.end_to_end`) so do these, but for binary ones, which are constant
    almost everywhere.  Zero where there is no mask at all.
    """
    if not len(masks):
        return boxes.new_zeros(len(boxes), size, size)
    if config.binary_targets:
        return (crop_masks(masks, boxes, mask_index, size, aligned=True) >= 0.5).to(boxes)
    if not boxes.requires_grad:
        return crop_masks(masks, boxes, mask_index, size)
    rows = torch.cat([mask_index[:, None].to(boxes), boxes], dim=1)
    return roi_align(masks[:, None].to(boxes), rows, size)[:, 0]


def mask_loss(
    logits: Float[Tensor, "R M m m"],
    labels: Int[Tensor, " R"],
    targets: Float[Tensor, "R m m"],
    positive: Bool[Tensor, " R"],
    activation: MaskActivation,
) -> Loss:
    """Cross-entropy averaged over the pixels of each positive RoI (section 3); counts these RoIs.

    Zero (with a graph) where there is no positive RoI.
    """
    pixels = activation.losses(logits, labels, targets)
    return Loss(torch.where(positive, pixels.mean(dim=(1, 2)), 0).sum(), positive.sum())


def mask_losses(
    logits: Float[Tensor, "R M m m"], rois: RoIs, truth: GroundTruth, rows: Rows, config: MaskHeadConfig
) -> dict[str, Loss]:
    """The loss of `rows` of the RoIs, for which `logits` are predicted."""
    positive = rows.of(rois.positive)
    # A GPU's other rows have no mask, and after the last one there is none: a target of NaN would survive as a
    # gradient, whatever the loss multiplies it with.
    mask_index = torch.where(positive, truth.mask_offset[rows.image] + rows.of(rois.gt_index), 0)
    targets = mask_targets(truth.masks, mask_index, rows.of(rois.boxes), logits.shape[-1], config)
    return {"loss_mask": mask_loss(logits, rows.of(rois.labels), targets, positive, config.activation)}


def init_layers(layers: Iterable[nn.Module]) -> None:
    """He et al.'s normal initialisation, and biases of zero."""
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(layer.bias)


class FCNMaskHead(nn.Module):
    """Convolutions, a deconvolution that doubles the size, and a 1×1 convolution to one mask for each class."""

    def __init__(self, in_channels: int, num_classes: int, config: FCNMaskHeadConfig) -> None:
        super().__init__()
        self.config = config
        widths = [in_channels] + [config.channels] * config.convs
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(make_norm(config.norm, channels) for channels in widths[1:])
        self.deconv = nn.ConvTranspose2d(widths[-1], config.channels, 2, 2)
        self.predictor = nn.Conv2d(config.channels, config.activation.maps(num_classes), 1)
        init_layers([*self.convs, self.deconv, self.predictor])

    def forward(self, pooled: Float[Tensor, "R C P P"]) -> Float[Tensor, "R M m m"]:
        """The logits of M masks: one for each class, or a single one."""
        x = pooled
        for conv, norm in zip(self.convs, self.norms):
            x = F.relu(norm(conv(x)))
        return full_precision(self.predictor(F.relu(self.deconv(x))))


class MLPMaskHead(nn.Module):
    """Fully connected layers, to masks of twice the features' size."""

    def __init__(self, in_channels: int, size: int, num_classes: int, config: MLPMaskHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.mask_size = 2 * size
        widths = [in_channels * size**2] + [config.hidden] * config.hidden_layers
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.predictor = nn.Linear(widths[-1], config.activation.maps(num_classes) * self.mask_size**2)
        init_layers([*self.hidden, self.predictor])

    def forward(self, pooled: Float[Tensor, "R C P P"]) -> Float[Tensor, "R M m m"]:
        """The logits of M masks: one for each class, or a single one."""
        x = pooled.flatten(1)
        for layer in self.hidden:
            x = F.relu(layer(x))
        return full_precision(self.predictor(x)).unflatten(1, (-1, self.mask_size, self.mask_size))
