"""RoIAlign and RoIWarp, the backward pass with a race that is harmless but seen: gradients of the maps by atomics.

A program takes a row of bins, as in the forward pass, and adds its share to the cells of each sample.  Programs meet
on the same cells, so they add with atomics, into float32 whatever the maps' type.  The order of the additions differs
from run to run, and with it the last bits; `roi_align_gather.py` has the cure.

Grid: (R · PH, C / BLOCK_C).
Bytes: zeros are written to the maps, the incoming gradient is read once (50 MB at 1000 × 256 × 7 × 7 in float32), and
each touched cell is read and written once per sample that touches it: in L2, 16 bytes at a time from sm_90 on.

Letters as in `roi_align.py`, which has the forward pass.

Lesson 06, `lessons/06_triton_kernel.ipynb`, builds up to this file.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from minimaskrcnn_kernels.rois import (
    Pooling,
    axis,
    block_channels,
    is_known,
    level_map,
    level_of,
    pick,
    read_box,
    row_of_bins,
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
    """The maps' gradient with atomics: BLOCK_C channels of one row of bins."""
    r, ph = row_of_bins(bins_y)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    x1, y1, x2, y2, image = read_box(boxes_ptr, image_ptr, r)
    known = is_known(x1, y1, x2, y2, image, images)
    if not known:
        return
    level = level_of(x1, y1, x2, y2, areas, LEVELS)
    height, width, scale = level_map(heights, widths, scales, level, LEVELS)
    base = pick(outs, level, LEVELS) + image * height * width * channels + c
    y_start, y_size = axis(y1, y2, scale, bins_y, ALIGNED, QUANTISE)
    x_start, x_size = axis(x1, x2, scale, bins_x, ALIGNED, QUANTISE)
    y_count = sample_count(y_size, SAMPLING)
    x_count = sample_count(x_size, SAMPLING)
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
            upper = base + top.to(tl.int64) * width * channels
            lower = base + bottom.to(tl.int64) * width * channels
            for ix in range(x_low, x_high):
                left, right, fx, x_inside, _ = sample(x_bin, x_size, x_count, ix, width)
                left = left.to(tl.int64) * channels
                right = right.to(tl.int64) * channels
                part = grad
                if MAX:
                    part = tl.where(winner == iy * x_count.to(tl.int32) + ix, grad, 0.0)
                write = c < tl.where(y_inside & x_inside, channels, 0)
                tl.atomic_add(upper + left, part * ((1 - fy) * (1 - fx)), write, sem="relaxed")
                tl.atomic_add(upper + right, part * ((1 - fy) * fx), write, sem="relaxed")
                tl.atomic_add(lower + left, part * (fy * (1 - fx)), write, sem="relaxed")
                tl.atomic_add(lower + right, part * (fy * fx), write, sem="relaxed")
        row += channels


def scatter(grad: Tensor, winner: Tensor, pooled: Pooling) -> list[Tensor]:
    """The gradient of each map, in its dtype; `grad` and `winner` are [R, PH, PW, C] and contiguous."""
    rois, bins_y, bins_x, channels = grad.shape
    block = block_channels(channels, 4)
    like = {"dtype": torch.float32, "memory_format": torch.channels_last}
    outs = [torch.zeros_like(m, **like) for m in pooled.maps]
    if grad.numel():
        with torch.cuda.device_of(grad):
            scatter_kernel[(rois * bins_y, triton.cdiv(channels, block))](
                grad_ptr=grad,
                winner_ptr=winner,
                image_ptr=pooled.image_index,
                outs=tuple(outs),
                images=len(pooled.maps[0]),
                bins_y=bins_y,
                bins_x=bins_x,
                BLOCK_C=block,
                **pooled.arguments(),
            )
    return [out.to(m.dtype) for out, m in zip(outs, pooled.maps)]
