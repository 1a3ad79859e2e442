"""Pooling RoIs: a fixed grid of features for each box, from the pyramid level that fits its size.

RoIAlign (Mask R-CNN, section 3) samples the features bilinearly at real coordinates, so that a mask predicted
on the grid lies where the object lies.  On a pyramid a box of side √(wh) is read from level
⌊4 + log2(√(wh) / 224)⌋ (FPN, equation 1): boxes of 224 pixels from P4, half as large from P3, and so on.

Lesson 05, `lessons/05_roi_align.ipynb`, teaches this.
"""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from minimaskrcnn.ops import multiscale_roi_align


@dataclass(frozen=True, kw_only=True)
class PoolerConfig:
    """How RoIs are pooled; the same for the box and the mask head."""

    sampling_ratio: int = 2
    """Samples per bin and axis (Mask R-CNN, section 3: four a bin); 0 takes as many as the bin has cells."""
    aligned: bool = False
    """Shift by half a cell, so that a cell's value lies at its centre (detectron2); torchvision's models do not."""
    canonical_size: float = 224.0
    """Side of the boxes that are read from `canonical_level` (FPN, equation 1)."""
    canonical_level: int = 4
    """Level P_k has stride 2^k."""


def pool_rois(
    features: list[Float[Tensor, "B C _ _"]],
    strides: tuple[int, ...],
    rois: Float[Tensor, "R 4"],
    image_index: Int[Tensor, " R"],
    output_size: int,
    config: PoolerConfig,
) -> Float[Tensor, "R C PH PW"]:
    """Pool every RoI from its level; `features` and `strides` name the levels that RoIs may be read from."""
    return multiscale_roi_align(
        features,
        rois,
        image_index,
        (output_size, output_size),
        strides,
        sampling_ratio=config.sampling_ratio,
        aligned=config.aligned,
        canonical_size=config.canonical_size,
        canonical_level=config.canonical_level,
    )
