"""Keypoints from heat maps: the place of the highest value, once the map is as large as its box.

Rule, as torchvision's: resize each m × m map bicubically (a = -0.75, align_corners=False) to the box's sides, rounded
up to whole pixels; the first of the largest values, row by row, is the keypoint, and its place is the pixel's centre.
The resize is separable: values = Ry · M · Rxᵀ with Ry [H, m] and Rx [W, m], so boxes of like sizes share two batched
matrix products.  Rows and columns that pad a box to its chunk repeat its last: they never hold a first maximum, but
for a last bit that rounding adds, which the clamp at the end takes back.

Axis letters: R rois; K keypoints; m rows and columns of a map; n rois of a chunk; H, W the sides of their largest.
This function stands at the model's boundary: it reads the boxes' sides on the host, once.  It has no gradient.
Left out: skipping the rows that a bound on bicubic overshoot rules out.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

# Numbers in the largest temporary of a chunk of rois, [n, K, H, W]: 4 MiB of float32, which a cache holds; 2**22
# took 1.1 to 1.9 times as long.  A roi that is larger is resized some rows at a time.
CHUNK = 2**20

# Pixels along a side that a box may have: pictures are smaller, and NaN and infinity fail the comparison.
LARGEST = 2**16


def decode_keypoints(
    logits: Float[Tensor, "R K m m"],
    boxes: Float[Tensor, "R 4"],
    score: Literal["logit", "softmax"] = "logit",
) -> tuple[Float[Tensor, "R K 3"], Float[Tensor, "R K"]]:
    """Keypoints (x, y, 1) in the boxes' pixels, and their scores, higher for surer (Mask R-CNN, section 5).

    A side shorter than a pixel counts as one.  `score` is the resized map's largest value, "logit" (torchvision), or
    that value's share of the map's probability, exp(value) / sum of exp over the m² cells, "softmax" (detectron2:
    boxes of all sizes have the same number of cells, so their scores compare).  Between cells bicubic interpolation
    overshoots them, so a share may exceed 1.
    Values are computed in the logits' dtype, half precision in float32; where two pixels differ by less than that
    rounds, either may be found.  Memory: CHUNK numbers a few times, or [K, m, W] of one roi.
    Raises ValueError for maps that are not square or not as many as the boxes, for an unknown score, and for a box
    with a side that is not finite or above LARGEST.
    """
    _check(logits, boxes, score)
    maps = logits.detach() if logits.dtype == torch.float64 else logits.detach().float()
    corner = boxes.detach()[:, :2]
    extents = (boxes[:, 2:] - boxes[:, :2]).detach().clamp(min=1)
    sizes = extents.ceil()
    pixels = torch.zeros(*maps.shape[:2], 2, dtype=torch.int64, device=maps.device)
    peaks = maps.new_zeros(maps.shape[:2])
    sides = sizes.tolist()
    for roi, (width, height) in enumerate(sides):
        if not (width <= LARGEST and height <= LARGEST):
            raise ValueError(f"box {roi}: {width} × {height} pixels, expected at most {LARGEST} along a side")
    for rois, width, height in _chunks(sides, *maps.shape[1:3]):
        chosen = torch.tensor(rois, device=maps.device)
        pixels[chosen], peaks[chosen] = _find_peaks(maps[chosen], sizes[chosen].long(), width, height)
    xy = (pixels + 0.5) * (extents / sizes)[:, None] + corner[:, None]
    if score == "softmax":
        peaks = (peaks - maps.flatten(2).logsumexp(2)).exp()
    return torch.cat([xy, torch.ones_like(xy[..., :1])], 2), peaks


def _check(logits: Tensor, boxes: Tensor, score: str) -> None:
    square = logits.ndim == 4 and logits.shape[2] == logits.shape[3] > 0
    if not square or boxes.shape != (len(logits), 4):
        raise ValueError(
            f"logits {tuple(logits.shape)}, boxes {tuple(boxes.shape)}: expected [R,K,m,m] and [R,4], m above 0"
        )
    if score not in ("logit", "softmax"):
        raise ValueError(f"score {score!r}: expected 'logit' or 'softmax'")


def _chunks(sizes: list[list[float]], keypoints: int, m: int) -> Iterator[tuple[list[int], int, int]]:
    """Rois of like heights, to be resized together, and the largest width and height among them."""
    chunk: list[int] = []
    most_width = 0
    for roi in sorted(range(len(sizes)), key=lambda row: sizes[row][1]):
        width, height = (int(side) for side in sizes[roi])
        # M itself has m rows and columns, however small the box.
        area = max(most_width, width, m) * max(height, m)
        if chunk and (len(chunk) + 1) * keypoints * area > CHUNK:
            yield chunk, most_width, int(sizes[chunk[-1]][1])
            chunk = []
            most_width = 0
        chunk.append(roi)
        most_width = max(most_width, width)
    if chunk:
        yield chunk, most_width, int(sizes[chunk[-1]][1])


def _find_peaks(
    maps: Float[Tensor, "n K m m"], sizes: Int64[Tensor, "n 2"], width: int, height: int
) -> tuple[Int64[Tensor, "n K 2"], Float[Tensor, "n K"]]:
    """The pixel (x, y) of each resized map's largest value, and that value; `sizes` are (width, height)."""
    count, keypoints, m = maps.shape[:3]
    columns = resize_matrix(sizes[:, 0], width, m, maps.dtype)
    rows = resize_matrix(sizes[:, 1], height, m, maps.dtype)
    step = max(1, CHUNK // max(1, count * keypoints * width))
    with torch.autocast(maps.device.type, enabled=False):
        strips = (maps.flatten(1, 2) @ columns.mT).unflatten(1, (keypoints, m))
        # The largest value of each row is all that is kept of it: a maximum without its place is the fast one.
        tops = torch.cat([(some[:, None] @ strips).amax(3) for some in rows.split(step, dim=1)], 2)
        y = tops.argmax(2)
        row = rows.gather(1, y[..., None].expand(-1, -1, m))
        peak, x = (row[:, :, None] @ strips).squeeze(2).max(2)
    return torch.stack([x, y], 2).minimum(sizes[:, None] - 1), peak


def resize_matrix(
    sizes: Int64[Tensor, "n"], length: int, m: int, dtype: torch.dtype
) -> Float[Tensor, "n length m"]:
    """Weights of m cells in each pixel of `sizes`, bicubically: four cells to a pixel, the edge's beyond the edge.

    Pixel p is centred at (p + 1/2) · m / size - 1/2 in cells.  A pixel beyond its own size repeats the last.
    """
    pixel = torch.arange(length, device=sizes.device).minimum(sizes[:, None] - 1)
    # In units of 1 / (2 · size) of a cell everything is an integer, so places and distances are exact, and pixels
    # that mirror each other have weights that are equal to the last bit.
    unit = 2 * sizes[:, None]
    place = (2 * pixel + 1) * m - sizes[:, None]
    cells = (place // unit)[..., None] + torch.arange(-1, 3, device=sizes.device)
    distances = (place[..., None] - cells * unit[..., None]).abs().to(dtype) / unit[..., None].to(dtype)
    weights = _cubic(distances)
    return weights.new_zeros(len(sizes), length, m).scatter_add_(2, cells.clamp(0, m - 1), weights)


def _cubic(distance: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Keys' cubic convolution kernel with a = -0.75, for distances of at most 2."""
    a = -0.75
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return torch.where(distance <= 1, near, far)
