"""From masks to COCO's annotation format: bounding boxes, polygons and run lengths.

A mask becomes polygons that run along pixel borders (continuous coordinates: pixel i covers [i, i+1)), one polygon
for each 8-connected part, so that pycocotools decodes the same mask.  Polygons have no holes: a mask with one
becomes run lengths (RLE), uncompressed (a list of counts down the columns, first the zeros) or compressed (a
string).  Axes: h, w is the picture.

Lesson 01, `lessons/01_boxes_masks_coco.ipynb`, teaches this.
"""

import numpy as np
from jaxtyping import Bool
from PIL import Image
from pycocotools import mask as coco_mask

from minimaskrcnn.data.segmentation import unpack_runs

Array = np.ndarray
EncodedMask = list[list[int]] | dict[str, list[int] | str]


def bounding_box(mask: Bool[Array, "h w"]) -> list[float]:
    """COCO's `[x, y, width, height]` of a mask that is not empty; the last pixel ends at x + width."""
    left, top, right, bottom = Image.fromarray(mask).getbbox()
    return [float(left), float(top), float(right - left), float(bottom - top)]


def border_headings(mask: Bool[Array, "h w"]) -> dict[int, int]:
    """The corners of pixels that the mask's border leaves from: corner y * (w + 1) + x -> bits of the headings.

    Bit k stands for heading k (right, down, left, up) and the border keeps the inside on its right hand.  Corners
    come in reading order.  Two bits are set where two pixels of the mask touch in that corner only.
    """
    inside = np.pad(mask, 1)
    nw = inside[:-1, :-1]
    ne = inside[:-1, 1:]
    sw = inside[1:, :-1]
    se = inside[1:, 1:]
    bits = (se & ~ne) * 1 + (sw & ~se) * 2 + (nw & ~sw) * 4 + (ne & ~nw) * 8
    corners = np.flatnonzero(bits)
    return dict(zip(corners.tolist(), bits.ravel()[corners].tolist()))


def trace_borders(mask: Bool[Array, "h w"]) -> list[list[int]]:
    """Closed borders as `[x0, y0, x1, y1, ...]`, turns only: clockwise around parts, the other way in holes."""
    stride = mask.shape[1] + 1
    steps = (1, stride, -1, -stride)
    left = border_headings(mask)
    loops = []
    while left:
        first = corner = next(iter(left))  # the topmost, then leftmost: the border turns there
        loop: list[int] = []
        heading = -1
        while corner != first or not loop:
            bits = left.pop(corner)
            # Where two pixels touch in this corner only, the left turn joins them: parts are 8-connected.
            turn = (heading - 1) % 4 if bits in (5, 10) else bits.bit_length() - 1
            if bits in (5, 10):
                left[corner] = bits - (1 << turn)
            if turn != heading:
                loop += (corner % stride, corner // stride)
                heading = turn
            corner += steps[turn]
        loops.append(loop)
    return loops


def signed_area(loop: list[int]) -> float:
    """Area within a closed border, negative where it runs counter-clockwise, as holes do."""
    x = np.array(loop[0::2])
    y = np.array(loop[1::2])
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


def segmentation(mask: Bool[Array, "h w"], *, polygons: bool, compressed: bool) -> EncodedMask:
    """A mask in one of COCO's three forms: polygons if asked for and the mask has no hole, otherwise RLE.

    Raises ValueError for an empty mask, which COCO has no annotation for.
    """
    if not mask.any():
        raise ValueError(f"an empty mask of shape {mask.shape} has no segmentation")
    loops = trace_borders(mask) if polygons else []
    if polygons and all(signed_area(loop) > 0 for loop in loops):
        return loops
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    counts = code.decode("ascii") if compressed else unpack_runs(code).tolist()
    return {"size": list(mask.shape), "counts": counts}
