"""What each process of `test_distributed.py` runs, under torchrun or alone.

    ranks.py MODE FOLDER: a function of this file on a folder with scenes/
"""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from models import random_image, random_target, tiny_config, tiny_model, with_keypoints
from safetensors.torch import save_file
from torch import Tensor

from minimaskrcnn.data.coco import open_coco
from minimaskrcnn.data.loader import generator_for, training_batches
from minimaskrcnn.distributed import averaging, need_shared, processes, rank, world_size
from minimaskrcnn.engine import step as one_step
from minimaskrcnn.engine.evaluate import evaluate_dataset
from minimaskrcnn.engine.step import training_step
from minimaskrcnn.engine.train import TrainConfig, train_model
from minimaskrcnn.files import write_json
from minimaskrcnn.mask_rcnn import MaskRCNN

# Pictures of one size, so that padding is the same in every share.  Of three ranks the second has no object at all.
COUNTS = (3, 0, 2, 5, 0, 4)
TRAINING = TrainConfig(
    steps=3,
    batch_size=6,
    lr=0.01,
    warmup_steps=1,
    log_every=1,
    eval_every=0,
    checkpoint_every=3,
    clip_norm=5.0,
)


def gradients(folder: Path) -> None:
    """The gradients and losses of the joint batch, by the first rank."""
    torch.manual_seed(0)
    model = MaskRCNN(with_keypoints(tiny_config())).double()
    with torch.no_grad():
        model.rpn.objectness.weight.mul_(50)
    mine = range(len(COUNTS))[rank() :: world_size()]
    images = [random_image(48, 64, seed, torch.float64) for seed in mine]
    targets = [random_target(48, 64, COUNTS[seed], seed, dtype=torch.float64) for seed in mine]
    generators = [generator_for(7, 0, seed) for seed in mine]
    together = averaging(model)
    losses = together(images, targets, generator=generators)
    sum(losses.values()).backward()
    if rank() == 0:
        found = {name: p.grad.contiguous() for name, p in model.named_parameters()}
        save_file(found, folder / f"gradients-{world_size()}.safetensors")


def accumulated(folder: Path) -> None:
    """The gradients that a step of three parts leaves, each part two pictures."""
    mine = range(len(COUNTS))[rank() :: world_size()]
    images = [random_image(48, 64, seed, torch.float64) for seed in mine]
    targets = [
        {**random_target(48, 64, COUNTS[seed], seed, dtype=torch.float64), "image_id": seed} for seed in mine
    ]
    save_step(folder / f"accumulated-{world_size()}.safetensors", images, targets, parts=3)


def dealt(folder: Path) -> None:
    """The same of a batch of four as the loader deals it out, in two parts."""
    scenes = open_coco(folder / "scenes", "train")
    batches = training_batches(scenes, batch_size=4, seed=0, rank=rank(), world_size=world_size())
    images, targets = next(batches)
    targets = [{**target, "boxes": target["boxes"].double()} for target in targets]
    images = [image.double() for image in images]
    save_step(folder / f"dealt-{world_size()}.safetensors", images, targets, parts=2)


def save_step(path: Path, images: list[Tensor], targets: list[Any], parts: int) -> None:
    model = tiny_model().double()
    config = replace(TRAINING, accumulate=parts, clip_norm=None)
    training_step(averaging(model), torch.optim.SGD(model.parameters(), 0.1), images, targets, 0, config)
    if rank() == 0:
        save_file({name: p.grad.contiguous() for name, p in model.named_parameters()}, path)


def train(folder: Path, norm: str = "group") -> None:
    """A short run with evaluation."""
    dataset, held_out = open_coco(folder / "scenes", "train"), open_coco(folder / "scenes", "val")
    model = tiny_model(dataset.num_classes, norm=norm)
    run = folder / (f"run-{world_size()}" if norm == "group" else "run-of-batch-norm")

    def evaluation(trained: MaskRCNN) -> dict:
        metrics, results = evaluate_dataset(trained, held_out, batch_size=2)
        if rank() == 0:
            write_json(run / "results.json", results, indent=None)
        return metrics

    metrics = train_model(model, dataset, run, TRAINING, preset="tiny", evaluation=evaluation)
    write_json(folder / f"metrics-{world_size()}-{rank()}.json", metrics)


def batch_norm(folder: Path) -> None:
    """The same, with statistics that are each rank's own."""
    train(folder, norm="batch")


def cut(folder: Path, resume: bool = False) -> None:
    """A run that an error in the evaluation after step 2 ends, or its resumption by another beginning."""

    def evaluation(trained: MaskRCNN) -> dict:
        raise InterruptedError

    dataset = open_coco(folder / "scenes", "train")
    model = tiny_model(dataset.num_classes, seed=9 if resume else 0)
    config = replace(TRAINING, checkpoint_every=2, eval_every=0 if resume else 2)
    train_model(
        model, dataset, folder / f"cut-{world_size()}", config, preset="tiny", resume=resume,
        evaluation=None if resume else evaluation,
    )  # fmt: skip


def resume(folder: Path) -> None:
    cut(folder, resume=True)


def nodes(folder: Path) -> None:
    """Every rank has a folder of its own, as on nodes without a common file system: what it is told."""
    run = folder / f"node-{rank()}"
    dataset = open_coco(folder / "scenes", "train")
    model = tiny_model(dataset.num_classes)
    told = []
    for attempt in (
        lambda: need_shared(run / "last.safetensors"),
        lambda: train_model(model, dataset, run, TRAINING, preset="tiny", resume=True),
    ):
        try:
            attempt()
        except ValueError as error:
            told.append(str(error))
    write_json(folder / f"told-{rank()}.json", told, indent=None)


def nan_gradient(folder: Path) -> None:
    """A gradient of the last rank is not finite, and so is the mean; that rank takes its time to write."""
    dataset = open_coco(folder / "scenes", "train")
    model = tiny_model(dataset.num_classes)
    if rank() == world_size() - 1:
        model.mask_head.predictor.weight.register_hook(lambda gradient: gradient * torch.nan)
        save = one_step.save_batch
        one_step.save_batch = lambda *batch: time.sleep(5) or save(*batch)
    train_model(model, dataset, folder / "nan_gradient", TRAINING, preset="tiny")


def nan_loss(folder: Path) -> None:
    """The loss of the last rank alone is not finite."""
    dataset = open_coco(folder / "scenes", "train")
    model = tiny_model(dataset.num_classes)
    if rank() == world_size() - 1:
        model.register_forward_hook(
            lambda module, inputs, losses: losses | {"loss_mask": losses["loss_mask"] * torch.nan}
        )
    train_model(model, dataset, folder / "nan_loss", TRAINING, preset="tiny")


def die(folder: Path) -> None:
    """The last rank ends in the middle of a run; the others must not wait for it."""
    if rank() == world_size() - 1:
        os._exit(3)
    train(folder)


def forever(folder: Path) -> None:
    """A run that somebody has to end."""
    (folder / f"started-{rank()}-{os.getpid()}").touch()
    dataset = open_coco(folder / "scenes", "train")
    config = replace(TRAINING, steps=100_000, checkpoint_every=100_000)
    train_model(
        tiny_model(dataset.num_classes), dataset, folder / "run", config, preset="tiny"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    with processes():
        modes = (
            gradients, accumulated, dealt, train, batch_norm, cut, resume, nodes, nan_gradient, nan_loss, die,
            forever,
        )  # fmt: skip
        {mode.__name__: mode for mode in modes}[sys.argv[1]](Path(sys.argv[2]))
