"""ResNets: depth, sizes and channels of the stages, what is frozen, and what a block computes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from minimaskrcnn.norms import FrozenBatchNorm2d
from minimaskrcnn.resnet import BasicBlock, Bottleneck, ResNet, ResNetConfig


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_depth_counts_the_layers(depth):
    with torch.device("meta"):
        net = ResNet(ResNetConfig(depth=depth, width=8))
    convs = [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    # Projections do not count (ResNet, table 1), and the last of the layers is the classifier left out here.
    assert sum("shortcut" not in name for name in convs) == depth - 1
    assert sum("shortcut" in name for name in convs) == (3 if depth < 50 else 4)


@pytest.mark.parametrize(
    ("depth", "channels"),
    [(18, (64, 128, 256, 512)), (50, (256, 512, 1024, 2048)), (101, (256, 512, 1024, 2048))],
)
def test_channels_of_the_paper(depth, channels):
    assert ResNetConfig(depth=depth).channels == channels
    assert ResNetConfig(depth=depth, stages=2).channels == channels[:2]


@pytest.mark.parametrize("depth", [18, 50])
@settings(max_examples=10)
@given(height=st.integers(1, 70), width=st.integers(1, 70), stages=st.integers(1, 4))
def test_stage_outputs_cover_the_picture(depth, height, width, stages):
    config = ResNetConfig(depth=depth, width=8, stages=stages)
    net = ResNet(config)
    maps = net(torch.rand(1, 3, height, width))
    assert net.strides == (4, 8, 16, 32)[:stages] and len(maps) == stages
    for map, channels, stride in zip(maps, config.channels, net.strides):
        assert map.shape == (1, channels, -(-height // stride), -(-width // stride))


@pytest.mark.parametrize("frozen", range(6))
def test_frozen_stages_never_train(frozen):
    torch.manual_seed(0)
    net = ResNet(ResNetConfig(depth=18, width=8, norm="batch", frozen_stages=frozen))
    sum(map.sum() for map in net(torch.rand(2, 3, 64, 64))).backward() if frozen < 5 else None
    for part, module in enumerate([net.stem, *net.stages]):
        for parameter in module.parameters():
            assert parameter.requires_grad == (part >= frozen)
            assert (parameter.grad is not None) == (part >= frozen)


def test_defaults_freeze_norms_and_the_first_two_parts():
    net = ResNet(ResNetConfig(width=8))
    norms = [module for module in net.modules() if isinstance(module, FrozenBatchNorm2d | nn.BatchNorm2d)]
    assert len(norms) == 53 and all(
        isinstance(norm, FrozenBatchNorm2d) and norm.eps == 1e-5 for norm in norms
    )
    assert not any(p.requires_grad for part in (net.stem, net.stages[0]) for p in part.parameters())
    assert all(p.requires_grad for p in net.stages[1].parameters())


@pytest.mark.parametrize("norm", ["frozen_batch", "batch", "group"])
def test_norm_eps_reaches_every_norm(norm):
    net = ResNet(ResNetConfig(depth=50, width=8, norm=norm, norm_eps=0.125))
    eps = [module.eps for module in net.modules() if hasattr(module, "eps")]
    assert len(eps) == 53 and set(eps) == {0.125}


def test_a_block_adds_what_it_computes_to_what_it_got():
    config = ResNetConfig(depth=18)
    block = BasicBlock(8, 8, 1, 1, config)
    x = torch.randn(1, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    nn.init.zeros_(block.conv2.weight)
    assert torch.equal(block(x), x.relu())
    nn.init.dirac_(block.conv1.weight)
    nn.init.dirac_(block.conv2.weight)
    # relu(relu(x) + x): positive values twice, negative ones not at all.  eps of the two norms is 1e-5.
    assert torch.allclose(block(x), 2 * x.relu(), rtol=1e-4, atol=0)


def test_a_bottleneck_strides_on_its_3x3_convolution():
    block = Bottleneck(16, 8, 2, 1, ResNetConfig(depth=50))
    strides = [conv.stride[0] for conv in (block.conv1, block.conv2, block.conv3, block.shortcut[0])]
    assert strides == [1, 2, 1, 2]
    assert block(torch.rand(1, 16, 9, 9)).shape == (1, 32, 5, 5)
    x = torch.randn(1, 32, 5, 5, generator=torch.Generator().manual_seed(0))
    same = Bottleneck(32, 8, 1, 1, ResNetConfig(depth=50))
    nn.init.zeros_(same.conv3.weight)
    assert torch.equal(same(x), x.relu())


def test_bfloat16_autocast_stays_finite():
    net = ResNet(ResNetConfig(depth=50, width=8))
    with torch.autocast("cpu", torch.bfloat16):
        maps = net(torch.rand(1, 3, 32, 32))
    assert all(map.dtype == torch.bfloat16 and map.isfinite().all() for map in maps)


def test_the_stride_can_be_on_the_1x1_convolution():
    block = Bottleneck(16, 8, 2, 1, ResNetConfig(depth=50, stride_on_1x1=True))
    strides = [conv.stride[0] for conv in (block.conv1, block.conv2, block.conv3, block.shortcut[0])]
    assert strides == [2, 1, 1, 2]
    with pytest.raises(ValueError, match="depth 18 has none"):
        ResNetConfig(depth=18, stride_on_1x1=True)


# Parameters as torchvision's documentation has them, with a classifier of 2,049,000.
@pytest.mark.parametrize(
    ("groups", "width", "inner", "parameters"), [(32, 8, 256, 88_791_336), (64, 4, 256, 83_455_272)]
)
def test_resnext_has_groups_and_the_same_channels(groups, width, inner, parameters):
    config = ResNetConfig(depth=101, groups=groups, group_width=width, norm="batch")
    with torch.device("meta"):
        net = ResNet(config)
    for index, stage in enumerate(net.stages):
        for block in stage:
            assert block.conv2.weight.shape == (inner * 2**index, width * 2**index, 3, 3)
            assert block.conv3.out_channels == 256 * 2**index
    assert sum(p.numel() for p in net.parameters()) == parameters - 2_049_000


def test_dilated_c5_keeps_stride_16_and_reaches_as_far():
    net, plain = (ResNet(ResNetConfig(depth=50, width=8, dilated_c5=dilated)) for dilated in (True, False))
    assert net.strides == (4, 8, 16, 16) and plain.strides == (4, 8, 16, 32)
    assert {n: p.shape for n, p in net.state_dict().items()} == {
        n: p.shape for n, p in plain.state_dict().items()
    }
    maps = net(torch.rand(1, 3, 64, 96))
    assert maps[3].shape == (1, 256, 4, 6) and maps[2].shape == (1, 128, 4, 6)
    assert {block.conv2.dilation for block in net.stages[3]} == {(2, 2)}
