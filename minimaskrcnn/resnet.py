"""ResNet: the backbone, from a picture to feature maps of stride 4, 8, 16 and 32.

He et al., "Deep Residual Learning" (2015), table 1.  A stem (7×7 convolution and 3×3 max pooling, stride 4
together), then four stages; each stage's first block halves the resolution (but for the first) and doubles the
channels.  A block adds what it computes to what it got.  Stage outputs are called C2 to C5 after FPN.

ResNeXt (Xie et al. 2017) splits a bottleneck's 3×3 convolution into groups; the dilated C5 ("DC5"; Dai et al.,
"R-FCN", 2016, section 2.1) keeps stride 16 in the last stage by spreading its 3×3 convolutions.

Left out: the classifier.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from minimaskrcnn.norms import Norm, make_norm
from minimaskrcnn.options import CheckedOptions

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class BackboneConfig(CheckedOptions):
    """What every backbone's configuration says; the base of your own."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each map, the finest first."""
        raise NotImplementedError

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell of each map."""
        raise NotImplementedError

    def build(self) -> nn.Module:
        """The module, from normalised pictures `[B, 3, H, W]` to a list of such maps."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ResNetConfig(BackboneConfig):
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
    groups: int = 1
    """Of a bottleneck's 3×3 convolution: 32 or 64 in ResNeXt."""
    group_width: int = 64
    """Channels of a group in the first stage where `width` is 64, else in proportion: 8 in ResNeXt-101-32x8d, 4 in
    64x4d.  One group of 64 is a ResNet."""
    stride_on_1x1: bool = False
    """A bottleneck's stride is on its 1×1 convolution (He et al. 2015 and detectron2) or on its 3×3 (torchvision)."""
    dilated_c5: bool = False
    """C5 at stride 16 with 3×3 convolutions dilated by 2, instead of stride 32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        plain = (self.groups, self.group_width, self.stride_on_1x1) == (1, 64, False)
        if self.depth < 50 and not plain:
            raise ValueError(f"groups and the stride's place are a bottleneck's: depth {self.depth} has none")
        if self.dilated_c5 and self.stages != 4:
            raise ValueError(f"dilated_c5 is of the fourth stage: there are {self.stages}")

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the stage outputs C2, C3, ..."""
        return tuple(self.stage_channels(index) for index in range(self.stages))

    def stage_channels(self, index: int) -> int:
        """Channels of stage `index` (0 for C2), built or not."""
        return self.width * 2**index * (1 if self.depth < 50 else 4)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell of C2, C3, ..."""
        strides = [4 * 2**stage for stage in range(self.stages)]
        if self.dilated_c5 and self.stages == 4:
            strides[3] = strides[2]
        return tuple(strides)

    def build(self) -> "ResNet":
        """The network with random weights."""
        return ResNet(self)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions (ResNet-18 and 34)."""

    def __init__(
        self, in_channels: int, channels: int, stride: int, dilation: int, config: ResNetConfig
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, dilation, dilation, bias=False)
        self.norm1 = make_norm(config.norm, channels, config.norm_eps)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, dilation, dilation, bias=False)
        self.norm2 = make_norm(config.norm, channels, config.norm_eps)
        self.shortcut = make_shortcut(in_channels, channels, stride, config)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H2 W2"]:
        """The block's residual added to its input, or to the shortcut where the shape changes."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1×1 down, 3×3 (in groups in ResNeXt), 1×1 up to 4 times `channels` (ResNet-50 and 101)."""

    def __init__(
        self, in_channels: int, channels: int, stride: int, dilation: int, config: ResNetConfig
    ) -> None:
        super().__init__()
        inner = channels * config.groups * config.group_width // 64
        first, second = (stride, 1) if config.stride_on_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, inner, 1, first, bias=False)
        self.norm1 = make_norm(config.norm, inner, config.norm_eps)
        self.conv2 = nn.Conv2d(inner, inner, 3, second, dilation, dilation, config.groups, bias=False)
        self.norm2 = make_norm(config.norm, inner, config.norm_eps)
        self.conv3 = nn.Conv2d(inner, 4 * channels, 1, bias=False)
        self.norm3 = make_norm(config.norm, 4 * channels, config.norm_eps)
        self.shortcut = make_shortcut(in_channels, 4 * channels, stride, config)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H2 W2"]:
        """The block's residual added to its input, or to the shortcut where the shape changes."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(self.norm3(self.conv3(y)) + self.shortcut(x))


def make_shortcut(in_channels: int, out_channels: int, stride: int, config: ResNetConfig) -> nn.Module:
    """The identity, or a 1×1 projection where resolution or channels change."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(projection, make_norm(config.norm, out_channels, config.norm_eps))


def make_stage(index: int, stride: int, dilation: int, config: ResNetConfig) -> nn.Sequential:
    """Stage `index` (0 for C2): the first block has the stride and changes the channels, the others keep them."""
    block = BasicBlock if config.depth < 50 else Bottleneck
    in_channels = config.width if index == 0 else config.stage_channels(index - 1)
    blocks = []
    for number in range(BLOCKS[config.depth][index]):
        first = number == 0
        channels = in_channels if first else config.stage_channels(index)
        blocks.append(block(channels, config.width * 2**index, stride if first else 1, dilation, config))
    return nn.Sequential(*blocks)


def init_convolutions(module: nn.Module) -> None:
    """He et al.'s normal initialisation of every convolution in `module`."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


class ResNet(nn.Module):
    """The stages' outputs C2, C3, ... of a batch of normalised pictures; `strides` are their pixels per cell."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.strides = config.strides
        self.stem = nn.Sequential(
            nn.Conv2d(3, config.width, 7, 2, 3, bias=False),
            make_norm(config.norm, config.width, config.norm_eps),
            nn.ReLU(),
        )
        self.stages = nn.ModuleList()
        stride = 4
        for index, following in enumerate(config.strides):
            dilated = config.dilated_c5 and index == 3
            self.stages.append(make_stage(index, following // stride, 2 if dilated else 1, config))
            stride = following
        init_convolutions(self)
        for part in [self.stem, *self.stages][: config.frozen_stages]:
            part.requires_grad_(False)

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """The map of each stage, C2 first."""
        x = F.max_pool2d(self.stem(x), 3, stride=2, padding=1)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs
