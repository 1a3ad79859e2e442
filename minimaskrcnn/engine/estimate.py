"""How long a training will take here, from a few of its steps on a copy.

Every random choice of a step is a function of (seed, step, image id), so measuring draws nothing from any generator
and the training that follows has the bits that it would have had.
"""

import copy
import time
from collections.abc import Callable

import torch

from minimaskrcnn.data.coco import CocoDataset
from minimaskrcnn.data.loader import training_batches
from minimaskrcnn.engine.settings import TrainConfig, make_optimizer
from minimaskrcnn.engine.step import training_step
from minimaskrcnn.mask_rcnn import MaskRCNN

MEASURED = 3


def seconds_per_step(
    model: MaskRCNN,
    dataset: CocoDataset,
    config: TrainConfig,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Mean time of `MEASURED` steps with the reading of their pictures, after one that warms up, on one process.

    `model` stays as it is: a copy of it is trained, and forgotten.  `config` may have fewer steps than that.
    """
    twin = copy.deepcopy(model).to(memory_format=torch.channels_last)
    twin.train()
    optimizer = make_optimizer(twin, config)
    batches = training_batches(
        dataset, batch_size=config.batch_size, seed=config.seed, augment=config.augment
    )
    # The first step is slow: memory is asked for, and oneDNN chooses its kernels.
    times = []
    for step, (images, targets) in zip(range(1 + MEASURED), batches):
        training_step(twin, optimizer, images, targets, step, config)
        times.append(clock())
    return (times[-1] - times[0]) / MEASURED
