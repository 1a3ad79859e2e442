"""Wrong answers about deltas that people really give: lesson 01."""

import torch
from torch import Tensor

from minimaskrcnn.boxes import MAX_LOG_SCALE, Weights
from minimaskrcnn_lessons.exercise import Misconception


def _moved(
    deltas: Tensor,
    references: Tensor,
    *,
    low: float | None = None,
    high: float | None = MAX_LOG_SCALE,
    by_size: bool = True,
    half: float = 0.5,
) -> Tensor:
    sizes = references[:, 2:] - references[:, :2]
    centres = (references[:, :2] + references[:, 2:]) / 2
    centres = centres + deltas[:, :2] * (sizes if by_size else 1.0)
    grown = sizes * deltas[:, 2:].clamp(low, high).exp()
    return torch.cat([centres - half * grown, centres + half * grown], 1)


def unclamped(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    return _moved(deltas / deltas.new_tensor(weights), references, high=1e9)


def multiplied(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    return _moved(deltas * deltas.new_tensor(weights), references)


def weights_ignored(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    return _moved(deltas, references)


def clamped_early(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    cut = torch.cat([deltas[:, :2], deltas[:, 2:].clamp(max=MAX_LOG_SCALE)], 1)
    return _moved(cut / deltas.new_tensor(weights), references)


def clamped_both_ways(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    return _moved(deltas / deltas.new_tensor(weights), references, low=-MAX_LOG_SCALE)


def in_pixels(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    return _moved(deltas / deltas.new_tensor(weights), references, by_size=False)


def size_for_half(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    return _moved(deltas / deltas.new_tensor(weights), references, half=1.0)


def corner_moved(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    d = deltas / deltas.new_tensor(weights)
    sizes = references[:, 2:] - references[:, :2]
    corner = references[:, :2] + d[:, :2] * sizes
    return torch.cat([corner, corner + sizes * d[:, 2:].clamp(max=MAX_LOG_SCALE).exp()], 1)


def _parts(deltas: Tensor, references: Tensor, weights: Weights) -> tuple[Tensor, ...]:
    """Shifts and growths without their weights, centres and sizes of the references."""
    d = deltas / deltas.new_tensor(weights)
    sizes = references[:, 2:] - references[:, :2]
    return d[:, :2], d[:, 2:], (references[:, :2] + references[:, 2:]) / 2, sizes


def _around(centres: Tensor, sizes: Tensor) -> Tensor:
    return torch.cat([centres - sizes / 2, centres + sizes / 2], 1)


def growth_as_factor(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    shift, growth, centres, sizes = _parts(deltas, references, weights)
    return _around(centres + shift * sizes, sizes * growth.clamp(max=MAX_LOG_SCALE))


def growth_as_share(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    shift, growth, centres, sizes = _parts(deltas, references, weights)
    return _around(centres + shift * sizes, sizes * (1 + growth.clamp(max=MAX_LOG_SCALE)))


def growth_as_factor_unclamped(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    shift, growth, centres, sizes = _parts(deltas, references, weights)
    return _around(centres + shift * sizes, sizes * growth)


def growth_as_share_unclamped(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    shift, growth, centres, sizes = _parts(deltas, references, weights)
    return _around(centres + shift * sizes, sizes * (1 + growth))


def clamped_after_exp(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    shift, growth, centres, sizes = _parts(deltas, references, weights)
    return _around(centres + shift * sizes, sizes * growth.exp().clamp(max=MAX_LOG_SCALE))


def shift_clamped(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    shift, growth, centres, sizes = _parts(deltas, references, weights)
    grown = sizes * growth.clamp(max=MAX_LOG_SCALE).exp()
    return _around(centres + shift.clamp(max=MAX_LOG_SCALE) * sizes, grown)


def shift_by_new_size(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    shift, growth, centres, sizes = _parts(deltas, references, weights)
    grown = sizes * growth.clamp(max=MAX_LOG_SCALE).exp()
    return _around(centres + shift * grown, grown)


def centre_and_size(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    shift, growth, centres, sizes = _parts(deltas, references, weights)
    return torch.cat([centres + shift * sizes, sizes * growth.clamp(max=MAX_LOG_SCALE).exp()], 1)


def reference_as_xywh(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    corners = torch.cat([references[:, :2], references[:, :2] + references[:, 2:]], 1)
    return _moved(deltas / deltas.new_tensor(weights), corners)


def half_size_for_centre(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    sizes = references[:, 2:] - references[:, :2]
    return _moved(deltas / deltas.new_tensor(weights), torch.cat([torch.zeros_like(sizes), sizes], 1))


DELTAS = (
    Misconception(
        name="no clamp of growth",
        sentence="This is the decoding without the bound on growth: cut dw and dh at MAX_LOG_SCALE before exp.",
        answer=unclamped,
    ),
    Misconception(
        name="weights multiplied",
        sentence="This is a multiplication by the weights. Encoding multiplied by them, so decoding divides.",
        answer=multiplied,
    ),
    Misconception(
        name="weights ignored",
        sentence="This is the decoding for weights of 1: divide the deltas by their weights first.",
        answer=weights_ignored,
    ),
    Misconception(
        name="clamp before the weights",
        sentence="This is a clamp of deltas that still carry their weights. Divide first: the "
        "bound is one on log(w' / w).",
        answer=clamped_early,
    ),
    Misconception(
        name="clamp on both sides",
        sentence="This is a clamp at -MAX_LOG_SCALE too. Only growth can overflow; shrinking is not bounded.",
        answer=clamped_both_ways,
    ),
    Misconception(
        name="shift in pixels",
        sentence="This is a shift by dx pixels. dx counts widths of the reference, so multiply by that.",
        answer=in_pixels,
    ),
    Misconception(
        name="corner moved",
        sentence="This is the corner moved and the box grown from it. Deltas move the centre, and the box grows "
        "about its new centre.",
        answer=corner_moved,
    ),
    Misconception(
        name="whole size each side",
        sentence="This is a box of twice the size: from the centre it is half a width to either side.",
        answer=size_for_half,
    ),
    Misconception(
        name="growth taken for a factor",
        sentence="This is the size times dw. dw is the logarithm of the factor, so undo it: the factor of dw = "
        "0 is 1.",
        answer=growth_as_factor,
    ),
    Misconception(
        name="growth taken for a share",
        sentence="This is the size times 1 + dw, which is close for small deltas only. dw is a logarithm: the "
        "factor is exp(dw).",
        answer=growth_as_share,
    ),
    Misconception(
        name="clamp after exp",
        sentence="This is the factor cut at MAX_LOG_SCALE, which is about 4. The bound is one on the "
        "logarithm: cut dw and dh before exp.",
        answer=clamped_after_exp,
    ),
    Misconception(
        name="shift clamped too",
        sentence="This is a bound on all four deltas. Only dw and dh go into exp; a shift has no bound.",
        answer=shift_clamped,
    ),
    Misconception(
        name="shift in new sizes",
        sentence="This is a shift by dx widths of the new box. dx counts widths of the reference: keep the old "
        "size for it.",
        answer=shift_by_new_size,
    ),
    Misconception(
        name="centre and size",
        sentence="This is (cx, cy, w, h) of the new box: its corners are asked for.",
        answer=centre_and_size,
    ),
    Misconception(
        name="reference read as xywh",
        sentence="This is the reference read as (x, y, width, height): it is (x1, y1, x2, y2), so its width is "
        "x2 - x1.",
        answer=reference_as_xywh,
    ),
    Misconception(
        name="half a size for the centre",
        sentence="This is the new box as if the reference began at 0: its centre is x1 + w / 2, or (x1 + x2) / "
        "2.",
        answer=half_size_for_centre,
    ),
    Misconception(
        name="growth taken for a factor, no bound",
        sentence="This is the size times dw, without a bound. dw is the logarithm of the factor: cut it at "
        "MAX_LOG_SCALE, then undo the logarithm.",
        answer=growth_as_factor_unclamped,
    ),
    Misconception(
        name="growth taken for a share, no bound",
        sentence="This is the size times 1 + dw, without a bound. dw is the logarithm of the factor: cut it at "
        "MAX_LOG_SCALE, then undo the logarithm.",
        answer=growth_as_share_unclamped,
    ),
)
