"""COCO's three forms of a segmentation, checked, and rasterised to bitmaps.

- Polygons: a list of parts `[x1, y1, x2, y2, ...]` in pixels, whose union is meant.  Rasterised by
  pycocotools, so that training and evaluation see the same pixels.  A part of fewer than three points
  encloses nothing and is dropped (pycocotools would take two points for a box).
- Run lengths: `{"size": [h, w], "counts": [...]}`, runs of 0, 1, 0, 1, ... down the columns.
- The same with the runs packed into a string.  It is unpacked here, because pycocotools reads past the end
  of a broken one.

In memory a segmentation is a list of number sequences: its polygons, or its one list of runs.

Lesson 01, `lessons/01_boxes_masks_coco.ipynb`, teaches this.
"""

import math
from array import array
from reprlib import repr as short
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool
from pycocotools import mask as mask_utils

from minimaskrcnn.data.transforms import ImageSize

FARTHEST = 10  # a polygon that leaves the picture by more than this many times (height + width) is an error


class Segmentation(NamedTuple):
    """One object's outline: polygons, or a single part that holds run lengths."""

    is_rle: bool
    parts: list[np.ndarray]  # each float64, which holds pixel counts exactly


def parse_segmentation(value: Any, image_size: ImageSize) -> Segmentation:
    """The `segmentation` of an annotation; None and [] give no parts.  ValueError for anything not COCO's."""
    if isinstance(value, dict):
        return Segmentation(True, [_parse_runs(value, image_size)])
    if value is not None and not isinstance(value, list):
        raise ValueError(f"segmentation must be a list of polygons or run lengths, got {short(value)}")
    parts = [_parse_polygon(part) for part in value or []]
    polygons = [part for part in parts if len(part) >= 6]
    farthest = max((float(np.abs(polygon).max()) for polygon in polygons), default=0.0)
    if farthest > FARTHEST * sum(image_size):  # rasterising it would take all memory
        raise ValueError(f"polygon reaches {farthest:g} in a picture of (height, width) {image_size}")
    return Segmentation(False, polygons)


def decode_segmentation(segmentation: Segmentation, image_size: ImageSize) -> Bool[np.ndarray, "h w"]:
    """The bitmap."""
    if segmentation.is_rle:
        return runs_to_mask(segmentation.parts[0].astype(np.int64), image_size)
    if not segmentation.parts:
        return np.zeros(image_size, dtype=bool)
    parts = mask_utils.frPyObjects([list(part) for part in segmentation.parts], *image_size)
    return runs_to_mask(unpack_runs(mask_utils.merge(parts)["counts"]), image_size)


def runs_to_mask(runs: np.ndarray, image_size: ImageSize) -> Bool[np.ndarray, "h w"]:
    """Runs of 0, 1, 0, 1, ... pixels, down the columns, which add up to the picture's pixels."""
    height, width = image_size
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def unpack_runs(text: bytes) -> np.ndarray:
    """Run lengths from COCO's string.

    A number is a row of characters from "0" on, each with five bits, lowest first, and a sixth that says
    whether more follow; it is in two's complement.  From the fourth run on, it is the difference to the run
    two before.
    ValueError for other characters, an unfinished number, or one beyond 30 bits.
    """
    digits = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    if not len(digits) or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        raise ValueError(f"broken run-length string {short(text)}")
    last = np.flatnonzero(digits & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    length = last - first + 1
    if length.max() > 6:
        raise ValueError(f"number of {length.max()} characters in run-length string {short(text)}")
    position = np.arange(len(digits)) - np.repeat(first, length)
    runs = np.add.reduceat((digits & 31) << (5 * position), first)
    runs -= (digits[last] & 16) << (5 * length - 4)  # the sign bit counts negative, not positive
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs


def parse_numbers(values: Any) -> np.ndarray:
    """float64 [n] of a sequence of finite numbers.  ValueError for anything else."""
    try:
        numbers = array("d", values)  # unlike numpy, it takes no texts and no None for numbers
    except (TypeError, OverflowError):
        raise ValueError(f"expected a list of numbers, got {short(values)}") from None
    if not math.isfinite(sum(numbers)):
        wanted = "smaller" if all(map(math.isfinite, numbers)) else "finite"
        raise ValueError(f"expected {wanted} numbers, got {short(values)}")
    return np.array(numbers)


def _parse_polygon(part: Any) -> np.ndarray:
    if not isinstance(part, list):
        raise ValueError(f"a polygon must be a list [x1, y1, x2, y2, ...], got {short(part)}")
    numbers = parse_numbers(part)
    if len(numbers) % 2:
        raise ValueError(f"a polygon needs as many y as x, got {len(numbers)} numbers")
    return numbers


def _parse_runs(value: dict[str, Any], image_size: ImageSize) -> np.ndarray:
    size = value.get("size")
    counts = value.get("counts")
    if size != list(image_size):
        raise ValueError(
            f"run lengths have size {short(size)}, the picture's (height, width) is {image_size}"
        )
    if isinstance(counts, str | bytes):
        # Half a character, which JSON can spell, is among the characters that are refused there.
        counts = unpack_runs(counts.encode(errors="surrogatepass") if isinstance(counts, str) else counts)
    elif not isinstance(counts, list):
        raise ValueError(f"counts must be a list or a string, got {short(counts)}")
    numbers = parse_numbers(counts)
    if not (numbers >= 0).all() or (numbers % 1).any() or numbers.sum() != image_size[0] * image_size[1]:
        raise ValueError(
            f"run lengths {short(list(counts))} must be >= 0 and add up to height x width {image_size}"
        )
    return numbers


def parse_field(entry: dict[str, Any], key: str, count: int, meaning: str) -> np.ndarray:
    """float64 [count] under `key`; ValueError, with what they mean, for anything but so many numbers."""
    try:
        numbers = parse_numbers(entry.get(key))
    except ValueError as error:
        raise ValueError(f"{key!r} must be {meaning}: {error}") from None
    if len(numbers) != count:
        raise ValueError(f"{key!r} must be {meaning}, got {len(numbers)} numbers")
    return numbers
