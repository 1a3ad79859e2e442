"""Pooling RoIs: a fixed grid of features for each box, from the pyramid level that fits its size.

RoIAlign (Mask R-CNN, section 3) samples the features bilinearly at real coordinates, so that a mask predicted
on the grid lies where the object lies.  On a pyramid a box of side √(wh) is read from level
⌊4 + log2(√(wh) / 224)⌋ (FPN, equation 1): boxes of 224 pixels from P4, half as large from P3, and so on.  A backbone
without a pyramid has one map, and every box is read from it.

RoIPool and RoIWarp are here for the comparison of the paper's tables 2c, 2d and 6: RoIPool rounds the box and its
bins, RoIWarp the box, RoIAlign nothing.

Lesson 05, `lessons/05_roi_align.ipynb`, teaches this.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

from minimaskrcnn.fpn import FeatureMaps
from minimaskrcnn.ops import multiscale_roi_align, multiscale_roi_pool, multiscale_roi_warp
from minimaskrcnn.options import CheckedOptions


@dataclass(frozen=True, kw_only=True)
class PoolerConfig(CheckedOptions):
    """How RoIs are pooled, the same for all heads; the base of RoIAlign's, RoIWarp's, RoIPool's and your own."""

    canonical_size: float = 224.0
    """Side of the boxes that are read from `canonical_level` (FPN, equation 1)."""
    canonical_level: int = 4
    """Level P_k has stride 2^k."""

    def build(self, strides: tuple[int, ...]) -> "Pooler":
        """The pooler of levels with these strides."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class RoIAlignConfig(PoolerConfig):
    """Bilinear samples at real coordinates (section 3)."""

    mode: Literal["avg", "max"] = "avg"
    """The average or the largest of a bin's samples (table 2c)."""
    sampling_ratio: int = 2
    """Samples per bin and axis (section 3: four a bin); 0 takes as many as the bin has cells."""
    aligned: bool = False
    """Shift by half a cell, so that a cell's value lies at its centre (detectron2); torchvision's models do not."""

    def build(self, strides: tuple[int, ...]) -> "Pooler":
        """RoIAlign's."""
        return Pooler(multiscale_roi_align, strides, asdict(self))


@dataclass(frozen=True, kw_only=True)
class RoIWarpConfig(PoolerConfig):
    """Bilinear samples of the box rounded to whole cells (table 2c), whose values lie at their centres."""

    mode: Literal["avg", "max"] = "avg"
    """As RoIAlign's; so is the next."""
    sampling_ratio: int = 2

    def build(self, strides: tuple[int, ...]) -> "Pooler":
        """RoIWarp's."""
        return Pooler(multiscale_roi_warp, strides, asdict(self))


@dataclass(frozen=True, kw_only=True)
class RoIPoolConfig(PoolerConfig):
    """The largest cell of each bin, bins of whole cells (Fast R-CNN, section 2.1); it has no samples."""

    def build(self, strides: tuple[int, ...]) -> "Pooler":
        """RoIPool's."""
        return Pooler(multiscale_roi_pool, strides, asdict(self))


@dataclass(frozen=True)
class Pooler:
    """Pools RoIs from the levels that they may be read from, the first ones of the pyramid."""

    operation: Callable[..., Tensor]
    """`multiscale_roi_align`, or one that is called as it is."""
    strides: tuple[int, ...]
    options: dict[str, Any]
    """Of the operation, by their names."""

    def __call__(
        self,
        features: FeatureMaps,
        boxes: Float[Tensor, "R 4"],
        image_index: Int[Tensor, " R"],
        output_size: int,
    ) -> Float[Tensor, "R C PH PW"]:
        """`output_size` × `output_size` bins of each box, in pixels of the padded picture, from its level."""
        levels = features[: len(self.strides)]
        size = (output_size, output_size)
        return self.operation(levels, boxes, image_index, size, self.strides, **self.options)
