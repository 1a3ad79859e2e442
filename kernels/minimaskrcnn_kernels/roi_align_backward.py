"""RoIAlign and RoIWarp, the backward pass: gradients for the maps with atomics, and for the boxes.

`scatter_kernel`: a program takes a row of bins, as in the forward pass, and adds its share to the cells of each
sample.  Programs meet on the same cells, so they add with atomics, into float32 whatever the maps' type.  The order
of the additions differs from run to run, and with it the last bits; `roi_align_gather.py` has the cure, which runs
where `torch.use_deterministic_algorithms` asks for it.

`boxes_kernel`: the derivative of each sample's value along y and x, times how the sample moves with the two ends of
its axis.  A program takes a row of bins and writes four numbers for it; torch adds them up, always in the same order.

Grids: (R · PH, C / BLOCK_C) and (R · PH).
Bytes: both read the incoming gradient, 50 MB at 1000 × 256 × 7 × 7 in float32; the first writes zeros to the maps, then
adds to each touched cell once per sample that touches it (in L2); the second reads the maps as the forward pass does.

Letters as in `roi_align.py`, which has the forward pass.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from minimaskrcnn_kernels.roi_align_gather import gather
from minimaskrcnn_kernels.rois import (
    axis,
    block_channels,
    channels_last,
    is_known,
    level_of,
    pick,
    read_box,
    sample,
    sample_count,
    sample_range,
)


@triton.jit
def scatter_kernel(
    # Tensors
    grad_ptr,  # [R, PH, PW, C]
    winner_ptr,  # [R, PH, PW, C] int32; only if MAX
    boxes_ptr,  # [R, 4] float32
    image_ptr,  # [R] int64
    outs,  # tuple of L pointers: [B, H, W, C] float32, zeros
    # Sizes
    heights,
    widths,
    images,
    channels,
    bins_y,
    bins_x,
    # Scalars
    scales,
    areas,
    # Constexprs
    LEVELS: tl.constexpr,
    SAMPLING: tl.constexpr,
    ALIGNED: tl.constexpr,
    QUANTISE: tl.constexpr,
    MAX: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    r, ph = tl.program_id(0) // bins_y, tl.program_id(0) % bins_y
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    x1, y1, x2, y2, image = read_box(boxes_ptr, image_ptr, r)
    known = is_known(x1, y1, x2, y2, image, images)
    if not known:
        return
    level = level_of(x1, y1, x2, y2, areas, LEVELS)
    height, width = pick(heights, level, LEVELS), pick(widths, level, LEVELS)
    scale = pick(scales, level, LEVELS)
    base = pick(outs, level, LEVELS) + image * height * width * channels + c
    y_start, y_size = axis(y1, y2, scale, bins_y, ALIGNED, QUANTISE)
    x_start, x_size = axis(x1, x2, scale, bins_x, ALIGNED, QUANTISE)
    y_count, x_count = sample_count(y_size, SAMPLING), sample_count(x_size, SAMPLING)
    y_bin = y_start + ph * y_size
    y_low, y_high = sample_range(y_bin, y_size, y_count, -1.0, height * 1.0, SAMPLING)
    number = tl.maximum(y_count, 1.0) * tl.maximum(x_count, 1.0)
    row = tl.program_id(0).to(tl.int64) * bins_x * channels + c
    for pw in range(bins_x):
        x_bin = x_start + pw * x_size
        x_low, x_high = sample_range(x_bin, x_size, x_count, -1.0, width * 1.0, SAMPLING)
        grad = tl.load(grad_ptr + row, c < channels, other=0.0).to(tl.float32)
        winner = tl.full([BLOCK_C], 0, tl.int32)
        if MAX:
            winner = tl.load(winner_ptr + row, c < channels, other=-1)
        else:
            grad = tl.div_rn(grad, number)
        for iy in range(y_low, y_high):
            top, bottom, fy, y_inside, _ = sample(y_bin, y_size, y_count, iy, height)
            upper, lower = (
                base + top.to(tl.int64) * width * channels,
                base + bottom.to(tl.int64) * width * channels,
            )
            for ix in range(x_low, x_high):
                left, right, fx, x_inside, _ = sample(x_bin, x_size, x_count, ix, width)
                left, right = left.to(tl.int64) * channels, right.to(tl.int64) * channels
                part = grad
                if MAX:
                    part = tl.where(winner == iy * x_count.to(tl.int32) + ix, grad, 0.0)
                write = c < tl.where(y_inside & x_inside, channels, 0)
                tl.atomic_add(upper + left, part * ((1 - fy) * (1 - fx)), write, sem="relaxed")
                tl.atomic_add(upper + right, part * ((1 - fy) * fx), write, sem="relaxed")
                tl.atomic_add(lower + left, part * (fy * (1 - fx)), write, sem="relaxed")
                tl.atomic_add(lower + right, part * (fy * fx), write, sem="relaxed")
        row += channels


@triton.jit
def slopes(base, y_bin, x_bin, y_size, x_size, y_count, x_count, iy, ix, height, width, channels, c):
    """The derivatives of a sample's value along y and x; none where it is clamped to the map's border."""
    top, bottom, fy, y_inside, y = sample(y_bin, y_size, y_count, iy, height)
    left, right, fx, x_inside, x = sample(x_bin, x_size, x_count, ix, width)
    read = c < tl.where(y_inside & x_inside, channels, 0)
    upper = base + top.to(tl.int64) * width * channels
    lower = base + bottom.to(tl.int64) * width * channels
    left, right = left.to(tl.int64) * channels + c, right.to(tl.int64) * channels + c
    f00 = tl.load(upper + left, read, other=0.0).to(tl.float32)
    f01 = tl.load(upper + right, read, other=0.0).to(tl.float32)
    f10 = tl.load(lower + left, read, other=0.0).to(tl.float32)
    f11 = tl.load(lower + right, read, other=0.0).to(tl.float32)
    # Beyond the last cell both cells are the same, and the difference 0.
    slope_y = tl.where(y >= 0, (1 - fx) * (f10 - f00) + fx * (f11 - f01), 0.0)
    slope_x = tl.where(x >= 0, (1 - fy) * (f01 - f00) + fy * (f11 - f10), 0.0)
    return slope_y, slope_x


@triton.jit
def boxes_kernel(
    # Tensors
    grad_ptr,  # [R, PH, PW, C]
    winner_ptr,  # [R, PH, PW, C] int32; only if MAX
    features,  # tuple of L pointers: [B, H, W, C]
    boxes_ptr,  # [R, 4] float32
    image_ptr,  # [R] int64
    out_ptr,  # [R, PH, 4] float32
    # Sizes
    heights,
    widths,
    images,
    channels,
    bins_y,
    bins_x,
    # Scalars
    scales,
    areas,
    # Constexprs
    LEVELS: tl.constexpr,
    SAMPLING: tl.constexpr,
    ALIGNED: tl.constexpr,
    MAX: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    r, ph = tl.program_id(0) // bins_y, tl.program_id(0) % bins_y
    x1, y1, x2, y2, image = read_box(boxes_ptr, image_ptr, r)
    out = out_ptr + tl.program_id(0).to(tl.int64) * 4
    known = is_known(x1, y1, x2, y2, image, images)
    if not known:
        for i in tl.static_range(4):
            tl.store(out + i, 0.0)
        return
    level = level_of(x1, y1, x2, y2, areas, LEVELS)
    height, width = pick(heights, level, LEVELS), pick(widths, level, LEVELS)
    scale = pick(scales, level, LEVELS)
    base = pick(features, level, LEVELS) + image * height * width * channels
    y_start, y_size = axis(y1, y2, scale, bins_y, ALIGNED, False)
    x_start, x_size = axis(x1, x2, scale, bins_x, ALIGNED, False)
    y_count, x_count = sample_count(y_size, SAMPLING), sample_count(x_size, SAMPLING)
    y_bin = y_start + ph * y_size
    y_low, y_high = sample_range(y_bin, y_size, y_count, -1.0, height * 1.0, SAMPLING)
    # Without ALIGNED a box shorter than a cell keeps the length of a cell: only its start moves it.
    y_grows = ALIGNED or ((y2 * scale - y1 * scale) >= 1)
    x_grows = ALIGNED or ((x2 * scale - x1 * scale) >= 1)
    d_x1, d_y1 = tl.zeros([BLOCK_C], tl.float32), tl.zeros([BLOCK_C], tl.float32)
    d_x2, d_y2 = tl.zeros([BLOCK_C], tl.float32), tl.zeros([BLOCK_C], tl.float32)
    for block in range(tl.cdiv(channels, BLOCK_C)):
        c = block * BLOCK_C + tl.arange(0, BLOCK_C)
        row = tl.program_id(0).to(tl.int64) * bins_x * channels + c
        for pw in range(bins_x):
            x_bin = x_start + pw * x_size
            x_low, x_high = sample_range(x_bin, x_size, x_count, -1.0, width * 1.0, SAMPLING)
            grad = tl.load(grad_ptr + row, c < channels, other=0.0).to(tl.float32)
            winner = tl.full([BLOCK_C], 0, tl.int32)
            if MAX:
                winner = tl.load(winner_ptr + row, c < channels, other=-1)
            else:
                grad = tl.div_rn(
                    grad, tl.zeros_like(grad) + tl.maximum(y_count, 1.0) * tl.maximum(x_count, 1.0)
                )
            for iy in range(y_low, y_high):
                for ix in range(x_low, x_high):
                    part = grad
                    if MAX:
                        part = tl.where(winner == iy * x_count.to(tl.int32) + ix, grad, 0.0)
                    slope_y, slope_x = slopes(
                        base,
                        y_bin,
                        x_bin,
                        y_size,
                        x_size,
                        y_count,
                        x_count,
                        iy,
                        ix,
                        height,
                        width,
                        channels,
                        c,
                    )
                    # A sample lies at start + at · length.
                    y_at = tl.div_rn(ph + tl.div_rn(iy + 0.5, y_count), tl.zeros_like(y_size) + bins_y)
                    x_at = tl.div_rn(pw + tl.div_rn(ix + 0.5, x_count), tl.zeros_like(x_size) + bins_x)
                    y_at, x_at = tl.where(y_grows, y_at, 0.0), tl.where(x_grows, x_at, 0.0)
                    d_y1 += part * slope_y * (1 - y_at)
                    d_y2 += part * slope_y * y_at
                    d_x1 += part * slope_x * (1 - x_at)
                    d_x2 += part * slope_x * x_at
            row += channels
    tl.store(out, tl.sum(d_x1, 0) * scale)
    tl.store(out + 1, tl.sum(d_y1, 0) * scale)
    tl.store(out + 2, tl.sum(d_x2, 0) * scale)
    tl.store(out + 3, tl.sum(d_y2, 0) * scale)


@torch.library.custom_op("minimaskrcnn_kernels::roi_align_backward", mutates_args=())
def roi_align_backward(
    grad: Tensor,
    winner: Tensor,
    features: Sequence[Tensor],
    boxes: Tensor,
    image_index: Tensor,
    scales: Sequence[float],
    areas: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
    quantise: bool,
    maximum: bool,
    for_features: bool,
    for_boxes: bool,
) -> list[Tensor]:
    """The gradients of `roi_align` for each map and, last, for `boxes` [R, 4]; empty where not asked for.

    `grad` and `winner` are as `roi_align` returns them, [R, C, PH, PW].  RoIWarp's boxes have none.
    """
    maps = channels_last(features)
    grad = grad.permute(0, 2, 3, 1).contiguous()
    winner = winner.permute(0, 2, 3, 1).contiguous() if maximum else winner
    boxes, image_index = boxes.contiguous(), image_index.contiguous()
    rois = (grad, winner, maps, boxes, image_index, scales, areas, sampling_ratio, aligned)
    d_maps = [grad.new_empty(0)] * len(maps)
    if for_features and torch.are_deterministic_algorithms_enabled():
        d_maps = gather(*rois, quantise, maximum)
    elif for_features:
        d_maps = scatter(*rois, quantise, maximum)
    return [*d_maps, d_boxes(*rois, maximum) if for_boxes else boxes.new_empty(0)]


@roi_align_backward.register_fake
def _(
    grad, winner, features, boxes, image_index, scales, areas, sampling_ratio, aligned, quantise, maximum,
    for_features, for_boxes,
):  # fmt: skip
    if for_features:
        d_maps = [torch.empty_like(f, memory_format=torch.channels_last) for f in features]
    else:
        d_maps = [grad.new_empty(0) for _ in features]
    return [*d_maps, torch.empty_like(boxes) if for_boxes else boxes.new_empty(0)]


def scatter(
    grad: Tensor,
    winner: Tensor,
    maps: Sequence[Tensor],
    boxes: Tensor,
    image_index: Tensor,
    scales: Sequence[float],
    areas: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
    quantise: bool,
    maximum: bool,
) -> list[Tensor]:
    """The gradient of each of `maps`, in its dtype; `grad` and `winner` are [R, PH, PW, C] and contiguous."""
    channels, block = grad.shape[3], block_channels(grad.shape[3], 4)
    outs = [torch.zeros_like(m, dtype=torch.float32, memory_format=torch.channels_last) for m in maps]
    if grad.numel():
        scatter_kernel[(grad.shape[0] * grad.shape[1], triton.cdiv(channels, block))](
            grad_ptr=grad,
            winner_ptr=winner,
            outs=tuple(outs),
            **_sizes(grad, maps, boxes, image_index, scales, areas),
            SAMPLING=sampling_ratio,
            ALIGNED=aligned,
            QUANTISE=quantise,
            MAX=maximum,
            BLOCK_C=block,
            num_warps=1,
            enable_fp_fusion=False,
        )
    return [out.to(m.dtype) for out, m in zip(outs, maps)]


def d_boxes(
    grad: Tensor,
    winner: Tensor,
    maps: Sequence[Tensor],
    boxes: Tensor,
    image_index: Tensor,
    scales: Sequence[float],
    areas: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
    maximum: bool,
) -> Tensor:
    """The gradient of `boxes` [R, 4]; `grad` and `winner` are [R, PH, PW, C] and contiguous."""
    out = boxes.new_empty(len(boxes), grad.shape[1], 4)
    if not grad.numel():
        return torch.zeros_like(boxes)
    boxes_kernel[(grad.shape[0] * grad.shape[1],)](
        grad_ptr=grad,
        winner_ptr=winner,
        features=tuple(maps),
        out_ptr=out,
        **_sizes(grad, maps, boxes, image_index, scales, areas),
        SAMPLING=sampling_ratio,
        ALIGNED=aligned,
        MAX=maximum,
        BLOCK_C=block_channels(grad.shape[3], maps[0].element_size()),
        num_warps=1,
        enable_fp_fusion=False,
    )
    return out.sum(1)


def _sizes(
    grad: Tensor,
    maps: Sequence[Tensor],
    boxes: Tensor,
    image_index: Tensor,
    scales: Sequence[float],
    areas: Sequence[float],
) -> dict[str, object]:
    """The arguments that both kernels share."""
    return {
        "boxes_ptr": boxes,
        "image_ptr": image_index,
        "heights": tuple(m.shape[2] for m in maps),
        "widths": tuple(m.shape[3] for m in maps),
        "images": maps[0].shape[0],
        "channels": grad.shape[3],
        "bins_y": grad.shape[1],
        "bins_x": grad.shape[2],
        "scales": tuple(scales),
        "areas": tuple(areas),
        "LEVELS": len(maps),
    }
