"""The estimate: its arithmetic on a clock of the test's, and that nothing of the training notices it."""

import numpy as np
import pytest
import torch
from models import tiny_model, write_scenes

from minimaskrcnn.data.coco import CocoDataset, open_coco
from minimaskrcnn.data.transforms import AugmentConfig
from minimaskrcnn.engine import estimate
from minimaskrcnn.engine.estimate import seconds_per_step
from minimaskrcnn.engine.train import TrainConfig, train_model
from minimaskrcnn.weights import read_safetensors

CONFIG = TrainConfig(
    steps=3,
    batch_size=2,
    optimizer="muon",
    lr=0.01,
    warmup_steps=1,
    augment=AugmentConfig(min_sizes=(40, 64)),
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> CocoDataset:
    return open_coco(write_scenes(tmp_path_factory.mktemp("scenes"), train=5, val=1), "train")


def test_the_first_step_does_not_count(dataset, monkeypatch):
    steps = []
    monkeypatch.setattr(estimate, "training_step", lambda *a: steps.append(a[4]))
    times = iter([100.0, 101.0, 102.5, 106.0])
    found = seconds_per_step(tiny_model(), dataset, CONFIG, clock=lambda: next(times))
    assert steps == [0, 1, 2, 3] and found == 2.0


def test_measuring_changes_no_bit_of_the_run(dataset, tmp_path):
    """Batch norm, whose statistics every forward pass changes; global generators in a state of their own."""
    for name in ("measured", "plain"):
        model = tiny_model(norm="batch")
        if name == "measured":
            before = {key: value.clone() for key, value in model.state_dict().items()}
            torchs = torch.get_rng_state()
            numpys = np.random.get_state()
            assert seconds_per_step(model, dataset, CONFIG) > 0
            assert torch.equal(torch.get_rng_state(), torchs)
            assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpys))
            assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
            assert all(parameter.grad is None for parameter in model.parameters())
        train_model(model, dataset, tmp_path / name, CONFIG, preset="tiny")
    one, other = (read_safetensors(tmp_path / name / "last.safetensors")[0] for name in ("measured", "plain"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
