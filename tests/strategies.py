"""Hypothesis strategies for the inputs that detection code meets, the ugly ones first."""

import torch
from hypothesis import strategies as st
from torch import Tensor

# Coordinates on a quarter-pixel grid: exact in float32, so that touching, nested and equal boxes come up often.
_quarters = st.integers(-40, 160).map(lambda n: n / 4)
_sides = st.one_of(
    st.just(0.0),
    st.integers(1, 80).map(lambda n: n / 4),
    st.floats(1 / 64, 40, width=32),
)


@st.composite
def _box(draw: st.DrawFn) -> tuple[float, float, float, float]:
    """One box: ordinary, without area, huge, negative, or far outside of any map or picture in these tests."""
    kind = draw(st.sampled_from(["grid", "grid", "free", "huge", "outside"]))
    if kind == "huge":
        x, y, w, h = draw(st.sampled_from([(-500.0, -300.0, 900.0, 700.0), (0.0, 0.0, 640.0, 3.0)]))
    elif kind == "outside":
        x, y, w, h = draw(st.sampled_from([-200.0, 300.0])), draw(_quarters), draw(_sides), draw(_sides)
    elif kind == "free":
        x, y = draw(st.floats(-10, 40, width=32)), draw(st.floats(-10, 40, width=32))
        w, h = draw(_sides), draw(_sides)
    else:
        x, y, w, h = draw(_quarters), draw(_quarters), draw(_sides), draw(_sides)
    return x, y, x + w, y + h


@st.composite
def boxes(
    draw: st.DrawFn, max_count: int = 10, min_count: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """[n, 4] xyxy; some are repeated, and some touch, hold or lie within the one before."""
    rows = draw(st.lists(_box(), min_size=min_count, max_size=max_count))
    for i in range(1, len(rows)):
        x1, y1, x2, y2 = rows[i - 1]
        relation = draw(st.sampled_from(["none", "none", "same", "touching", "nested", "half"]))
        if relation == "same":
            rows[i] = rows[i - 1]
        elif relation == "touching":
            rows[i] = (x2, y1, x2 + (x2 - x1), y2)
        elif relation == "nested":
            rows[i] = (x1, y1, (x1 + x2) / 2, (y1 + y2) / 2)
        elif relation == "half":
            # Side by side, a third shared: IoU is exactly 1/2 for sides that divide by 3 and 4.
            rows[i] = (x1 + (x2 - x1) / 3, y1, x2 + (x2 - x1) / 3, y2)
    return torch.tensor(rows, dtype=dtype).reshape(-1, 4)


def scores(count: int) -> st.SearchStrategy[Tensor]:
    """[count] with many ties."""
    return st.lists(st.integers(0, 4), min_size=count, max_size=count).map(lambda s: torch.tensor(s) / 4)


def integers(count: int, largest: int) -> st.SearchStrategy[Tensor]:
    """[count] int64 in 0..largest: groups, image indices, levels."""
    values = st.lists(st.integers(0, largest), min_size=count, max_size=count)
    return values.map(lambda v: torch.tensor(v, dtype=torch.int64))


@st.composite
def padded_candidates(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes [B, N, 4], scores, groups, and which rows are valid: a batch of images, padding in between."""
    batch, count = draw(st.integers(0, 3)), draw(st.integers(0, 9))
    a = torch.stack([draw(boxes(count, count)) for _ in range(batch)]) if batch else torch.zeros(0, count, 4)
    score = draw(scores(batch * count)).view(batch, count)
    group = draw(integers(batch * count, 1)).view(batch, count)
    valid = draw(integers(batch * count, 3)).view(batch, count) > 0
    return a, score, group, valid


@st.composite
def feature_maps(draw: st.DrawFn, dtype: torch.dtype = torch.float64, smallest: int = 1) -> Tensor:
    """[B, C, H, W] of magnitude about 1: from 1 × 1 up, contiguous, channels_last, a slice, or transposed."""
    batch, channels = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    height, width = draw(st.integers(smallest, 9)), draw(st.integers(smallest, 9))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    layout = draw(st.sampled_from(["contiguous", "channels_last", "slice", "transposed"]))
    if layout == "slice":
        return torch.randn(batch, channels + 2, 2 * height, width + 1, generator=random, dtype=dtype)[
            :, 1:-1, ::2, 1:
        ]
    if layout == "transposed":
        return torch.randn(batch, channels, width, height, generator=random, dtype=dtype).mT
    features = torch.randn(batch, channels, height, width, generator=random, dtype=dtype)
    return features.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else features


@st.composite
def pooling_cases(draw: st.DrawFn, max_count: int = 6, largest: float = 14.0) -> tuple[Tensor, Tensor]:
    """A feature map, and boxes [R, 5] float64 of (image index, x1, y1, x2, y2): most of them on the map.

    Some stand on quarters of cells, some have no area or are inverted; the last few may be as ugly as in `boxes`.
    """
    features = draw(feature_maps())
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    count = draw(st.integers(1, max_count))
    corner = 16 * torch.rand(count, 2, generator=random, dtype=torch.float64) - 4
    side = (largest + 1) * torch.rand(count, 2, generator=random, dtype=torch.float64) - 1
    rows = torch.cat([corner, corner + side], 1)
    rows = torch.where(torch.rand(count, 1, generator=random) < 0.5, (4 * rows).round() / 4, rows)
    rows = torch.cat([rows, draw(boxes(max_count=2, dtype=torch.float64))])
    image = torch.randint(len(features), (len(rows), 1), generator=random)
    return features, torch.cat([image, rows], 1)
