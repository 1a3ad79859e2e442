"""What the kernels of RoIAlign, RoIWarp and RoIPool share: a box in cells of its level, and samples on one axis.

The rules are torchvision's.  On each axis a box start..end, in cells, is cut into equal bins, and each bin into n
equal parts with a sample in the middle of each.  A sample beyond -1 or beyond the map's extent counts 0; otherwise
it is clamped to 0..extent - 1 and lies between cells `low` and `high`, with weights 1 - fraction and fraction.

All helpers run on scalars or on vectors alike.  A size may be a constant (Triton makes one of every 1) and a loop's
counter a Python int (under the interpreter), so neither is asked to convert itself.

Coordinates are float32, every operation rounded on its own (the kernels are compiled without contraction): a sample
must not cross the border of the map by a last bit in one implementation and not in the other.

Lesson 06, `lessons/06_triton_kernel.ipynb`, builds up to this file.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

# Lanes of a warp (AMD: of a wavefront), and the bytes of each one's widest load.
LANES = 64 if torch.version.hip else 32
WIDEST = 16
# Loops over samples count in int32.
MOST = tl.constexpr(2.0**30)


@triton.jit
def row_of_bins(bins_y):
    """The roi and the row of its bins that are this program's."""
    return tl.program_id(0) // bins_y, tl.program_id(0) % bins_y


@triton.jit
def read_box(boxes_ptr, image_ptr, r):
    """The corners of row r, in pixels, and its image."""
    box = boxes_ptr + r.to(tl.int64) * 4
    return tl.load(box), tl.load(box + 1), tl.load(box + 2), tl.load(box + 3), tl.load(image_ptr + r)


@triton.jit
def pick(options, level, LEVELS: tl.constexpr):
    """The level's entry of a tuple of pointers or sizes."""
    chosen = options[0]
    for i in tl.static_range(1, LEVELS):
        chosen = tl.where(level == i, options[i], chosen)
    return chosen


@triton.jit
def level_map(heights, widths, scales, level, LEVELS: tl.constexpr):
    """The level's height and width in cells, and its cells a pixel."""
    return pick(heights, level, LEVELS), pick(widths, level, LEVELS), pick(scales, level, LEVELS)


@triton.jit
def level_of(x1, y1, x2, y2, areas, LEVELS: tl.constexpr):
    """FPN's equation 1: how many of the levels' smallest areas (pixels) the box reaches.  `areas[0]` is not used."""
    area = (x2 - x1) * (y2 - y1)
    level = tl.zeros_like(area).to(tl.int32)
    for i in tl.static_range(1, LEVELS):
        level += (area >= areas[i]).to(tl.int32)
    return level


@triton.jit
def is_known(x1, y1, x2, y2, image, images):
    """Whether a row has an image and finite sides; other rows are NaN and have no gradient."""
    width = x2 - x1
    height = y2 - y1
    # x - x is NaN for what is not finite.
    return (width - width == 0) & (height - height == 0) & (image >= 0) & (image < images)


@triton.jit
def round_half_away(x):
    """C++'s round.  Exact: adding 0.5 would take 0.49999997 to 1."""
    # Beyond 2^24 a float32 is whole; the clamp keeps the integer from overflowing.
    whole = tl.minimum(tl.maximum(x, -MOST), MOST).to(tl.int32).to(tl.float32)
    away = tl.where(x < 0, whole - 1, whole + 1)
    return tl.where(tl.abs(x - whole) >= 0.5, away, whole)


@triton.jit
def axis(start, end, scale, bins, ALIGNED: tl.constexpr, QUANTISE: tl.constexpr):
    """Where bins begin, in cells, and how long each is.

    ALIGNED shifts by half a cell, so that a cell's value lies at its centre.  QUANTISE (RoIWarp) first grows the box
    to whole cells, as RoIPool does.
    """
    start = start * scale
    end = end * scale
    if QUANTISE:
        start = round_half_away(start)
        end = start + tl.maximum(round_half_away(end) - start + 1, 1.0)
    length = end - start
    if ALIGNED:
        start -= 0.5
    else:
        length = tl.maximum(length, 1.0)
    return start, tl.div_rn(length, tl.zeros_like(length) + bins)


