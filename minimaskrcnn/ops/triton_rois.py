"""Pooling of boxes by the Triton kernels: what `minimaskrcnn_kernels` is given, and its second derivatives.

The kernels have the first derivatives.  The derivative of a backward pass is that of the torch path's backward pass
on the same inputs, registered here for each of the backward ops: an autograd graph that is built, differentiated and
dropped.

This module needs triton, so `roi_align.py` and `roi_pool.py` import it where they use it.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from minimaskrcnn_kernels.roi_align import roi_align, roi_align_backward
from minimaskrcnn_kernels.roi_pool import roi_pool, roi_pool_backward
from torch import Tensor

from minimaskrcnn.ops.roi_align import pool_by_torch
from minimaskrcnn.ops.roi_pool import roi_pool_by_torch
from minimaskrcnn.ops.rois import Sampling, with_a_cell


def pool_by_triton(
    features: Sequence[Float[Tensor, "B C _ _"]],
    boxes: Float[Tensor, "R 4"],
    image_index: Int64[Tensor, "R"],
    scales: Sequence[float],
    areas: Sequence[float],
    how: Sampling,
) -> Float[Tensor, "R C PH PW"]:
    """`roi_align.pool` by the kernels; inputs as they have passed `check_pooling`."""
    (height, width), ratio, aligned, mode, quantise = how
    if len(features[0]):
        features = [with_a_cell(feature) for feature in features]
    return roi_align(
        features, boxes.float(), image_index, scales, areas, height, width, max(ratio, 0), aligned, quantise,
        mode == "max",
    )[0]  # fmt: skip


def roi_pool_by_triton(
    input: Float[Tensor, "B C H W"],
    boxes: Float[Tensor, "R 4"],
    image_index: Int64[Tensor, "R"],
    spatial_scale: float,
    size: tuple[int, int],
) -> Float[Tensor, "R C PH PW"]:
    """`roi_pool` by the kernels; inputs as they have passed `check_pooling`."""
    return roi_pool(input, boxes.float(), image_index, spatial_scale, *size)[0]


def _save_roi_align(ctx, inputs, output):
    grad, _, features, boxes, image_index, ctx.scales, ctx.areas, *flags = inputs
    *ctx.flags, ctx.for_features, ctx.for_boxes = flags
    ctx.save_for_backward(grad, *features, boxes, image_index)


def _roi_align_second_derivative(ctx, incoming):
    grad, *features, boxes, image_index = ctx.saved_tensors
    ratio, aligned, quantise, maximum = ctx.flags
    how = Sampling(tuple(grad.shape[2:]), ratio, aligned, "max" if maximum else "avg", quantise)
    with torch.enable_grad():
        grad, *features, boxes = (t.detach().requires_grad_() for t in (grad, *features, boxes))
        out = pool_by_torch(features, boxes, image_index, ctx.scales, ctx.areas, how)
        wanted = [*(features if ctx.for_features else []), *([boxes] if ctx.for_boxes else [])]
        first = torch.autograd.grad(out, wanted, grad, create_graph=True)
    given = [*(incoming[:-1] if ctx.for_features else []), *([incoming[-1]] if ctx.for_boxes else [])]
    pairs = [(f, g) for f, g in zip(first, given) if g is not None and f.requires_grad]
    second = torch.autograd.grad(
        [f for f, _ in pairs], (grad, *features, boxes), [g for _, g in pairs], allow_unused=True
    )
    d_grad, *d_features, d_boxes = second
    return d_grad, None, d_features, d_boxes, *[None] * 9


roi_align_backward.register_autograd(_roi_align_second_derivative, setup_context=_save_roi_align)


def _save_roi_pool(ctx, inputs, output):
    grad, _, feature, boxes, image_index, ctx.scale = inputs
    ctx.save_for_backward(grad, feature, boxes, image_index)


def _roi_pool_second_derivative(ctx, incoming):
    grad, feature, boxes, image_index = ctx.saved_tensors
    with torch.enable_grad():
        grad, feature = grad.detach().requires_grad_(), feature.detach().requires_grad_()
        out = roi_pool_by_torch(feature, boxes, image_index, ctx.scale, tuple(grad.shape[2:]))
        (first,) = torch.autograd.grad(out, feature, grad, create_graph=True)
    (d_grad,) = torch.autograd.grad(first, grad, incoming)
    # Which cell is the largest does not change with the map, as far as derivatives can see.
    return d_grad, *[None] * 5


roi_pool_backward.register_autograd(_roi_pool_second_derivative, setup_context=_save_roi_pool)
