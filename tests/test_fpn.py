"""The feature pyramid: its sums worked by hand, odd sizes, strides, and the level that is only subsampled."""

import pytest
import torch
from torch import nn

from minimaskrcnn.fpn import FPN, FPNConfig


def by_hand(levels: int, *, pool_level: bool, lateral: float = 1.0, smooth: float = 1.0) -> FPN:
    """One channel; every convolution multiplies by a number."""
    fpn = FPN(
        (1,) * levels, tuple(4 * 2**i for i in range(levels)), FPNConfig(channels=1, pool_level=pool_level)
    )
    for convs, factor in ((fpn.lateral, lateral), (fpn.smooth, smooth)):
        for conv in convs:
            nn.init.dirac_(conv.weight)
            with torch.no_grad():
                conv.weight.mul_(factor)
    return fpn


def rows(map: torch.Tensor) -> list[list[float]]:
    return map[0, 0].tolist()


@torch.no_grad()
def test_sums_by_hand():
    fpn = by_hand(3, pool_level=False, lateral=10.0, smooth=2.0)
    fine = torch.tensor([[[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]]])
    middle, coarse = torch.tensor([[[[0.1, 0.2]]]]), torch.tensor([[[[0.01]]]])
    p2, p3, p4 = fpn([fine, middle, coarse])
    # Sums run from the top and take the level above before its smoothing.
    assert torch.allclose(p4, torch.tensor([[[[0.2]]]]))
    assert torch.allclose(p3, torch.tensor([[[[2.2, 4.2]]]]))
    assert torch.allclose(p2, torch.tensor([[[[22.2, 42.2, 64.2, 84.2], [102.2, 122.2, 144.2, 164.2]]]]))


@torch.no_grad()
def test_odd_sizes_take_the_nearest_cell_above():
    fpn = by_hand(2, pool_level=False)
    coarse = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    p2, p3 = fpn([torch.zeros(1, 1, 3, 5), coarse])
    assert rows(p3) == rows(coarse)
    # Row i of 3 reads row ⌊2i / 3⌋, column j of 5 reads column ⌊3j / 5⌋.
    assert rows(p2) == [[1, 1, 2, 2, 3], [1, 1, 2, 2, 3], [4, 4, 5, 5, 6]]


@torch.no_grad()
def test_pooled_level_is_every_second_cell_of_the_last():
    fpn = by_hand(2, pool_level=True)
    coarse = torch.arange(15.0).view(1, 1, 3, 5)
    p2, p3, p4 = fpn([torch.zeros(1, 1, 6, 10), coarse])
    assert rows(p4) == [[0, 2, 4], [10, 12, 14]]
    assert fpn.strides == (4, 8, 16)
    assert (p2.shape[2:], p3.shape[2:]) == ((6, 10), (3, 5))


def test_strides_channels_and_the_maps_given():
    maps = [torch.rand(2, c, 16 // s, 24 // s) for c, s in ((3, 1), (5, 2), (7, 4))]
    before = [map.clone() for map in maps]
    for pool_level, strides in ((True, (4, 8, 16, 32)), (False, (4, 8, 16))):
        fpn = FPN((3, 5, 7), (4, 8, 16), FPNConfig(channels=6, pool_level=pool_level))
        levels = fpn(maps)
        assert fpn.strides == strides and len(levels) == len(strides)
        assert all(level.shape[:2] == (2, 6) for level in levels)
        assert [level.shape[2:] for level in levels[:3]] == [map.shape[2:] for map in maps]
    assert all(torch.equal(map, old) for map, old in zip(maps, before))


def test_every_level_learns_from_every_coarser_one():
    fpn = FPN((2, 2), (4, 8), FPNConfig(channels=4, pool_level=False))
    fpn([torch.rand(1, 2, 4, 4), torch.rand(1, 2, 2, 2)])[0].sum().backward()
    assert fpn.lateral[1].weight.grad.abs().max() > 0
    assert fpn.smooth[1].weight.grad is None


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_norm_follows_each_convolution(norm):
    fpn = FPN((2, 2), (4, 8), FPNConfig(channels=8, pool_level=False, norm=norm))
    levels = fpn([torch.rand(2, 2, 4, 4), 100 * torch.rand(2, 2, 2, 2)])
    assert all(abs(level.mean()) < 1e-4 and abs(level.std() - 1) < 0.1 for level in levels)
