"""What lesson 05's checks draw: small maps of whole numbers, boxes in quarters of a pixel."""

import torch
from hypothesis import strategies as st
from torch import Tensor


def _quarters(low: int, high: int) -> st.SearchStrategy[float]:
    """Quarters from low to high; shrinks to the one nearest to 0."""
    return st.integers(4 * low, 4 * high).map(lambda n: n / 4)


@st.composite
def planes(draw, least: int = 2, most: int = 4) -> Tensor:
    """Maps of different whole numbers from 1 on: equal ones would hide mistakes, and 0 look like a sample outside."""
    height, width = draw(st.integers(least, most)), draw(st.integers(least, most))
    # Cut out of a square, so that a smaller map keeps its numbers while inputs are shrunk.
    numbers = draw(st.permutations(range(1, most * most + 1)))
    return torch.tensor(numbers, dtype=torch.float64).view(most, most)[:height, :width].clone()


@st.composite
def bilinear_inputs(draw) -> dict:
    """A map and a point in it, on its border or beyond."""
    plane = draw(planes())
    height, width = plane.shape
    y, x = (
        draw(st.one_of(_quarters(0, size - 1), _quarters(-2, size + 1), st.sampled_from([-1.0, float(size)])))
        for size in (height, width)
    )
    return {"plane": plane, "y": y, "x": x}


@st.composite
def points_inputs(draw) -> dict:
    """One axis of a box, a stride, bins and samples."""
    stride, start = draw(st.sampled_from([2.0, 4.0, 8.0])), draw(_quarters(0, 16))
    # Two cells or more at the smallest stride: points of shorter boxes cannot be told apart on a picture.
    length = draw(st.integers(8, 64)) / 2
    bins, samples = draw(st.integers(1, 3)), draw(st.integers(2, 3))
    return {"start": start, "end": start + length, "stride": stride, "bins": bins, "samples": samples}


@st.composite
def align_inputs(draw) -> dict:
    """A map that slopes, and a box that may hang out of it."""
    feature, stride = draw(planes(3, 4)), draw(st.sampled_from([2.0, 4.0]))
    height, width = feature.shape
    # A slope, so that a box that is off by a little shows in the first digits.
    feature = feature + 2 * torch.arange(height)[:, None] + 3 * torch.arange(width)
    x1, y1 = draw(_quarters(0, int(width * stride) - 4)), draw(_quarters(0, int(height * stride) - 4))
    sides = draw(st.integers(4, 20)) / 2, draw(st.integers(4, 20)) / 2
    box = torch.tensor([x1, y1, x1 + sides[0], y1 + sides[1]], dtype=torch.float64)
    return {"feature": feature, "box": box, "bins": 2, "stride": stride, "samples": 2}


@st.composite
def pool_inputs(draw) -> dict:
    """One axis of a box that may hang out of the map."""
    stride = draw(st.sampled_from([2.0, 4.0]))
    extent, bins = draw(st.integers(4, 8)), draw(st.integers(1, 3))
    start = draw(_quarters(0, int(extent * stride)))
    return {
        "start": start, "end": start + draw(_quarters(1, int(extent * stride))), "stride": stride, "bins": bins,
        "extent": extent,
    }  # fmt: skip


@st.composite
def level_inputs(draw) -> dict:
    """Boxes, many of them exactly on the border of a level."""
    sides = st.one_of(st.sampled_from([112, 224, 448]), st.integers(8, 1000))
    return {"width": float(draw(sides)), "height": float(draw(sides))}
