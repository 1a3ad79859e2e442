"""What `gpu_kernels.py` measures: each operation at the sizes of Mask R-CNN on pictures of 800 × 1333 (`Sizes`).

A case draws its inputs and knows the operation on them: ours, with any backend, and torchvision's.  A backward case
names the inputs that it differentiates by.  The goals are the project's promises.

torchvision is given what it likes: contiguous NCHW maps, and float16 where ours has bfloat16, which its RoI
operations lack; they want the boxes in the maps' dtype, so their float16 results are good for timing only.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from minimaskrcnn import ops
from minimaskrcnn.ops.backend import Backend

Inputs = tuple[Tensor, ...]
Outputs = Tensor | tuple[Tensor, ...]
STRIDES = [4, 8, 16, 32]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of all cases; tests take tiny ones."""

    image: tuple[int, int] = (800, 1344)  # what the maps cover: padded to the stride of P5
    picture: tuple[int, int] = (800, 1333)
    channels: int = 256
    regions: tuple[tuple[int, int], ...] = ((1000, 7), (100, 14))  # boxes an image, bins a side
    batches: tuple[int, ...] = (1, 2, 8)
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    candidates: tuple[int, ...] = (1000, 10_000, 100_000)
    classes: int = 80
    padded: tuple[int, int, int] = (8, 4000, 1000)  # images, proposals of each, kept
    pasted: tuple[int, int] = (100, 28)


class Goal(NamedTuple):
    """At least so many times as fast as torchvision, this share of the floor, at most so many milliseconds."""

    speedup: float | None = None
    share: float | None = None
    milliseconds: float | None = None


