"""The demo: a Mask R-CNN from scratch on generated scenes, its AP on scenes it has never seen, pictures of those.

It says beforehand how long it will take.  Interrupted and started again it goes on where it was: scenes are written
once, training goes on from its last checkpoint, and what is trained is evaluated and drawn again.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from minimaskrcnn import commands
from minimaskrcnn.commands import demo_scenes, detect_in_picture, finish_training, names_of
from minimaskrcnn.data.coco import CocoDataset, open_coco
from minimaskrcnn.data.loader import CachedDataset
from minimaskrcnn.data.transforms import AugmentConfig
from minimaskrcnn.devices import describe_device
from minimaskrcnn.draw import draw_detections, draw_grid
from minimaskrcnn.engine.checkpoint import steps_done
from minimaskrcnn.engine.estimate import seconds_per_step
from minimaskrcnn.engine.evaluate import evaluate_dataset
from minimaskrcnn.engine.recipes import TOY, cpu_precision, preset
from minimaskrcnn.engine.settings import TrainConfig, categories_of
from minimaskrcnn.engine.train import train_model
from minimaskrcnn.mask_rcnn import MaskRCNN, MaskRCNNConfig
from minimaskrcnn.presets import PRESETS, maskrcnn_toy

PRESET = "maskrcnn_toy"
CHECKPOINT_EVERY = 40
"""Steps: what an interruption loses is under half a minute on two cores without AVX-512."""
PICTURES = 12
SLOWER_LATER = 1.2
"""Time of a step on average by that of one at the beginning, when few proposals are objects and have masks."""
# What the README has minutes of.
PRECISIONS = {
    "bfloat16": "This processor multiplies bfloat16 natively (AVX512-BF16): the demo trains in it, which is faster.",
    "float32": "This processor does not multiply bfloat16 natively: the demo trains in float32, which is slower.",
}


@preset(replace(TOY, steps=360, warmup_steps=30, augment=AugmentConfig(min_sizes=(128,))))
def quick_toy(num_classes: int = 9) -> MaskRCNNConfig:
    """`make demo QUICK=1`: less than a quarter of the work; pictures at test time are a size above training's."""
    toy = maskrcnn_toy.config(num_classes)
    return replace(toy, transform=replace(toy.transform, min_sizes=(160,)))


def run_demo(out: Path, *, quick: bool = False, steps: int | None = None, seed: int = 0) -> None:
    """Write scenes, train, evaluate and draw, all under `out`; `quick` is the recipe of a quarter of the work.

    `steps` replaces the recipe's.  ValueError, before anything is written, where `out` holds a training of other
    settings.
    """
    recipe = quick_toy if quick else PRESETS[PRESET]
    config = replace(
        recipe.training,
        steps=steps or recipe.training.steps,
        seed=seed,
        precision=cpu_precision(),
        checkpoint_every=CHECKPOINT_EVERY,
    )
    last = out / "last.safetensors"
    print(PRECISIONS[config.precision], flush=True)
    try:
        done = steps_done(last, config)
    except ValueError as error:
        raise ValueError(f"{error}; name another --out, or delete that file to begin anew") from error
    try:
        dataset, held_out = _scenes(out, quick)
        torch.manual_seed(seed)
        model = MaskRCNN(recipe.config(dataset.num_classes))
        _train(model, dataset, out, config, done, len(held_out))
        _show(model, held_out, out)
    except KeyboardInterrupt:
        if done := steps_done(last, config):
            remedy = f"The same command goes on from {last}, after {done} of {config.steps} steps."
        else:
            remedy = "The same command begins again: there is no checkpoint yet."
        print(f"\n{remedy}", file=sys.stderr)
        raise


def _scenes(out: Path, quick: bool) -> tuple[CachedDataset, CocoDataset]:
    """Those to train on and the held-out ones; the quick demo's lie in a folder of their own."""
    root = out / ("toybox_quick" if quick else "toybox")
    count = commands.QUICK_TRAIN if quick else commands.DEMO_TRAIN
    there = (root / "toybox.json").is_file()
    print(
        f"{'Reading' if there else 'Writing'} {count} + {commands.DEMO_VAL} scenes in {root} ...", flush=True
    )
    demo_scenes(root, quick=quick)
    return CachedDataset(open_coco(root, "train")), open_coco(root, "val")


def _train(
    model: MaskRCNN, dataset: CocoDataset, out: Path, config: TrainConfig, done: int, held_out: int
) -> None:
    """Train for the steps after `done`, with words on how long that and evaluating `held_out` scenes will take."""
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"Training {PRESET} ({parameters / 1e6:.1f} M parameters) for {config.steps} steps of {config.batch_size} "
        f"scenes in {config.precision} on {describe_device(torch.device('cpu'))} ...",
        flush=True,
    )
    left = config.steps - done
    if left:
        print(_estimate(model, dataset, config, left, held_out), flush=True)
    else:
        last = out / "last.safetensors"
        print(f"It is trained already: it is evaluated and drawn again.  To train anew, delete {last}.", flush=True)
    began = time.perf_counter()
    train_model(model, dataset, out, config, preset=PRESET, resume=done > 0)
    if left:
        print(f"Trained in {(time.perf_counter() - began) / 60:.1f} minutes.", flush=True)


def _estimate(model: MaskRCNN, dataset: CocoDataset, config: TrainConfig, steps: int, held_out: int) -> str:
    """Minutes from here to the end, in words: `steps` are left, and then `held_out` scenes to evaluate."""
    seconds = SLOWER_LATER * seconds_per_step(model, dataset, config)
    # To evaluate a scene takes about as long as to train on one.
    minutes = seconds * (steps + held_out / config.batch_size) / 60
    return f"About {minutes:.1f} minutes from here: {steps} steps of {seconds:.2f} s, then the evaluation."


def _show(model: MaskRCNN, held_out: CocoDataset, out: Path) -> None:
    """AP, and pictures of the first scenes with what is found in them: each alone and all in one."""
    print(f"Evaluating on {len(held_out)} held-out scenes ...", flush=True)
    finish_training(out, evaluate_dataset(model, held_out)[0])
    folder = out / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    names = names_of(categories_of(held_out))
    drawn = []
    for index in range(min(PICTURES, len(held_out))):
        image = held_out[index].image
        drawn.append(draw_detections(image, detect_in_picture(model, image), names))
        drawn[-1].save(folder / f"{Path(held_out.images[index].file_name).stem}.png")
    draw_grid(drawn, columns=4).save(out / "predictions.png")
    print(f"Pictures of what it found: {folder}, all in one: {out / 'predictions.png'}")
