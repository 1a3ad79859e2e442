"""All annotations of a file as flat arrays, and which of them training can use.

An object is skipped, never guessed at, where its box has no area or lies outside of the picture, or where it has
no mask (in a file that has masks) or no mask pixel inside the picture.  `reasons_to_skip` names them for a whole
file, fast enough for a million; samples apply the same rules.

Axis letters: I pictures, N annotations, P parts of their segmentations, T numbers in these.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from minimaskrcnn.data.coco_json import Annotation, ImageRecord
from minimaskrcnn.data.segmentation import Segmentation, decode_segmentation
from minimaskrcnn.data.transforms import ImageSize

# Of a box, in pixels.  Below it, float32 may make the two edges equal when the picture is resized, and the
# logarithm of a width of zero is no number to learn.
SMALLEST_SIDE = 1 / 64
ROWS_AT_A_TIME = 65536  # bounds the working memory for a file of any size

NO_AREA = "without area"
OUTSIDE = "outside the picture"
NO_MASK = "without a mask"
NO_PIXEL = "without a mask pixel inside the picture"


class AnnotationTable(NamedTuple):
    """All annotations of a file, N rows; those of one picture lie together."""

    id: np.ndarray  # int64 [N]
    category_id: np.ndarray  # int64 [N]
    crowd: np.ndarray  # bool [N]
    bbox: np.ndarray  # float64 [N, 4]: x, y, width, height
    is_rle: np.ndarray  # bool [N]
    first_row: np.ndarray  # int64 [I + 1]: rows of picture i are first_row[i] .. first_row[i + 1]
    first_part: np.ndarray  # int64 [N + 1]: the same for the parts of a row's segmentation
    first_number: np.ndarray  # int64 [P + 1]: the same for the numbers of a part
    numbers: np.ndarray  # float64 [T]


class Polygons(NamedTuple):
    """The polygons of some rows: S polygons of V points together."""

    row: np.ndarray  # int64 [S]
    start: np.ndarray  # int64 [S + 1]: points of polygon s are start[s] .. start[s + 1]
    points: np.ndarray  # float64 [V, 2]
    following: np.ndarray  # int64 [V]: the next point's index, the first after the last


def make_table(rows: list[Annotation], image_count: int) -> AnnotationTable:
    """The table of these annotations; `rows` is sorted in place, by picture."""
    rows.sort(key=lambda row: row.image)
    parts = [part for row in rows for part in row.segmentation.parts]
    return AnnotationTable(
        id=np.array([row.id for row in rows], np.int64),
        category_id=np.array([row.category_id for row in rows], np.int64),
        crowd=np.array([row.crowd for row in rows], bool),
        bbox=np.array([row.bbox for row in rows], np.float64).reshape(-1, 4),
        is_rle=np.array([row.segmentation.is_rle for row in rows], bool),
        first_row=np.searchsorted([row.image for row in rows], np.arange(image_count + 1)),
        first_part=_running_total([len(row.segmentation.parts) for row in rows]),
        first_number=_running_total([len(part) for part in parts]),
        numbers=np.concatenate([*parts, np.zeros(0)]),
    )


def segmentation_of(table: AnnotationTable, row: int) -> Segmentation:
    """The outline of one row."""
    starts = table.first_number[table.first_part[row] : table.first_part[row + 1] + 1]
    return Segmentation(bool(table.is_rle[row]), [table.numbers[a:b] for a, b in pairwise(starts)])


def without_outline(table: AnnotationTable) -> np.ndarray:
    """bool [N]: ordinary objects without a segmentation."""
    return ~table.crowd & (np.diff(table.first_part) == 0)


def masks_are_given(table: AnnotationTable) -> bool:
    """Whether an ordinary object has a segmentation; also where there is no such object."""
    return bool(table.crowd.all()) or bool((~table.crowd & (np.diff(table.first_part) > 0)).any())


def image_ids_of(table: AnnotationTable, images: list[ImageRecord]) -> dict[int, int]:
    """The picture's id by the annotation's."""
    image_id = np.repeat([record.id for record in images], np.diff(table.first_row))
    return dict(zip(table.id.tolist(), image_id.tolist()))


def count_by_picture(table: AnnotationTable, wanted: np.ndarray) -> np.ndarray:
    """int64 [I]: how many of the `wanted` rows, bool [N], each picture has."""
    return np.diff(np.concatenate([[0], wanted.cumsum()])[table.first_row])


def clipped_boxes(bbox: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """xywh [n, 4] to xyxy float32 inside pictures of (height, width) `sizes`, [n, 2] or [2]."""
    corners = np.concatenate([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]], axis=1)
    return corners.clip(0, np.asarray(sizes)[..., [1, 0, 1, 0]]).astype(np.float32)


def has_area(boxes: np.ndarray) -> np.ndarray:
    """bool [n] of xyxy float32: both sides long enough to be learned, also after resizing."""
    # The second limit is 8 units in the last place: it only matters 130,000 pixels from the corner.
    least = np.maximum(SMALLEST_SIDE, boxes[:, 2:] * 2.0**-20)
    return (boxes[:, 2:] - boxes[:, :2] >= least).all(axis=1)


def reasons_to_skip(table: AnnotationTable, sizes: np.ndarray, has_masks: bool) -> dict[str, np.ndarray]:
    """Rows of ordinary objects by the reason why training cannot use them, each under one reason at most.

    `sizes` [I, 2] are the pictures' (height, width).  Missed is a polygon that runs around twice, so that every pixel
    is inside twice; its sample leaves it out all the same.
    """
    row_sizes = sizes_of_rows(table, sizes)
    stated = (table.bbox[:, 2:] >= SMALLEST_SIDE).all(axis=1)
    inside = has_area(clipped_boxes(table.bbox, row_sizes))
    usable = ~table.crowd & stated & inside
    reasons = {NO_AREA: ~table.crowd & ~stated, OUTSIDE: ~table.crowd & stated & ~inside}
    if has_masks:
        outlined = np.diff(table.first_part) > 0
        reasons[NO_MASK] = usable & ~outlined
        blank = np.zeros(len(usable), bool)
        for row in np.flatnonzero(usable & outlined & _may_be_blank(table, row_sizes)).tolist():
            blank[row] = not decode_row(table, row, tuple(row_sizes[row].tolist())).any()
        reasons[NO_PIXEL] = blank
    return {reason: np.flatnonzero(rows) for reason, rows in reasons.items() if rows.any()}


def sizes_of(images: list[ImageRecord]) -> np.ndarray:
    """int64 [I, 2]: (height, width)."""
    return np.array([(record.height, record.width) for record in images], np.int64).reshape(-1, 2)


def sizes_of_rows(table: AnnotationTable, sizes: np.ndarray) -> np.ndarray:
    """int64 [N, 2]: each row's picture's (height, width)."""
    return np.repeat(sizes, np.diff(table.first_row), axis=0)


def decode_row(table: AnnotationTable, row: int, image_size: ImageSize) -> np.ndarray:
    """bool [h, w]."""
    return decode_segmentation(segmentation_of(table, row), image_size)


def polygons_of(table: AnnotationTable) -> Iterator[Polygons]:
    """All polygons of the table, some rows at a time."""
    for begin in range(0, len(table.id), ROWS_AT_A_TIME):
        end = min(begin + ROWS_AT_A_TIME, len(table.id))
        parts = slice(table.first_part[begin], table.first_part[end])
        row = np.repeat(np.arange(begin, end), np.diff(table.first_part[begin : end + 1]))
        lengths = np.diff(table.first_number)[parts]
        numbers = table.numbers[table.first_number[parts.start] : table.first_number[parts.stop]]
        wanted = ~table.is_rle[row]
        if not wanted.any():
            continue
        points = numbers[np.repeat(wanted, lengths)].reshape(-1, 2)
        start = _running_total(lengths[wanted] // 2)
        following = np.arange(1, len(points) + 1)
        following[start[1:] - 1] = start[:-1]
        yield Polygons(row[wanted], start, points, following)


def _may_be_blank(table: AnnotationTable, row_sizes: np.ndarray) -> np.ndarray:
    """bool [N]: all but the rows that surely have a mask pixel.

    Area A and perimeter P of a region without holes leave room for a circle of radius A / P.  Where that is a
    pixel or more, and the polygon inside the picture, some pixel's centre lies well inside.
    """
    sure = np.zeros(len(table.id), bool)
    for polygons in polygons_of(table):
        step = polygons.points[polygons.following] - polygons.points
        x, y = polygons.points.T
        first = polygons.start[:-1]
        area = np.abs(np.add.reduceat(x * step[:, 1] - y * step[:, 0], first)) / 2
        perimeter = np.add.reduceat(np.hypot(*step.T), first)
        within = (polygons.points >= 0).all(axis=1) & (
            polygons.points
            <= np.repeat(row_sizes[polygons.row], np.diff(polygons.start), axis=0)[:, ::-1]
        ).all(axis=1)
        solid = (area >= np.maximum(perimeter, 1)) & np.logical_and.reduceat(within, first)
        sure[polygons.row[solid]] = True
    for row in np.flatnonzero(table.is_rle).tolist():
        sure[row] = segmentation_of(table, row).parts[0][1::2].any()
    return ~sure


def _running_total(counts: list[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
