"""RoIAlign, RoIPool and MultiScaleRoIAlign as modules under torchvision's names, because detectors call those.

Constructor arguments, representations and results are torchvision's.  They have no parameters: `roi_align` and
`roi_pool` do the work.

Axis letters: B images, C channels, R rois of all images, PH PW bins.
"""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from minimaskrcnn.ops.levels import level_areas
from minimaskrcnn.ops.roi_align import pool_samples, roi_align
from minimaskrcnn.ops.roi_pool import roi_pool
from minimaskrcnn.ops.rois import PoolingRequest, bins_of, rows_and_images


class RoIAlign(nn.Module):
    """`roi_align` with its settings fixed; errors are the operation's."""

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = False,
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(
        self, input: Float[Tensor, "B C H W"], rois: Float[Tensor, "R 5"] | Sequence[Float[Tensor, "_ 4"]]
    ) -> Float[Tensor, "R C PH PW"]:
        """Pool `rois`, rows of (image index, x1, y1, x2, y2) or one [L, 4] for each image."""
        return roi_align(
            input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned
        )

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )


class RoIPool(nn.Module):
    """`roi_pool` with its settings fixed; errors are the operation's."""

    def __init__(self, output_size: int | tuple[int, int], spatial_scale: float) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale

    def forward(
        self, input: Float[Tensor, "B C H W"], rois: Float[Tensor, "R 5"] | Sequence[Float[Tensor, "_ 4"]]
    ) -> Float[Tensor, "R C PH PW"]:
        """Pool `rois`, rows of (image index, x1, y1, x2, y2) or one [L, 4] for each image."""
        return roi_pool(input, rois, self.output_size, self.spatial_scale)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}"


class MultiScaleRoIAlign(nn.Module):
    """`multiscale_roi_align` of the maps that have these names, which come finest first.

    The scale of each map, a power of two, is guessed from its height and that of the tallest image at the first call,
    and kept in `scales`.  Levels are those of `fpn_levels`.  Where the maps' scales skip a level, torchvision counts
    the maps as if they did not, and gives zeros for levels beyond the last map; so does this.
    """

    def __init__(
        self,
        featmap_names: list[str],
        output_size: int | Sequence[int],
        sampling_ratio: int,
        *,
        canonical_scale: int = 224,
        canonical_level: int = 4,
    ) -> None:
        super().__init__()
        self.featmap_names = featmap_names
        self.output_size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
        self.sampling_ratio = sampling_ratio
        self.canonical_scale = canonical_scale
        self.canonical_level = canonical_level
        self.scales: list[float] | None = None

    def forward(
        self,
        x: dict[str, Float[Tensor, "B C _ _"]],
        boxes: list[Float[Tensor, "_ 4"]],
        image_shapes: list[tuple[int, int]],
    ) -> Float[Tensor, "R C PH PW"]:
        """Pool one [L, 4] for each image, in pixels, from its level; `image_shapes` are (height, width).

        Raises ValueError for no map of these names, for no image and for maps that are not finest first, besides the
        errors of `roi_align`.
        """
        maps = [feature for name, feature in x.items() if name in self.featmap_names]
        if self.scales is None:
            self.scales = _guess_scales(maps, image_shapes)
        rows, image_index = rows_and_images(boxes, maps[0])
        # How often the stride doubles from the first map to the last: the levels that a box may belong to.
        doublings = round(math.log2(self.scales[0] / self.scales[-1]))
        strides = [2**i / self.scales[0] for i in range(doublings + 1)]
        # A map without cells gives zeros.
        missing = [maps[0][:, :, :0, :0]] * (len(strides) - len(maps))
        request = PoolingRequest(
            features=[*(feature.to(maps[0].dtype) for feature in maps), *missing],
            boxes=rows,
            image_index=image_index,
            output_size=bins_of(self.output_size),
            areas=level_areas(strides, self.canonical_scale, self.canonical_level),
            scales=[*self.scales, *[1.0] * len(missing)],
            sampling_ratio=self.sampling_ratio,
        )
        return pool_samples(request, "auto", False)

    def extra_repr(self) -> str:
        """The constructor's arguments, as far as torchvision shows them."""
        return (
            f"featmap_names={self.featmap_names}, output_size={self.output_size}, "
            f"sampling_ratio={self.sampling_ratio}"
        )


def _guess_scales(maps: list[Tensor], image_shapes: list[tuple[int, int]]) -> list[float]:
    """Cells a pixel of each map, as powers of two."""
    if not maps or not image_shapes:
        raise ValueError(f"{len(maps)} maps, {len(image_shapes)} images: expected at least one of each")
    tallest = max(height for height, _ in image_shapes)
    scales = [2.0 ** round(math.log2(feature.shape[2] / tallest)) for feature in maps]
    if scales[-1] > scales[0]:
        raise ValueError(f"maps with scales {scales}: expected the finest first")
    return scales
