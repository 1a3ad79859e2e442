"""Maximum pooling: the largest cell of each rectangle, whatever the chunks, and its derivatives."""

from unittest.mock import patch

import pytest
import torch
from devices import DEVICE
from torch import Tensor

from minimaskrcnn import ops
from minimaskrcnn.ops import maximum_pooling


def seeded(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def with_ties(features: Tensor) -> Tensor:
    """Few distinct numbers, both zeros among them."""
    return features.round() * 1.0


# First row, rows, columns and the rows between two lines of a table: one of them empty.
RECTANGLES = torch.tensor([[0, 2, 3, 6], [7, 1, 1, 6], [3, 0, 2, 6], [40, 3, 3, 5]]).unbind(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_rectangle_is_searched_by_hand(dtype):
    table = with_ties(seeded(60, 3, dtype=dtype))
    value, element = maximum_pooling.largest_in_rectangles(table, *RECTANGLES, True)
    for k, (first, height, width, stride) in enumerate(zip(*(t.tolist() for t in RECTANGLES))):
        rows = [first + i * stride + j for i in range(height) for j in range(width)]
        for c in range(3):
            expected = max(rows, key=lambda row: table[row, c].item(), default=60)
            assert element[k, c] == (expected * 3 + c if rows else 180)
            assert value[k, c] == (table[expected, c] if rows else 0)
    without, none = maximum_pooling.largest_in_rectangles(table, *RECTANGLES, False)
    assert torch.equal(without, value) and none.shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunk", [1, 7, 50])
def test_a_result_does_not_depend_on_its_chunks(chunk, dtype):
    features = with_ties(seeded(2, 3, 9, 8, dtype=dtype).to(DEVICE)).requires_grad_()
    corner = 6 * torch.rand(20, 2, generator=torch.Generator().manual_seed(0))
    rois = torch.cat([torch.arange(20)[:, None] % 2, corner, corner + 4], 1).to(features)
    results = []
    for size in (chunk, 2**20):
        with patch.object(maximum_pooling, "CHUNK", size):
            out = ops.roi_pool(features, rois, 3)
            results.append((out, *torch.autograd.grad(out.square().sum(), features)))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


@pytest.mark.unhooked
def test_opcheck():
    for dtype in (torch.float32, torch.float64):
        table = seeded(60, 3, dtype=dtype).requires_grad_()
        torch.library.opcheck(maximum_pooling.largest_in_rectangles, (table, *RECTANGLES, True))
    torch.library.opcheck(maximum_pooling.largest_in_rectangles, (table.detach(), *RECTANGLES, False))
    element = torch.tensor([[0, 5, 2], [3, 180, 5]])
    torch.library.opcheck(maximum_pooling.scatter, (seeded(2, 3).requires_grad_(), element, 60))
    assert torch.autograd.gradgradcheck(maximum_pooling.select, (seeded(60, 3).requires_grad_(), element))
