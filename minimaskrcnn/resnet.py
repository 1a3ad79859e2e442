"""ResNet: the backbone, from a picture to feature maps of stride 4, 8, 16 and 32.

He et al., "Deep Residual Learning" (2015), table 1.  A stem (7×7 convolution and 3×3 max pooling, stride 4
together), then four stages; each stage's first block halves the resolution (but for the first) and doubles the
channels.  A block adds what it computes to what it got.  Stage outputs are called C2 to C5 after FPN.

Left out: the classifier.  ResNeXt's grouped convolutions, dilation and the stride on the 1×1 convolution come
with the other backbones.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from minimaskrcnn.norms import Norm, make_norm

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """Depth, width and normalisation of a ResNet."""

    depth: Literal[18, 34, 50, 101] = 50
    width: int = 64
    """Channels of the stem; stages have 1, 2, 4 and 8 times as many, times 4 in bottleneck ResNets."""
    stages: int = 4
    """How many stages are built; 3 ends at stride 16."""
    norm: Norm = "frozen_batch"
    """Batch norm is frozen where pre-trained statistics exist: batches of detection are too small to renew them."""
    norm_eps: float = 1e-5
    """torchvision's COCO_V1 weights were made with 0.0."""
    frozen_stages: int = 2
    """How many of (stem, stage 1, ...) never train; 2 for pre-trained weights, 0 from scratch."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the stage outputs C2, C3, ..."""
        expansion = 1 if self.depth < 50 else 4
        return tuple(self.width * 2**stage * expansion for stage in range(self.stages))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions (ResNet-18 and 34)."""

    def __init__(self, in_channels: int, channels: int, stride: int, config: ResNetConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.norm1 = make_norm(config.norm, channels, config.norm_eps)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = make_norm(config.norm, channels, config.norm_eps)
        self.shortcut = make_shortcut(in_channels, channels, stride, config)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H2 W2"]:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1×1 down, 3×3 (which has the stride), 1×1 up by 4 (ResNet-50 and 101)."""

    def __init__(self, in_channels: int, channels: int, stride: int, config: ResNetConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.norm1 = make_norm(config.norm, channels, config.norm_eps)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.norm2 = make_norm(config.norm, channels, config.norm_eps)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.norm3 = make_norm(config.norm, 4 * channels, config.norm_eps)
        self.shortcut = make_shortcut(in_channels, 4 * channels, stride, config)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H2 W2"]:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(self.norm3(self.conv3(y)) + self.shortcut(x))


def make_shortcut(in_channels: int, out_channels: int, stride: int, config: ResNetConfig) -> nn.Module:
    """The identity, or a 1×1 projection where resolution or channels change."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(projection, make_norm(config.norm, out_channels, config.norm_eps))


def make_stage(in_channels: int, index: int, config: ResNetConfig) -> nn.Sequential:
    """Stage `index` (0 for C2): the first block changes resolution and channels, the others keep them."""
    block = BasicBlock if config.depth < 50 else Bottleneck
    width, out_channels = config.width * 2**index, config.channels[index]
    blocks = [block(in_channels, width, 1 if index == 0 else 2, config)]
    blocks += [block(out_channels, width, 1, config) for _ in range(BLOCKS[config.depth][index] - 1)]
    return nn.Sequential(*blocks)


class ResNet(nn.Module):
    """The stages' outputs C2, C3, ... of a batch of normalised pictures; strides 4, 8, 16, 32."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.strides = tuple(4 * 2**stage for stage in range(config.stages))
        self.stem = nn.Sequential(
            nn.Conv2d(3, config.width, 7, 2, 3, bias=False),
            make_norm(config.norm, config.width, config.norm_eps),
            nn.ReLU(),
        )
        in_channels = (config.width, *config.channels[:-1])
        self.stages = nn.ModuleList(make_stage(c, i, config) for i, c in enumerate(in_channels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for part in [self.stem, *self.stages][: config.frozen_stages]:
            part.requires_grad_(False)

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        x = F.max_pool2d(self.stem(x), 3, stride=2, padding=1)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs
