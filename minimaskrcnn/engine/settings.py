"""How to train: the settings of a run, its learning rate as a function of the step, and its optimiser.

Defaults are the paper's (section 3.1): SGD with momentum 0.9 and weight decay 0.0001, learning rate 0.02 for a
batch of 16 pictures, divided by 10 after 120k of 160k steps.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from minimaskrcnn.data.coco import CocoDataset
from minimaskrcnn.data.coco_names import CategoryName
from minimaskrcnn.data.transforms import AugmentConfig
from minimaskrcnn.engine.muon import Muon
from minimaskrcnn.options import CheckedOptions


@dataclass(frozen=True, kw_only=True)
class TrainConfig(CheckedOptions):
    """How to train; the defaults are the paper's for 8 GPUs of 2 pictures."""

    steps: int = 160_000
    batch_size: int = 16
    optimizer: Literal["sgd", "adamw", "muon"] = "sgd"
    lr: float = 0.02
    """For the batch size above; the command line scales it with another one."""
    momentum: float = 0.9
    """SGD's; Muon keeps its own."""
    weight_decay: float = 1e-4
    schedule: Literal["step", "cosine"] = "step"
    milestones: tuple[float, ...] = (0.75,)
    """Fractions of `steps` after which the step schedule divides the rate by 10: 120k of 160k."""
    warmup_steps: int = 1000
    """The rate grows linearly from a thousandth (Goyal et al. 2017; torchvision's reference training)."""
    accumulate: int = 1
    """Parts that a process makes of its share of a batch, one after the other; the step's gradient is their mean."""
    clip_norm: float | None = None
    """Largest norm of the whole gradient."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs convolutions and matrix products under autocast; boxes and losses stay float32."""
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    seed: int = 0
    log_every: int = 20
    eval_every: int = 5000
    """0 evaluates only at the end; the same below."""
    checkpoint_every: int = 500
    say_seconds: float = 30.0
    """Between two lines about a run's progress where no terminal shows a bar; 0: none."""


NOT_SHARED = {"log_every", "eval_every", "checkpoint_every", "say_seconds"}
"""How often a run reports: fields that may change when it is resumed."""


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of step `step` (0-based)."""
    rate = config.lr
    if config.schedule == "cosine":
        done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
        rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done))))
    else:
        rate *= 0.1 ** sum(step >= fraction * config.steps for fraction in config.milestones)
    if step < config.warmup_steps:
        rate *= max(1e-3, (step + 1) / config.warmup_steps)
    return rate


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD as the paper's, AdamW or Muon, over the parameters that train."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if config.optimizer == "muon":
        matrices, vectors = ([p for p in parameters if (p.ndim > 1) == wanted] for wanted in (True, False))
        dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
        return Muon(matrices, vectors, config.lr, config.weight_decay, iteration_dtype=dtype)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


def shared_settings(config: TrainConfig) -> dict[str, object]:
    """The settings that a resumed run must share with its beginning: all but how often it reports."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in NOT_SHARED}


def categories_of(dataset: CocoDataset) -> list[CategoryName]:
    """What each label of a data set means."""
    return [CategoryName(dataset.label_of[c.id], c.id, c.name) for c in dataset.categories]


def run_settings(config: TrainConfig, dataset: CocoDataset) -> dict[str, object]:
    """What a resumed run must share with its beginning: its settings and its data."""
    # The whole annotation file, byte by byte: a second for the 450 MB of COCO's 118k pictures.
    with dataset.annotation_file.open("rb") as file:
        digest = hashlib.file_digest(file, "blake2b")
    digest.update(repr([record.id for record in dataset.images]).encode())
    return shared_settings(config) | {
        "data": {
            "categories": {str(c.label): f"{c.category_id} {c.name}" for c in categories_of(dataset)},
            "pictures": len(dataset),
            "ids_and_annotations": digest.hexdigest()[:16],
        }
    }


def differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    """Each field of nested dicts that is another, in words."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            yield from differences(found.get(key), wanted.get(key), f"{name}.{key}" if name else key)
    elif found != wanted:
        yield f"{name} was {found!r}, is {wanted!r}"
