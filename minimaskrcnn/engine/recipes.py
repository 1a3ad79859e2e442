"""Recipes: what a preset is, how the presets are trained, and what that becomes with other batches and processes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

import torch

from minimaskrcnn.data.toybox import ToyboxConfig
from minimaskrcnn.data.transforms import AugmentConfig
from minimaskrcnn.engine.settings import TrainConfig
from minimaskrcnn.mask_rcnn import MaskRCNN, MaskRCNNConfig

SCENES = ToyboxConfig()


class Preset(NamedTuple):
    """A network's configuration for a number of classes (with background), and its training."""

    config: Callable[..., MaskRCNNConfig]
    """Takes `num_classes`, or the preset's own number without it."""
    training: TrainConfig
    processes: int = 1
    """Those that `training`'s batch is for: 8 GPUs in the paper."""
    toybox: ToyboxConfig = SCENES
    """The scenes it trains on where the data are the toybox; the held-out ones are of the frozen distribution."""

    def __call__(self, num_classes: int | None = None) -> MaskRCNN:
        """The model with random weights; `num_classes` counts the background."""
        return MaskRCNN(self.config() if num_classes is None else self.config(num_classes))


def preset(
    training: TrainConfig, processes: int = 1, *, toybox: ToyboxConfig = SCENES
) -> Callable[[Callable[..., MaskRCNNConfig]], Preset]:
    """Makes a `Preset` of the function below it, which returns the configuration."""
    return lambda config: Preset(config, training, processes, toybox)


PAPER = TrainConfig()
PAPER_GPUS = 8
TOY = TrainConfig(
    steps=1300,
    batch_size=8,
    optimizer="muon",
    lr=5e-3,
    weight_decay=0.05,
    schedule="cosine",
    warmup_steps=50,
    clip_norm=5.0,
    # 192 at test time: smaller pictures train faster, and AP is highest a size above training's.
    augment=AugmentConfig(min_sizes=(176,)),
    eval_every=0,
)
# The toy's rate, and the steps of detectron2's 1x schedule at half its batch; not yet run to its end.
SMALL = replace(TOY, steps=90_000, warmup_steps=500, augment=AugmentConfig(), eval_every=5000)

# 1 picture a GPU and the same iterations (section 3.1).
RESNEXT = replace(PAPER, batch_size=8, lr=0.01)
KEYPOINT_SIZES = (640, 672, 704, 736, 768, 800)
# 90k iterations, the rate divided at 60k and 80k, shorter sides of 640 to 800 (section 5).
KEYPOINTS = replace(
    PAPER,
    steps=90_000,
    milestones=(2 / 3, 8 / 9),
    augment=AugmentConfig(min_sizes=KEYPOINT_SIZES),
)
# The size of the pictures at test time, for joints of a few pixels.
TOY_KEYPOINTS = replace(TOY, steps=2500, augment=AugmentConfig())
# Half of the toybox's scenes have nobody, and most others one person.
PEOPLE = ToyboxConfig(objects=(3, 8), person_share=0.75, empty_share=0.0, band_shares=(0.06, 0.54, 0.40))


def cpu_precision() -> Literal["float32", "bfloat16"]:
    """bfloat16 where the processor multiplies it natively (AVX512-BF16): a quarter to a third faster there."""
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bfloat16" if native else "float32"


def from_scratch(config: MaskRCNNConfig) -> MaskRCNNConfig:
    """`config` for random weights: norms with statistics of their own, and nothing frozen."""
    norm = "batch" if config.resnet.norm == "frozen_batch" else config.resnet.norm
    return replace(config, resnet=replace(config.resnet, norm=norm, frozen_stages=0))


def for_processes(preset: Preset, processes: int) -> TrainConfig:
    """A preset's training with as many pictures for each of `processes` as it has for its own."""
    each = preset.training.batch_size // preset.processes
    return with_batch_size(preset.training, each * processes)


def with_batch_size(config: TrainConfig, batch_size: int) -> TrainConfig:
    """The same training at another batch size: the same number of pictures in all, and the rate in proportion.

    Linear for SGD (Goyal et al. 2017), with the square root for AdamW, whose step does not grow with the gradient.
    """
    ratio = batch_size / config.batch_size
    return replace(
        config,
        batch_size=batch_size,
        lr=config.lr * (ratio if config.optimizer == "sgd" else ratio**0.5),
        steps=max(1, round(config.steps / ratio)),
        warmup_steps=round(config.warmup_steps / ratio),
    )
