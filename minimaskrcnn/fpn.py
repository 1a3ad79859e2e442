"""Feature pyramid network: strong features at every resolution.

Lin et al., "Feature Pyramid Networks" (2017), figure 3.  Deep maps know what is there, shallow maps know where:
a 1×1 convolution brings C2..C5 to one width, each level is added to the level above it, enlarged by nearest
neighbour, and a 3×3 convolution smooths the sum.  Strides stay those of the backbone; P6, a subsampling of the
last level, serves the largest anchors only (section 4.1, footnote 3).
"""

from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from minimaskrcnn.norms import Norm, make_norm
from minimaskrcnn.options import CheckedOptions


@dataclass(frozen=True, kw_only=True)
class FPNConfig(CheckedOptions):
    """Width of the pyramid, and whether it ends in the subsampled level."""

    channels: int = 256
    """Of every level (FPN, section 3)."""
    pool_level: bool = True
    """Add P6 = P5 subsampled by 2, for the anchors of 512 pixels."""
    norm: Norm = "none"
    """After each convolution; for training from scratch."""


FeatureMaps = list[Float[Tensor, "B C _ _"]]
"""A map for each level, the finest first."""


class FPN(nn.Module):
    """P2, P3, ... (and the pooled level) from C2, C3, ...; `strides` gives the pixels per cell of each."""

    def __init__(self, in_channels: tuple[int, ...], strides: tuple[int, ...], config: FPNConfig) -> None:
        super().__init__()
        if any(second != 2 * first for first, second in pairwise(strides)):
            raise ValueError(
                f"a pyramid needs strides that double, got {strides}: resnet.dilated_c5 needs fpn=None"
            )
        self.config = config
        self.strides = (*strides, 2 * strides[-1]) if config.pool_level else strides
        self.lateral = nn.ModuleList(nn.Conv2d(c, config.channels, 1) for c in in_channels)
        self.lateral_norm = nn.ModuleList(make_norm(config.norm, config.channels) for _ in in_channels)
        self.smooth = nn.ModuleList(
            nn.Conv2d(config.channels, config.channels, 3, padding=1) for _ in in_channels
        )
        self.smooth_norm = nn.ModuleList(make_norm(config.norm, config.channels) for _ in in_channels)
        for conv in [*self.lateral, *self.smooth]:
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)

    def forward(self, maps: list[Float[Tensor, "B _ _ _"]]) -> FeatureMaps:
        """The pyramid of a backbone's maps, finest first."""
        merged = [norm(conv(x)) for norm, conv, x in zip(self.lateral_norm, self.lateral, maps)]
        for level in reversed(range(len(merged) - 1)):
            above = F.interpolate(merged[level + 1], size=merged[level].shape[-2:], mode="nearest")
            merged[level] = merged[level] + above
        levels = [norm(conv(x)) for norm, conv, x in zip(self.smooth_norm, self.smooth, merged)]
        if self.config.pool_level:
            levels.append(F.max_pool2d(levels[-1], kernel_size=1, stride=2))
        return levels
