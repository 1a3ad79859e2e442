"""The definitions of keypoint targets, loss and decoding as loops.

Everything is computed one number at a time in Python's floats (float64).  Used by tests and lessons only.
"""

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def keypoint_targets(
    keypoints: Float[Tensor, "R K 3"], boxes: Float[Tensor, "R 4"], size: int
) -> tuple[Int64[Tensor, "R K"], Bool[Tensor, "R K"]]:
    """The cell y · size + x of each keypoint in its box, and whether it counts: v > 0 and inside the box."""
    cells = torch.zeros(keypoints.shape[:2], dtype=torch.int64)
    counts = torch.zeros(keypoints.shape[:2], dtype=torch.bool)
    for r, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        for k, (x, y, v) in enumerate(keypoints[r].tolist()):
            if x1 <= x <= x2 and y1 <= y <= y2 and x1 < x2 and y1 < y2 and v > 0:
                # torch divides a number by a tensor through the tensor's reciprocal: so does this, to the last bit.
                column = size - 1 if x == x2 else math.floor((x - x1) * (1 / (x2 - x1) * size))
                row = size - 1 if y == y2 else math.floor((y - y1) * (1 / (y2 - y1) * size))
                # Rounding can carry a point just short of the edge over it; such a point does not count.
                if column < size and row < size:
                    cells[r, k] = row * size + column
                    counts[r, k] = True
    return cells, counts


def keypoint_loss(
    logits: Float[Tensor, "R K m m"],
    keypoints: Float[Tensor, "R K 3"],
    boxes: Float[Tensor, "R 4"],
    positive: Bool[Tensor, " R"],
    divisor: float | None = None,
) -> float:
    """-log softmax over the cells at the target's, summed over what counts in positive rois, over its number."""
    cells, counts = keypoint_targets(keypoints, boxes, logits.shape[-1])
    total = 0.0
    number = 0
    for r in range(len(logits)):
        for k in range(logits.shape[1]):
            if positive[r] and counts[r, k]:
                values = logits[r, k].flatten().tolist()
                total += math.log(sum(math.exp(value) for value in values)) - values[int(cells[r, k])]
                number += 1
    return total / (max(number, 1) if divisor is None else divisor)


def decode_keypoints(
    logits: Float[Tensor, "R K m m"], boxes: Float[Tensor, "R 4"], score: str = "logit"
) -> tuple[Float[Tensor, "R K 3"], Float[Tensor, "R K"]]:
    """The centre of the first pixel, row by row, with the largest value of each map resized to its box."""
    found = torch.zeros(*logits.shape[:2], 3, dtype=torch.float64)
    scores = torch.zeros(logits.shape[:2], dtype=torch.float64)
    for r, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        width = max(x2 - x1, 1.0)
        height = max(y2 - y1, 1.0)
        columns = math.ceil(width)
        rows = math.ceil(height)
        for k in range(logits.shape[1]):
            plane = logits[r, k].tolist()
            best = -math.inf
            best_row = 0
            best_column = 0
            for row in range(rows):
                for column in range(columns):
                    value = bicubic(plane, _place(row, rows, len(plane)), _place(column, columns, len(plane)))
                    if value > best:
                        best = value
                        best_row = row
                        best_column = column
            x = x1 + (best_column + 0.5) * width / columns
            y = y1 + (best_row + 0.5) * height / rows
            found[r, k] = torch.tensor([x, y, 1.0], dtype=torch.float64)
            share = math.exp(best) / sum(math.exp(value) for line in plane for value in line)
            scores[r, k] = share if score == "softmax" else best
    return found, scores


def bicubic(plane: list[list[float]], y: float, x: float) -> float:
    """Value at a point of a plane [m][m], from the 4 × 4 cells around it; a cell beyond the edge is the edge's."""
    last = len(plane) - 1
    value = 0.0
    for row in range(math.floor(y) - 1, math.floor(y) + 3):
        for column in range(math.floor(x) - 1, math.floor(x) + 3):
            cell = plane[min(max(row, 0), last)][min(max(column, 0), last)]
            value += cubic(y - row) * cubic(x - column) * cell
    return value


def cubic(distance: float) -> float:
    """Weight of a cell at a distance (Keys 1981, with a = -0.75): 1 at 0, 0 at 1 and from 2 on."""
    a = -0.75
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def _place(pixel: int, pixels: int, cells: int) -> float:
    """Where the centre of a pixel is, in cells whose centres are at integers."""
    return (pixel + 0.5) * cells / pixels - 0.5
