"""Masks of m × m pasted into the picture: zeros everywhere, then the pixels of each box.

Pad a mask by one pixel, grow its box by (m + 2) / m about the centre, cut the corners to integers towards zero,
first and last: pixel i of first..last lies at s(i) = (i - first + 0.5) · (m + 2) / (last - first + 1) - 0.5 of the
padded mask, but not before its first sample, and takes the bilinear value there.  The padding is never stored: a
sample outside of [m, m] loads as 0.

One program computes every k-th tile of ROWS × COLUMNS pixels of one box, as far as it lies in the picture; the grid
is (masks, k).  How many tiles a box has is known on the device alone: no host sync.

Bytes moved: n · h · w elements written once, by the fill with zeros, and the boxes' areas once more.  One kernel that
wrote the picture in long runs would save the latter, but compute on all of each run that meets a box.  A computed
pixel takes some 60 instructions on sm_90; in the time that memory takes for a byte, an H200 has lanes for 7.

A box with a grown corner that is not finite or not below 2**30 in magnitude gives an empty mask.  Source positions
are float32: off by at most (m + 2) · 2**-22 samples.  No gradient.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Programs of all masks together, at least; a few times what a GPU runs at once, since most boxes are small.
PROGRAMS = 8192
# 4 pixels a lane: at most 50 registers.  With 8, float16 spills on sm_90.
ROWS = 8
COLUMNS = 64
HUGE = tl.constexpr(2.0**30)


@triton.jit
def _span(boxes_ptr, box, axis: tl.constexpr, factor):
    """First and last pixel of a grown box on one axis.  Each operation is rounded: the same integers everywhere."""
    low = tl.load(boxes_ptr + box * 4 + axis)
    high = tl.load(boxes_ptr + box * 4 + axis + 2)
    centre = (high + low) * 0.5
    half = (high - low) * 0.5 * factor
    first = centre - half
    last = centre + half
    sane = (tl.abs(first) < HUGE) & (tl.abs(last) < HUGE)
    # -1 lies beside every picture.
    return tl.where(sane, first, -1.0).to(tl.int32), tl.where(sane, last, -1.0).to(tl.int32)


@triton.jit
def _source(pixel, first, last, m: tl.constexpr):
    """The sample of [m, m] before each pixel, from -1 (padding) to m, and the weight of the one after it."""
    scale = tl.div_rn(tl.full([], m + 2, tl.float32), (last - first + 1).to(tl.float32))
    # Above m + 1 a clamp would change nothing: there is padding on both sides.
    source = tl.maximum(((pixel - first).to(tl.float32) + 0.5) * scale - 0.5, 0.0)
    before = source.to(tl.int32)
    return before - 1, source - before.to(tl.float32)


@triton.jit
def _sample(mask_ptr, row, column, inside, m: tl.constexpr):
    exists = (row >= 0) & (row < m) & (column >= 0) & (column < m) & inside
    return tl.load(mask_ptr + row.to(tl.int64) * m + column, mask=exists, other=0.0).to(tl.float32)


@triton.jit
def _paste_kernel(
    # Tensors
    masks_ptr,  # [n, m, m]
    boxes_ptr,  # [n, 4] float32
    out_ptr,  # [n, height, width], zeros
    # Sizes
    height,
    width,
    # Scalars
    factor,
    threshold,
    # Constexprs
    m: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    box = tl.program_id(0).to(tl.int64)
    x1, x2 = _span(boxes_ptr, box, 0, factor)
    y1, y2 = _span(boxes_ptr, box, 1, factor)
    top = tl.maximum(y1, 0)
    bottom = tl.minimum(y2 + 1, height)
    left = tl.maximum(x1, 0)
    right = tl.minimum(x2 + 1, width)
    down = tl.cdiv(tl.maximum(bottom - top, 0), BLOCK_ROWS)
    across = tl.cdiv(tl.maximum(right - left, 0), BLOCK_COLUMNS)
    mask_ptr = masks_ptr + box * (m * m)
    for tile in range(tl.program_id(1), down * across, tl.num_programs(1)):
        rows = top + tile // across * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
        columns = left + tile % across * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)[None, :]
        inside = (rows < bottom) & (columns < right)
        row, fy = _source(rows, y1, y2, m)
        column, fx = _source(columns, x1, x2, m)
        upper_left = _sample(mask_ptr, row, column, inside, m)
        upper_right = _sample(mask_ptr, row, column + 1, inside, m)
        lower_left = _sample(mask_ptr, row + 1, column, inside, m)
        lower_right = _sample(mask_ptr, row + 1, column + 1, inside, m)
        upper = (1 - fx) * upper_left + fx * upper_right
        lower = (1 - fx) * lower_left + fx * lower_right
        values = (1 - fy) * upper + fy * lower
        if threshold is not None:
            values = values > threshold
        place = (box * height + rows) * width + columns
        tl.store(out_ptr + place, values.to(out_ptr.dtype.element_ty), mask=inside)


@torch.library.custom_op("minimaskrcnn_kernels::paste_masks", mutates_args=())
def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float | None) -> Tensor:
    """Masks [n, m, m] (float32, float16, bfloat16) at boxes [n, 4] (float32) of a picture: [n, height, width].

    Bool, true above `threshold`; without one, the values in the masks' dtype.  Computed in float32.
    Raises TypeError for other dtypes.
    """
    if masks.dtype not in (torch.float32, torch.float16, torch.bfloat16) or boxes.dtype != torch.float32:
        raise TypeError(
            f"masks {masks.dtype}, boxes {boxes.dtype}: expected masks below float64, boxes float32"
        )
    n = len(masks)
    m = masks.shape[-1]
    dtype = masks.dtype if threshold is None else torch.bool
    out = torch.zeros(n, height, width, dtype=dtype, device=masks.device)
    if out.numel() == 0:
        return out
    tiles = triton.cdiv(height, ROWS) * triton.cdiv(width, COLUMNS)
    with torch.cuda.device_of(masks):
        _paste_kernel[(n, min(tiles, triton.cdiv(PROGRAMS, n)))](
            masks_ptr=masks.contiguous(),
            boxes_ptr=boxes.contiguous(),
            out_ptr=out,
            height=height,
            width=width,
            factor=(m + 2) / m,
            threshold=threshold,
            m=m,
            BLOCK_ROWS=ROWS,
            BLOCK_COLUMNS=COLUMNS,
            num_warps=4,
            enable_fp_fusion=False,
        )
    return out


@paste_masks.register_fake
def _(masks, boxes, height, width, threshold):
    return masks.new_empty(len(masks), height, width, dtype=masks.dtype if threshold is None else torch.bool)
