"""What judges the exercises of lesson 06, the wrong answers that they know, and their inputs.

The reader's answers launch Triton kernels.  These functions are the same arithmetic in torch, lane for lane where an
answer is wrong, so that a check needs few programs.  Every input is a view of a longer stretch of memory: a wrong
address reads or writes numbers that the check knows, not what else lies there.
"""

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor

from minimaskrcnn_lessons.exercise import Inputs

BLOCK_ADD = 4  # numbers of a program of add_vectors
BLOCK_CHANNELS = 4  # channels of a program of bilinear_channels
BLOCK_ROW = 8  # columns of a program of row_maximum
LANES = 8  # samples of the program of scatter_gradient
BEHIND = 9.0  # the gradient that lies behind the samples


# Vectors


def add_vectors(x: Tensor, y: Tensor, out: Tensor, n: int) -> Tensor:
    """The first n sums; the rest of `out` untouched."""
    out[:n] = x[:n] + y[:n]
    return out


def add_unmasked(x: Tensor, y: Tensor, out: Tensor, n: int) -> Tensor:
    """The last program's spare lanes write sums too."""
    return add_vectors(x, y, out, -(-n // BLOCK_ADD) * BLOCK_ADD)


def add_unmasked_store(x: Tensor, y: Tensor, out: Tensor, n: int) -> Tensor:
    """Spare lanes load nothing and store 0."""
    out[: -(-n // BLOCK_ADD) * BLOCK_ADD] = 0
    return add_vectors(x, y, out, n)


def add_one_too_many(x: Tensor, y: Tensor, out: Tensor, n: int) -> Tensor:
    """The mask is i <= n."""
    # The lanes end with the block, so a full last block has no lane for number n.
    return add_vectors(x, y, out, min(n + 1, -(-n // BLOCK_ADD) * BLOCK_ADD))


def add_unscaled(x: Tensor, y: Tensor, out: Tensor, n: int) -> Tensor:
    """Program p takes numbers p to p + BLOCK - 1."""
    programs = -(-n // BLOCK_ADD)
    return add_vectors(x, y, out, min(n, programs - 1 + BLOCK_ADD))


def add_first_block(x: Tensor, y: Tensor, out: Tensor, n: int) -> Tensor:
    """Every program takes the first block."""
    return add_vectors(x, y, out, min(n, BLOCK_ADD))


def add_nothing_stored(x: Tensor, y: Tensor, out: Tensor, n: int) -> Tensor:
    """The sums are made, and kept nowhere."""
    return out


@st.composite
def vectors(draw: st.DrawFn) -> Inputs:
    """Room for 16 numbers, n of which are ours."""
    n = draw(st.integers(1, 12))
    numbers = st.lists(st.integers(1, 9), min_size=16, max_size=16)
    x, y = (torch.tensor(draw(numbers), dtype=torch.float32) for _ in range(2))
    return {"x": x, "y": y, "out": torch.full((16,), -1.0), "n": n}


# Rows with strides


def row_maximum(matrix: Tensor) -> Tensor:
    """The largest number of each row."""
    return matrix.amax(1)


def rows_read_with(matrix: Tensor, columns: int, row_stride: int, column_stride: int) -> Tensor:
    """The largest number of each row, read with these strides from the matrix's memory."""
    return matrix.as_strided((len(matrix), columns), (row_stride, column_stride)).amax(1)


def rows_of_columns(matrix: Tensor) -> Tensor:
    """Row r begins at number r * columns."""
    columns = matrix.shape[1]
    return rows_read_with(matrix, columns, columns, matrix.stride(1))


def rows_not_stored(matrix: Tensor) -> Tensor:
    """`out` as it was made."""
    return torch.full((len(matrix),), float("nan"))


def rows_in_one_place(matrix: Tensor) -> Tensor:
    """All programs store in the first place; the last one wins."""
    out = rows_not_stored(matrix)
    out[0] = matrix[-1].max()
    return out


def max_of_zeros(matrix: Tensor) -> Tensor:
    """Masked lanes hold 0."""
    return matrix.amax(1) if matrix.shape[1] == BLOCK_ROW else matrix.amax(1).clamp(min=0)


@st.composite
def matrices(draw: st.DrawFn) -> Inputs:
    """Up to 3 rows and 5 columns, laid out in four ways."""
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    kind = draw(st.sampled_from(["contiguous", "padded", "transposed", "every second"]))
    strides = {
        "contiguous": (columns, 1),
        "padded": (columns + 2, 1),
        "transposed": (1, rows),
        "every second": (2 * columns, 2),
    }[kind]
    # Few numbers, over and over: what a check can shrink quickly.
    numbers = draw(st.lists(st.integers(-9, 3), min_size=13, max_size=13))
    memory = torch.tensor(numbers, dtype=torch.float32).repeat(5)
    return {"matrix": memory.as_strided((rows, columns), strides)}


# Four cells of a channels-last map


def bilinear_channels(features: Tensor, y: float, x: float, out: Tensor) -> Tensor:
    """All channels of a map [H, W, C] at one point on it, in the first C places of `out`."""
    height, width, channels = features.shape
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = (1 - (x - left)) * features[top, left] + (x - left) * features[top, right]
    lower = (1 - (x - left)) * features[bottom, left] + (x - left) * features[bottom, right]
    out[:channels] = (1 - (y - top)) * upper + (y - top) * lower
    return out


def _bilinear(
    features: Tensor, y: float, x: float, out: Tensor, *, clamp: bool = True, round_half: bool = False,
    flip: bool = False, swap: bool = False, exchange: bool = False, per_cell: int | None = None,
    channels_first: bool = False, mask_loads: bool = True, mask_store: bool = True, blocks: int | None = None,
) -> Tensor:  # fmt: skip
    """`bilinear_channels` by addresses, with one thing wrong."""
    height, width, channels = features.shape
    memory = features.as_strided((features.untyped_storage().nbytes() // 4,), (1,), 0)
    first, shift = features.storage_offset(), 0.5 if round_half else 0.0
    top, left = int(y + shift), int(x + shift)
    bottom, right = top + 1, left + 1
    if clamp:
        bottom, right = min(bottom, height - 1), min(right, width - 1)
    fy, fx = y - top, x - left
    if flip:
        fy, fx = 1 - fy, 1 - fx
    if swap:
        fy, fx = fx, fy
    programs = blocks or -(-channels // BLOCK_CHANNELS)
    c = torch.arange(programs * BLOCK_CHANNELS)
    # A masked lane loads 0, wherever it points.
    pointed = c.clamp(max=channels - 1) if mask_loads else c
    total = torch.zeros(len(c))
    for row, wy in ((top, 1 - fy), (bottom, fy)):
        for column, wx in ((left, 1 - fx), (right, fx)):
            cell = column * width + row if exchange else row * width + column
            place = pointed * height * width + cell
            if not channels_first:
                place = cell * (channels if per_cell is None else per_cell) + pointed
            total += wy * wx * memory[first + place]
    if mask_loads:
        total[c >= channels] = 0
    written = min(channels, len(c)) if mask_store else len(c)
    out[:written] = total[:written]
    return out


def bilinear_with(**mistake: object) -> Callable[..., Tensor]:
    """The answer with this mistake."""

    def answer(features: Tensor, y: float, x: float, out: Tensor) -> Tensor:
        return _bilinear(features, y, x, out, **mistake)

    return answer


@st.composite
def points(draw: st.DrawFn) -> Inputs:
    """A small map in memory full of NaN, a point on it in quarters of a cell, and room for 8 channels."""
    height, width, channels = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 6))
    size = height * width * channels
    numbers = draw(st.lists(st.integers(0, 9), min_size=size, max_size=size))
    # What lies around the map is NaN: a read outside is seen even with the weight 0.
    memory = torch.full((128,), float("nan"))
    features = memory[8 : 8 + size].view(height, width, channels)
    features[:] = torch.tensor(numbers, dtype=torch.float32).view_as(features)
    y, x = (draw(st.integers(0, 4 * (extent - 1))) / 4 for extent in (height, width))
    return {"features": features, "y": y, "x": x, "out": torch.full((8,), -1.0)}


# Many samples, few cells


def scatter_gradient(grad: Tensor, x: Tensor, width: int) -> Tensor:
    """The gradient of a row of cells, sampled at the points x, for the samples' gradient."""
    cells = torch.zeros(width, requires_grad=True)
    low = x.long()
    fraction = x - low
    samples = (1 - fraction) * cells[low] + fraction * cells[(low + 1).clamp(max=width - 1)]
    return torch.autograd.grad(samples, cells, grad)[0]


def _shares(grad: Tensor, x: Tensor, width: int) -> list[list[tuple[int, float]]]:
    """What the lanes write: first each one's low cell and share, then each one's high cell and share."""
    low = x.long()
    fraction = x - low
    high = (low + 1).clamp(max=width - 1)
    return [
        list(zip(low.tolist(), (grad * (1 - fraction)).tolist())),
        list(zip(high.tolist(), (grad * fraction).tolist())),
    ]


def scatter_store(grad: Tensor, x: Tensor, width: int) -> Tensor:
    """The last lane to write a cell wins."""
    out = torch.zeros(width)
    for writes in _shares(grad, x, width):
        for cell, share in writes:
            out[cell] = share
    return out


def scatter_load_add_store(grad: Tensor, x: Tensor, width: int) -> Tensor:
    """All lanes load before any stores."""
    out = torch.zeros(width)
    for writes in _shares(grad, x, width):
        before = out.clone()
        for cell, share in writes:
            out[cell] = before[cell] + share
    return out


def scatter_flipped(grad: Tensor, x: Tensor, width: int) -> Tensor:
    """The two weights exchanged."""
    (low, low_shares), (high, high_shares) = (zip(*writes) for writes in _shares(grad, x, width))
    out = torch.zeros(width).index_add(0, torch.tensor(low), torch.tensor(high_shares))
    return out.index_add(0, torch.tensor(high), torch.tensor(low_shares))


def scatter_low_only(grad: Tensor, x: Tensor, width: int) -> Tensor:
    """Everything to the low cell."""
    return torch.zeros(width).index_add(0, x.long(), grad)


def scatter_unclamped(grad: Tensor, x: Tensor, width: int) -> Tensor:
    """The last cell's second share goes behind `out`."""
    return scatter_gradient(grad, x, width + 1)[:width]


def scatter_weights(grad: Tensor, x: Tensor, width: int) -> Tensor:
    """Every gradient taken for 1."""
    return scatter_gradient(torch.ones_like(grad), x, width)


def scatter_unmasked(grad: Tensor, x: Tensor, width: int) -> Tensor:
    """The lanes behind the samples add what lies there to cell 0."""
    out = scatter_gradient(grad, x, width)
    out[0] += BEHIND * (LANES - len(grad))
    return out


@st.composite
def samples(draw: st.DrawFn) -> Inputs:
    """Up to 8 samples on up to 5 cells, in quarters of a cell, the last of them clamped; more numbers behind them."""
    width, n = draw(st.integers(1, 5)), draw(st.integers(1, LANES))
    x, grad = torch.zeros(LANES), torch.full((LANES,), BEHIND)
    x[:n] = torch.tensor(draw(st.lists(st.integers(0, 4 * width - 1), min_size=n, max_size=n))) / 4
    grad[:n] = torch.tensor(draw(st.lists(st.integers(1, 4), min_size=n, max_size=n)))
    return {"grad": grad[:n], "x": x[:n], "width": width}