NO_GOAL = Goal()


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row: an operation at one size, forward, or, with `wrt`, backward."""

    name: str
    inputs: Callable[[torch.Generator], Inputs]
    ours: Callable[[Backend, Inputs], Outputs]
    peer: Callable[[Inputs], Outputs] | None = None
    peer_inputs: Callable[[Inputs], Inputs] = lambda inputs: inputs
    wrt: tuple[int, ...] = ()
    deterministic: bool = False
    # Bytes that the forward must read; without it the row has no floor.
    read: Callable[[Inputs], int] | None = None
    # Which input is the boxes, where they have a gradient.
    boxes: int | None = None
    goal: Goal = NO_GOAL


def cases(sizes: Sizes) -> Iterator[Case]:
    """All rows of the table, in order."""
    for count, bins in sizes.regions:
        for batch in sizes.batches:
            for dtype in sizes.dtypes:
                goal = Goal(3 if dtype == torch.float32 else 5, 0.5 if count >= 1000 else None)
                case = _multiscale(sizes, batch, count, bins, dtype)
                yield from _directions(case, len(STRIDES), goal, promised=True)
    for dtype in sizes.dtypes:
        goal = Goal(3 if dtype == torch.float32 else 5, 0.5)
        yield from _directions(_single_map(sizes, dtype), 1, goal, promised=True)
    yield from _directions(_roi_pool(sizes), 1, NO_GOAL)
    yield from _directions(_roi_warp(sizes), 1, NO_GOAL)
    yield from _suppression(sizes)
    yield from _pasting(sizes)


def size_of(tensors: Outputs) -> int:
    """Bytes."""
    return sum(t.numel() * t.element_size() for t in (tensors if isinstance(tensors, tuple) else (tensors,)))


def _directions(case: Case, count: int, forward: Goal, promised: bool = False) -> Iterator[Case]:
    """The case forward; backward for the maps, with atomics and deterministic; backward for the boxes as well."""
    maps = tuple(range(count))
    atomics, deterministic = (Goal(2), Goal(0.5)) if promised else (NO_GOAL, NO_GOAL)
    yield replace(case, name=f"{case.name}: forward", goal=forward)
    yield replace(case, name=f"{case.name}: backward", wrt=maps, goal=atomics)
    name = f"{case.name}: backward, deterministic"
    yield replace(case, name=name, wrt=maps, deterministic=True, goal=deterministic)
    # torchvision has no gradient for the boxes.
    if case.boxes is not None:
        yield replace(case, name=f"{case.name}: backward, boxes too", wrt=(*maps, case.boxes), peer=None)


def _multiscale(sizes: Sizes, batch: int, count: int, bins: int, dtype: torch.dtype) -> Case:
    def inputs(random: torch.Generator) -> Inputs:
        boxes = random_boxes((batch * count,), sizes.picture, random, 16, 512)
        image = torch.arange(batch, device=random.device).repeat_interleave(count)
        return (*(_feature(sizes, batch, stride, dtype, random) for stride in STRIDES), boxes, image)

    def ours(backend: Backend, inputs: Inputs) -> Tensor:
        *features, boxes, image = inputs
        return ops.multiscale_roi_align(
            features, boxes, image, (bins, bins), STRIDES, sampling_ratio=2, aligned=False, backend=backend
        )

    def peer(inputs: Inputs) -> Tensor:
        from torchvision.ops import MultiScaleRoIAlign

        *features, boxes, _ = inputs
        pool = MultiScaleRoIAlign([str(stride) for stride in STRIDES], bins, 2)
        maps = {str(stride): feature for stride, feature in zip(STRIDES, features)}
        return pool(maps, list(boxes.split(count)), [sizes.image] * batch)

    return Case(
        name=f"multiscale_roi_align {batch} × {count} × {sizes.channels} × {bins}×{bins}, {_short(dtype)}",
        inputs=inputs,
        ours=ours,
        peer=peer,
        peer_inputs=_as_peer_likes,
        read=lambda tensors: _bytes_sampled(ours, tensors, len(STRIDES)),
        boxes=len(STRIDES),
    )


def _single_map(sizes: Sizes, dtype: torch.dtype) -> Case:
    count, bins = sizes.regions[0]
    stride = STRIDES[0]
    size = (bins, bins)

    def ours(backend: Backend, inputs: Inputs) -> Tensor:
        return ops.roi_align(*inputs, size, 1 / stride, 2, False, backend=backend)

    def peer(inputs: Inputs) -> Tensor:
        from torchvision.ops import roi_align

        return roi_align(*inputs, size, 1 / stride, 2, False)

    return Case(
        name=f"roi_align 1 × {count} × {sizes.channels} × {bins}×{bins}, {_short(dtype)}",
        inputs=lambda random: _map_and_rois(sizes, stride, dtype, random),
        ours=ours,
        peer=peer,
        peer_inputs=_as_peer_likes,
        read=lambda tensors: _bytes_sampled(ours, tensors, 1),
        boxes=1,
    )


def _roi_pool(sizes: Sizes) -> Case:
    count, bins = sizes.regions[0]
    stride = 16

    def peer(inputs: Inputs) -> Tensor:
        from torchvision.ops import roi_pool

        return roi_pool(*inputs, (bins, bins), 1 / stride)

    return Case(
        name=f"roi_pool 1 × {count} × {sizes.channels} × {bins}×{bins}, float32",
        inputs=lambda random: _map_and_rois(sizes, stride, torch.float32, random),
        ours=lambda backend, inputs: ops.roi_pool(*inputs, (bins, bins), 1 / stride, backend=backend),
        peer=peer,
        peer_inputs=_as_peer_likes,
    )


def _roi_warp(sizes: Sizes) -> Case:
    count, bins = sizes.regions[0]
    stride = 16

    def ours(backend: Backend, inputs: Inputs) -> Tensor:
        return ops.roi_warp(*inputs, (bins, bins), 1 / stride, 2, backend=backend)

    return Case(
        name=f"roi_warp 1 × {count} × {sizes.channels} × {bins}×{bins}, float32",
        inputs=lambda random: _map_and_rois(sizes, stride, torch.float32, random),
        ours=ours,
        read=lambda tensors: _bytes_sampled(ours, tensors, 1),
    )


def _suppression(sizes: Sizes) -> Iterator[Case]:
    for count in sizes.candidates:
        goal = Goal(milliseconds={1000: 0.3, 10_000: 1.0}.get(count))
        yield Case(
            name=f"nms {count}",
            inputs=lambda random, n=count: _candidates((n,), sizes, 1, random)[:2],
            ours=lambda backend, inputs: ops.nms(*inputs, 0.5, backend=backend),
            peer=lambda inputs: _peer_ops().nms(*inputs, 0.5),
            goal=goal,
        )
        yield Case(
            name=f"batched_nms {count} in {sizes.classes} groups",
            inputs=lambda random, n=count: _candidates((n,), sizes, sizes.classes, random),
            ours=lambda backend, inputs: ops.batched_nms(*inputs, 0.5, backend=backend),
            peer=lambda inputs: _peer_ops().batched_nms(*inputs, 0.5),
        )
    batch, count, kept = sizes.padded

    def ours(backend: Backend, inputs: Inputs) -> Outputs:
        valid = torch.ones_like(inputs[1], dtype=torch.bool)
        return ops.nms_padded(*inputs, valid, 0.7, kept, backend=backend)

    yield Case(
        name=f"nms_padded {batch} × {count} in 5 groups",
        inputs=lambda random: _candidates((batch, count), sizes, 5, random),
        ours=ours,
        peer=lambda inputs: tuple(_peer_ops().batched_nms(*image, 0.7)[:kept] for image in zip(*inputs)),
    )


def _pasting(sizes: Sizes) -> Iterator[Case]:
    count, side = sizes.pasted

    def inputs(random: torch.Generator) -> Inputs:
        masks = torch.rand(count, side, side, generator=random, device=random.device)
        return masks, random_boxes((count,), sizes.picture, random, 10, 310)

    def peer(inputs: Inputs, threshold: float | None) -> Tensor:
        from torchvision.models.detection.roi_heads import paste_masks_in_image

        pasted = paste_masks_in_image(inputs[0][:, None], inputs[1], sizes.picture)[:, 0]
        return pasted if threshold is None else pasted > threshold

    for kind, threshold in (("bool", 0.5), ("float32", None)):
        yield Case(
            name=f"paste_masks {count} at {sizes.picture[0]} × {sizes.picture[1]}, {kind}",
            inputs=inputs,
            ours=lambda backend, t, at=threshold: ops.paste_masks(*t, sizes.picture, at, backend=backend),
            peer=lambda t, at=threshold: peer(t, at),
            read=size_of,
            goal=Goal(5),
        )


def random_boxes(
    count: tuple[int, ...], size: tuple[int, int], random: torch.Generator, smallest: float, largest: float
) -> Tensor:
    """[*count, 4] within a picture (height, width): uniform logarithms of the sides, uniform places."""
    limit = torch.tensor([size[1], size[0]], device=random.device)
    draw = torch.rand(*count, 4, generator=random, device=random.device)
    sides = torch.minimum(smallest * (largest / smallest) ** draw[..., :2], 0.9 * limit)
    corner = (limit - sides) * draw[..., 2:]
    return torch.cat([corner, corner + sides], -1)


def _feature(sizes: Sizes, batch: int, stride: int, dtype: torch.dtype, random: torch.Generator) -> Tensor:
    height, width = (side // stride for side in sizes.image)
    values = torch.randn(batch, height, width, sizes.channels, generator=random, device=random.device)
    return values.to(dtype).permute(0, 3, 1, 2)  # channels_last


def _map_and_rois(sizes: Sizes, stride: int, dtype: torch.dtype, random: torch.Generator) -> Inputs:
    boxes = random_boxes((sizes.regions[0][0],), sizes.picture, random, 16, 512)
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1)
    return _feature(sizes, 1, stride, dtype, random), rois


def _candidates(shape: tuple[int, ...], sizes: Sizes, groups: int, random: torch.Generator) -> Inputs:
    """Boxes, scores, groups."""
    scores = torch.rand(shape, generator=random, device=random.device)
    group = torch.randint(0, groups, shape, generator=random, device=random.device)
    return random_boxes(shape, sizes.picture, random, 10, 130), scores, group


def _as_peer_likes(inputs: Inputs) -> Inputs:
    dtype = torch.float16 if inputs[0].dtype == torch.bfloat16 else inputs[0].dtype
    return tuple(t.to(dtype).contiguous() if t.is_floating_point() else t for t in inputs)


def _bytes_sampled(ours: Callable[[Backend, Inputs], Outputs], inputs: Inputs, maps: int) -> int:
    """The cells of the maps that any sample of any box touches, all channels of them, once; and the boxes."""
    # One channel of ones: the cells that get a gradient are those that were read.
    planes = [torch.ones_like(t[:, :1], dtype=torch.float32).requires_grad_() for t in inputs[:maps]]
    pooled = ours("torch", (*planes, *inputs[maps:]))
    touched = sum(int(g.count_nonzero()) for g in torch.autograd.grad(pooled.sum(), planes))
    return touched * inputs[0].shape[1] * inputs[0].element_size() + size_of(inputs[maps:])


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _peer_ops() -> ModuleType:
    import torchvision

    return torchvision.ops
