"""COCO's format: a folder of pictures, and JSON files that say what is in them.

`CocoDataset` reads any folder and annotation file; `open_coco` finds both in COCO's own layout.  A sample
is a picture with its ordinary objects.  Crowd regions are never trained on and so left out here; evaluation
reads them from the annotation file itself.  Category ids may have gaps (COCO's are 80 of the numbers
1..90): labels are 1..K in the order of the ids, and 0 is the background.

- An object without area (no box or no mask pixel inside the picture) is not in the sample;
  `target["left_out"]` has its id.
- Where no annotation of the file has a segmentation, samples have no masks.
- Keypoints are merged by annotation id from the separate file that COCO keeps them in; give the same file
  twice where it holds both.  They stay as in the file: indices of pixels.

Everything but the polygons' extent is checked when the file is opened, not hours into a run.  Annotations
are kept as a few flat arrays, which reach worker processes quickly.  Left out: captions, panoptic
segmentation, downloads.

Lesson 01, `lessons/01_boxes_masks_coco.ipynb`, teaches this.
"""

import copy
import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path, PureWindowsPath
from reprlib import repr as short
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from minimaskrcnn.data.keypoints import KeypointTable, find_keypoints, make_table, parse_keypoints
from minimaskrcnn.data.pictures import read_image
from minimaskrcnn.data.segmentation import (
    Segmentation,
    decode_segmentation,
    parse_field,
    parse_segmentation,
)
from minimaskrcnn.data.transforms import Sample, Target


class Category(NamedTuple):
    """One class of objects, with the id that the annotation file gives it."""

    id: int
    name: str


class ImageRecord(NamedTuple):
    """One picture as the annotation file lists it."""

    id: int
    file_name: str
    height: int
    width: int


class Annotation(NamedTuple):
    """One object of the annotation file, checked."""

    id: int
    image: int  # index into the list of records
    category_id: int
    crowd: bool
    bbox: np.ndarray  # float64 [4]: x, y, width, height
    segmentation: Segmentation


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


