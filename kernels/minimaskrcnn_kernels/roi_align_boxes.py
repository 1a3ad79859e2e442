"""RoIAlign, the backward pass for the boxes.

A sample's value changes along y and x by differences of its four cells; a sample at the share t of its box moves by
1 - t when the box's start moves, and by t when its end does.  A program takes a row of bins and writes four numbers
for it, which torch adds up: no atomics, the same bits every time.  Where a sample is clamped to the border of the map
it does not move; exactly on a line of the grid, where the derivative jumps, the cell after it counts.

Grid: (R · PH).
Bytes: the maps are read as in the forward pass, and the incoming gradient once.

Letters as in `roi_align.py`, which has the forward pass.
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
def slopes(base, y_bin, x_bin, y_size, x_size, y_count, x_count, iy, ix, height, width, channels, c):
    """The derivatives of a sample's value along y and x; none where it is clamped to the map's border."""
    top, bottom, fy, y_inside, y = sample(y_bin, y_size, y_count, iy, height)
    left, right, fx, x_inside, x = sample(x_bin, x_size, x_count, ix, width)
    read = c < tl.where(y_inside & x_inside, channels, 0)
    upper = base + top.to(tl.int64) * width * channels
    lower = base + bottom.to(tl.int64) * width * channels
    left = left.to(tl.int64) * channels + c
    right = right.to(tl.int64) * channels + c
    f00 = tl.load(upper + left, read, other=0.0).to(tl.float32)
    f01 = tl.load(upper + right, read, other=0.0).to(tl.float32)
    f10 = tl.load(lower + left, read, other=0.0).to(tl.float32)
    f11 = tl.load(lower + right, read, other=0.0).to(tl.float32)
    # Beyond the last cell both cells are the same, and the difference 0.
    slope_y = tl.where(y >= 0, (1 - fx) * (f10 - f00) + fx * (f11 - f01), 0.0)
    slope_x = tl.where(x >= 0, (1 - fy) * (f01 - f00) + fy * (f11 - f10), 0.0)
    return slope_y, slope_x


@triton.jit
def place_in_box(p, bins, i, count, grows):
    """The t of sample i of bin p at start + t · length; 0 where the length does not change."""
    at = tl.div_rn(p + tl.div_rn(i + 0.5, count), tl.zeros_like(count) + bins)
    return tl.where(grows, at, 0.0)


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
    QUANTISE: tl.constexpr,  # never: a quantised box has no gradient
    MAX: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The boxes' gradient: one row of bins' share of it."""
    r, ph = row_of_bins(bins_y)
    x1, y1, x2, y2, image = read_box(boxes_ptr, image_ptr, r)
    out = out_ptr + tl.program_id(0).to(tl.int64) * 4
    known = is_known(x1, y1, x2, y2, image, images)
    if not known:
        tl.store(out + tl.arange(0, 4), 0.0)
        return
    level = level_of(x1, y1, x2, y2, areas, LEVELS)
    height, width, scale = level_map(heights, widths, scales, level, LEVELS)
    base = pick(features, level, LEVELS) + image * height * width * channels
    y_start, y_size = axis(y1, y2, scale, bins_y, ALIGNED, False)
    x_start, x_size = axis(x1, x2, scale, bins_x, ALIGNED, False)
    y_count = sample_count(y_size, SAMPLING)
    x_count = sample_count(x_size, SAMPLING)
    y_bin = y_start + ph * y_size
    y_low, y_high = sample_range(y_bin, y_size, y_count, -1.0, height * 1.0, SAMPLING)
    # Without ALIGNED a box shorter than a cell keeps the length of a cell: only its start moves it.
    y_grows = ALIGNED or ((y2 * scale - y1 * scale) >= 1)
    x_grows = ALIGNED or ((x2 * scale - x1 * scale) >= 1)
    number = tl.zeros([BLOCK_C], tl.float32) + tl.maximum(y_count, 1.0) * tl.maximum(x_count, 1.0)
    d_x1 = tl.zeros([BLOCK_C], tl.float32)
    d_y1 = tl.zeros([BLOCK_C], tl.float32)
    d_x2 = tl.zeros([BLOCK_C], tl.float32)
    d_y2 = tl.zeros([BLOCK_C], tl.float32)
    for block in range(tl.cdiv(channels, BLOCK_C)):
        c = block * BLOCK_C + tl.arange(0, BLOCK_C)
        row = tl.program_id(0).to(tl.int64) * bins_x * channels + c
        for pw in range(bins_x):
            x_bin = x_start + pw * x_size
            x_low, x_high = sample_range(x_bin, x_size, x_count, -1.0, width * 1.0, SAMPLING)
            grad = tl.load(grad_ptr + row, c < channels, other=0.0).to(tl.float32)
            if MAX:
                winner = tl.load(winner_ptr + row, c < channels, other=-1)
            else:
                grad = tl.div_rn(grad, number)
            for iy in range(y_low, y_high):
                y_at = place_in_box(ph, bins_y, iy, y_count, y_grows)
                for ix in range(x_low, x_high):
                    x_at = place_in_box(pw, bins_x, ix, x_count, x_grows)
                    part = grad
                    if MAX:
                        part = tl.where(winner == iy * x_count.to(tl.int32) + ix, grad, 0.0)
                    slope_y, slope_x = slopes(
                        base, y_bin, x_bin, y_size, x_size, y_count, x_count, iy, ix, height, width, channels, c
                    )  # fmt: skip
                    d_y1 += part * slope_y * (1 - y_at)
                    d_y2 += part * slope_y * y_at
                    d_x1 += part * slope_x * (1 - x_at)
                    d_x2 += part * slope_x * x_at
            row += channels
    tl.store(out, tl.sum(d_x1, 0) * scale)
    tl.store(out + 1, tl.sum(d_y1, 0) * scale)
    tl.store(out + 2, tl.sum(d_x2, 0) * scale)
    tl.store(out + 3, tl.sum(d_y2, 0) * scale)


def box_gradient(grad: Tensor, winner: Tensor, pooled: Pooling) -> Tensor:
    """The gradient of the boxes [R, 4]; `grad` and `winner` are [R, PH, PW, C] and contiguous."""
    rois, bins_y, bins_x, channels = grad.shape
    if not grad.numel():
        return torch.zeros_like(pooled.boxes)
    out = pooled.boxes.new_empty(rois, bins_y, 4)
    with torch.cuda.device_of(grad):
        boxes_kernel[(rois * bins_y,)](
            grad_ptr=grad,
            winner_ptr=winner,
            image_ptr=pooled.image_index,
            features=pooled.maps,
            out_ptr=out,
            images=len(pooled.maps[0]),
            bins_y=bins_y,
            bins_x=bins_x,
            BLOCK_C=block_channels(channels, pooled.maps[0].element_size()),
            **pooled.arguments(),
        )
    return out.sum(1)
