"""Checkpoints: weights and optimiser there and back, and everything that must not be resumed."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models import random_image, random_target, tiny_config, tiny_model

from minimaskrcnn.engine.checkpoint import load_checkpoint, save_checkpoint, steps_done
from minimaskrcnn.engine.settings import shared_settings
from minimaskrcnn.engine.train import TrainConfig, make_optimizer, training_step
from minimaskrcnn.mask_rcnn import MaskRCNN
from minimaskrcnn.weights import load_model, save_weights

SETTINGS = {"lr": 0.01, "milestones": (0.5, 0.75), "clip_norm": None}


def trained(optimizer: str, norm: str = "batch") -> tuple[MaskRCNN, torch.optim.Optimizer]:
    config = TrainConfig(optimizer=optimizer, lr=0.01)
    model = tiny_model(norm=norm)
    state = make_optimizer(model, config)
    training_step(model, state, [random_image(64, 64)], [random_target(64, 64, 2)], 0, config)
    return model, state


def save(path: Path, model: MaskRCNN, optimizer: torch.optim.Optimizer, step: int = 5) -> None:
    save_checkpoint(path, model, optimizer, step=step, settings=SETTINGS, preset="tiny", categories=[])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_there_and_back(tmp_path, optimizer):
    path = tmp_path / "last.safetensors"
    model, state = trained(optimizer)
    save(path, model, state)
    other = tiny_model(norm="batch", seed=4)
    other_state = make_optimizer(other, TrainConfig(optimizer=optimizer, lr=0.01))
    assert load_checkpoint(path, other, other_state, SETTINGS) == (5, 1)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    saved, restored = state.state_dict()["state"], other_state.state_dict()["state"]
    assert saved.keys() == restored.keys() and len(saved) == len(list(model.parameters()))
    for index, values in saved.items():
        assert {k for k, v in values.items() if v is not None} == restored[index].keys()
        assert all(torch.equal(value, values[name]) for name, value in restored[index].items())
    assert [path.name for path in tmp_path.iterdir()] == ["last.safetensors"]


def test_the_steps_done_are_read_without_loading(tmp_path):
    path = tmp_path / "last.safetensors"
    config = TrainConfig(lr=0.01)
    assert steps_done(path, config) == 0
    model, state = trained("adamw")
    settings = shared_settings(config) | {"data": {"pictures": 3}}
    save_checkpoint(path, model, state, step=7, settings=settings, preset="tiny", categories=[])
    assert steps_done(path, replace(config, log_every=1, say_seconds=1.0)) == 7
    with pytest.raises(ValueError, match=r"last\.safetensors: made with other settings: lr was 0\.01, is 0\.5$"):
        steps_done(path, replace(config, lr=0.5))
    save_weights(path, model, preset="tiny", categories=[])
    with pytest.raises(ValueError, match="weights without training state"):
        steps_done(path, config)


def test_it_is_a_weights_file_too(tmp_path):
    model, state = trained("adamw")
    save(tmp_path / "last.safetensors", model, state)
    again, file = load_model(tmp_path / "last.safetensors")
    assert file.preset == "tiny" and file.state_dict.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())


def refused(path: Path, model: MaskRCNN, settings: dict[str, object], message: str) -> None:
    optimizer = make_optimizer(model, TrainConfig(lr=0.01))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message) as error:
        load_checkpoint(path, model, optimizer, settings)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_is_not_resumed(tmp_path):
    path = tmp_path / "last.safetensors"
    save(path, *trained("sgd", norm="group"))
    narrower = replace(tiny_config(), fpn=replace(tiny_config().fpn, channels=8))
    change = "another model configuration: fpn.channels was 16, is 8; go on with the --preset and the --weights"
    refused(path, MaskRCNN(narrower), SETTINGS, change)
    refused(path, tiny_model(seed=1), {**SETTINGS, "lr": 0.5}, "other settings: lr was 0.01, is 0.5")
    fewer = {name: value for name, value in SETTINGS.items() if name != "clip_norm"} | {"seed": 3}
    refused(path, tiny_model(seed=1), fewer, "other settings: seed was None, is 3")

    save_weights(path, tiny_model(), preset="tiny", categories=[])
    refused(path, tiny_model(seed=1), SETTINGS, "weights without training state cannot be resumed")
    path.write_bytes(b"something else")
    refused(path, tiny_model(seed=1), SETTINGS, "not a readable safetensors file")


def test_other_data_are_named(tmp_path):
    path = tmp_path / "last.safetensors"
    model, state = trained("sgd", norm="group")
    data = {"categories": {str(i): f"{i} thing" for i in range(1, 9)}, "pictures": 5, "ids_and_annotations": "0a"}
    save_checkpoint(
        path, model, state, step=5, settings={**SETTINGS, "data": data}, preset="tiny", categories=[]
    )
    assert load_checkpoint(path, model, state, {**SETTINGS, "data": data}).step == 5
    fewer = {"categories": {"1": "1 thing", "2": "7 bus"}, "pictures": 4, "ids_and_annotations": "0b"}
    message = "other settings: data.categories.2 was '2 thing', is '7 bus', .* and 4 more$"
    refused(path, tiny_model(seed=1), {**SETTINGS, "data": fewer}, message)
    less = {**data, "pictures": 4}
    refused(path, tiny_model(seed=1), {**SETTINGS, "data": less}, "other settings: data.pictures was 5, is 4$")
    # A file that says nothing of its data.
    save(path, model, state)
    assert load_checkpoint(path, model, state, {**SETTINGS, "data": data}).step == 5


def test_a_checkpoint_survives_the_next_one_failing(tmp_path, monkeypatch):
    path = tmp_path / "last.safetensors"
    model, state = trained("sgd", norm="group")
    save(path, model, state)

    def full(*_: object) -> None:
        Path(_[1]).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("minimaskrcnn.weights.save_file", full)
    with pytest.raises(OSError, match="no space left"):
        save(path, model, state, step=6)
    assert load_checkpoint(path, model, state, SETTINGS).step == 5
