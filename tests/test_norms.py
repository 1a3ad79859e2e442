"""Normalisation layers: frozen batch norm is evaluated batch norm, and what each name makes."""

import pytest
import torch
from torch import nn

from minimaskrcnn.norms import FrozenBatchNorm2d, make_norm


def random_statistics(norm: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: value.shape for name, value in norm.state_dict().items() if value.dim() == 1}
    # From 0.1 on, because a variance is positive.
    return {name: 0.1 + torch.rand(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("eps", [0.0, 1e-5, 0.5])
def test_frozen_batch_norm_is_evaluated_batch_norm(eps):
    frozen, batch = FrozenBatchNorm2d(6, eps), nn.BatchNorm2d(6, eps=eps)
    statistics = random_statistics(frozen)
    frozen.load_state_dict(statistics)
    batch.load_state_dict(statistics, strict=False)
    frozen, batch = frozen.double(), batch.double().eval()
    x = torch.randn(2, 6, 5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(frozen(x), batch(x), rtol=0, atol=1e-12)
    before = frozen.state_dict()["running_mean"].clone()
    assert torch.equal(frozen.train()(x), frozen.eval()(x))
    assert torch.equal(frozen.state_dict()["running_mean"], before)


def test_frozen_batch_norm_has_batch_norms_names_and_nothing_to_train():
    frozen, batch = FrozenBatchNorm2d(3, 1e-5), nn.BatchNorm2d(3)
    assert not list(frozen.parameters())
    assert set(frozen.state_dict()) == set(batch.state_dict()) - {"num_batches_tracked"}
    x = torch.randn(1, 3, 2, 2, requires_grad=True)
    frozen(x).sum().backward()
    assert torch.allclose(x.grad, torch.ones(()), rtol=0, atol=1e-5)


def test_frozen_batch_norm_keeps_half_precision():
    x = torch.randn(1, 3, 4, 4).bfloat16()
    assert FrozenBatchNorm2d(3, 1e-5)(x).dtype == torch.bfloat16


@pytest.mark.parametrize(("channels", "groups"), [(4, 1), (8, 1), (64, 8), (256, 32), (1024, 32)])
def test_group_norm_has_groups_of_8_channels_and_at_most_32(channels, groups):
    norm = make_norm("group", channels)
    assert isinstance(norm, nn.GroupNorm) and norm.num_groups == groups
    x = 5 + 3 * torch.randn(2, channels, 6, 6, generator=torch.Generator().manual_seed(0))
    grouped = norm(x).view(2, groups, -1)
    assert grouped.mean(-1).abs().max() < 1e-4
    assert (grouped.std(-1, correction=0) - 1).abs().max() < 1e-3


def test_names_and_eps():
    x = torch.randn(1, 8, 2, 2)
    assert make_norm("none", 8)(x) is x
    assert isinstance(make_norm("frozen_batch", 8, 0.25), FrozenBatchNorm2d)
    assert isinstance(make_norm("batch", 8, 0.25), nn.BatchNorm2d)
    assert [make_norm(name, 8, 0.25).eps for name in ("frozen_batch", "batch", "group")] == [0.25] * 3
