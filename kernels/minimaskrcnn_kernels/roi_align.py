"""RoIAlign and RoIWarp over all levels of a pyramid in one launch: the forward pass.

    out[r, ph, pw, :] = mean (or maximum) over the bin's samples of  Σ weight · features[level of r][image, y, x, :]

with four cells y, x around each sample.  RoIWarp is the same on a box that was first rounded to whole cells.

One program makes BLOCK_C channels of one row of bins (r, ph, 0..PW - 1).  Features are channels-last, so lane c
reads channel c: a warp's loads are contiguous, 16 bytes a lane, and the arithmetic on boxes is done once for a row of
channels, not once for each.  Neighbouring bins share cells, which then come from the L1 cache.

Grid: (R · PH, C / BLOCK_C).
Bytes: each touched cell of the maps is read (from memory once, from L2 once for each bin row that touches it), each
output written once: at 1000 boxes × 256 × 7 × 7 in float32 50 MB out, and up to 91 MB of maps at 800 × 1344.

Backward: `roi_align_scatter.py` (atomics) or, where `torch.use_deterministic_algorithms` asks for it,
`roi_align_gather.py`, for the maps; `roi_align_boxes.py` for the boxes.  The second derivative is registered by
`minimaskrcnn.ops`, from its torch path.

Axis letters: L levels, R rois, PH PW bins, C channels.
Left out: float64 (the torch path has it), autocast (the op takes half-precision maps as they are, boxes in float32).

Lesson 06, `lessons/06_triton_kernel.ipynb`, builds up to this file.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from minimaskrcnn_kernels.roi_align_boxes import box_gradient
from minimaskrcnn_kernels.roi_align_gather import gather
from minimaskrcnn_kernels.roi_align_scatter import scatter
from minimaskrcnn_kernels.rois import (
    axis,
    block_channels,
    is_known,
    level_map,
    level_of,
    pick,
    pooling,
    read_box,
    row_of_bins,
    sample,
    sample_count,
    sample_range,
)


@triton.jit
def bilinear(base, top, bottom, left, right, fy, fx, width, channels, c, mask):
    """The value between four cells of a channels-last map [height, width, channels], for the channels c."""
    upper = base + top.to(tl.int64) * width * channels
    lower = base + bottom.to(tl.int64) * width * channels
    left = left.to(tl.int64) * channels + c
    right = right.to(tl.int64) * channels + c
    value = tl.load(upper + left, mask, other=0.0).to(tl.float32) * ((1 - fy) * (1 - fx))
    value = tl.fma(tl.load(upper + right, mask, other=0.0).to(tl.float32), (1 - fy) * fx, value)
    value = tl.fma(tl.load(lower + left, mask, other=0.0).to(tl.float32), fy * (1 - fx), value)
    return tl.fma(tl.load(lower + right, mask, other=0.0).to(tl.float32), fy * fx, value)


@triton.jit
def add_sample(
    best, winner, base, y_bin, x_bin, y_size, x_size, y_count, x_count, iy, ix,
    height, width, channels, c, MAX: tl.constexpr,
):  # fmt: skip
    """Sample (iy, ix) of a bin, added to `best` or compared with it."""
    top, bottom, fy, y_inside, _ = sample(y_bin, y_size, y_count, iy, height)
    left, right, fx, x_inside, _ = sample(x_bin, x_size, x_count, ix, width)
    # A comparison of lanes with a scalar keeps the loads wide; so would `mask & inside`, which the interpreter lacks.
    read = c < tl.where(y_inside & x_inside, channels, 0)
    value = bilinear(base, top, bottom, left, right, fy, fx, width, channels, c, read)
    if MAX:
        winner = tl.where(value > best, iy * x_count.to(tl.int32) + ix, winner)
        best = tl.where(value > best, value, best)
    else:
        best += value
    return best, winner


@triton.jit
def roi_align_kernel(
    # Tensors
    features,  # tuple of L pointers: [B, H, W, C]
    boxes_ptr,  # [R, 4] float32, pixels
    image_ptr,  # [R] int64
    out_ptr,  # [R, PH, PW, C]
    winner_ptr,  # [R, PH, PW, C] int32, the sample that is the maximum; only if MAX
    # Sizes
    heights,  # tuple of L
    widths,  # tuple of L
    images,
    channels,
    bins_y,
    bins_x,
    # Scalars
    scales,  # tuple of L: cells per pixel
    areas,  # tuple of L: the smallest box of each level, square pixels
    # Constexprs
    LEVELS: tl.constexpr,
    SAMPLING: tl.constexpr,  # samples per bin and axis, 0 for adaptive
    ALIGNED: tl.constexpr,
    QUANTISE: tl.constexpr,
    MAX: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The forward pass: BLOCK_C channels of one row of bins."""
    r, ph = row_of_bins(bins_y)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = c < channels
    x1, y1, x2, y2, image = read_box(boxes_ptr, image_ptr, r)
    out = tl.program_id(0).to(tl.int64) * bins_x * channels + c
    known = is_known(x1, y1, x2, y2, image, images)
    if not known:
        for _ in range(bins_x):
            tl.store(out_ptr + out, float("nan"), mask)
            if MAX:
                tl.store(winner_ptr + out, -1, mask)
            out += channels
        return

    level = level_of(x1, y1, x2, y2, areas, LEVELS)
    height, width, scale = level_map(heights, widths, scales, level, LEVELS)
    base = pick(features, level, LEVELS) + image * height * width * channels
    y_start, y_size = axis(y1, y2, scale, bins_y, ALIGNED, QUANTISE)
    x_start, x_size = axis(x1, x2, scale, bins_x, ALIGNED, QUANTISE)
    y_count = sample_count(y_size, SAMPLING)
    x_count = sample_count(x_size, SAMPLING)
    y_bin = y_start + ph * y_size
    y_low, y_high = sample_range(y_bin, y_size, y_count, -1.0, height * 1.0, SAMPLING)
    number = tl.maximum(y_count, 1.0) * tl.maximum(x_count, 1.0)
    for pw in range(bins_x):
        x_bin = x_start + pw * x_size
        x_low, x_high = sample_range(x_bin, x_size, x_count, -1.0, width * 1.0, SAMPLING)
        visited = (y_high - y_low).to(tl.float32) * (x_high - x_low).to(tl.float32)
        # A sample that the ranges leave out lies outside of the map: 0.  A bin without samples is 0 too.
        start = tl.where((visited > 0) & (visited == y_count * x_count), float("-inf"), 0.0) if MAX else 0.0
        best = tl.zeros([BLOCK_C], tl.float32) + start
        winner = tl.full([BLOCK_C], -1, tl.int32)
        if SAMPLING > 0:
            for iy in tl.static_range(SAMPLING):
                for ix in tl.static_range(SAMPLING):
                    best, winner = add_sample(
                        best, winner, base, y_bin, x_bin, y_size, x_size, y_count, x_count, iy, ix,
                        height, width, channels, c, MAX,
                    )  # fmt: skip
        else:
            for iy in range(y_low, y_high):
                for ix in range(x_low, x_high):
                    best, winner = add_sample(
                        best, winner, base, y_bin, x_bin, y_size, x_size, y_count, x_count, iy, ix,
                        height, width, channels, c, MAX,
                    )  # fmt: skip
        if not MAX:
            best = tl.div_rn(best, number)
        tl.store(out_ptr + out, best.to(out_ptr.dtype.element_ty), mask)
        if MAX:
            tl.store(winner_ptr + out, winner, mask)
        out += channels


