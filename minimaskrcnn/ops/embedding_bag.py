"""A sparse matrix times a dense table, as a weighted embedding bag that can be differentiated again and again.

The matrix has a row ("bag") per output and a few entries in it, each a weight and the number of a table's row.  The
derivative for the table is the product with the transposed matrix; the derivative for the weights is one dot
product per entry; the derivatives of these are products of the same two kinds.  torch's own embedding bag has no
second derivative.  Here every order runs in a fixed sequence, so it is bit-reproducible on the CPU and on a GPU,
without atomics, in memory of the size of its operands.  Both products are custom ops: a compiled graph holds one call
of each, and can differentiate it.

Axis letters: T rows of the table; C its columns; K bags; E entries.

Lesson 05, `lessons/05_roi_align.ipynb`, teaches this.
"""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

# Numbers gathered at once by `_dots`, twice: 1 MiB of float32 stays in a CPU's cache.  A GPU takes 64 times as many.
CHUNK = 2**18


@torch.library.custom_op("minimaskrcnn::weighted_bags", mutates_args=())
def weighted_bags(table: Tensor, weight: Tensor, row: Tensor, offsets: Tensor) -> Tensor:
    """out[k] = sum of weight[e] · table[row[e]] over the entries offsets[k] <= e < offsets[k + 1].

    `table` [T, C] and `weight` [E] share a dtype; `row` [E] and `offsets` [K + 1] are int64; the result is [K, C].
    The first derivative for the table costs about the forward pass and a sort of the entries.
    """
    if not table.shape[1]:
        return table.new_zeros(len(offsets) - 1, 0)
    # embedding_bag took 40 times as long on rows that are not contiguous.
    table = table.contiguous()
    return embedding_bag(row, table, offsets, mode="sum", per_sample_weights=weight, include_last_offset=True)


@weighted_bags.register_fake
def _(table, weight, row, offsets):
    return table.new_empty(len(offsets) - 1, table.shape[1])


def _bags_backward(ctx, grad):
    table, weight, row, offsets = ctx.saved_tensors
    grad = grad.contiguous()
    bag = torch.arange(len(grad), device=grad.device).repeat_interleave(offsets.diff(), output_size=len(row))
    d_table = _transposed(grad, weight, row, bag, len(table)) if ctx.needs_input_grad[0] else None
    d_weight = _dots(grad, table, bag, row, offsets) if ctx.needs_input_grad[1] else None
    return d_table, d_weight, None, None


@torch.library.custom_op("minimaskrcnn::dots", mutates_args=())
def _dots(left: Tensor, table: Tensor, bag: Tensor, row: Tensor, offsets: Tensor) -> Tensor:
    """out[e] = left[bag[e]] · table[row[e]]; `offsets` are those of the bags, for the derivative."""
    step = max(1, (CHUNK if left.device.type == "cpu" else 64 * CHUNK) // max(1, table.shape[1]))
    table = table.contiguous()
    ones = table.new_ones(table.shape[1])
    chunks = zip(bag.split(step), row.split(step))
    with torch.autocast(left.device.type, enabled=False):
        # index_select: brackets took 4 times as long.  A product with ones: a sum took twice as long.
        dots = [left.index_select(0, b).mul_(table.index_select(0, r)) @ ones for b, r in chunks]
    return torch.cat(dots)


@_dots.register_fake
def _(left, table, bag, row, offsets):
    return left.new_empty(len(row))


def _dots_backward(ctx, grad):
    left, table, bag, row, offsets = ctx.saved_tensors
    grad = grad.contiguous()
    d_left = weighted_bags(table, grad, row, offsets) if ctx.needs_input_grad[0] else None
    d_table = _transposed(left, grad, row, bag, len(table)) if ctx.needs_input_grad[1] else None
    return d_left, d_table, None, None, None


def _save_inputs(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


weighted_bags.register_autograd(_bags_backward, setup_context=_save_inputs)
_dots.register_autograd(_dots_backward, setup_context=_save_inputs)


def _transposed(left: Tensor, weight: Tensor, row: Tensor, bag: Tensor, rows: int) -> Tensor:
    """out[t] = sum of weight[e] · left[bag[e]] over the entries with row[e] = t: bags again, after a sort."""
    # A radix sort passes once over each byte of the key: int16 took a quarter of int64's time.
    row, order = row.to(torch.int16 if rows < 2**15 else torch.int32).sort(stable=True)
    offsets = torch.searchsorted(row, torch.arange(rows + 1, device=row.device, dtype=row.dtype))
    return weighted_bags(left, weight.index_select(0, order), bag.index_select(0, order), offsets)
