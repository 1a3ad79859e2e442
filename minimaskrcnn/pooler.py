"""Pooling RoIs: a fixed grid of features for each box, from the pyramid level that fits its size.

RoIAlign (Mask R-CNN, section 3) samples the features bilinearly at real coordinates, so that a mask predicted
on the grid lies where the object lies.  On a pyramid a box of side √(wh) is read from level
⌊4 + log2(√(wh) / 224)⌋ (FPN, equation 1): boxes of 224 pixels from P4, half as large from P3, and so on.  A backbone
without a pyramid has one map, and every box is read from it.

RoIPool and RoIWarp are here for the comparison of the paper's tables 2c, 2d and 6.

Lesson 05, `lessons/05_roi_align.ipynb`, teaches this.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from minimaskrcnn.fpn import FeatureMaps
from minimaskrcnn.ops import multiscale_roi_align, multiscale_roi_pool, multiscale_roi_warp
from minimaskrcnn.options import CheckedOptions


@dataclass(frozen=True, kw_only=True)
class PoolerConfig(CheckedOptions):
    """How RoIs are pooled; the same for all heads."""

    operation: Literal["roi_align", "roi_warp", "roi_pool"] = "roi_align"
    """Table 2c: RoIPool rounds the box and its bins, RoIWarp the box, RoIAlign nothing."""
    mode: Literal["avg", "max"] = "avg"
    """The average or the largest of a bin's samples (table 2c).  RoIPool is "max" and has no samples."""
    sampling_ratio: int = 2
    """Samples per bin and axis (Mask R-CNN, section 3: four a bin); 0 takes as many as the bin has cells."""
    aligned: bool = False
    """Shift by half a cell, so that a cell's value lies at its centre (detectron2); torchvision's models do not.
    RoIAlign's; RoIWarp always does."""
    canonical_size: float = 224.0
    """Side of the boxes that are read from `canonical_level` (FPN, equation 1)."""
    canonical_level: int = 4
    """Level P_k has stride 2^k."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.operation == "roi_pool" and self.mode != "max":
            raise ValueError(f'roi_pool takes the largest cell of a bin: mode "max", got {self.mode!r}')


@dataclass(frozen=True)
class Pooler:
    """Pools RoIs from the levels that they may be read from, the first ones of the pyramid."""

    strides: tuple[int, ...]
    config: PoolerConfig

    def __call__(
        self,
        features: FeatureMaps,
        boxes: Float[Tensor, "R 4"],
        image_index: Int[Tensor, " R"],
        output_size: int,
    ) -> Float[Tensor, "R C PH PW"]:
        """`output_size` × `output_size` bins of each box, in pixels of the padded picture, from its level."""
        config = self.config
        features = features[: len(self.strides)]
        levels = {"canonical_size": config.canonical_size, "canonical_level": config.canonical_level}
        given = (features, boxes, image_index, (output_size, output_size), self.strides)
        if config.operation == "roi_pool":
            return multiscale_roi_pool(*given, **levels)
        samples = {"sampling_ratio": config.sampling_ratio, "mode": config.mode, **levels}
        if config.operation == "roi_warp":
            return multiscale_roi_warp(*given, **samples)
        return multiscale_roi_align(*given, aligned=config.aligned, **samples)
