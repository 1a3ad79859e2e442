"""Whole cells: halves are rounded as C++ rounds them, and the operations are what torch asks of one."""

import pytest
import torch

from minimaskrcnn.ops.whole_cells import (
    _half_away_from_zero,
    cells_of_bins,
    grown_to_whole_cells,
    whole_cells,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_halves_are_rounded_away_from_zero(dtype):
    below = torch.nextafter(torch.tensor(0.5, dtype=dtype), torch.tensor(0.0, dtype=dtype)).item()
    large = 2.0 ** (24 if dtype == torch.float32 else 53)
    given = [0.5, 1.5, 2.5, below, 1 - below / 2, 0.25, large - 1, large, 1e30]
    expected = [1, 2, 3, 0, 1, 0, large - 1, large, 1e30]
    x = torch.tensor(given, dtype=dtype)
    assert torch.equal(_half_away_from_zero(x), torch.tensor(expected, dtype=dtype))
    assert torch.equal(_half_away_from_zero(-x), -torch.tensor(expected, dtype=dtype))


def test_the_last_cell_belongs_to_the_box():
    boxes = torch.tensor([[0.4, 0.5, 2.4, 2.5], [3, 3, 3, 3], [5, 5, 1, 1]], requires_grad=True)
    assert whole_cells(boxes).tolist() == [[0, 1, 3, 3], [3, 3, 1, 1], [5, 5, 1, 1]]
    grown = grown_to_whole_cells(boxes)
    assert grown.tolist() == [[0, 1, 3, 4], [3, 3, 4, 4], [5, 5, 6, 6]]
    assert not grown.requires_grad


def test_bins_share_cells_and_end_at_the_map():
    # Cells 1, 2, 3 of a map of 2 rows and 3 columns, whose first is number 10, in two bins a side: 1..2 and 2..3.
    cells = (torch.tensor([[1.0, 0, 3, 2]]), torch.tensor([10]), torch.tensor([2]), torch.tensor([3]))
    corner, rows, columns = cells_of_bins(*cells, 2, 2)
    assert corner.tolist() == [11, 12, 14, 15]
    assert rows.tolist() == [2, 2, 1, 1]
    assert columns.tolist() == [2, 1, 2, 1]


@pytest.mark.unhooked
def test_opcheck():
    boxes = torch.tensor([[1.1, 0.7, 4.3, 3.8], [-9, -9, -8, -8]], dtype=torch.float64)
    torch.library.opcheck(whole_cells, (boxes,))
    extents = (torch.full((2,), 5), torch.full((2,), 6))
    for dtype in (torch.float32, torch.float64):
        torch.library.opcheck(cells_of_bins, (boxes.to(dtype), torch.tensor([0, 30]), *extents, 2, 3))
