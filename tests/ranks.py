"""What each process of `test_distributed.py` runs, under torchrun or alone.

    ranks.py gradients|accumulated|train|cut|resume|die|forever FOLDER
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from models import random_image, random_target, tiny_config, tiny_model, with_keypoints
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel

from minimaskrcnn.data.coco import open_coco
from minimaskrcnn.data.loader import generator_for
from minimaskrcnn.distributed import processes, rank, world_size
from minimaskrcnn.engine.evaluate import evaluate_dataset, write_json
from minimaskrcnn.engine.step import training_step
from minimaskrcnn.engine.train import TrainConfig, train_model
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
    together = DistributedDataParallel(model) if world_size() > 1 else model
    losses = together(images, targets, generator=generators)
    sum(losses.values()).backward()
    if rank() == 0:
        found = {name: p.grad.contiguous() for name, p in model.named_parameters()}
        save_file(found, folder / f"gradients-{world_size()}.safetensors")


def accumulated(folder: Path) -> None:
    """The gradients that a step of three parts leaves, each part a picture of each of two ranks."""
    # Every third picture is of one part: {0, 1}, {2, 3}, {4, 5}, whoever has it.
    mine = [0, 2, 4, 1, 3, 5]
    mine = mine if world_size() == 1 else mine[3 * rank() : 3 * rank() + 3]
    images = [random_image(48, 64, seed, torch.float64) for seed in mine]
    targets = [
        {**random_target(48, 64, COUNTS[seed], seed, dtype=torch.float64), "image_id": seed} for seed in mine
    ]
    model = tiny_model().double()
    together = DistributedDataParallel(model) if world_size() > 1 else model
    config = replace(TRAINING, accumulate=3, clip_norm=None)
    training_step(together, torch.optim.SGD(model.parameters(), 0.1), images, targets, 0, config)
    if rank() == 0:
        found = {name: p.grad.contiguous() for name, p in model.named_parameters()}
        save_file(found, folder / f"accumulated-{world_size()}.safetensors")


def train(folder: Path) -> None:
    """A short run with evaluation."""
    dataset, held_out = open_coco(folder / "scenes", "train"), open_coco(folder / "scenes", "val")
    model, run = tiny_model(dataset.num_classes), folder / f"run-{world_size()}"

    def evaluation(trained: MaskRCNN) -> dict:
        metrics, results = evaluate_dataset(trained, held_out, batch_size=2)
        if rank() == 0:
            write_json(run / "results.json", results)
        return metrics

    metrics = train_model(model, dataset, run, TRAINING, preset="tiny", categories=[], evaluation=evaluation)
    write_json(folder / f"metrics-{world_size()}-{rank()}.json", metrics)


def cut(folder: Path, resume: bool = False) -> None:
    """A run that an error in the evaluation after step 2 ends, or its resumption by another beginning."""

    def evaluation(trained: MaskRCNN) -> dict:
        raise InterruptedError

    dataset = open_coco(folder / "scenes", "train")
    model = tiny_model(dataset.num_classes, seed=9 if resume else 0)
    config = replace(TRAINING, checkpoint_every=2, eval_every=0 if resume else 2)
    train_model(
        model, dataset, folder / f"cut-{world_size()}", config, preset="tiny", categories=[], resume=resume,
        evaluation=None if resume else evaluation,
    )  # fmt: skip


def resume(folder: Path) -> None:
    cut(folder, resume=True)


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
        tiny_model(dataset.num_classes), dataset, folder / "run", config, preset="tiny", categories=[]
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    with processes():
        modes = (gradients, accumulated, train, cut, resume, die, forever)
        {mode.__name__: mode for mode in modes}[sys.argv[1]](Path(sys.argv[2]))
