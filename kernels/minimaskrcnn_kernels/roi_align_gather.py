"""RoIAlign and RoIWarp, the backward pass without a race: a program owns its cells and gathers what falls on them.

A program owns BLOCK_X neighbouring cells of one row of one map, looks for the boxes of its image and level that
reach them, BLOCK_R at a time, and adds up their bins in the order of the rows of `boxes`.  Each cell is written once,
by one program: no atomics, no zeros to begin with, no float32 copy of the maps, and the same bits every time.  The
weights of a bin's samples are separable, so a bin counts once, however many samples it has.

Grid: (segments of all rows of all maps of all images, C / BLOCK_C).
Bytes: the maps are written once; a bin's row is read once for each row of cells and each segment that it reaches: at
about 2 cells a bin some 5 times, from L2.  Each program also reads the boxes of its image, 16 bytes each.

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
    bins_near,
    block_channels,
    is_known,
    level_map,
    level_of,
    pick,
    sample,
    sample_count,
    sample_range,
)

# Boxes that a program looks at at once: four a lane.
BLOCK_R = 128
# Cells of a program.  With 4 channels a lane the sums take 32 registers.  The maximum spilled with 8 cells on sm_80
# and gfx942, with 4 on sm_90 (8 bytes, triton 3.8.0).
BLOCK_X = 8
BLOCK_X_MAX = 2


@triton.jit
def cell_weight(cell, low, high, fraction, inside):
    """How much of a sample a cell gets: both shares where the map's edge makes its two cells one."""
    return tl.where(
        inside, tl.where(cell == low, 1 - fraction, 0.0) + tl.where(cell == high, fraction, 0.0), 0.0
    )


@triton.jit
def bin_weight(cell, near, far, first, size, count, extent, SAMPLING: tl.constexpr):
    """How much of a bin's mean the cells get along one axis; the samples that touch them lie in near..far."""
    weight = cell * 0.0
    low, high = sample_range(first, size, count, near, far, SAMPLING)
    for i in range(low, high):
        first_cell, second_cell, fraction, inside, _ = sample(first, size, count, i, extent)
        weight += cell_weight(cell, first_cell, second_cell, fraction, inside)
    return tl.div_rn(weight, tl.zeros_like(weight) + tl.maximum(count, 1.0))


@triton.jit
def add_roi(
    total, r, y, x, c, grad_ptr, winner_ptr, x1, y1, x2, y2, scale, height, width, channels, bins_y, bins_x,
    SAMPLING: tl.constexpr, ALIGNED: tl.constexpr, QUANTISE: tl.constexpr, MAX: tl.constexpr, BLOCK_X: tl.constexpr,
):  # fmt: skip
    """Box r's share of the gradient for the cells (y, x), x a vector, added to `total` [BLOCK_X, BLOCK_C]."""
    y_start, y_size = axis(y1, y2, scale, bins_y, ALIGNED, QUANTISE)
    x_start, x_size = axis(x1, x2, scale, bins_x, ALIGNED, QUANTISE)
    y_count = sample_count(y_size, SAMPLING)
    x_count = sample_count(x_size, SAMPLING)
    # A cell is touched by what lies within 1 of it, the map's border by what lies up to 1 outside.
    top = y - 1.0
    bottom = y + 1.0
    left = tl.min(x, 0) - 1.0
    right = tl.min(x, 0) + BLOCK_X * 1.0
    ph_low, ph_high = bins_near(y_start, y_size, bins_y, top, bottom)
    pw_low, pw_high = bins_near(x_start, x_size, bins_x, left, right)
    for ph in range(ph_low, ph_high):
        y_bin = y_start + ph * y_size
        y_weight = bin_weight(y, top, bottom, y_bin, y_size, y_count, height, SAMPLING)
        if y_weight != 0:
            for pw in range(pw_low, pw_high):
                x_bin = x_start + pw * x_size
                row = ((r * bins_y + ph) * bins_x + pw) * channels + c
                grad = tl.load(grad_ptr + row, c < channels, other=0.0).to(tl.float32)
                if MAX:
                    winner = tl.load(winner_ptr + row, c < channels, other=-1)
                    y_low, y_high = sample_range(y_bin, y_size, y_count, top, bottom, SAMPLING)
                    x_low, x_high = sample_range(x_bin, x_size, x_count, left, right, SAMPLING)
                    for iy in range(y_low, y_high):
                        low, high, fraction, inside, _ = sample(y_bin, y_size, y_count, iy, height)
                        y_part = cell_weight(y, low, high, fraction, inside)
                        for ix in range(x_low, x_high):
                            low, high, fraction, inside, _ = sample(x_bin, x_size, x_count, ix, width)
                            weight = y_part * cell_weight(x, low, high, fraction, inside)
                            part = tl.where(winner == iy * x_count.to(tl.int32) + ix, grad, 0.0)
                            total += weight[:, None] * part[None, :]
                else:
                    weight = y_weight * bin_weight(x, left, right, x_bin, x_size, x_count, width, SAMPLING)
                    total += weight[:, None] * grad[None, :]
    return total


