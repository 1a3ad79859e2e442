"""Mask head: which pixels of a detected box belong to the object.

The branch that makes Faster R-CNN Mask R-CNN (section 3): a small fully convolutional network predicts one m×m
mask for each class, and only the mask of the class that the box head chose is used.  Classes therefore do not
compete: a sigmoid for each pixel, average binary cross-entropy on the ground-truth class's mask, for positive
RoIs only.  The target is the ground-truth bitmap pooled by RoIAlign in the RoI.

Letters: R positive RoIs, N classes with background, m mask size, M ground-truth masks of the whole batch.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from minimaskrcnn.norms import Norm, make_norm
from minimaskrcnn.rpn import full_precision


@dataclass(frozen=True, kw_only=True)
class MaskHeadConfig:
    """Numbers of Mask R-CNN, figure 4 right."""

    pooled_size: int = 14
    """Bins along each side; masks have twice as many."""
    channels: int = 256
    """Of the convolutions and the deconvolution."""
    convs: int = 4
    """3×3 convolutions before the deconvolution."""
    norm: Norm = "none"
    """After each of them; for training from scratch."""


def mask_loss(
    logits: Float[Tensor, "R N m m"],
    labels: Int[Tensor, " R"],
    targets: Float[Tensor, "R m m"],
    positive: Bool[Tensor, " R"],
) -> Float[Tensor, ""]:
    """Average binary cross-entropy over the pixels of positive RoIs, on the ground-truth class's mask (section 3).

    Zero (with a graph) where there is no positive RoI.
    """
    of_label = logits[torch.arange(len(labels), device=labels.device), labels]
    pixels = F.binary_cross_entropy_with_logits(of_label, targets, reduction="none").mean(dim=(1, 2))
    return torch.where(positive, pixels, 0).sum() / positive.sum().clamp(min=1)


def mask_probs(logits: Float[Tensor, "R N m m"], labels: Int[Tensor, " R"]) -> Float[Tensor, "R m m"]:
    """The probability mask of each RoI's own class."""
    return logits[torch.arange(len(labels), device=labels.device), labels].sigmoid()


class MaskHead(nn.Module):
    """Convolutions at pooled size, a deconvolution that doubles it, and a 1×1 convolution to N masks."""

    def __init__(self, in_channels: int, num_classes: int, config: MaskHeadConfig) -> None:
        super().__init__()
        self.config = config
        widths = [in_channels] + [config.channels] * config.convs
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(make_norm(config.norm, channels) for channels in widths[1:])
        self.deconv = nn.ConvTranspose2d(widths[-1], config.channels, 2, 2)
        self.predictor = nn.Conv2d(config.channels, num_classes, 1)
        for layer in [*self.convs, self.deconv, self.predictor]:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, pooled: Float[Tensor, "R C P P"]) -> Float[Tensor, "R N m m"]:
        x = pooled
        for conv, norm in zip(self.convs, self.norms):
            x = F.relu(norm(conv(x)))
        return full_precision(self.predictor(F.relu(self.deconv(x))))
