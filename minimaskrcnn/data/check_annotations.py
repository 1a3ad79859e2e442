"""Findings of annotations: of each entry by itself, and of what opened, by the rules of training.

The table of findings and their levels is in `check.py`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from reprlib import repr as short
from typing import Literal, NamedTuple

import numpy as np

from minimaskrcnn.data import coco_json
from minimaskrcnn.data.coco_json import Annotation, Entry, ImageRecord, Known
from minimaskrcnn.data.coco_table import (
    AnnotationTable,
    clipped_boxes,
    decode_row,
    far_rows,
    masks_are_given,
    polygons_of,
    reasons_to_skip,
    sizes_of,
    sizes_of_rows,
)
from minimaskrcnn.data.crossings import crossing_rows
from minimaskrcnn.data.keypoints import parse_keypoints
from minimaskrcnn.data.segmentation import parse_segmentation

Level = Literal["error", "skipped", "warning"]
THIN = 2.0  # pixels
MOST_BYTES = 8 * 2**30
LEAVES_BY = 1.0  # pixels; COCO's own boxes leave their pictures by up to a hundredth


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


def objects(file: Path, content: Entry, key: str) -> Iterator[Finding | tuple[int, Entry]]:
    """The objects of a list with their positions; a finding for what is none."""
    found = content.get(key)
    if not isinstance(found, list):
        yield Finding("error", file, None, None, f"{key!r} must be a list of objects, got {short(found)}")
        return
    for position, entry in enumerate(found):
        if isinstance(entry, dict):
            yield position, entry
        else:
            sentence = f"{key!r} must be a list of objects, entry {position} is {short(entry)}"
            yield Finding("error", file, None, None, sentence)


def check_annotations(
    file: Path, content: Entry, known: Known, keypoints: bool, good: list[Annotation]
) -> Iterator[Finding]:
    """Findings of single annotations; those that open are appended to `good`."""
    ids: list[int] = []
    found = content.get("annotations")
    some = isinstance(found, list) and any(
        isinstance(entry, dict) and "keypoints" in entry for entry in found
    )
    for item in objects(file, content, "annotations"):
        if isinstance(item, Finding):
            yield item
            continue
        position, entry = item
        id, image_id = integer_or_none(entry), integer_or_none(entry, "image_id")
        if id is not None:
            ids.append(id)
        at = "" if id is not None else f"annotation at position {position}: "
        try:
            row = coco_json.parse_annotation(entry, known)
            if known.sizes[row.image] != coco_json.UNKNOWN_SIZE:
                good.append(row)
        except ValueError:
            for sentence in _all_problems(entry, known):
                yield Finding("error", file, image_id, id, at + sentence)
        for level, sentence in _keypoint_problems(entry, known, keypoints, some):
            yield Finding(level, file, image_id, id, at + sentence)
        if id == 0:
            sentence = "pycocotools takes id 0 for no match: whatever finds this object counts as wrong"
            yield Finding("warning", file, image_id, id, sentence)
        for count in _short_polygons(entry):
            sentence = f"a polygon of {count} numbers encloses nothing and is dropped"
            yield Finding("warning", file, image_id, id, at + sentence)
    for id in coco_json.repeated(ids):
        yield Finding("error", file, None, id, f"annotation id {short(id)} occurs more than once")


def _all_problems(entry: Entry, known: Known) -> Iterator[str]:
    """A sentence for each field that does not open."""
    fields: list[Callable[[], object]] = [
        lambda: coco_json.integer(entry, "id"),
        lambda: coco_json.known_image(entry, known),
        lambda: coco_json.known_category(entry, known),
        lambda: coco_json.parse_crowd(entry),
        lambda: coco_json.parse_box(entry),
        lambda: coco_json.parse_area(entry),
    ]
    index = known.index_of.get(integer_or_none(entry, "image_id"))
    if index is not None and known.sizes[index] != coco_json.UNKNOWN_SIZE:  # run lengths need it
        fields.append(lambda: parse_segmentation(entry.get("segmentation"), known.sizes[index]))
    for field in fields:
        try:
            field()
        except ValueError as error:
            yield str(error)


def _keypoint_problems(entry: Entry, known: Known, required: bool, some: bool) -> Iterator[tuple[Level, str]]:
    if "keypoints" not in entry and not required:
        if some:
            yield "warning", "no keypoints, which others have: a keypoint model cannot train on this file"
        return
    try:
        coco_json.check_image_id(entry, known.image_ids)
        points = parse_keypoints(entry)
    except ValueError as error:
        if required:
            yield "error", str(error)
        else:
            yield "warning", f"{error}: a keypoint model cannot train on this file"
        return
    index = known.index_of.get(integer_or_none(entry, "image_id"))
    if index is not None and known.sizes[index] != coco_json.UNKNOWN_SIZE:
        height, width = known.sizes[index]
        x, y, v = points.T
        outside = (v > 0) & ~((x >= 0) & (y >= 0) & (x <= width) & (y <= height))
        if outside.any():
            x, y, _ = points[outside][0].tolist()
            number = int(outside.sum())
            yield "warning", f"{number} labelled keypoints outside the picture, the first at ({x:g}, {y:g})"


def _short_polygons(entry: Entry) -> Iterator[int]:
    outline = entry.get("segmentation")
    if isinstance(outline, list):
        yield from (len(part) for part in outline if isinstance(part, list) and len(part) in (0, 2, 4))


def check_table(file: Path, table: AnnotationTable, images: list[ImageRecord]) -> Iterator[Finding]:
    """Findings of what opened: what is skipped, what is used with a warning, what is too far away."""
    if not masks_are_given(table):
        sentence = "no object has a segmentation: for a model of boxes only (fasterrcnn_resnet50_fpn)"
        yield Finding("warning", file, None, None, sentence)
    sizes = sizes_of(images)
    row_sizes = sizes_of_rows(table, sizes)
    image_of = np.repeat([record.id for record in images], np.diff(table.first_row))

    def finding(level: Level, row: int, sentence: str) -> Finding:
        return Finding(level, file, int(image_of[row]), int(table.id[row]), sentence)

    far = far_rows(table, row_sizes)
    for row in np.flatnonzero(far).tolist():
        try:
            decode_row(table, row, tuple(row_sizes[row].tolist()))
        except ValueError as error:
            yield finding("error", row, str(error).removeprefix(f"annotation {table.id[row]}: "))
    near = table._replace(crowd=table.crowd | far)  # nothing is asked of a crowd
    used = ~table.crowd
    for reason, rows in reasons_to_skip(near, sizes, masks_are_given(table)).items():
        used[rows] = False
        for row in rows.tolist():
            yield finding("skipped", row, f"{reason}: bbox {_numbers(table.bbox[row])}")
    corners = np.concatenate(
        [-table.bbox[:, :2], table.bbox[:, :2] + table.bbox[:, 2:] - row_sizes[:, ::-1]], 1
    )
    leaves = (corners > LEAVES_BY).any(axis=1) & used
    for row in np.flatnonzero(leaves).tolist():
        size = tuple(row_sizes[row].tolist())
        sentence = (
            f"box {_numbers(table.bbox[row])} leaves the picture of (height, width) {size} and is cut to it"
        )
        yield finding("warning", row, sentence)
    for row in np.flatnonzero(_elsewhere(table, row_sizes) & used & ~far).tolist():
        box = _numbers(table.bbox[row])
        sentence = f"box {box} is not where its polygons are: is it [x, y, width, height]?"
        yield finding("warning", row, sentence)
    if masks_are_given(table):
        yield from _large_stacks(file, table, images)
    for row in np.flatnonzero(crossing_rows(table) & ~far).tolist():
        yield finding("warning", row, "a polygon crosses itself; it is rasterised even-odd")


def _elsewhere(table: AnnotationTable, row_sizes: np.ndarray) -> np.ndarray:
    """bool [N]: the polygons' extent and the box, both inside the picture, have an IoU of under a half.

    Or the box is that extent if its numbers are read as two corners.
    """
    low, high = np.full((len(table.id), 2), np.inf), np.full((len(table.id), 2), -np.inf)
    for polygons in polygons_of(table):
        np.minimum.at(low, polygons.row, np.minimum.reduceat(polygons.points, polygons.start[:-1]))
        np.maximum.at(high, polygons.row, np.maximum.reduceat(polygons.points, polygons.start[:-1]))
    drawn = np.flatnonzero(low[:, 0] <= high[:, 0])
    sizes = row_sizes[drawn]
    boxes = clipped_boxes(table.bbox[drawn], sizes)
    extents = clipped_boxes(np.concatenate([low, high - low], axis=1)[drawn], sizes)
    sides = np.minimum(boxes[:, 2:], extents[:, 2:]) - np.maximum(boxes[:, :2], extents[:, :2])
    shared = sides.clip(0).prod(axis=1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (extents[:, 2:] - extents[:, :2]).prod(axis=1) - shared
    # A box of whole pixels around a thin object may be twice as wide.
    apart = np.abs(boxes - extents).max(axis=1) > THIN
    corners = np.abs(np.concatenate([low, high], axis=1)[drawn] - table.bbox[drawn]).max(axis=1) <= LEAVES_BY
    found = np.zeros(len(table.id), bool)
    found[drawn] = apart & (corners | (shared < union / 2))
    return found


def _large_stacks(file: Path, table: AnnotationTable, images: list[ImageRecord]) -> Iterator[Finding]:
    """Pictures whose masks, a byte a pixel, take more than `MOST_BYTES`."""
    counts = np.diff(np.concatenate([[0], (~table.crowd).cumsum()])[table.first_row])
    size = counts * sizes_of(images).prod(axis=1)
    for index in np.flatnonzero(size > MOST_BYTES).tolist():
        record = images[index]
        sentence = (
            f"{counts[index]} masks of (height, width) {(record.height, record.width)} take "
            f"{size[index] / 2**30:.1f} GiB of memory: cut the picture into tiles"
        )
        yield Finding("warning", file, record.id, None, sentence)


def integer_or_none(entry: Entry, key: str = "id") -> int | None:
    value = entry.get(key)
    return value if type(value) is int else None


def _numbers(values: np.ndarray) -> str:
    return "[" + ", ".join(f"{value:g}" for value in values.tolist()) + "]"