@triton.jit
def sample_count(size, SAMPLING: tl.constexpr):
    """Samples to a bin, as a float: SAMPLING, or one for each cell of its length, rounded up."""
    if SAMPLING > 0:
        count = tl.zeros_like(size) + SAMPLING
    else:
        count = tl.maximum(tl.ceil(size), 0.0)
    return count


@triton.jit
def sample_range(first, size, count, lower, upper, SAMPLING: tl.constexpr):
    """Which of the samples of a bin that begins at `first` can lie in lower..upper, as a range of integers.

    It may hold a few too many.  A bin of a huge box has more samples than anyone could wait for, nearly all of them
    outside of the map.
    """
    low = tl.zeros_like(size)
    high = tl.zeros_like(size) + SAMPLING
    if SAMPLING <= 0:
        step = tl.div_rn(size, tl.maximum(count, 1.0))
        low = tl.floor(tl.div_rn(lower - first, step)) - 2
        high = tl.ceil(tl.div_rn(upper - first, step)) + 2
        low = tl.minimum(tl.maximum(low, 0.0), tl.minimum(count, MOST))
        high = tl.minimum(tl.maximum(high, low), tl.minimum(count, MOST))
    return low.to(tl.int32), high.to(tl.int32)


@triton.jit
def sample(first, size, count, i, extent):
    """Sample i of a bin: its two cells, the fraction between them, and whether it is on the map at all."""
    point = first + tl.div_rn((i + 0.5) * size, tl.maximum(count, 1.0))
    inside = (point >= -1.0) & (point <= extent * 1.0)
    last = extent - 1
    clamped = tl.minimum(tl.maximum(point, 0.0), last * 1.0)
    low = clamped.to(tl.int32)
    return low, tl.minimum(low + 1, last), clamped - low.to(tl.float32), inside, point


@triton.jit
def bins_near(start, size, bins, lower, upper):
    """Which bins have a part in lower..upper, as a range of integers; it may hold one too many at each end."""
    low = tl.floor(tl.div_rn(lower - start, size)) - 1
    high = tl.ceil(tl.div_rn(upper - start, size)) + 1
    # A box without length, or turned over: all of them.
    most = tl.zeros_like(size) + bins
    low = tl.where(size > 0, tl.minimum(tl.maximum(low, 0.0), most), 0.0)
    high = tl.where(size > 0, tl.minimum(tl.maximum(high, low), most), most)
    return low.to(tl.int32), high.to(tl.int32)


def block_channels(channels: int, itemsize: int) -> int:
    """Channels of one program: what one warp loads at once, or fewer where there are fewer."""
    return min(triton.next_power_of_2(max(channels, 1)), LANES * WIDEST // itemsize)


class Pooling(NamedTuple):
    """What is pooled, and how: as the op `roi_align` takes it, all of it contiguous, the maps channels-last."""

    maps: tuple[Tensor, ...]
    boxes: Tensor
    image_index: Tensor
    scales: Sequence[float]
    areas: Sequence[float]
    sampling_ratio: int
    aligned: bool
    quantise: bool
    maximum: bool

    def arguments(self) -> dict[str, Any]:
        """What all four kernels are given."""
        return {
            "boxes_ptr": self.boxes,
            "heights": tuple(m.shape[2] for m in self.maps),
            "widths": tuple(m.shape[3] for m in self.maps),
            "channels": self.maps[0].shape[1],
            "scales": tuple(self.scales),
            "areas": tuple(self.areas),
            "LEVELS": len(self.maps),
            "SAMPLING": self.sampling_ratio,
            "ALIGNED": self.aligned,
            "QUANTISE": self.quantise,
            "MAX": self.maximum,
            "num_warps": 1,
            "enable_fp_fusion": False,
        }


def channels_last(features: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The maps as [B, H, W, C] in memory; a map that is channels_last already is not copied."""
    return tuple(f.contiguous(memory_format=torch.channels_last) for f in features)


def pooling(features: Sequence[Tensor], boxes: Tensor, image_index: Tensor, *rest: Any) -> Pooling:
    """The arguments of an op, made contiguous where they are not."""
    return Pooling(channels_last(features), boxes.contiguous(), image_index.contiguous(), *rest)
