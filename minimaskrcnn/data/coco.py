"""COCO's format: a folder of pictures, and JSON files that say what is in them.

`CocoDataset` reads any folder and annotation file; `open_coco` finds both in COCO's own layout.  A sample
is a picture with its ordinary objects.  Crowd regions are never trained on and so left out here; evaluation
reads them from the annotation file itself.  Category ids may have gaps (COCO's are 80 of the numbers
1..90): labels are 1..K in the order of the ids, and 0 is the background.

- An object without area (no box or no mask pixel inside the picture) is not in the sample;
  `target["left_out"]` has its id, and `skipped()` those of the whole data set.
- Where no ordinary object of the file has a segmentation, samples have no masks.
- Keypoints are merged by annotation id from the separate file that COCO keeps them in; give the same file
  twice where it holds both.  They stay as in the file: indices of pixels.

Annotations are checked when the file is opened, not hours into a run; `check.py` lists everything that is wrong
with a data set.  Annotations are kept as a few flat arrays, which reach worker processes quickly.  Left out:
captions, panoptic segmentation.

Lesson 01, `lessons/01_boxes_masks_coco.ipynb`, teaches this.
"""

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from minimaskrcnn.data import coco_json, coco_table
from minimaskrcnn.data.keypoints import (
    KeypointRow,
    KeypointTable,
    find_keypoints,
    parse_keypoints,
    table_of_poses,
)
from minimaskrcnn.data.pictures import read_image
from minimaskrcnn.data.transforms import Sample, Target


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
        self.categories, self.images, self._table = parse_content(
            self.annotation_file, coco_json.read_json(self.annotation_file)
        )
        self.label_of = {category.id: label for label, category in enumerate(self.categories, start=1)}
        self.category_of = {label: id for id, label in self.label_of.items()}
        self.num_classes = len(self.categories) + 1
        self.aspect_ratios = [record.width / record.height for record in self.images]
        self._sizes = coco_table.sizes_of(self.images)
        # Of each picture in the table and in the sizes; another list in a subset.
        self._place = list(range(len(self.images)))
        self._keypoints = None if keypoints is None else self._read_keypoints(Path(keypoints))
        self.has_masks = coco_table.masks_are_given(self._table)
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

    def unmasked(self) -> int:
        """How many objects evaluation compares no mask with; 0 where no object has one."""
        counts = coco_table.count_by_picture(self._table, coco_table.without_outline(self._table))
        return int(counts[self._place].sum()) if self.has_masks else 0

    def without_masks(self) -> "CocoDataset":
        """The same data set for a model of boxes: an object needs no mask."""
        boxes = copy.copy(self)
        boxes.has_masks = False
        return boxes

    def with_keypoints(self) -> list[int]:
        """The pictures in which some joint of an ordinary object is labelled."""
        if self._keypoints is None:
            return []
        labelled = find_keypoints(self._keypoints, self._table.id)[..., 2].any(axis=1) & ~self._table.crowd
        return coco_table.count_by_picture(self._table, labelled)[self._place].nonzero()[0].tolist()

    def skipped(self) -> dict[str, list[int]]:
        """Ids of the objects that no sample has, by the reason (`coco_table.py`), without reading pictures."""
        here = np.zeros(len(self._sizes), bool)
        here[self._place] = True
        wanted = np.repeat(here, np.diff(self._table.first_row))
        found = coco_table.reasons_to_skip(self._table, self._sizes, self.has_masks)
        kept = {reason: self._table.id[rows[wanted[rows]]].tolist() for reason, rows in found.items()}
        return {reason: ids for reason, ids in kept.items() if ids}

    def target(self, index: int) -> Target:
        """The objects of picture `index`, without reading the picture."""
        record = self.images[index]
        table = self._table
        place = self._place[index]
        rows = np.arange(table.first_row[place], table.first_row[place + 1])
        rows = rows[~table.crowd[rows]]
        boxes = coco_table.clipped_boxes(table.bbox[rows], np.array([record.height, record.width]))
        good = coco_table.has_area(boxes)
        if self.has_masks:
            masks, drawn = self._masks(rows, record)
            good &= drawn
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
            target["masks"] = torch.from_numpy(masks if good.all() else masks[good])
        if self._keypoints is not None:
            target["keypoints"] = torch.from_numpy(find_keypoints(self._keypoints, table.id[kept]))
        return target

    def _masks(self, rows: np.ndarray, record: coco_json.ImageRecord) -> tuple[np.ndarray, np.ndarray]:
        """bool [len(rows), h, w], and bool [len(rows)]: which have a pixel."""
        size = record.height, record.width
        try:
            masks = np.zeros((len(rows), *size), dtype=bool)
            for mask, row in zip(masks, rows.tolist()):
                mask[:] = coco_table.decode_row(self._table, row, size)
            return masks, masks.any(axis=(1, 2))
        except MemoryError:
            raise ValueError(
                f"{self.annotation_file}: image {record.id}: no memory for {len(rows)} masks of (height, width) "
                f"{size}, {len(rows) * size[0] * size[1] / 2**30:.1f} GiB; cut the picture into tiles"
            ) from None

    def _read_keypoints(self, file: Path) -> KeypointTable:
        """Those of a file; ValueError also where it has one of our annotations in another picture."""
        image_ids = coco_table.image_ids_of(self._table, self.images)

        def parse(entry: dict[str, Any]) -> KeypointRow:
            coco_json.check_image_id(entry, image_ids)
            return KeypointRow(coco_json.integer(entry, "id"), parse_keypoints(entry))

        return table_of_poses(coco_json.read_all(file, coco_json.read_json(file), "annotations", "annotation", parse))


def open_coco(root: Path, split: str, *, people: bool = False, keypoints: bool = True) -> CocoDataset:
    """COCO's own layout: `root/{split}/`, `root/annotations/instances_{split}.json`, keypoints where it has any.

    Without `keypoints` their file is not read, for models that have no use for them.
    `people` opens `person_keypoints_{split}.json` alone, whose one category is the person: for keypoint models.
    """
    folder = Path(root) / "annotations"
    posed = folder / f"person_keypoints_{split}.json"
    if people:
        return CocoDataset(Path(root) / split, posed, posed)
    instances = folder / f"instances_{split}.json"
    if not instances.is_file():
        found = sorted(path.name for path in folder.glob("instances_*.json"))
        raise FileNotFoundError(f"{instances}: no such file; {folder} has {found or 'no instances_*.json'}")
    return CocoDataset(Path(root) / split, instances, posed if keypoints and posed.is_file() else None)


def parse_content(
    file: Path, content: dict[str, Any]
) -> tuple[list[coco_json.Category], list[coco_json.ImageRecord], coco_table.AnnotationTable]:
    """The content of an annotation file: categories by id, pictures, objects.  Errors as `CocoDataset`'s.

    Its memory is freed on the way unless the caller keeps it.
    """
    categories = sorted(coco_json.read_all(file, content, "categories", "category", coco_json.parse_category))
    images = coco_json.read_all(file, content, "images", "image", coco_json.parse_image)
    known = coco_json.known_to(images, categories)
    parse = partial(coco_json.parse_annotation, known=known)
    rows = coco_json.read_all(file, content, "annotations", "annotation", parse)
    del content  # the table takes as much memory again
    return categories, images, coco_table.make_table(rows, len(images))
