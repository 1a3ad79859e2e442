"""Anchors: the boxes that the region proposal network starts from.

Every cell of every feature map gets one anchor for each size and aspect ratio (Faster R-CNN, section 3.1.1;
on a feature pyramid each level has one size, FPN, section 4.1).  An anchor of size s and ratio r = h / w has
area s² and is centred on its cell's corner, (x · stride, y · stride).

Letters: L levels, A anchors of the whole pyramid, ordered level, row, column, ratio, size.

Lesson 02, `lessons/02_anchors.ipynb`, teaches this.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class AnchorConfig:
    """Anchor shapes.  The defaults are FPN's, with the two roundings of torchvision's published weights."""

    sizes: tuple[tuple[float, ...], ...] = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    """Side lengths in pixels, a tuple for each level (FPN, section 4.1)."""
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height / width (Faster R-CNN, section 3.1.1)."""
    round_corners: bool = True
    """Round the anchors' corners to integers, as torchvision does; False is exact (detectron2)."""
    stride_from_grid: bool = True
    """Step by (padded size // grid size), as torchvision does: 61 pixels and not 64 where a picture padded to
    800 rows has a grid of 13.  False steps by the level's stride (detectron2)."""

    @property
    def per_cell(self) -> int:
        """Anchors at each cell; the same number on every level, as one head serves all of them."""
        counts = {len(level) for level in self.sizes}
        if len(counts) != 1:
            raise ValueError(f"every level needs the same number of anchor sizes, got {self.sizes}")
        return counts.pop() * len(self.aspect_ratios)


def cell_anchors(
    sizes: tuple[float, ...], aspect_ratios: tuple[float, ...], round_corners: bool
) -> Float[Tensor, "n 4"]:
    """The anchors of one cell at the origin, float64, ordered by ratio and then size."""
    roots = torch.tensor(aspect_ratios, dtype=torch.float32).sqrt()[:, None]
    side = torch.tensor(sizes, dtype=torch.float32)[None, :]
    half_width = (side / roots).flatten() / 2
    half_height = (side * roots).flatten() / 2
    anchors = torch.stack([-half_width, -half_height, half_width, half_height], dim=1)
    return (anchors.round() if round_corners else anchors).double()


def grid_anchors(
    grid_sizes: list[tuple[int, int]],
    strides: list[int],
    padded_size: tuple[int, int],
    config: AnchorConfig,
    like: Tensor,
) -> list[Float[Tensor, "_ 4"]]:
    """The anchors of every level, in pixels, with the dtype and device of `like`.

    `grid_sizes` holds each feature map's (height, width), `padded_size` that of the batch's picture.
    Raises ValueError where the numbers of levels disagree.
    """
    if not len(grid_sizes) == len(strides) == len(config.sizes):
        raise ValueError(
            f"{len(grid_sizes)} feature maps, {len(strides)} strides and {len(config.sizes)} levels of anchor "
            "sizes: there must be as many of each"
        )
    levels = []
    for (rows, columns), stride, sizes in zip(grid_sizes, strides, config.sizes):
        step_y = step_x = stride
        if config.stride_from_grid:
            step_y = padded_size[0] // rows
            step_x = padded_size[1] // columns
        base = cell_anchors(sizes, config.aspect_ratios, config.round_corners).to(like)
        y = torch.arange(rows, device=like.device).to(like.dtype) * step_y
        x = torch.arange(columns, device=like.device).to(like.dtype) * step_x
        corner = torch.stack([x.expand(rows, columns), y[:, None].expand(rows, columns)], dim=-1)
        levels.append((corner.repeat(1, 1, 2)[:, :, None] + base).reshape(-1, 4))
    return levels