class CocoDataset(Dataset[Sample]):
    """Pictures in a folder and the objects in them, as an annotation file in COCO's format lists them.

    Attributes: `categories` (by id), `label_of[category_id]`, `category_of[label]`, `num_classes` (with the
    background), `images`, `aspect_ratios` (width / height), `has_masks`, `has_keypoints`, `annotation_file`.
    FileNotFoundError for a missing folder or file; ValueError, with file and id, for what is not COCO's.
    """

    def __init__(self, images: Path, annotations: Path, keypoints: Path | None = None) -> None:
        self.folder = Path(images)
        self.annotation_file = Path(annotations)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{images}: no such folder of pictures")
        content = _read_json(self.annotation_file)
        self.categories = _read_categories(self.annotation_file, content)
        self.label_of = {category.id: label for label, category in enumerate(self.categories, start=1)}
        self.category_of = {label: id for id, label in self.label_of.items()}
        self.num_classes = len(self.categories) + 1
        self.images = _read_images(self.annotation_file, content)
        self.aspect_ratios = [record.width / record.height for record in self.images]
        self._table = _read_annotations(self.annotation_file, content, self.images, self.label_of)
        # Of each picture in the table; another list in a subset.
        self._place = list(range(len(self.images)))
        self._keypoints = None if keypoints is None else _read_keypoints(Path(keypoints))
        self.has_masks = len(self._table.numbers) > 0 or not len(self._table.id)
        self.has_keypoints = keypoints is not None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        record = self.images[index]
        image = read_image(self.folder / record.file_name, (record.height, record.width))
        return Sample(image, self.target(index))

    def first(self, count: int) -> "CocoDataset":
        """The same data set with only its first `count` pictures."""
        return self.subset(range(len(self))[:count])

    def subset(self, indices: Sequence[int]) -> "CocoDataset":
        """The same data set with only these pictures, in this order."""
        fewer = copy.copy(self)
        fewer.images = [self.images[i] for i in indices]
        fewer.aspect_ratios = [self.aspect_ratios[i] for i in indices]
        fewer._place = [self._place[i] for i in indices]
        return fewer

    def with_keypoints(self) -> list[int]:
        """The pictures in which some joint of an ordinary object is labelled."""
        if self._keypoints is None:
            return []
        labelled = find_keypoints(self._keypoints, self._table.id)[..., 2].any(axis=1) & ~self._table.crowd
        before = np.concatenate([[0], labelled.cumsum()])[self._table.first_row]
        return [i for i, place in enumerate(self._place) if before[place + 1] > before[place]]

    def target(self, index: int) -> Target:
        """The objects of picture `index`, without reading the picture."""
        record, table, place = self.images[index], self._table, self._place[index]
        rows = np.arange(table.first_row[place], table.first_row[place + 1])
        rows = rows[~table.crowd[rows]]
        boxes = _clipped_boxes(table.bbox[rows], record)
        masks = self._masks(rows, record)
        good = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & (masks.any(axis=(1, 2)) | (not self.has_masks))
        kept = rows[good]
        labels = [self.label_of[id] for id in table.category_id[kept].tolist()]
        target: Target = {
            "boxes": torch.from_numpy(boxes[good]),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "image_id": record.id,
            "annotation_ids": table.id[kept].tolist(),
            "left_out": table.id[rows[~good]].tolist(),
        }
        if self.has_masks:
            target["masks"] = torch.from_numpy(masks[good])
        if self._keypoints is not None:
            target["keypoints"] = torch.from_numpy(find_keypoints(self._keypoints, table.id[kept]))
        return target

    def _masks(self, rows: np.ndarray, record: ImageRecord) -> np.ndarray:
        """bool [len(rows), h, w]."""
        table, size = self._table, (record.height, record.width)
        masks = np.zeros((len(rows), *size), dtype=bool)
        for mask, row in zip(masks, rows.tolist()):
            starts = table.first_number[table.first_part[row] : table.first_part[row + 1] + 1]
            parts = [table.numbers[start:end] for start, end in pairwise(starts)]
            try:
                mask[:] = decode_segmentation(Segmentation(bool(table.is_rle[row]), parts), size)
            except ValueError as error:
                raise ValueError(f"{self.annotation_file}: annotation {table.id[row]}: {error}") from None
        return masks


def open_coco(root: Path, split: str, *, people: bool = False) -> CocoDataset:
    """COCO's own layout: `root/{split}/`, `root/annotations/instances_{split}.json`, keypoints where it has any.

    `people` opens `person_keypoints_{split}.json` alone, whose one category is the person: for keypoint models.
    """
    folder = Path(root) / "annotations"
    if people:
        posed = folder / f"person_keypoints_{split}.json"
        return CocoDataset(Path(root) / split, posed, posed)
    instances, keypoints = folder / f"instances_{split}.json", folder / f"person_keypoints_{split}.json"
    if not instances.is_file():
        found = sorted(path.name for path in folder.glob("instances_*.json"))
        raise FileNotFoundError(f"{instances}: no such file; {folder} has {found or 'no instances_*.json'}")
    return CocoDataset(Path(root) / split, instances, keypoints if keypoints.is_file() else None)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{file}: no such annotation file") from None
    except ValueError as error:
        raise ValueError(f"{file}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(
            f"{file}: expected an object with images, annotations and categories, got {short(content)}"
        )
    return content


