"""Pooling: which level a box is read from, and that every field of the configuration reaches the operation."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minimaskrcnn.ops import reference
from minimaskrcnn.pooler import Pooler, PoolerConfig, RoIAlignConfig, RoIPoolConfig, RoIWarpConfig

STRIDES = (4, 8, 16, 32)


def numbered_levels(size: int = 1024) -> list[torch.Tensor]:
    """Level i is i everywhere, so a pooled value says where it comes from."""
    return [torch.full((1, 1, size // stride, size // stride), float(i)) for i, stride in enumerate(STRIDES)]


def level_of(width: float, height: float, config: PoolerConfig) -> int:
    box = torch.tensor([[0.0, 0.0, width, height]])
    pooled = config.build(STRIDES)(numbered_levels(), box, torch.zeros(1, dtype=torch.int64), 2)
    level = round(pooled.mean().item())
    # Bilinear weights add up to 1 but for rounding.
    assert pooled.shape == (1, 1, 2, 2) and (pooled - level).abs().max() < 1e-5
    return level


@pytest.mark.parametrize(
    ("side", "level"),
    [(10, 0), (56, 0), (111, 0), (112, 1), (223, 1), (224, 2), (447, 2), (448, 3), (1000, 3)],
)
def test_equation_1(side, level):
    assert level_of(side, side, RoIAlignConfig()) == level


def test_level_follows_the_area_and_not_a_side():
    assert level_of(56, 896, RoIAlignConfig()) == 2


def test_canonical_size_and_level():
    config = RoIAlignConfig(canonical_size=64.0, canonical_level=3)
    assert [level_of(side, side, config) for side in (31, 32, 63, 64, 128)] == [0, 0, 0, 1, 2]


@given(st.floats(8, 500), st.floats(8, 500))
def test_level_is_the_references(width, height):
    box = torch.tensor([0.0, 0.0, width, height])
    assert level_of(width, height, RoIAlignConfig()) == reference.fpn_level(box, list(STRIDES))


def test_aligned_shifts_by_half_a_cell():
    # Features that grow by 1 a cell: pooling gives the middle of the box in cells.
    ramp = [torch.arange(size, dtype=torch.float32).expand(1, 1, size, size) for size in (64, 32, 16, 8)]
    box, index = torch.tensor([[40.0, 40.0, 80.0, 80.0]]), torch.zeros(1, dtype=torch.int64)
    for aligned, middle in ((False, 15.0), (True, 14.5)):
        config = RoIAlignConfig(aligned=aligned)
        pooled = config.build(STRIDES)(ramp, box, index, 1)
        assert torch.allclose(pooled, torch.tensor(middle), atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        RoIPoolConfig(),
        RoIWarpConfig(),
        RoIWarpConfig(mode="max", sampling_ratio=0),
        RoIAlignConfig(mode="max"),
    ],
    ids=lambda config: f"{type(config).__name__} {getattr(config, 'mode', '')}",
)
def test_each_operation_pools_each_box_from_its_level(config):
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(2, 3, 40 // stride, 48 // stride, generator=generator) for stride in (4, 8)]
    rois = torch.tensor([[1.0, 2.0, 20.0, 30.0], [3.5, 1.25, 44.0, 39.0], [10.0, 10.0, 14.0, 15.0]])
    config = replace(config, canonical_size=30.0, canonical_level=3)
    found = config.build((4, 8))(features, rois, torch.tensor([1, 0, 1]), 3)
    for row, (roi, image, level) in enumerate(zip(rois, (1, 0, 1), (0, 1, 0))):
        assert reference.fpn_level(roi, [4, 8], 30.0, 3) == level
        box, scale = torch.cat([torch.tensor([float(image)]), roi])[None], 1 / (4, 8)[level]
        if isinstance(config, RoIPoolConfig):
            expected = reference.roi_pool(features[level], box, (3, 3), scale)
        elif isinstance(config, RoIWarpConfig):
            how = (config.sampling_ratio, config.mode)
            expected = reference.roi_warp(features[level], box, (3, 3), scale, *how)
        else:
            expected = reference.roi_align(features[level], box, (3, 3), scale, 2, False, "max")
        assert torch.allclose(found[row].double(), expected[0], atol=1e-5)


def test_roi_pool_has_no_average():
    with pytest.raises(TypeError, match="mode"):
        RoIPoolConfig(mode="avg")


def test_a_pooler_of_ones_own():
    def everything(features, boxes, image_index, size, strides, offset):
        """The mean of the whole map, wherever the box is."""
        return (features[0].mean(dim=(2, 3)) + offset)[image_index][..., None, None].expand(-1, -1, *size)

    class Everything(PoolerConfig):
        def build(self, strides: tuple[int, ...]) -> Pooler:
            return Pooler(everything, strides, {"offset": 1})

    maps = [torch.arange(8.0).view(2, 1, 2, 2)]
    pooled = Everything().build((4,))(maps, torch.zeros(2, 4), torch.tensor([1, 0]), 3)
    assert pooled.shape == (2, 1, 3, 3) and pooled[:, 0, 0, 0].tolist() == [6.5, 2.5]


@pytest.mark.parametrize("kind", [RoIAlignConfig, RoIPoolConfig, RoIWarpConfig])
def test_every_stride_must_have_a_level(kind):
    with pytest.raises(ValueError, match="expected a stride for each map"):
        kind().build((*STRIDES, 64))(numbered_levels(), torch.zeros(0, 4), torch.zeros(0).long(), 2)


def test_levels_without_a_stride_are_not_read():
    box, index = torch.tensor([[0.0, 0.0, 900.0, 900.0]]), torch.zeros(1, dtype=torch.int64)
    assert RoIAlignConfig().build((4, 8))(numbered_levels(), box, index, 2).mean().item() == pytest.approx(1)


@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
@pytest.mark.parametrize("aligned", [False, True])
def test_pooling_is_the_reference_on_each_level(sampling_ratio, aligned):
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(2, 3, 40 // stride, 48 // stride, generator=generator) for stride in (4, 8)]
    rois = torch.tensor([[1.0, 2.0, 20.0, 30.0], [3.5, 1.25, 44.0, 39.0], [10.0, 10.0, 14.0, 15.0]])
    index = torch.tensor([1, 0, 1])
    config = RoIAlignConfig(
        sampling_ratio=sampling_ratio, aligned=aligned, canonical_size=30.0, canonical_level=3
    )
    found = config.build((4, 8))(features, rois, index, 3)
    for row, (roi, image) in enumerate(zip(rois, index.tolist())):
        level = reference.fpn_level(roi, [4, 8], 30.0, 3)
        box = torch.cat([torch.tensor([float(image)]), roi])[None]
        expected = reference.roi_align(
            features[level], box, (3, 3), 1 / (4, 8)[level], sampling_ratio, aligned
        )
        assert torch.allclose(found[row].double(), expected[0], rtol=0, atol=1e-5)
    other = replace(config, aligned=not aligned).build((4, 8))(features, rois, index, 3)
    assert not torch.allclose(found, other, atol=1e-3)
