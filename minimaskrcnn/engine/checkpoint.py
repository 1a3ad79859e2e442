"""Checkpoints: one safetensors file that is both a weights file and everything training needs to go on.

The optimiser's tensors lie under `training/` beside the weights, so `predict --weights RUN/last.safetensors`
works while training runs.  Every random choice of training is a function of (seed, step), so the step is all the
random state there is.  Nothing is ever unpickled.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from minimaskrcnn.mask_rcnn import MaskRCNN
from minimaskrcnn.weights import (
    TRAINING_PREFIX,
    CategoryName,
    config_to_json,
    load_weights,
    read_safetensors,
    save_weights,
)


def save_checkpoint(
    path: Path,
    model: MaskRCNN,
    optimizer: torch.optim.Optimizer,
    *,
    step: int,
    settings: dict[str, object],
    preset: str,
    categories: list[CategoryName],
) -> None:
    """Write model, optimiser and `step` steps done; `settings` are those that a resumed run must share."""
    metadata = {"step": str(step), "settings": json.dumps(settings)}
    training = _optimizer_tensors(optimizer)
    save_weights(
        path, model, preset=preset, categories=categories, training=training, training_metadata=metadata
    )


def load_checkpoint(
    path: Path, model: MaskRCNN, optimizer: torch.optim.Optimizer, settings: dict[str, object]
) -> int:
    """Restore model and optimiser in place; returns the steps done.

    Raises ValueError where the file is no checkpoint, or was made with another model or other settings.
    """
    file = load_weights(path)
    tensors, metadata = read_safetensors(path)
    if "step" not in metadata:
        raise ValueError(
            f"{path}: weights without training state cannot be resumed (start from them: --weights)"
        )
    if config_to_json(file.config) != config_to_json(model.config):
        raise ValueError(f"{path}: made with another model configuration (preset {file.preset!r})")
    saved = json.loads(metadata["settings"])
    wanted = json.loads(json.dumps(settings))
    differing = sorted(name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name))
    if differing:
        changes = ", ".join(f"{name} was {saved.get(name)!r}, is {wanted.get(name)!r}" for name in differing)
        raise ValueError(f"{path}: made with other settings: {changes}")
    model.load_state_dict(file.state_dict)
    training = {
        name.removeprefix(TRAINING_PREFIX): tensor
        for name, tensor in tensors.items()
        if name.startswith(TRAINING_PREFIX)
    }
    _restore_optimizer(optimizer, training)
    return int(metadata["step"])


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as `INDEX/NAME` tensors, by the parameter's place in its groups."""
    return {
        f"{index}/{name}": value.detach().cpu().contiguous()
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
