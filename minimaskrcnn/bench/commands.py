"""What each kind of `minimaskrcnn bench` does; like `minimaskrcnn/commands.py`, for parsed options."""

import argparse

import torch

from minimaskrcnn.bench import kernels as kernels_bench
from minimaskrcnn.bench import model as model_bench
from minimaskrcnn.bench import ops as ops_bench
from minimaskrcnn.bench import peer
from minimaskrcnn.commands import demo_scenes, recipe_of
from minimaskrcnn.data.coco import open_coco
from minimaskrcnn.devices import choose_device
from minimaskrcnn.engine.evaluate import format_metrics
from minimaskrcnn.presets import PRESETS


def bench_demo(options: argparse.Namespace) -> None:
    """torchvision's Mask R-CNN trained on the demo's scenes for some minutes, and what it reaches."""
    root = demo_scenes(options.out / "toybox")
    dataset, held_out = open_coco(root, "train"), open_coco(root, "val")
    recipe = PRESETS["maskrcnn_toy"]
    torch.manual_seed(0)
    model = peer.make_peer(recipe.config(dataset.num_classes), recipe.training.augment.min_sizes[-1])
    steps = peer.train_for(model, dataset, options.minutes, options.batch_size)
    print(f"torchvision, resnet18-FPN: {steps} steps of {options.batch_size} in {options.minutes:g} minutes")
    print(format_metrics(peer.evaluate(model, held_out)))


def bench_ops(options: argparse.Namespace) -> None:
    """Ratios of our operations to torchvision's, measured in this run."""
    ops_bench.run(options.repeats)


def bench_model(options: argparse.Namespace) -> None:
    """Time by stage of a preset with random weights, beside torchvision's whole model."""
    config = recipe_of(options.preset).config(91)
    if config.keypoint_head is not None:
        config = recipe_of(options.preset).config(2)
    model_bench.run(
        options.preset,
        config,
        choose_device(options.device),
        size=(options.height, options.width),
        batch=options.batch_size,
        repeats=options.repeats,
    )


def bench_kernels(options: argparse.Namespace) -> None:
    """Our kernels on this machine's GPU, checked and then timed.  Exit code 1 where a result is wrong."""
    refused = kernels_bench.run(options.only, options.out)
    if refused:
        raise SystemExit(
            f"minimaskrcnn bench: {refused} rows disagree with the torch path and were not timed"
        )
