"""RoIAlign and RoIWarp by the Triton kernels: what `minimaskrcnn_kernels` is given, and the second derivative.

The kernels have the first derivative.  The derivative of their backward pass is that of the torch path's backward
pass on the same inputs: an autograd graph that is built, differentiated and dropped.

This module needs triton, so `roi_align.py` imports it where it uses it.
"""

import torch
from jaxtyping import Float
from minimaskrcnn_kernels.roi_align import roi_align, roi_align_backward
from torch import Tensor

from minimaskrcnn.ops.roi_align_torch import roi_align_by_torch
from minimaskrcnn.ops.rois import PoolingRequest, with_a_cell


def roi_align_by_triton(request: PoolingRequest) -> Float[Tensor, "R C PH PW"]:
    """`roi_align_by_torch` by the kernels, which have no float64."""
    return roi_align(
        [with_a_cell(feature) if len(feature) else feature for feature in request.features],
        request.boxes.float(),
        request.image_index,
        request.scales,
        request.areas,
        *request.output_size,
        max(request.sampling_ratio, 0),
        request.aligned,
        request.quantise,
        request.mode == "max",
    )[0]


def _save(ctx, inputs, output):
    grad, _, features, boxes, image_index, *ctx.settings, _, _ = inputs
    ctx.save_for_backward(grad, *features, boxes, image_index)


def _second_derivative(ctx, incoming):
    grad, *features, boxes, image_index = ctx.saved_tensors
    scales, areas, sampling_ratio, aligned, quantise, maximum = ctx.settings
    with torch.enable_grad():
        grad, *features, boxes = (t.detach().requires_grad_() for t in (grad, *features, boxes))
        request = PoolingRequest(
            features=features,
            boxes=boxes,
            image_index=image_index,
            output_size=tuple(grad.shape[2:]),
            scales=scales,
            areas=areas,
            sampling_ratio=sampling_ratio,
            aligned=aligned,
            mode="max" if maximum else "avg",
            quantise=quantise,
        )
        # What the backward pass was not asked for is an empty tensor, here as there.
        inputs = [(t, g) for t, g in zip((*features, boxes), incoming) if g is not None and g.shape == t.shape]
        out = roi_align_by_torch(request)
        first = torch.autograd.grad(out, [t for t, _ in inputs], grad, create_graph=True)
    second = torch.autograd.grad(first, (grad, *features, boxes), [g for _, g in inputs], allow_unused=True)
    d_grad, *d_features, d_boxes = second
    return d_grad, None, d_features, d_boxes, *[None] * 9


roi_align_backward.register_autograd(_second_derivative, setup_context=_save)
