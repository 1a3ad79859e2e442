"""Training: a plain loop, and the schedule as a function of the step.

Defaults are the paper's (section 3.1): SGD with momentum 0.9 and weight decay 0.0001, learning rate 0.02 for a
batch of 16 pictures, divided by 10 after 120k of 160k steps.  Everything random is drawn from (seed, step), so
nothing depends on the number of loader workers.
"""

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from minimaskrcnn.data.coco import CocoDataset
from minimaskrcnn.data.loader import training_batches
from minimaskrcnn.data.transforms import AugmentConfig
from minimaskrcnn.engine.checkpoint import load_checkpoint, save_checkpoint
from minimaskrcnn.engine.evaluate import Metrics
from minimaskrcnn.engine.muon import Muon
from minimaskrcnn.mask_rcnn import MaskRCNN
from minimaskrcnn.weights import CategoryName


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
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


def training_step(
    model: MaskRCNN,
    optimizer: torch.optim.Optimizer,
    images: list[Tensor],
    targets: list[Any],
    step: int,
    config: TrainConfig,
) -> dict[str, Tensor]:
    """One update; returns the losses, detached, and their sum as `loss`.  ValueError where they are not finite."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(config.seed * 1_000_003 + step)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, config)
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        losses = model([image.to(device) for image in images], _to(targets, device), generator=generator)
    loss = torch.stack(list(losses.values())).sum()
    if not torch.isfinite(loss):
        parts = {name: value.item() for name, value in losses.items()}
        ids = [target.get("image_id") for target in targets]
        raise ValueError(f"step {step}: the loss is not finite: {parts}, images {ids}")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if config.clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
    optimizer.step()
    return {"loss": loss.detach(), **{name: value.detach() for name, value in losses.items()}}


def _to(targets: list[Any], device: torch.device) -> list[Any]:
    return [
        {name: value.to(device) if isinstance(value, Tensor) else value for name, value in target.items()}
        for target in targets
    ]


def _run_settings(config: TrainConfig) -> dict[str, object]:
    """What a resumed run must share with its beginning: all but how often it reports."""
    quiet = {"log_every", "eval_every", "checkpoint_every"}
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in quiet}


class Log:
    """`metrics.jsonl`: one JSON object a line, {"step": ..., losses} or {"step": ..., "eval": {...}}."""

    def __init__(self, path: Path, first_step: int) -> None:
        """Open for appending; lines after `first_step` belong to a run that was cut off, and are dropped."""
        self.path = path
        # What follows the last line's end was cut off while it was written.
        lines = path.read_text().splitlines(keepends=True) if path.exists() and first_step else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= first_step]
        path.write_text("".join(kept))

    def write(self, **values: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(values) + "\n")


def train_model(
    model: MaskRCNN,
    dataset: CocoDataset,
    run: Path,
    config: TrainConfig,
    *,
    preset: str,
    categories: list[CategoryName],
    workers: int = 0,
    resume: bool = False,
    evaluation: Callable[[MaskRCNN], Metrics] | None = None,
) -> Metrics:
    """Train `model` in place; writes `metrics.jsonl`, `last.safetensors` and `best.safetensors` into `run`.

    `evaluation` is called every `eval_every` steps and at the end; the best checkpoint is the one with the
    highest mask AP (keypoint AP without masks, box AP without both).  With `resume` it goes on from
    `last.safetensors`, if there is one.  Returns the last evaluation's metrics.
    """
    run.mkdir(parents=True, exist_ok=True)
    model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, config)
    last, settings = run / "last.safetensors", _run_settings(config)
    first = load_checkpoint(last, model, optimizer, settings) if resume and last.exists() else 0
    log = Log(run / "metrics.jsonl", first)

    def save(path: Path, done: int) -> None:
        save_checkpoint(
            path, model, optimizer, step=done, settings=settings, preset=preset, categories=categories
        )

    metrics = evaluation(model) if evaluation is not None and first >= config.steps else {}
    best = _best_so_far(log.path)
    batches = training_batches(
        dataset,
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=first,
        workers=workers,
        augment=config.augment,
    )
    bar = tqdm(range(first, config.steps), initial=first, total=config.steps, desc="train", disable=None)
    for step, (images, targets) in zip(bar, batches):
        model.train()
        losses = training_step(model, optimizer, images, targets, step, config)
        done = step + 1
        if done % config.log_every == 0 or done == config.steps:
            _report(log, bar, done, learning_rate(step, config), losses)
        if _due(done, config.checkpoint_every, config.steps):
            save(run / "last.safetensors", done)
        if evaluation is not None and _due(done, config.eval_every, config.steps):
            metrics = _evaluated(model, evaluation, log, done)
            if _score(metrics) > best:
                best = _score(metrics)
                save(run / "best.safetensors", done)
    return metrics


def _due(done: int, every: int, steps: int) -> bool:
    return done == steps or (every > 0 and done % every == 0)


def _report(log: Log, bar: tqdm, done: int, rate: float, losses: dict[str, Tensor]) -> None:
    values = {name: round(value.item(), 6) for name, value in losses.items()}
    log.write(step=done, lr=rate, **values)
    bar.set_postfix(loss=f"{values['loss']:.3f}")


def _evaluated(model: MaskRCNN, evaluation: Callable[[MaskRCNN], Metrics], log: Log, done: int) -> Metrics:
    metrics = evaluation(model)
    log.write(step=done, eval=metrics)
    tqdm.write(f"step {done}: {_headline(metrics)}")
    return metrics


def _score(metrics: Metrics) -> float:
    values = metrics.get("segm") or metrics.get("keypoints") or metrics.get("bbox") or {}
    return values.get("AP", -1.0)


def _headline(metrics: Metrics) -> str:
    return ", ".join(f"{kind} AP {values['AP']:.3f}" for kind, values in metrics.items())


def _best_so_far(log: Path) -> float:
    lines = (json.loads(line) for line in log.read_text().splitlines())
    return max((_score(line["eval"]) for line in lines if "eval" in line), default=-2.0)
