"""The sparse product: by hand, its derivatives to the second order, and what torch asks of an operation."""

from unittest.mock import patch

import pytest
import torch
from parity import assert_close
from torch import Tensor

from minimaskrcnn.ops import embedding_bag


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_bag_is_a_weighted_sum_of_rows():
    # A table that is not contiguous; the second bag of three is empty.
    table, weight = seeded(3, 4).T, seeded(4, seed=1)
    row, offsets = torch.tensor([3, 0, 0, 2]), torch.tensor([0, 3, 3, 4])
    expected = [weight[0] * table[3] + (weight[1] + weight[2]) * table[0], 0 * table[0], weight[3] * table[2]]
    assert_close(embedding_bag.weighted_bags(table, weight, row, offsets), torch.stack(expected))
    assert embedding_bag.weighted_bags(table[:, :0], weight, row, offsets).shape == (3, 0)


def test_first_and_second_derivatives():
    table, weight = seeded(3, 4).T.requires_grad_(), seeded(4, seed=1).requires_grad_()
    row, offsets = torch.tensor([3, 0, 0, 2]), torch.tensor([0, 3, 3, 4])

    def pool(table: Tensor, weight: Tensor) -> Tensor:
        return embedding_bag.weighted_bags(table, weight, row, offsets)

    assert torch.autograd.gradcheck(pool, (table, weight))
    assert torch.autograd.gradgradcheck(pool, (table, weight))


@pytest.mark.parametrize("chunk", [1, 7, 2**18])
def test_the_dot_products_do_not_depend_on_their_chunks(chunk):
    left, table = seeded(4, 3), seeded(6, 3)
    bag, row = torch.tensor([0, 0, 1, 3, 3, 3]), torch.tensor([5, 1, 1, 0, 2, 4])
    with patch.object(embedding_bag, "CHUNK", chunk):
        dots = embedding_bag._dots(left, table, bag, row, torch.tensor([0, 2, 3, 3, 6]))
    assert_close(dots, (left[bag] * table[row]).sum(1))


@pytest.mark.unhooked
def test_opcheck():
    left, table = seeded(2, 3).requires_grad_(), seeded(3, 3, seed=1).requires_grad_()
    weight = seeded(3).requires_grad_()
    bag, row, offsets = torch.tensor([0, 0, 1]), torch.tensor([2, 0, 1]), torch.tensor([0, 2, 3])
    torch.library.opcheck(embedding_bag.weighted_bags, (table, weight, row, offsets))
    torch.library.opcheck(embedding_bag._dots, (left, table, bag, row, offsets))
