"""RoIPool: the maximum of whole cells, with the coordinates rounded twice (the box to cells, then each bin).

A box start..end in pixels becomes the cells round(start · scale) .. round(end · scale), both included, at least one;
bin p of P takes the cells from floor(p · n / P) up to, not including, ceil((p + 1) · n / P) of these n, as far as
they lie on the map.  An empty bin is 0.  Rounding is C++'s, half away from zero.  All this is torchvision's.

`roi_pool_kernel`: a program makes BLOCK_C channels of one row of bins (r, ph, 0..PW - 1), and notes the winning cell
of each channel: the first in reading order.
`scatter_kernel`: a program adds the gradients of a row of bins to their winners, with float32 atomics.
`gather_kernel`: the same without a race.  A program owns BLOCK_X cells of a row of the map, and adds up what the
boxes that reach them bring, in their order: chosen by `torch.use_deterministic_algorithms`.

Grids: (R · PH, C / BLOCK_C), twice; (B · H · W / BLOCK_X, C / BLOCK_C).
Bytes: each cell of a box is read once or, on the border of two bins, twice; the values and int32 winners are written.
The backward pass reads both, once (scatter) or once for each row and segment of cells that the bin reaches (gather).

Axis letters: B images, R rois, PH PW bins, C channels.  Left out: float64 (the torch path has it).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from minimaskrcnn_kernels.rois import block_channels, is_known, read_box, round_half_away, row_of_bins

# As in `roi_align_gather.py`.
BLOCK_R = 128
BLOCK_X = 8


@triton.jit
def cells(start, end, scale):
    """The first cell of a box, and how many there are."""
    first = round_half_away(start * scale)
    return first, tl.maximum(round_half_away(end * scale) - first + 1, 1.0)


@triton.jit
def bin_cells(first, count, bins, p, extent):
    """The cells of bin p that lie on the map, as a range of integers."""
    size = tl.div_rn(count, tl.zeros_like(count) + bins)
    low = tl.minimum(tl.maximum(tl.floor(p * size) + first, 0.0), extent * 1.0)
    high = tl.minimum(tl.maximum(tl.ceil((p + 1) * size) + first, 0.0), extent * 1.0)
    return low.to(tl.int32), high.to(tl.int32)


@triton.jit
def bins_of(first, count, bins, low, high):
    """Which bins may hold cells low..high, as a range of integers; one too many at each end."""
    size = tl.div_rn(count, tl.zeros_like(count) + bins)
    most = tl.zeros_like(count) + bins
    start = tl.minimum(tl.maximum(tl.floor(tl.div_rn(low - first, size)) - 1, 0.0), most)
    stop = tl.minimum(tl.maximum(tl.ceil(tl.div_rn(high + 1 - first, size)) + 1, 0.0), most)
    return start.to(tl.int32), stop.to(tl.int32)


@triton.jit
def roi_pool_kernel(
    # Tensors
    map_ptr,  # [B, H, W, C]
    boxes_ptr,  # [R, 4] float32, pixels
    image_ptr,  # [R] int64
    out_ptr,  # [R, PH, PW, C]
    winner_ptr,  # [R, PH, PW, C] int32: y · W + x, -1 where there is none
    # Sizes
    images,
    height,
    width,
    channels,
    bins_y,
    bins_x,
    # Scalars
    scale,  # cells per pixel
    # Constexprs
    BLOCK_C: tl.constexpr,
):
    """The forward pass: BLOCK_C channels of one row of bins."""
    r, ph = row_of_bins(bins_y)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = c < channels
    x1, y1, x2, y2, image = read_box(boxes_ptr, image_ptr, r)
    out = tl.program_id(0).to(tl.int64) * bins_x * channels + c
    known = is_known(x1, y1, x2, y2, image, images)
    first_y, count_y = cells(y1, y2, scale)
    first_x, count_x = cells(x1, x2, scale)
    y_low, y_high = bin_cells(first_y, count_y, bins_y, ph, height)
    base = map_ptr + image * height * width * channels + c
    for pw in range(bins_x):
        x_low, x_high = bin_cells(first_x, count_x, bins_x, pw, width)
        some = (y_high > y_low) & (x_high > x_low)
        best = tl.zeros([BLOCK_C], tl.float32) + tl.where(some, float("-inf"), 0.0)
        winner = tl.full([BLOCK_C], -1, tl.int32)
        if known:
            for y in range(y_low, y_high):
                for x in range(x_low, x_high):
                    cell = y * width + x
                    value = tl.load(base + tl.cast(cell, tl.int64) * channels, mask, other=0.0).to(tl.float32)
                    # The first of equals; -inf itself wins where nothing has yet.
                    better = (value > best) | ((winner < 0) & (value == best))
                    winner = tl.where(better, cell, winner)
                    best = tl.where(better, value, best)
        else:
            best += float("nan")
        tl.store(out_ptr + out, best.to(out_ptr.dtype.element_ty), mask)
        tl.store(winner_ptr + out, winner, mask)
        out += channels


@triton.jit
def scatter_kernel(
    # Tensors
    grad_ptr,  # [R, PH, PW, C]
    winner_ptr,  # [R, PH, PW, C] int32
    image_ptr,  # [R] int64
    out_ptr,  # [B, H, W, C] float32, zeros
    # Sizes
    cells_per_image,  # H · W
    channels,
    bins,  # PH · PW
    # Constexprs
    BLOCK_C: tl.constexpr,
):
    """The map's gradient with atomics: BLOCK_C channels of one bin."""
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    row = tl.program_id(0).to(tl.int64) * channels + c
    winner = tl.load(winner_ptr + row, c < channels, other=-1)
    grad = tl.load(grad_ptr + row, c < channels, other=0.0).to(tl.float32)
    # A row without an image has no winners.
    image = tl.load(image_ptr + tl.program_id(0) // bins)
    place = out_ptr + (image * cells_per_image + winner) * channels + c
    tl.atomic_add(place, grad, winner >= 0, sem="relaxed")


@triton.jit
def gather_kernel(
    # Tensors
    grad_ptr,  # [R, PH, PW, C]
    winner_ptr,  # [R, PH, PW, C] int32
    boxes_ptr,  # [R, 4] float32, sorted by image
    order_ptr,  # [R] int64: which row of grad each of them is
    first_ptr,  # [B + 1] int64: where the boxes of each image begin
    out_ptr,  # [B, H, W, C]
    # Sizes
    height,
    width,
    channels,
    bins_y,
    bins_x,
    # Scalars
    scale,
    # Constexprs
    BLOCK_R: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The map's gradient without atomics: BLOCK_C channels of BLOCK_X cells."""
    segments = tl.cdiv(width, BLOCK_X)
    left = tl.program_id(0) % segments * BLOCK_X
    y = tl.program_id(0) // segments % height
    image = tl.program_id(0) // segments // height
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
        near = here & is_known(x1, y1, x2, y2, 0, 1) & reaches(y1, y2, scale, y, y)
        near &= reaches(x1, x2, scale, left, left + BLOCK_X - 1)
        row = tl.min(tl.where(near, rows, end), 0)
        while row < end:
            at = boxes_ptr + row * 4
            r = tl.load(order_ptr + row)
            first_x, count_x = cells(tl.load(at), tl.load(at + 2), scale)
            first_y, count_y = cells(tl.load(at + 1), tl.load(at + 3), scale)
            ph_low, ph_high = bins_of(first_y, count_y, bins_y, y, y)
            pw_low, pw_high = bins_of(first_x, count_x, bins_x, left, left + BLOCK_X - 1)
            for ph in range(ph_low, ph_high):
                for pw in range(pw_low, pw_high):
                    place = ((r * bins_y + ph) * bins_x + pw) * channels + c
                    winner = tl.load(winner_ptr + place, c < channels, other=-1)
                    grad = tl.load(grad_ptr + place, c < channels, other=0.0).to(tl.float32)
                    won = (y * width + x)[:, None] == winner[None, :]
                    total += tl.where(won, grad[None, :], 0.0)
            row = tl.min(tl.where(near & (rows > row), rows, end), 0)
    cell = (image.to(tl.int64) * height + y) * width + x
    place = out_ptr + cell[:, None] * channels + c[None, :]
    tl.store(place, total.to(out_ptr.dtype.element_ty), (x < width)[:, None] & (c < channels)[None, :])


@triton.jit
def reaches(start, end, scale, low, high):
    """Whether the box may hold one of the cells low..high."""
    first, count = cells(start, end, scale)
    return (first <= high + 1) & (first + count >= low - 1)


@torch.library.custom_op("minimaskrcnn_kernels::roi_pool", mutates_args=())
def roi_pool(
    feature: Tensor, boxes: Tensor, image_index: Tensor, scale: float, bins_y: int, bins_x: int
) -> tuple[Tensor, Tensor]:
    """Pool `boxes` [R, 4] (float32, pixels) of `image_index` [R] from `feature` [B, C, H, W], `scale` cells a pixel.

    Returns [R, C, PH, PW] in the map's dtype and the winning cells y · W + x as int32 (-1: none), both channels-last
    in memory.  A row with an image index out of range or a coordinate that is not finite is NaN.
    """
    feature = feature.contiguous(memory_format=torch.channels_last)
    images, channels, height, width = feature.shape
    if height * width >= 2**31:
        raise ValueError(f"a map of {height} × {width} cells: winners are int32")
    out = feature.new_empty(len(boxes), bins_y, bins_x, channels)
    winner = torch.empty_like(out, dtype=torch.int32)
    block = block_channels(channels, feature.element_size())
    if out.numel():
        with torch.cuda.device_of(out):
            roi_pool_kernel[(len(boxes) * bins_y, triton.cdiv(channels, block))](
                map_ptr=feature,
                boxes_ptr=boxes.contiguous(),
                image_ptr=image_index.contiguous(),
                out_ptr=out,
                winner_ptr=winner,
                images=images,
                height=height,
                width=width,
                channels=channels,
                bins_y=bins_y,
                bins_x=bins_x,
                scale=scale,
                BLOCK_C=block,
                num_warps=1,
                enable_fp_fusion=False,
            )
    return out.permute(0, 3, 1, 2), winner.permute(0, 3, 1, 2)


@roi_pool.register_fake
def _(feature, boxes, image_index, scale, bins_y, bins_x):
    out = feature.new_empty(len(boxes), bins_y, bins_x, feature.shape[1]).permute(0, 3, 1, 2)
    return out, torch.empty_like(out, dtype=torch.int32)


@torch.library.custom_op("minimaskrcnn_kernels::roi_pool_backward", mutates_args=())
def roi_pool_backward(
    grad: Tensor, winner: Tensor, feature: Tensor, boxes: Tensor, image_index: Tensor, scale: float
) -> Tensor:
    """The gradient of `roi_pool` for the map; `grad` and `winner` are as it returns them."""
    grad = grad.permute(0, 2, 3, 1).contiguous()
    winner = winner.permute(0, 2, 3, 1).contiguous()
    if torch.are_deterministic_algorithms_enabled():
        return _gather(grad, winner, feature, boxes, image_index, scale)
    rois, bins_y, bins_x, channels = grad.shape
    out = torch.zeros_like(feature, dtype=torch.float32, memory_format=torch.channels_last)
    block = block_channels(channels, 4)
    if grad.numel():
        with torch.cuda.device_of(grad):
            scatter_kernel[(rois * bins_y * bins_x, triton.cdiv(channels, block))](
                grad_ptr=grad,
                winner_ptr=winner,
                image_ptr=image_index.contiguous(),
                out_ptr=out,
                cells_per_image=feature.shape[2] * feature.shape[3],
                channels=channels,
                bins=bins_y * bins_x,
                BLOCK_C=block,
                num_warps=1,
                enable_fp_fusion=False,
            )
    return out.to(feature.dtype)


@roi_pool_backward.register_fake
def _(grad, winner, feature, boxes, image_index, scale):
    return torch.empty_like(feature, memory_format=torch.channels_last)


def _gather(
    grad: Tensor, winner: Tensor, feature: Tensor, boxes: Tensor, image_index: Tensor, scale: float
) -> Tensor:
    images, channels, height, width = feature.shape
    out = torch.empty_like(feature, memory_format=torch.channels_last)
    image_index, order = image_index.sort(stable=True)
    block = block_channels(channels, 4)
    if out.numel():
        with torch.cuda.device_of(grad):
            gather_kernel[(images * height * triton.cdiv(width, BLOCK_X), triton.cdiv(channels, block))](
                grad_ptr=grad,
                winner_ptr=winner,
                boxes_ptr=boxes[order],
                order_ptr=order,
                first_ptr=torch.searchsorted(image_index, torch.arange(images + 1, device=grad.device)),
                out_ptr=out,
                height=height,
                width=width,
                channels=channels,
                bins_y=grad.shape[1],
                bins_x=grad.shape[2],
                scale=scale,
                BLOCK_R=BLOCK_R,
                BLOCK_X=BLOCK_X,
                BLOCK_C=block,
                num_warps=1,
                enable_fp_fusion=False,
            )
    return out


def _save(ctx, inputs, output):
    feature, boxes, image_index, ctx.scale, *_ = inputs
    ctx.save_for_backward(feature, boxes, image_index, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad, _):
    feature, boxes, image_index, winner = ctx.saved_tensors
    d_feature = None
    if ctx.needs_input_grad[0]:
        d_feature = roi_pool_backward(grad, winner, feature, boxes, image_index, ctx.scale)
    return d_feature, *[None] * 5


roi_pool.register_autograd(_backward, setup_context=_save)


def _save_backward(ctx, inputs, output):
    _, winner, _, _, image_index, _ = inputs
    ctx.save_for_backward(winner, image_index)


def _second_derivative(ctx, incoming):
    """The backward pass adds each gradient to its winner's cell: here each gradient gets what came in for that cell.

    Which cell wins does not change with the map, as far as derivatives can see.
    """
    winner, image_index = ctx.saved_tensors
    images, channels = incoming.shape[:2]
    image = image_index.clamp(0, max(images, 1) - 1)[:, None, None, None]
    channel = torch.arange(channels, device=winner.device)[:, None, None]
    cell = winner.clamp(min=0).long()
    found = incoming.flatten(2)[image, channel, cell] if incoming.numel() else incoming.new_zeros(winner.shape)
    return torch.where(winner >= 0, found, 0), *[None] * 5


roi_pool_backward.register_autograd(_second_derivative, setup_context=_save_backward)
