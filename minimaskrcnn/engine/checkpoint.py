"""Checkpoints: one safetensors file that is both a weights file and everything training needs to go on.

The optimiser's tensors lie under `training/` beside the weights, so `predict --weights RUN/last.safetensors`
works while training runs.  Every random choice of training is a function of (seed, step), so the step is all the
random state there is.  Nothing is ever unpickled.
"""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from minimaskrcnn.distributed import rank, world_size
from minimaskrcnn.engine.settings import TrainConfig, differences, shared_settings
from minimaskrcnn.mask_rcnn import MaskRCNN
from minimaskrcnn.weights import (
    TRAINING_PREFIX,
    CategoryName,
    StateDict,
    config_to_json,
    load_weights,
    read_safetensors,
    save_weights,
)


class Resumed(NamedTuple):
    """What a checkpoint says of its run."""

    step: int
    """Steps done."""
    processes: int
    """That made it; 0 where the file does not say."""


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
    """Write model, optimiser and `step` steps done; `settings` are those that a resumed run must share.

    Of several processes the first writes.
    """
    if rank():
        return
    metadata = {"step": str(step), "settings": json.dumps(settings), "processes": str(world_size())}
    training = _optimizer_tensors(optimizer)
    save_weights(
        path, model, preset=preset, categories=categories, training=training, training_metadata=metadata
    )


def steps_done(path: Path, config: TrainConfig) -> int:
    """The steps of a checkpoint without loading it; 0 where there is none.

    Raises ValueError where the file is no checkpoint, or was made with other settings.
    """
    if not path.exists():
        return 0
    _, metadata = _read(path)
    saved = json.loads(metadata["settings"])
    saved.pop("data", None)
    _need_same_settings(path, saved, shared_settings(config))
    return int(metadata["step"])


def load_checkpoint(
    path: Path, model: MaskRCNN, optimizer: torch.optim.Optimizer, settings: dict[str, object]
) -> Resumed:
    """Restore model and optimiser in place; returns the steps done.

    Raises ValueError where the file is no checkpoint, or was made with another model, other settings or other data.
    An older file that says nothing of its data is taken on trust.
    """
    file = load_weights(path)
    tensors, metadata = _read(path)
    changes = _changes(config_to_json(file.config), config_to_json(model.config))
    if changes:
        raise ValueError(
            f"{path}: made with another model configuration: {changes}; go on with the --preset and "
            "the --weights that the run began with"
        )
    saved = json.loads(metadata["settings"])
    wanted = {name: value for name, value in settings.items() if name != "data" or name in saved}
    _need_same_settings(path, saved, wanted)
    model.load_state_dict(file.state_dict)
    _restore_optimizer(optimizer, tensors)
    return Resumed(int(metadata["step"]), int(metadata.get("processes", 0)))


def _read(path: Path) -> tuple[StateDict, dict[str, str]]:
    """A checkpoint's tensors and metadata; ValueError where it is none."""
    tensors, metadata = read_safetensors(path)
    if "step" not in metadata:
        raise ValueError(
            f"{path}: weights without training state cannot be resumed (start from them: --weights)"
        )
    return tensors, metadata


def _need_same_settings(path: Path, saved: dict[str, object], wanted: dict[str, object]) -> None:
    changes = _changes(json.dumps(saved), json.dumps(wanted))
    if changes:
        raise ValueError(f"{path}: made with other settings: {changes}")


def _changes(saved: str, wanted: str) -> str:
    """What differs in two JSON texts, the first few differences of many."""
    found = list(differences(json.loads(saved), json.loads(wanted)))
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as `INDEX/NAME` tensors, by the parameter's place in its groups."""
    return {
        f"{index}/{name}": value.detach().cpu().contiguous()
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give it the state among a file's tensors, as above under the prefix of training's."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(TRAINING_PREFIX):
            index, name = key.removeprefix(TRAINING_PREFIX).split("/")
            state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