@triton.jit
def reaches(start, end, scale, bins, low, high, ALIGNED: tl.constexpr, QUANTISE: tl.constexpr):
    """Whether a sample of the box can touch the cells low..high; true for a few that cannot."""
    start, size = axis(start, end, scale, bins, ALIGNED, QUANTISE)
    end = start + size * bins
    return (tl.minimum(start, end) <= high + 2.0) & (tl.maximum(start, end) >= low - 2.0)


@triton.jit
def gather_kernel(
    # Tensors
    grad_ptr,  # [R, PH, PW, C]
    winner_ptr,  # [R, PH, PW, C] int32; only if MAX
    boxes_ptr,  # [R, 4] float32, sorted by image
    order_ptr,  # [R] int64: which row of grad each of them is
    first_ptr,  # [B + 1] int64: where the boxes of each image begin
    outs,  # tuple of L pointers: [B, H, W, C]
    # Sizes
    heights,
    widths,
    firsts,  # tuple of L: the first program of each level
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
    BLOCK_R: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The maps' gradient without atomics: BLOCK_C channels of BLOCK_X cells."""
    pid = tl.program_id(0)
    level = pid * 0
    for i in tl.static_range(1, LEVELS):
        level += (pid >= firsts[i]).to(tl.int32)
    height, width, scale = level_map(heights, widths, scales, level, LEVELS)
    segment = pid - pick(firsts, level, LEVELS)
    segments = tl.cdiv(width, BLOCK_X)
    left = segment % segments * BLOCK_X
    y = segment // segments % height
    image = segment // segments // height
    x = left + tl.arange(0, BLOCK_X)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros([BLOCK_X, BLOCK_C], tl.float32)
    end = tl.load(first_ptr + image + 1)
    for start in range(tl.load(first_ptr + image), end, BLOCK_R):
        rows = start + tl.arange(0, BLOCK_R)
        box = boxes_ptr + rows * 4
        here = rows < end
        x1 = tl.load(box, here, other=0.0)
        y1 = tl.load(box + 1, here, other=0.0)
        x2 = tl.load(box + 2, here, other=0.0)
        y2 = tl.load(box + 3, here, other=0.0)
        near = here & is_known(x1, y1, x2, y2, 0, 1) & (level_of(x1, y1, x2, y2, areas, LEVELS) == level)
        near &= reaches(y1, y2, scale, bins_y, y, y, ALIGNED, QUANTISE)
        near &= reaches(x1, x2, scale, bins_x, left, left + BLOCK_X - 1, ALIGNED, QUANTISE)
        # One after another, lowest first: a sum in a fixed order.
        row = tl.min(tl.where(near, rows, end), 0)
        while row < end:
            at = boxes_ptr + row * 4
            total = add_roi(
                total, tl.load(order_ptr + row), y, x, c, grad_ptr, winner_ptr, tl.load(at), tl.load(at + 1),
                tl.load(at + 2), tl.load(at + 3), scale, height, width, channels, bins_y, bins_x,
                SAMPLING, ALIGNED, QUANTISE, MAX, BLOCK_X,
            )  # fmt: skip
            row = tl.min(tl.where(near & (rows > row), rows, end), 0)
    cell = (image.to(tl.int64) * height + y) * width + x
    place = pick(outs, level, LEVELS) + cell[:, None] * channels + c[None, :]
    tl.store(place, total.to(outs[0].dtype.element_ty), (x < width)[:, None] & (c < channels)[None, :])


def gather(grad: Tensor, winner: Tensor, pooled: Pooling) -> list[Tensor]:
    """The gradient of each map, in its dtype; `grad` and `winner` are [R, PH, PW, C] and contiguous."""
    images, channels = pooled.maps[0].shape[:2]
    block = block_channels(channels, 4)
    block_x = BLOCK_X_MAX if pooled.maximum else BLOCK_X
    outs = [torch.empty_like(m, memory_format=torch.channels_last) for m in pooled.maps]
    image_index, order = pooled.image_index.sort(stable=True)
    firsts = [0]
    for m in pooled.maps:
        firsts.append(firsts[-1] + images * m.shape[2] * triton.cdiv(m.shape[3], block_x))
    if firsts[-1] and channels:
        with torch.cuda.device_of(grad):
            gather_kernel[(firsts[-1], triton.cdiv(channels, block))](
                grad_ptr=grad,
                winner_ptr=winner,
                order_ptr=order,
                first_ptr=torch.searchsorted(image_index, torch.arange(images + 1, device=grad.device)),
                outs=tuple(outs),
                firsts=tuple(firsts[:-1]),
                bins_y=grad.shape[1],
                bins_x=grad.shape[2],
                BLOCK_R=BLOCK_R,
                BLOCK_X=block_x,
                BLOCK_C=block,
                **pooled._replace(boxes=pooled.boxes[order]).arguments(),
            )
    return outs
