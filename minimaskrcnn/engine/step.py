"""One update of the weights: losses, gradients, and a stop where either is not finite.

The samples of an image's losses are drawn from (seed, step, image id), so they depend neither on what else is in the
batch nor on how many processes share it.
"""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from minimaskrcnn.data.loader import generator_for
from minimaskrcnn.distributed import gather_json, rank, wait_for_all, world_size
from minimaskrcnn.engine.settings import TrainConfig, learning_rate
from minimaskrcnn.mask_rcnn import MaskRCNN


class NotFinite(ValueError):
    """A loss or a gradient that is NaN or infinite; its text says which, at what step and of what pictures."""


class GradientNotFinite(NotFinite):
    """A gradient, which is the mean over all ranks: all of them raise it, in the same step."""


def training_step(
    model: MaskRCNN | DistributedDataParallel,
    optimizer: torch.optim.Optimizer,
    images: list[Tensor],
    targets: list[Any],
    step: int,
    config: TrainConfig,
    failed: Path | None = None,
) -> dict[str, Tensor]:
    """One update; returns the losses, detached, and their sum as `loss`.

    Raises NotFinite, before any weight has changed, where a loss or a gradient is not finite; the batch is then
    written into the folder `failed`, if one is given.  Of several processes each writes its share.
    """
    try:
        losses = _gradients(model, optimizer, images, targets, step, config)
    except NotFinite as error:
        if failed is None:
            raise
        path = save_batch(failed, images, targets, step)
        if isinstance(error, GradientNotFinite):
            # The first process that leaves ends the others, also while they write.  After a loss the others are in
            # the middle of their gradients, and would never come here.
            wait_for_all()
        raise type(error)(f"{error}; the batch is in {path}") from error
    optimizer.step()
    return losses


def _gradients(
    model: MaskRCNN | DistributedDataParallel,
    optimizer: torch.optim.Optimizer,
    images: list[Tensor],
    targets: list[Any],
    step: int,
    config: TrainConfig,
) -> dict[str, Tensor]:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, config)
    optimizer.zero_grad(set_to_none=True)
    total: dict[str, Tensor] = {}
    for part in range(config.accumulate):
        # In one piece: of one process or of many that deal a batch out in turn, a part has the same pictures.
        start, end = (len(images) * bound // config.accumulate for bound in (part, part + 1))
        share = slice(start, end)
        last = part == config.accumulate - 1
        # Gradients are averaged over processes once, with the last part.
        waits = isinstance(model, DistributedDataParallel) and not last
        with model.no_sync() if waits else nullcontext():
            losses = _backward(model, images[share], targets[share], step, config)
        total = {name: total.get(name, 0) + value / config.accumulate for name, value in losses.items()}
    plain = model.module if isinstance(model, DistributedDataParallel) else model
    _check_gradients(plain, targets, step, config.clip_norm)
    return total


def _backward(
    model: MaskRCNN | DistributedDataParallel,
    images: list[Tensor],
    targets: list[Any],
    step: int,
    config: TrainConfig,
) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    generators = [
        generator_for(config.seed, step, target.get("image_id", place), device=device)
        for place, target in enumerate(targets)
    ]
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        losses = model([image.to(device) for image in images], _to(targets, device), generator=generators)
    loss = torch.stack(list(losses.values())).sum()
    if not torch.isfinite(loss):
        parts = ", ".join(f"{name} {value.item():g}" for name, value in losses.items())
        raise NotFinite(f"step {step}: the loss is not finite: {parts}; images {_ids(targets)}")
    (loss / config.accumulate).backward()
    return {"loss": loss.detach(), **{name: value.detach() for name, value in losses.items()}}


def _check_gradients(model: nn.Module, targets: list[Any], step: int, clip_norm: float | None) -> None:
    """NotFinite where a gradient is not; clips the whole gradient to `clip_norm`, if that is given."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if not torch.isfinite(norm):
        first = next(
            (n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()),
            "all of them, each finite, together",
        )
        ids = [image_id for share in gather_json(_ids(targets)) for image_id in share]
        raise GradientNotFinite(f"step {step}: the gradient of {first} is not finite; images {ids}")
    if clip_norm is not None:
        nn.utils.clip_grads_with_norm_(model.parameters(), clip_norm, norm)


def _ids(targets: list[Any]) -> list[Any]:
    return [target.get("image_id") for target in targets]


def _to(targets: list[Any], device: torch.device) -> list[Any]:
    return [
        {name: value.to(device) if isinstance(value, Tensor) else value for name, value in target.items()}
        for target in targets
    ]


def save_batch(run: Path, images: list[Tensor], targets: list[Any], step: int) -> Path:
    """Write this process's share of a batch, for inspection; returns the safetensors file, with ids as metadata."""
    tensors = {f"{i}/image": image.contiguous() for i, image in enumerate(images)}
    for i, target in enumerate(targets):
        found = {f"{i}/{name}": value for name, value in target.items() if isinstance(value, Tensor)}
        tensors |= {name: value.cpu().contiguous() for name, value in found.items()}
    path = run / (f"failed-step-{step}" + (f"-rank-{rank()}" if world_size() > 1 else "") + ".safetensors")
    save_file(tensors, path, {"step": str(step), "image_ids": json.dumps(_ids(targets))})
    return path