def _entries(file: Path, content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{file}: {key!r} must be a list of objects, got {short(entries)}")
    return entries


def _integer(entry: dict[str, Any], key: str) -> int:
    value = entry.get(key)
    if type(value) is not int:
        raise ValueError(f"{key!r} must be an integer, got {short(value)}")
    return value


def _read_categories(file: Path, content: dict[str, Any]) -> list[Category]:
    categories = []
    for entry in _entries(file, content, "categories"):
        try:
            categories.append(Category(_integer(entry, "id"), _text(entry, "name")))
        except ValueError as error:
            raise ValueError(f"{file}: category {short(entry)}: {error}") from None
    _check_unique(file, "category", [category.id for category in categories])
    return sorted(categories)


def _read_images(file: Path, content: dict[str, Any]) -> list[ImageRecord]:
    records = []
    for entry in _entries(file, content, "images"):
        try:
            size = _integer(entry, "height"), _integer(entry, "width")
            records.append(ImageRecord(_integer(entry, "id"), _inside(_text(entry, "file_name")), *size))
            if min(size) < 1:
                raise ValueError(f"(height, width) must be positive, got {size}")
        except ValueError as error:
            raise ValueError(f"{file}: image {short(entry.get('id'))}: {error}") from None
    _check_unique(file, "image", [record.id for record in records])
    return records


def _inside(file_name: str) -> str:
    """The name, unless it leads out of the folder on any system."""
    path = PureWindowsPath(file_name)  # knows both separators, and drives
    if path.anchor or ".." in path.parts or "\0" in file_name:
        raise ValueError(f"file_name {file_name!r} leaves the image folder")
    return file_name


def _read_annotations(
    file: Path, content: dict[str, Any], images: list[ImageRecord], label_of: dict[int, int]
) -> AnnotationTable:
    index_of = {record.id: index for index, record in enumerate(images)}
    rows = []
    for entry in _entries(file, content, "annotations"):
        try:
            rows.append(_parse_annotation(entry, index_of, images, label_of))
        except ValueError as error:
            raise ValueError(f"{file}: annotation {short(entry.get('id'))}: {error}") from None
    _check_unique(file, "annotation", [row.id for row in rows])
    rows.sort(key=lambda row: row.image)
    parts = [part for row in rows for part in row.segmentation.parts]
    return AnnotationTable(
        id=np.array([row.id for row in rows], np.int64),
        category_id=np.array([row.category_id for row in rows], np.int64),
        crowd=np.array([row.crowd for row in rows], bool),
        bbox=np.array([row.bbox for row in rows], np.float64).reshape(-1, 4),
        is_rle=np.array([row.segmentation.is_rle for row in rows], bool),
        first_row=np.searchsorted([row.image for row in rows], np.arange(len(images) + 1)),
        first_part=_running_total([len(row.segmentation.parts) for row in rows]),
        first_number=_running_total([len(part) for part in parts]),
        numbers=np.concatenate([*parts, np.zeros(0)]),
    )


def _parse_annotation(
    entry: dict[str, Any], index_of: dict[int, int], images: list[ImageRecord], label_of: dict[int, int]
) -> Annotation:
    image_id, category_id = _integer(entry, "image_id"), _integer(entry, "category_id")
    if image_id not in index_of:
        raise ValueError(f"no image has its image_id {image_id}")
    if category_id not in label_of:
        raise ValueError(f"no category has its category_id {category_id}")
    crowd = entry.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise ValueError(f"'iscrowd' must be 0 or 1, got {short(crowd)}")
    bbox = parse_field(entry, "bbox", 4, "[x, y, width, height]")
    image = index_of[image_id]
    size = images[image].height, images[image].width
    segmentation = parse_segmentation(entry.get("segmentation"), size)
    return Annotation(_integer(entry, "id"), image, category_id, bool(crowd), bbox, segmentation)


def _read_keypoints(file: Path) -> KeypointTable:
    found: dict[int, np.ndarray] = {}
    for entry in _entries(file, _read_json(file), "annotations"):
        try:
            found[_integer(entry, "id")] = parse_keypoints(entry)
        except ValueError as error:
            raise ValueError(f"{file}: annotation {short(entry.get('id'))}: {error}") from None
    return make_table(found)


def _clipped_boxes(bbox: np.ndarray, record: ImageRecord) -> np.ndarray:
    """xywh [n, 4] to xyxy float32 inside the picture."""
    corners = np.concatenate([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]], axis=1)
    return corners.clip(0, [record.width, record.height] * 2).astype(np.float32)


def _running_total(counts: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _check_unique(file: Path, what: str, ids: list[int]) -> None:
    if len(set(ids)) < len(ids):
        repeated = next(id for id, count in Counter(ids).items() if count > 1)
        raise ValueError(f"{file}: {what} id {repeated} occurs more than once")


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key!r} must be a text, got {short(value)}")
    return value
