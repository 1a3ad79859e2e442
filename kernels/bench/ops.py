"""Our operations beside torchvision's: the same inputs, the same run, calls taken in turn.

The sizes are those of a training step of Mask R-CNN at full resolution: 1000 proposals on a pyramid of 256 channels,
100 detections pasted into a picture of 800 × 1333.  It prints a table of medians; torchvision's column is empty where
torchvision does not import.

    python kernels/bench/ops.py
"""

import argparse
import time
from collections.abc import Callable, Iterator
from statistics import median
from types import ModuleType
from typing import NamedTuple

import common
import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from minimaskrcnn import ops
from minimaskrcnn.markdown import table_lines

Call = Callable[[], object]
HEADING = ["operation", "torchvision", "ours", "ratio", "goal"]
WIDTHS = [56, 11, 7, 5, 4]


class Case(NamedTuple):
    """Two ways to the same result; `goal` is the least speed-up that the project promises, where it promises one."""

    name: str
    ours: Call
    peer: Call
    goal: float | None = None


def run(repeats: int = 7) -> None:
    """Print a table of the median times of `repeats` calls, in milliseconds."""
    peer = common.torchvision()
    device = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    beside = f"torchvision {peer.__version__}" if peer else "no torchvision here: its column is empty"
    print(f"Operations on the CPU, {device}, {beside}; medians of {repeats} calls in ms\n")
    for line in table_lines(_rows(repeats, peer is not None), WIDTHS):
        print(line, flush=True)


def _rows(repeats: int, with_peer: bool) -> Iterator[list[str]]:
    yield HEADING
    for case in _cases():
        theirs, ours = _times(case, repeats, with_peer)
        peer_ms = f"{theirs:.1f}" if theirs else ""
        ratio = f"{theirs / ours:.1f}" if theirs else ""
        yield [case.name, peer_ms, f"{ours:.1f}", ratio, f"{case.goal:g}" if case.goal else ""]


def _times(case: Case, repeats: int, with_peer: bool) -> tuple[float | None, float]:
    """Median milliseconds of the peer's call and of ours, taken in turn so that both meet the same disturbances."""
    peer = []
    ours = []
    for _ in range(repeats + 1):
        if with_peer:
            peer.append(_milliseconds(case.peer))
        ours.append(_milliseconds(case.ours))
    # The first call pays for memory and for compiled inner loops.
    return (median(peer[1:]) if with_peer else None), median(ours[1:])


def _milliseconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def _cases() -> list[Case]:
    random = torch.Generator().manual_seed(0)
    return [*_pooling(random), *_suppression(random), *_pasting(random), _cropping(random)]


def _boxes(
    count: tuple[int, ...],
    image_size: tuple[int, int],
    smallest: float,
    largest: float,
    random: torch.Generator,
) -> Tensor:
    """Boxes with sides of smallest..largest pixels, somewhere inside of the picture."""
    size = torch.tensor([image_size[1], image_size[0]])
    sides = smallest + (largest - smallest) * torch.rand(*count, 2, generator=random)
    corner = (size - sides) * torch.rand(*count, 2, generator=random)
    return torch.cat([corner, corner + sides], -1)


def _pooling(random: torch.Generator) -> list[Case]:
    feature = torch.randn(1, 256, 128, 128, generator=random)
    boxes = _boxes((1000,), (128, 128), 4, 44, random)
    rois = torch.cat([torch.zeros(1000, 1), boxes], 1)
    pyramid = [torch.randn(1, 256, 200 >> i, 336 >> i, generator=random) for i in range(4)]
    sides = 2 ** (4 + 5 * torch.rand(1000, 2, generator=random))
    proposals = torch.cat([boxes[:, :2] * 6, boxes[:, :2] * 6 + sides], 1)
    image = torch.zeros(1000, dtype=torch.int64)
    strides = [4, 8, 16, 32]

    def peer_pyramid() -> Tensor:
        from torchvision.ops import MultiScaleRoIAlign

        pool = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
        return pool({str(i): level for i, level in enumerate(pyramid)}, [proposals], [(800, 1344)])

    # torchvision reads contiguous maps in place and copies channels_last ones; it is given what it likes.
    last = feature.contiguous(memory_format=torch.channels_last)
    name = "roi_align, 1000 boxes × 256 × 7 × 7, sampling 2"
    return [
        Case(
            f"{name}: forward",
            lambda: ops.roi_align(feature, rois, (7, 7), 1.0, 2),
            lambda: _peer_ops().roi_align(feature, rois, (7, 7), 1.0, 2),
            4,
        ),
        Case(
            f"{name}: forward, channels_last",
            lambda: ops.roi_align(last, rois, (7, 7), 1.0, 2),
            lambda: _peer_ops().roi_align(feature, rois, (7, 7), 1.0, 2),
            8,
        ),
        _backward(
            f"{name}: backward", lambda peer, x: peer.roi_align(x, rois, (7, 7), 1.0, 2), feature, 8, random
        ),
        Case(
            "roi_pool, 1000 boxes × 256 × 7 × 7: forward",
            lambda: ops.roi_pool(feature, rois, (7, 7)),
            lambda: _peer_ops().roi_pool(feature, rois, (7, 7)),
            1,
        ),
        _backward("roi_pool: backward", lambda peer, x: peer.roi_pool(x, rois, (7, 7)), feature, 1, random),
        Case(
            "multiscale_roi_align, the same over 4 levels",
            lambda: ops.multiscale_roi_align(
                pyramid, proposals, image, 7, strides, sampling_ratio=2, aligned=False
            ),
            peer_pyramid,
        ),
    ]