@torch.library.custom_op("minimaskrcnn_kernels::roi_align", mutates_args=())
def roi_align(
    features: Sequence[Tensor],
    boxes: Tensor,
    image_index: Tensor,
    scales: Sequence[float],
    areas: Sequence[float],
    bins_y: int,
    bins_x: int,
    sampling_ratio: int,
    aligned: bool,
    quantise: bool,
    maximum: bool,
) -> tuple[Tensor, Tensor]:
    """Pool `boxes` [R, 4] (float32, pixels) of `image_index` [R] from `features`, L maps [B, C, H, W] of one dtype.

    `scales` are cells per pixel; a box belongs to the last level whose entry of `areas` (square pixels) it reaches.
    `sampling_ratio` 0 is adaptive.  Returns [R, C, PH, PW] in the maps' dtype, channels-last in memory, and with
    `maximum` the number of the sample that each value is, int32 (otherwise nothing).  A row with an image index out
    of range or a coordinate that is not finite is NaN.
    """
    pooled = pooling(features, boxes, image_index, scales, areas, sampling_ratio, aligned, quantise, maximum)
    images, channels = features[0].shape[:2]
    dtype = features[0].dtype
    out = features[0].new_empty(len(boxes), bins_y, bins_x, channels)
    winner = torch.empty(out.shape if maximum else 0, dtype=torch.int32, device=out.device)
    block = block_channels(channels, dtype.itemsize)
    if out.numel():
        with torch.cuda.device_of(out):
            roi_align_kernel[(len(boxes) * bins_y, triton.cdiv(channels, block))](
                features=pooled.maps,
                image_ptr=pooled.image_index,
                out_ptr=out,
                winner_ptr=winner,
                images=images,
                bins_y=bins_y,
                bins_x=bins_x,
                BLOCK_C=block,
                **pooled.arguments(),
            )
    return out.permute(0, 3, 1, 2), winner.permute(0, 3, 1, 2) if maximum else winner


@roi_align.register_fake
def _(
    features, boxes, image_index, scales, areas, bins_y, bins_x, sampling_ratio, aligned, quantise, maximum
):
    shape = (len(boxes), bins_y, bins_x, features[0].shape[1])
    out = features[0].new_empty(shape).permute(0, 3, 1, 2)
    if maximum:
        return out, boxes.new_empty(shape, dtype=torch.int32).permute(0, 3, 1, 2)
    return out, boxes.new_empty(0, dtype=torch.int32)


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
    pooled = pooling(features, boxes, image_index, scales, areas, sampling_ratio, aligned, quantise, maximum)
    grad = grad.permute(0, 2, 3, 1).contiguous()
    winner = winner.permute(0, 2, 3, 1).contiguous() if maximum else winner
    d_maps = [grad.new_empty(0) for _ in features]
    if for_features:
        deterministic = torch.are_deterministic_algorithms_enabled()
        d_maps = (gather if deterministic else scatter)(grad, winner, pooled)
    return [*d_maps, box_gradient(grad, winner, pooled) if for_boxes else boxes.new_empty(0)]


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


def _save(ctx, inputs, output):
    features, boxes, image_index, *ctx.settings = inputs
    ctx.save_for_backward(*features, boxes, image_index, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad, _):
    *features, boxes, image_index, winner = ctx.saved_tensors
    scales, areas, _, _, *flags = ctx.settings
    for_features = any(ctx.needs_input_grad[0])
    for_boxes = ctx.needs_input_grad[1] and not flags[2]
    *d_maps, d_boxes = roi_align_backward(
        grad, winner, features, boxes, image_index, scales, areas, *flags, for_features, for_boxes
    )
    needed = ctx.needs_input_grad[0]
    d_features = [d if wanted else None for d, wanted in zip(d_maps, needed)]
    return d_features, d_boxes if for_boxes else None, *[None] * 9


roi_align.register_autograd(_backward, setup_context=_save)
