"""Masks of m × m, as the mask head makes them, pasted into the picture (paper, section 3.1: "resized to the RoI").

Rule, as torchvision's: pad the mask by one pixel, grow the box by the same factor (m + 2) / m, cut its corners to
integers, and resize the padded mask bilinearly (align_corners=False) onto x1..x2 *inclusive*.  The resize is
separable: out = Ry · M · Rxᵀ with Ry [h, m + 2] and Rx [w, m + 2], so an object is two small matrix products into
the slice of the picture that its box covers.

Axis letters: n objects; m mask rows and columns; h, w image rows and columns.
These functions stand at the model's boundary: they read the boxes on the host once, and loop over objects.
Left out: detectron2's rule (grid_sample at real coordinates).
"""

from collections.abc import Iterator
from typing import TypedDict

import torch
from jaxtyping import Bool, Float, Int
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn.functional import pad


class RLE(TypedDict):
    """COCO's compressed run-length encoding of one bitmap; `size` is (height, width)."""

    size: list[int]
    counts: str


def paste_masks(
    masks: Float[Tensor, "n m m"],
    boxes: Float[Tensor, "n 4"],
    image_size: tuple[int, int],
    threshold: float | None = 0.5,
) -> Bool[Tensor, "n h w"] | Float[Tensor, "n h w"]:
    """Masks in the picture: true where the resized mask exceeds `threshold`.

    With `threshold=None` the resized masks themselves (what torchvision's model returns), 0 outside of the boxes.
    A box without a pixel in the picture gives an empty mask.  Raises ValueError for masks that are not square,
    or not as many as the boxes.
    """
    dtype = masks.dtype if threshold is None else torch.bool
    out = masks.new_zeros((masks.shape[0], *image_size), dtype=dtype)
    for canvas, (rows, columns, patch) in zip(out, _patches(masks, boxes, image_size)):
        if threshold is None:
            canvas[rows, columns] = patch
        else:
            torch.gt(patch, threshold, out=canvas[rows, columns])
    return out


def paste_masks_rle(
    masks: Float[Tensor, "n m m"],
    boxes: Float[Tensor, "n 4"],
    image_size: tuple[int, int],
    threshold: float = 0.5,
) -> list[RLE]:
    """`paste_masks` as COCO run lengths, from each box's region alone: no full-size bitmap is ever made."""
    return [
        _encode((patch > threshold).cpu(), rows.start, columns.start, image_size)
        for rows, columns, patch in _patches(masks, boxes, image_size)
    ]


def _encode(region: Bool[Tensor, "rows columns"], y: int, x: int, image_size: tuple[int, int]) -> RLE:
    """Run lengths down the columns, as COCO counts them; `region` lies at (y, x) and all else is background."""
    height, width = image_size
    # A background row above and below each column makes every run start and end inside of its column.
    edges = pad(region.T.to(torch.int8), (1, 1)).diff()
    column, row = (edges != 0).nonzero(as_tuple=True)
    place = (column + x) * height + row + y
    counts = place.diff(prepend=place.new_zeros(1), append=place.new_tensor([height * width]))
    uncompressed = {"size": [height, width], "counts": counts.tolist()}
    encoded = coco_mask.frPyObjects(uncompressed, height, width)
    return {"size": [height, width], "counts": encoded["counts"].decode("ascii")}


def _patches(
    masks: Float[Tensor, "n m m"], boxes: Float[Tensor, "n 4"], image_size: tuple[int, int]
) -> Iterator[tuple[slice, slice, Float[Tensor, "rows columns"]]]:
    """For each object the rows and columns of the picture that its box covers, and the mask's values there."""
    if masks.shape[-1] != masks.shape[-2] or masks.shape[0] != boxes.shape[0]:
        raise ValueError(
            f"masks {tuple(masks.shape)} with boxes {tuple(boxes.shape)}: expected [n,m,m] and [n,4]"
        )
    height, width = image_size
    for mask, (x1, y1, x2, y2) in zip(
        pad(masks, (1, 1, 1, 1)), _integer_boxes(boxes, masks.shape[-1]).tolist()
    ):
        rows, resize_rows = _resize_matrix(y1, y2, height, mask)
        columns, resize_columns = _resize_matrix(x1, x2, width, mask)
        yield rows, columns, resize_rows @ mask @ resize_columns.T


def _integer_boxes(boxes: Float[Tensor, "n 4"], m: int) -> Int[Tensor, "n 4"]:
    """Boxes grown with the mask's padding and cut towards zero: first and last pixel on each axis."""
    grow = (m + 2) / m
    centre = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * grow
    return torch.cat([centre - half, centre + half], -1).to(torch.int64)


def _resize_matrix(
    first: int, last: int, limit: int, mask: Float[Tensor, "s s"]
) -> tuple[slice, Float[Tensor, "visible s"]]:
    """Weights of the mask's samples for each pixel first..last that lies in 0..limit, and the slice of these."""
    samples, length = mask.shape[0], max(last - first + 1, 1)
    start = min(max(first, 0), limit)
    stop = max(min(last + 1, limit), start)
    pixel = torch.arange(start - first, stop - first, device=mask.device, dtype=mask.dtype)
    source = ((pixel + 0.5) * (samples / length) - 0.5).clamp(0, samples - 1)
    sample = torch.arange(samples, device=mask.device, dtype=mask.dtype)
    # A hat of half-width 1 around the source point: its two neighbours get 1 - fraction and fraction.
    return slice(start, stop), (1 - (source[:, None] - sample).abs()).clamp(min=0)