def _backward(
    name: str,
    pool: Callable[[ModuleType, Tensor], Tensor],
    feature: Tensor,
    goal: float,
    random: torch.Generator,
) -> Case:
    """Gradient of `pool(ops, feature)` for the map; what comes in is contiguous, as torchvision's kernel likes it."""
    feature = feature.clone().requires_grad_()
    incoming = torch.randn(1000, 256, 7, 7, generator=random)

    def of(implementation: Callable[[], ModuleType]) -> Call:
        pooled: list[Tensor] = []

        def call() -> object:
            if not pooled:
                pooled.append(pool(implementation(), feature))
            return torch.autograd.grad(pooled[0], feature, incoming, retain_graph=True)

        return call

    return Case(name, of(lambda: ops), of(_peer_ops), goal)


def _suppression(random: torch.Generator) -> list[Case]:
    few = _boxes((1000,), (800, 1333), 10, 130, random)
    many = _boxes((16, 4000), (800, 1333), 10, 130, random)
    scores = torch.rand(16, 4000, generator=random)
    levels = torch.randint(0, 5, (16, 4000), generator=random)
    valid = torch.ones_like(levels, dtype=torch.bool)
    steps = 4.0 * torch.arange(4000)
    chain = torch.stack([steps, torch.zeros(4000), steps + 10, torch.full((4000,), 10.0)], 1)
    descending = torch.arange(4000.0).flip(0)

    def each_image() -> object:
        nms = _peer_ops().batched_nms
        return [nms(b, s, g, 0.7)[:1000] for b, s, g in zip(many, scores, levels)]

    return [
        Case(
            "nms, 1000 boxes",
            lambda: ops.nms(few, scores[0, :1000], 0.5),
            lambda: _peer_ops().nms(few, scores[0, :1000], 0.5),
            0.5,
        ),
        Case(
            "nms, a chain of 4000 boxes",
            lambda: ops.nms(chain, descending, 0.3),
            lambda: _peer_ops().nms(chain, descending, 0.3),
        ),
        Case(
            "nms_padded, 16 images × 4000 boxes in 5 levels",
            lambda: ops.nms_padded(many, scores, levels, valid, 0.7, 1000),
            each_image,
        ),
    ]


def _pasting(random: torch.Generator) -> list[Case]:
    masks = torch.rand(100, 28, 28, generator=random)
    boxes = _boxes((100,), (800, 1333), 10, 310, random)
    size = (800, 1333)

    def peer() -> Tensor:
        from torchvision.models.detection.roi_heads import paste_masks_in_image

        return paste_masks_in_image(masks[:, None], boxes, size)

    return [
        Case(
            "paste_masks, 100 at 800 × 1333, bool",
            lambda: ops.paste_masks(masks, boxes, size),
            lambda: peer() > 0.5,
            4,
        ),
        Case("paste_masks, float", lambda: ops.paste_masks(masks, boxes, size, threshold=None), peer, 1.8),
        Case("paste_masks, bool, and counting each one's pixels", lambda: ops.paste_masks(masks, boxes, size)
             .sum((1, 2)), lambda: (peer() > 0.5).sum((2, 3))),
        Case("paste_masks_rle (peer: bitmaps, then pycocotools)", lambda: ops.paste_masks_rle(masks, boxes, size),
             lambda: _encoded(peer() > 0.5)),
    ]  # fmt: skip


def _encoded(masks: Tensor) -> list[dict]:
    return [coco_mask.encode(np.asfortranarray(mask.numpy())) for mask in masks[:, 0].byte()]


def _cropping(random: torch.Generator) -> Case:
    masks = torch.rand(16, 800, 1333, generator=random) > 0.5
    boxes = _boxes((128,), (800, 1333), 16, 316, random)
    index = torch.randint(0, 16, (128,), generator=random)
    rois = torch.cat([index[:, None].float(), boxes], 1)
    return Case(
        "crop_masks, 128 boxes of 16 masks at 800 × 1333",
        lambda: ops.crop_masks(masks, boxes, index, 28),
        lambda: _peer_ops().roi_align(masks[:, None].float(), rois, (28, 28), 1.0, -1),
    )


def _peer_ops() -> ModuleType:
    import torchvision

    return torchvision.ops


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Our operations beside torchvision's, on the CPU.")
    repeats = "runs of which the median counts (default 7)"
    parser.add_argument("--repeats", type=common.positive_int, default=7, help=repeats)
    run(parser.parse_args(arguments).repeats)


if __name__ == "__main__":
    main()
