"""Padded tables, and which of their rows are computed.

A batch's proposals, RoIs and detections are tables `[B, S, ...]` with a mask of the rows that mean something, so no
part of the network loops over images.  A head, though, takes rows `[R, ...]` of all images together: `Rows` says
where in the table each of them stands.

Letters: B images, S places of an image, R rows that are computed.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Rows of tables `[B, S, ...]`, each by its image and its column; `shape` is (B, S)."""

    image: Int[Tensor, " R"]
    column: Int[Tensor, " R"]
    shape: tuple[int, int]

    def of(self, table: Shaped[Tensor, "B S *rest"]) -> Shaped[Tensor, "R *rest"]:
        """These rows of a table."""
        return table[self.image, self.column]

    def to_table(self, values: Float[Tensor, "R *rest"]) -> Float[Tensor, "B S *rest"]:
        """What was computed for these rows, back in its table; zero elsewhere."""
        table = values.new_zeros(*self.shape, *values.shape[1:])
        return table.index_put((self.image, self.column), values)

    def places_of(self, wanted: "Rows") -> Int[Tensor, " P"]:
        """Where each of `wanted` stands among these rows."""
        numbers = torch.arange(len(self.image), device=self.image.device)
        table = torch.zeros(self.shape, dtype=torch.int64, device=self.image.device)
        return wanted.of(table.index_put((self.image, self.column), numbers))


def rows_to_compute(valid: Bool[Tensor, "B S"], *, everywhere: bool = False) -> Rows:
    """The rows that a head runs on: the valid ones on the CPU, all of them on a GPU.

    Dropping padding makes the CPU faster; on a GPU it would wait for the number of rows.  `everywhere` drops it there
    too.
    """
    shape = (valid.shape[0], valid.shape[1])
    if everywhere or valid.device.type == "cpu":
        image, column = valid.nonzero(as_tuple=True)
        return Rows(image, column, shape)
    image = torch.arange(shape[0], device=valid.device)[:, None].expand(shape)
    column = torch.arange(shape[1], device=valid.device).expand(shape)
    return Rows(image.reshape(-1), column.reshape(-1), shape)


@dataclass(frozen=True)
class RowFeatures:
    """What was computed for each of some rows."""

    rows: Rows
    values: Float[Tensor, "R C _ _"]

    def at(self, wanted: Rows) -> "RowFeatures":
        """Those of `wanted`, which are among these rows."""
        return RowFeatures(wanted, self.values[self.rows.places_of(wanted)])


def gather_rows(table: Shaped[Tensor, "B K *rest"], index: Int[Tensor, "B S"]) -> Shaped[Tensor, "B S *rest"]:
    """table[b, index[b, s]]."""
    batch = torch.arange(table.shape[0], device=table.device)[:, None]
    return table[batch, index]
