"""Findings of annotations that open: what training skips, and what may not be meant.

The table of findings and their levels is in `check.py`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from reprlib import repr as short
from typing import Literal, NamedTuple

import numpy as np

from minimaskrcnn.data import coco_table
from minimaskrcnn.data.coco_json import ImageRecord

Level = Literal["error", "skipped", "warning"]
THIN = 2.0  # pixels
MOST_BYTES = 8 * 2**30
LEAVES_BY = 1.0  # pixels; COCO's own boxes leave their pictures by up to a hundredth
MOST_POINTS = 5000  # of a polygon that is asked whether it crosses itself: 12 million pairs of edges, about a second


class Finding(NamedTuple):
    """One thing that is wrong, with the entry it is about where there is one."""

    level: Level
    file: Path
    image_id: int | None
    annotation_id: int | None
    sentence: str

    def __str__(self) -> str:
        ids = (("image", self.image_id), ("annotation", self.annotation_id))
        place = "".join(f"{name} {short(id)}: " for name, id in ids if id is not None)
        return f"{self.level}: {self.file}: {place}{self.sentence}"


def check_table(file: Path, table: coco_table.AnnotationTable, images: list[ImageRecord]) -> Iterator[Finding]:
    """Findings of what opened: what is skipped, what is used with a warning."""
    has_masks = coco_table.masks_are_given(table)
    if not has_masks:
        sentence = "no object has a segmentation: for a model of boxes only (fasterrcnn_resnet50_fpn)"
        yield Finding("warning", file, None, None, sentence)
    sizes = coco_table.sizes_of(images)
    row_sizes = coco_table.sizes_of_rows(table, sizes)
    image_of = np.repeat([record.id for record in images], np.diff(table.first_row))

    def each(level: Level, rows: np.ndarray, sentence: Callable[[int], str]) -> Iterator[Finding]:
        for row in rows.tolist():
            yield Finding(level, file, int(image_of[row]), int(table.id[row]), sentence(row))

    def box(row: int) -> str:
        return "[" + ", ".join(f"{value:g}" for value in table.bbox[row].tolist()) + "]"

    def size(row: int) -> tuple[int, ...]:
        return tuple(row_sizes[row].tolist())

    used = ~table.crowd
    for reason, rows in coco_table.reasons_to_skip(table, sizes, has_masks).items():
        used[rows] = False
        yield from each("skipped", rows, lambda row, reason=reason: f"{reason}: bbox {box(row)}")
    yield from each(
        "warning",
        np.flatnonzero(used & _leaves(table, row_sizes)),
        lambda row: f"box {box(row)} leaves the picture of (height, width) {size(row)} and is cut to it",
    )
    yield from each(
        "warning",
        np.flatnonzero(used & _elsewhere(table, row_sizes)),
        lambda row: f"box {box(row)} is not where its polygons are: is it [x, y, width, height]?",
    )
    if has_masks:
        yield from _large_stacks(file, table, images)
    crossing = np.flatnonzero(_crossing_rows(table))
    yield from each("warning", crossing, lambda row: "a polygon crosses itself; it is rasterised even-odd")


def _leaves(table: coco_table.AnnotationTable, row_sizes: np.ndarray) -> np.ndarray:
    """bool [N]: the box leaves the picture by more than `LEAVES_BY` pixels."""
    beyond = table.bbox[:, :2] + table.bbox[:, 2:] - row_sizes[:, ::-1]
    return (np.maximum(-table.bbox[:, :2], beyond) > LEAVES_BY).any(axis=1)


def _elsewhere(table: coco_table.AnnotationTable, row_sizes: np.ndarray) -> np.ndarray:
    """bool [N]: the polygons' extent and the box, both inside the picture, have an IoU of under a half.

    Or the box is that extent if its numbers are read as two corners.
    """
    low = np.full((len(table.id), 2), np.inf)
    high = -low
    for polygons in coco_table.polygons_of(table):
        np.minimum.at(low, polygons.row, np.minimum.reduceat(polygons.points, polygons.start[:-1]))
        np.maximum.at(high, polygons.row, np.maximum.reduceat(polygons.points, polygons.start[:-1]))
    drawn = np.flatnonzero(low[:, 0] <= high[:, 0])
    boxes = coco_table.clipped_boxes(table.bbox[drawn], row_sizes[drawn])
    extents = coco_table.clipped_boxes(np.concatenate([low, high - low], axis=1)[drawn], row_sizes[drawn])
    sides = np.minimum(boxes[:, 2:], extents[:, 2:]) - np.maximum(boxes[:, :2], extents[:, :2])
    shared = sides.clip(0).prod(axis=1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (extents[:, 2:] - extents[:, :2]).prod(axis=1) - shared
    # A box of whole pixels around a thin object may be twice as wide.
    apart = np.abs(boxes - extents).max(axis=1) > THIN
    corners = np.abs(np.concatenate([low, high], axis=1)[drawn] - table.bbox[drawn]).max(axis=1) <= LEAVES_BY
    found = np.zeros(len(table.id), bool)
    found[drawn] = apart & (corners | (shared < union / 2))
    return found


def _large_stacks(file: Path, table: coco_table.AnnotationTable, images: list[ImageRecord]) -> Iterator[Finding]:
    """Pictures whose masks, a byte a pixel, take more than `MOST_BYTES`."""
    counts = coco_table.count_by_picture(table, ~table.crowd)
    size = counts * coco_table.sizes_of(images).prod(axis=1)
    for index in np.flatnonzero(size > MOST_BYTES).tolist():
        record = images[index]
        sentence = (
            f"{counts[index]} masks of (height, width) {(record.height, record.width)} take "
            f"{size[index] / 2**30:.1f} GiB of memory: cut the picture into tiles"
        )
        yield Finding("warning", file, record.id, None, sentence)


def _crossing_rows(table: coco_table.AnnotationTable) -> np.ndarray:
    """bool [N]: a polygon of the row crosses itself.  Those of over `MOST_POINTS` points are taken as simple."""
    rows = np.zeros(len(table.id), bool)
    for polygons in coco_table.polygons_of(table):
        counts = np.diff(polygons.start)
        for count in np.unique(counts[(counts > 3) & (counts <= MOST_POINTS)]).tolist():
            chosen = np.flatnonzero(counts == count)
            points = polygons.points[polygons.start[chosen][:, None] + np.arange(count)]
            rows[polygons.row[chosen[crosses_itself(points)]]] = True
    return rows


def crosses_itself(points: np.ndarray) -> np.ndarray:
    """bool [S] of S closed polygons of V points each, [S, V, 2]: some edges i and i + k cross.

    Two edges cross where the ends of each lie strictly on different sides of the other.  Edges that touch, or run
    back over each other, do not cross: COCO's outlines do both where a part is a pixel thin.
    """
    edges = np.roll(points, -1, axis=1) - points
    # A product of two coordinates is right to about 1e-16 of its size: what is smaller than this is zero.
    tolerance = 1e-12 * np.square(np.abs(points).max(axis=(1, 2)) + 1)[:, None]
    crossed = np.zeros(len(points), bool)
    for k in range(2, points.shape[1] // 2 + 1):
        start = np.roll(points, -k, axis=1)
        edge = np.roll(edges, -k, axis=1)
        a, b = (_side(edges, other - points, tolerance) for other in (start, start + edge))
        c, d = (_side(edge, other - start, tolerance) for other in (points, points + edges))
        crossed |= ((a * b < 0) & (c * d < 0)).any(axis=1)
    return crossed


def _side(edge: np.ndarray, to: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
    """-1, 0 or 1: on which side of the edge a point lies."""
    product = edge[..., 0] * to[..., 1] - edge[..., 1] * to[..., 0]
    return np.where(np.abs(product) <= tolerance, 0.0, np.sign(product))
