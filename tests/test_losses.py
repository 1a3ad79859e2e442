"""A loss as a sum and a count: its mean, the many-process mean, and one message for all losses of a network."""

import pytest
import torch
from models import random_image, random_target, tiny_config, with_keypoints
from torch import distributed

from minimaskrcnn.distributed import shared_means
from minimaskrcnn.losses import Loss, full_precision
from minimaskrcnn.mask_rcnn import MaskRCNN


def test_the_mean_is_the_sum_over_the_count_and_zero_of_nothing():
    assert Loss(torch.tensor(6.0), torch.tensor(4)).mean == 1.5
    total = torch.zeros((), requires_grad=True)
    nothing = Loss(total.sum(), torch.tensor(0)).mean
    nothing.backward()
    assert nothing == 0 and total.grad == 1


def test_half_precision_becomes_float32():
    for dtype in (torch.float16, torch.bfloat16):
        assert full_precision(torch.zeros(1, dtype=dtype)).dtype == torch.float32
    assert full_precision(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64


@pytest.fixture
def messages(monkeypatch) -> list[torch.Tensor]:
    """What this process, one of two, adds up with the other, which has as much of everything and one thing more."""
    sent = []

    def all_reduce(counts: torch.Tensor) -> None:
        sent.append(counts.clone())
        counts.mul_(2).add_(1)

    monkeypatch.setattr("minimaskrcnn.distributed.world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", all_reduce)
    return sent


def test_several_processes_divide_by_their_mean_count(messages):
    losses = {"a": Loss(torch.tensor(6.0), torch.tensor(4)), "b": Loss(torch.tensor(1.0), torch.tensor(0))}
    found = shared_means(losses)
    assert {name: value.item() for name, value in found.items()} == {"a": 6 / 4.5, "b": 2.0}
    assert [counts.tolist() for counts in messages] == [[4, 0]]


@pytest.mark.parametrize("count", [3, 0])
def test_a_training_forward_is_one_message(messages, count):
    model = MaskRCNN(with_keypoints(tiny_config()))
    losses = model([random_image(48, 64)], [random_target(48, 64, count)])
    assert len(losses) == 6 and all(loss.isfinite() for loss in losses.values())
    assert len(messages) == 1 and messages[0].shape == (6,)
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
