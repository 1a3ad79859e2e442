"""What the compiler makes of every kernel, without a GPU: `python -m minimaskrcnn_kernels.report` prints a table.

The launches are those of the launchers, on tensors of the real model's sizes (`aot.record`).  The tests judge the
same launches.
"""

from collections.abc import Callable
from unittest.mock import patch

import torch

from minimaskrcnn_kernels import aot, rois
from minimaskrcnn_kernels.nms import nms_keep
from minimaskrcnn_kernels.paste_masks import paste_masks
from minimaskrcnn_kernels.roi_align import roi_align, roi_align_backward
from minimaskrcnn_kernels.roi_pool import roi_pool, roi_pool_backward

STRIDES = [4, 8, 16, 32]


def launches(call: Callable[[], object], target: str, deterministic: bool = False) -> list[aot.Launch]:
    """What `call` launches on a GPU of the target."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic)
    try:
        with patch.object(rois, "LANES", 64 if target.startswith("gfx") else 32):
            return aot.record(call)
    finally:
        torch.use_deterministic_algorithms(before)


def pooling(
    target: str,
    dtype: torch.dtype,
    sampling: int = 2,
    maximum: bool = False,
    *,
    warp: bool = False,
    channels: int = 256,
    bins: int = 7,
    sides: tuple[int, ...] = (200, 100, 50, 25),
    count: int = 1000,
) -> list[aot.Launch]:
    """RoIAlign or RoIWarp of `count` boxes from levels of these sides: forward, scatter, boxes, gather.

    RoIWarp's boxes have no gradient, so it has three.
    """
    features = [torch.empty(min(count, 2), channels, side, side, dtype=dtype) for side in sides]
    boxes = torch.empty(count, 4)
    image = torch.zeros(count, dtype=torch.int64)
    how = [1 / s for s in STRIDES[: len(sides)]], [float(4**i) for i in range(len(sides))]
    flags = sampling, True, warp, maximum
    out = torch.empty(count, channels, bins, bins, dtype=dtype)
    winner = torch.empty(out.shape if maximum else 0, dtype=torch.int32)

    def backward() -> object:
        return roi_align_backward(out, winner, features, boxes, image, *how, *flags, True, not warp)

    forward = launches(lambda: roi_align(features, boxes, image, *how, bins, bins, *flags), target)
    return forward + launches(backward, target) + launches(backward, target, deterministic=True)[:1]


def whole_cells(
    target: str, dtype: torch.dtype, *, channels: int = 256, bins: int = 7, side: int = 50, count: int = 1000
) -> list[aot.Launch]:
    """RoIPool of `count` boxes on a map of this side: forward, scatter, gather."""
    feature = torch.empty(min(count, 2), channels, side, side, dtype=dtype)
    boxes = torch.empty(count, 4)
    image = torch.zeros(count, dtype=torch.int64)
    out = torch.empty(count, channels, bins, bins, dtype=dtype)
    winner = torch.empty(out.shape, dtype=torch.int32)

    def backward() -> object:
        return roi_pool_backward(out, winner, feature, boxes, image, 0.1)

    forward = launches(lambda: roi_pool(feature, boxes, image, 0.1, bins, bins), target)
    return forward + launches(backward, target) + launches(backward, target, deterministic=True)


def suppression(target: str, count: int = 1000) -> list[aot.Launch]:
    """NMS of `count` boxes: hits, walk."""
    boxes = torch.empty(1, count, 4)
    groups = torch.zeros(1, count, dtype=torch.int64)
    return launches(lambda: nms_keep(boxes, groups, groups == 0, 0.5), target)


def pasting(target: str, dtype: torch.dtype, threshold: float | None = 0.5) -> list[aot.Launch]:
    """Pasting of 28 × 28 masks into a picture of 800 × 1333."""
    masks = torch.empty(3, 28, 28, dtype=dtype)
    boxes = torch.empty(3, 4)
    return launches(lambda: paste_masks(masks, boxes, 800, 1333, threshold), target)


def main() -> None:
    """Print the table."""
    print("| kernel | dtype | target | registers | shared (bytes) | spills | loads | stores | atomics |")
    print("|---|---|---|--:|--:|--:|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        kind = str(dtype).removeprefix("torch.")
        for target in aot.TARGETS:
            for launch in pooling(target, dtype) + whole_cells(target, dtype) + pasting(target, dtype):
                _print_row(launch, kind, target)
    for target in aot.TARGETS:
        # 10,000 boxes: their walk holds the most registers of the sizes that people have.
        for launch in suppression(target, 10_000):
            _print_row(launch, "float32", target)


def _print_row(launch: aot.Launch, kind: str, target: str) -> None:
    found = aot.resources(aot.compile_launch(launch, target))
    name = f"{launch.kernel.__module__.rpartition('.')[2]}.{launch.kernel.__name__}"
    widths = [
        ", ".join(f"{count} × {size}" for size, count in sorted(counts.items(), reverse=True))
        for counts in (found.loads, found.stores, found.atomics)
    ]
    numbers = [str(n) for n in (found.registers, found.shared, found.spills)]
    print("| " + " | ".join([f"`{name}`", kind, target, *numbers, *widths]) + " |")


if __name__ == "__main__":
    main()
