"""Normalisation layers, chosen by name.

Detection trains on few pictures at a time.  With pre-trained weights, batch norm is therefore frozen (Mask R-CNN's
implementations); from scratch, batch norm over enough pictures or group norm (Wu & He 2018) is what makes training
converge at all (He, Girshick, Dollár, "Rethinking ImageNet Pre-training", 2019, section 3.1).
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

Norm = Literal["none", "frozen_batch", "batch", "group"]


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with fixed statistics and fixed affine: per channel, x · scale + shift."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The fixed scale and shift of each channel."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None].to(x.dtype) + shift[:, None, None].to(x.dtype)


def make_norm(norm: Norm, channels: int, eps: float = 1e-5) -> nn.Module:
    """The layer that `norm` names; group norm has 32 groups, or fewer and of 8 channels where there are few.

    ValueError for another name.
    """
    if norm == "none":
        return nn.Identity()
    if norm == "frozen_batch":
        return FrozenBatchNorm2d(channels, eps)
    if norm == "batch":
        return nn.BatchNorm2d(channels, eps=eps)
    if norm == "group":
        return nn.GroupNorm(min(32, max(1, channels // 8)), channels, eps=eps)
    raise ValueError(f"norm must be one of {', '.join(get_args(Norm))}, got {norm!r}")
