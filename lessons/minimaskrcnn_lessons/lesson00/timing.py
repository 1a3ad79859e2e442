"""Lesson 00's stopwatch: seconds that each stage of the network takes for one picture."""

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from minimaskrcnn.box_head import detect
from minimaskrcnn.data.transforms import preprocess
from minimaskrcnn.mask_rcnn import MaskRCNN
from minimaskrcnn.padded import rows_to_compute
from minimaskrcnn.rpn import Proposals

REPEATS = 5


@torch.no_grad()
def stage_seconds(model: MaskRCNN, image: Tensor, repeats: int = REPEATS) -> dict[str, float]:
    """The median over some runs, in the order of the stages; the first run is a warm-up."""
    runs: list[dict[str, float]] = []
    for _ in range(repeats + 1):
        runs.append({})
        _run(model, image, runs[-1])
    return {name: median(run[name] for run in runs[1:]) for name in runs[0]}


def _run(model: MaskRCNN, image: Tensor, seconds: dict[str, float]) -> None:
    def timed(name: str, call: Callable[..., Any], *given: Any, **how: Any) -> Any:
        start = time.perf_counter()
        result = call(*given, **how)
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
        return result

    config = model.config
    batch = timed("preprocessing", preprocess, [image], config.transform)
    tensor = batch.tensor.contiguous(memory_format=torch.channels_last)
    maps = timed("backbone", model.resnet, tensor)
    features = timed("feature pyramid", model.fpn, maps)
    output = timed("RPN", model.rpn, features, model.strides, batch.padded_size)
    proposals = timed("proposals, NMS", model.propose, output, batch.image_sizes, training=False)
    boxes = proposals.boxes[:, proposals.valid[0]]
    proposals = Proposals(boxes, torch.ones(boxes.shape[:2], dtype=torch.bool))
    index = torch.zeros(boxes.shape[1], dtype=torch.int64)
    pooled = timed("RoIAlign, twice", model.pooler, features, boxes[0], index, config.box_head.pooled_size)
    logits, deltas = timed("box head", model.box_head, pooled)
    detected = timed(
        "detections, NMS", detect, logits[None], deltas[None], proposals, batch.image_sizes, config.box_head
    )
    rows = rows_to_compute(detected.valid)
    given = (rows.of(detected.boxes), rows.image, config.mask_head.pooled_size)
    pooled = timed("RoIAlign, twice", model.pooler, features, *given)
    mask_logits = timed("mask head", model.mask_head, pooled)
    probs = config.mask_head.activation.probs(mask_logits, rows.of(detected.labels))
    timed("pasting", model.to_pictures, replace(detected, mask_probs=rows.to_table(probs)), batch, paste=True)
