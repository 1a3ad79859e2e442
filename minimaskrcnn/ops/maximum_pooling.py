"""The largest number of each column in a rectangle of a map's cells, and which cell has it.

On the CPU the rectangles are the rows of a sparse matrix of ones, and torch's sparse product takes a maximum where
another takes a sum: 15 times as fast as torch's embedding bag, which does the same and serves all other cases.  The
product does not say which cell it was, and for a gradient one must know.  So the product is taken a second time, of
float64 keys whose 64 bits hold both, the number's 32 and the cell's 29 (`_keys`).

NaN is passed over, as torchvision's RoIPool does it: it counts as -inf.  Of equal numbers the first cell, in the
order of the table, is the one.  `scatter` and `select` are the derivatives, each the other's derivative.

Axis letters: T rows of the table, one a cell; C its columns; K rectangles; E cells of all rectangles.
"""

import warnings

import torch
from jaxtyping import Float, Int64
from torch import Tensor

# Numbers of a chunk's result: 8 MiB of keys.  A GPU takes 64 times as many.
CHUNK = 2**20
# The lower bits of a key, which hold a row.
ROW_BITS = 2**29 - 1


# A custom op: how many cells a rectangle has is data.
@torch.library.custom_op("minimaskrcnn::largest_in_rectangles", mutates_args=())
def largest_in_rectangles(
    table: Tensor, first: Tensor, height: Tensor, width: Tensor, stride: Tensor, with_element: bool
) -> tuple[Tensor, Tensor]:
    """The largest of the rows first + i · stride + j, i < height and j < width, column by column; 0 of none.

    `table` is [T, C]; `first`, `height`, `width` and `stride` are int64 [K]; the result is [K, C].  `with_element`
    adds its place in the flattened table, int64 [K, C], T · C where there is none; otherwise no rows, no gradient.
    Memory beyond the results: the table once, twice more for its keys, and a chunk.  A host sync a chunk: sizes are
    data.
    """
    rows, columns = table.shape
    value = table.new_empty(len(first), columns)
    element = first.new_empty(len(first) if with_element else 0, columns)
    if not value.numel():
        return value, element
    table = table.contiguous().nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    on_cpu = table.device.type == "cpu"
    by_product = on_cpu and (not with_element or (table.dtype == torch.float32 and rows <= ROW_BITS))
    keys = _keys(table) if by_product and with_element else None
    chunk = CHUNK if on_cpu else 64 * CHUNK
    area = height * width
    step = max(1, min(chunk // columns, 8 * chunk // max(1, int(area.max()))))
    for start in range(0, len(first), step):
        here = slice(start, start + step)
        row, offsets = _cells(first[here], height[here], width[here], stride[here])
        if by_product:
            value[here] = _product(table, row, offsets)
            if keys is not None:
                _elements_of(_product(keys, row, offsets), out=element[here])
        else:
            # Mode 2 is the maximum.
            value[here], _, _, largest = torch.embedding_bag(table, row, offsets, False, 2, False, None, True)
            if with_element:
                element[here] = largest * columns + torch.arange(columns, device=largest.device)
    if with_element:
        element.masked_fill_((area == 0)[:, None], rows * columns)
    return value, element


@largest_in_rectangles.register_fake
def _(table, first, height, width, stride, with_element):
    shape = (len(first), table.shape[1])
    return table.new_empty(shape), first.new_empty(shape if with_element else (0, shape[1]))


def _largest_setup(ctx, inputs, output):
    ctx.rows = len(inputs[0])
    ctx.save_for_backward(output[1])


def _largest_backward(ctx, grad, _):
    return scatter(grad, *ctx.saved_tensors, ctx.rows), None, None, None, None, None


largest_in_rectangles.register_autograd(_largest_backward, setup_context=_largest_setup)


def _cells(
    first: Int64[Tensor, "K"],
    height: Int64[Tensor, "K"],
    width: Int64[Tensor, "K"],
    stride: Int64[Tensor, "K"],
) -> tuple[Int64[Tensor, "E"], Int64[Tensor, "K_and_1"]]:
    """The rows of the table in each rectangle, and where each rectangle's begin."""
    lines = first.repeat_interleave(height) + _counted(height) * stride.repeat_interleave(height)
    widths = width.repeat_interleave(height)
    area = height * width
    return lines.repeat_interleave(widths) + _counted(widths), torch.cat([area.new_zeros(1), area.cumsum(0)])


def _counted(count: Int64[Tensor, "N"]) -> Int64[Tensor, "E"]:
    """0..n - 1 for each n, one after the other."""
    before = (count.cumsum(0) - count).repeat_interleave(count)
    return torch.arange(len(before), device=count.device) - before


def _product(
    table: Float[Tensor, "T C"], row: Int64[Tensor, "E"], offsets: Int64[Tensor, "K_and_1"]
) -> Float[Tensor, "K C"]:
    """The maximum of the rows in each bag; 0 for an empty one."""
    shape = (len(offsets) - 1, len(table))
    ones = table.new_ones(len(row))
    with warnings.catch_warnings():
        # torch says once that sparse rows are in beta.
        warnings.simplefilter("ignore", UserWarning)
        bags = torch.sparse_csr_tensor(offsets, row, ones, shape, check_invariants=False)
        return torch.sparse.mm(bags, table, "amax")


def _keys(table: Float[Tensor, "T C"]) -> Float[Tensor, "T C"]:
    """float64 numbers in the order of the table's float32 ones, and of equal ones the first row's is the largest.

    The bits of positive floating-point numbers are in the order of the numbers.  So any whole number will do as a key
    if its bits make a positive float64: here 2^60 and up, below 2^62, so that it is neither denormal nor infinite.
    """
    # Adding 0 makes one zero of the two.  Negative numbers count backwards in their lower 31 bits.
    order = (table + 0.0).view(torch.int32)
    order = order ^ ((order >> 31) & 0x7FFFFFFF)
    row = torch.arange(len(table))[:, None]
    return (((order.long() + 2**32) << 29) | (ROW_BITS - row)).view(torch.float64)


def _elements_of(keys: Float[Tensor, "K C"], out: Int64[Tensor, "K C"]) -> None:
    """Write the places in the flattened table whose rows `_keys` put in; overwrites the keys."""
    columns = keys.shape[1]
    row_0 = ROW_BITS * columns + torch.arange(columns)
    torch.sub(row_0, keys.view(torch.int64).bitwise_and_(ROW_BITS), alpha=columns, out=out)


@torch.library.custom_op("minimaskrcnn::scatter", mutates_args=())
def scatter(grad: Tensor, element: Tensor, rows: int) -> Tensor:
    """[rows, C] with each grad[k, c] added at its element, in a fixed order; an element beyond the end is dropped."""
    columns = grad.shape[1]
    flat = grad.new_zeros(rows * columns + 1)
    if flat.device.type == "cpu":
        flat.scatter_add_(0, element.flatten(), grad.flatten())
    else:
        # Sorts, where a GPU's scatter_add would add in any order.
        flat.index_put_((element.flatten(),), grad.flatten(), accumulate=True)
    return flat[:-1].view(rows, columns)


def select(table: Tensor, element: Tensor) -> Tensor:
    """The table's number at each element; 0 beyond the end."""
    return torch.cat([table.flatten(), table.new_zeros(1)])[element]


@scatter.register_fake
def _(grad, element, rows):
    return grad.new_empty(rows, grad.shape[1])


scatter.register_autograd(
    lambda ctx, grad: (select(grad, *ctx.saved_tensors), None, None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[1]),
)
