"""Recipes: what becomes of a preset's training with other batches and numbers of processes, and of a configuration
without pre-trained weights.
"""

from dataclasses import replace
from typing import Literal

import torch

from minimaskrcnn.data.transforms import AugmentConfig
from minimaskrcnn.engine.settings import TrainConfig
from minimaskrcnn.mask_rcnn import MaskRCNNConfig
from minimaskrcnn.presets import TOY, Preset, maskrcnn_toy, preset


@preset(replace(TOY, steps=360, warmup_steps=30, augment=AugmentConfig(min_sizes=(128,))))
def quick_toy(num_classes: int = 9) -> MaskRCNNConfig:
    """`make demo QUICK=1`: less than a quarter of the work; pictures at test time are a size above training's."""
    toy = maskrcnn_toy.config(num_classes)
    return replace(toy, transform=replace(toy.transform, min_sizes=(160,)))


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
