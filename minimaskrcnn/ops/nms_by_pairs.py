"""Greedy non-maximum suppression on the CPU: list the pairs that hit each other, then walk down them.

`nms.py` has the contract.  Of two boxes, IoU is at most that of their x intervals, so at most 1 - gap / width for
the left one's width and the gap between their left sides.  Sorted by x1, a box can therefore only hit those that
start within (1 - threshold) of its width: a few per cent of all pairs.

In NumPy: on arrays this small its calls cost less than torch's, and never wait for a second thread (the same steps
in torch took 2 to 10 times as long on a machine with busy data loaders).

Axis letters: M candidates, by descending score within each group; n rows of a block; E pairs.

Lesson 04, `lessons/04_rpn.ipynb`, teaches NMS.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64

# Rows that are compared at once with all that any of them can reach; 32 to 128 timed alike.
BLOCK = 64
# Pairs that hit are listed, at most this many (64 MiB).
MAX_HITS = 2**22


class _Sorted(NamedTuple):
    """Boxes by group and x1."""

    corners: Float[np.ndarray, "4 M"]
    group: Int64[np.ndarray, "M"]
    order: Int64[np.ndarray, "M"]  # where each stood before
    end: Int64[np.ndarray, "M"]  # the first that begins beyond its reach


def keep_by_pairs(
    boxes: Float[np.ndarray, "M 4"], group: Int64[np.ndarray, "M"], threshold: float
) -> Bool[np.ndarray, "M"] | None:
    """Which boxes survive those before them in their group; None where more than MAX_HITS pairs hit.

    `group` counts from 0; `threshold` ≥ 0 is a number of the boxes' dtype.
    """
    pairs = [np.zeros((2, 0), np.int64)]
    count = 0
    with np.errstate(all="ignore"):
        boxes_by_x = _sort(boxes, group, threshold)
        for hits in _hits(boxes_by_x, threshold):
            pairs.append(hits)
            count += hits.shape[1]
            if count > MAX_HITS:
                return None
    pair = np.concatenate(pairs, axis=1)
    return _walk(pair.min(0), pair.max(0), len(boxes))


def _sort(boxes: Float[np.ndarray, "M 4"], group: Int64[np.ndarray, "M"], threshold: float) -> _Sorted:
    x1 = boxes[:, 0].astype(np.float64)
    # 1e-5 covers the rounding of a float32 IoU, about 4e-7.
    x2 = x1 + (boxes[:, 2] - x1) * (1 - threshold + 1e-5)
    # A box with a coordinate that is not finite hits nothing: it may stand anywhere.
    x1 = np.where(np.isfinite(x1), x1, 0)
    x2 = np.where(np.isfinite(x2), x2, 0)
    span = x2.max(initial=0) - x1.min(initial=0) + 1
    key = group * span + x1
    reach = group * span + x2
    order = key.argsort()
    end = np.searchsorted(key[order], reach[order], side="right")
    return _Sorted(np.ascontiguousarray(boxes[order].T), group[order], order, end)


def _hits(boxes: _Sorted, threshold: float) -> Iterator[Int64[np.ndarray, "2 E"]]:
    """Pairs of boxes of one group with IoU > threshold, as places before the sort, block by block."""
    corners, group, order, ends = boxes
    area = (corners[2] - corners[0]) * (corners[3] - corners[1])
    for start in range(0, len(order), BLOCK):
        rows = slice(start, min(start + BLOCK, len(order)))
        cols = slice(start, max(ends[rows].max(), rows.stop))
        width = np.minimum(corners[2, rows, None], corners[2, cols])
        width -= np.maximum(corners[0, rows, None], corners[0, cols])
        inter = np.minimum(corners[3, rows, None], corners[3, cols])
        inter -= np.maximum(corners[1, rows, None], corners[1, cols])
        # One clamp is enough: a negative width then makes an IoU below 0, which is no hit either.
        np.maximum(inter, 0, out=inter)
        inter *= width
        union = np.add(area[rows, None], area[cols], out=width)
        union -= inter
        # Two proper boxes have a union above 0; all others give 0, -0 or NaN.
        inter /= union
        i, j = np.divmod(np.flatnonzero(inter > threshold), cols.stop - start)
        later = j > i
        i = i[later] + start
        j = j[later] + start
        yield order[np.stack([i, j])[:, group[i] == group[j]]]


def _walk(first: Int64[np.ndarray, "E"], second: Int64[np.ndarray, "E"], count: int) -> Bool[np.ndarray, "M"]:
    """The greedy choice: down the boxes that hit a later one, each that is kept removes all that it hits."""
    kept = np.ones(count, dtype=bool)
    order = first.argsort()
    hit = second[order]
    boxes, starts = np.unique(first[order], return_index=True)
    ends = np.append(starts[1:], len(hit))
    for box, start, end in zip(boxes.tolist(), starts.tolist(), ends.tolist()):
        if kept[box]:
            kept[hit[start:end]] = False
    return kept
