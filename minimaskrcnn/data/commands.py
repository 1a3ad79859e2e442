"""What `minimaskrcnn data` does: make, fetch, check; and which data `train` and `evaluate` read.

`train` begins with a line on what is skipped; a picture that is missing is found then, not hours later.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from minimaskrcnn.data.check import check_files, check_folder
from minimaskrcnn.data.coco import CocoDataset, open_coco
from minimaskrcnn.data.coco_archives import fetch_coco
from minimaskrcnn.data.toybox import ToyboxConfig, ensure_toybox

LISTS_THEM = "`minimaskrcnn data check` lists them"
BOX_PRESET = "fasterrcnn_resnet50_fpn"


@dataclass(frozen=True, kw_only=True)
class DataChoice:
    """Which data: a split of a folder in COCO's layout, or any folder of pictures with a JSON file.

    ValueError for both, and for neither.
    """

    folder: str | None = None
    """Or 'toybox', for generated scenes."""
    split: str | None = None
    """None for COCO's own name, or for `train` or `val`."""
    images: Path | None = None
    annotations: Path | None = None
    limit: int | None = None
    """The first so many pictures only."""

    def __post_init__(self) -> None:
        if self.folder is not None and (self.images is not None or self.annotations is not None):
            raise ValueError("give a folder in COCO's layout, or --images with --annotations, not both")
        if self.folder is None and (self.images is None or self.annotations is None):
            raise ValueError("give a folder in COCO's layout, or --images DIR with --annotations FILE")

    def open(self, kind: Literal["train", "val"], people: bool) -> CocoDataset:
        """The data set, of `people` with keypoints for a model that has these.  Errors of `CocoDataset`."""
        if self.folder is None:
            dataset = CocoDataset(self.images, self.annotations, self.annotations if people else None)
        else:
            root = Path(self.folder)
            names = [self.split] if self.split else [f"{kind}2017", kind]
            existing = [name for name in names if (root / "annotations" / f"instances_{name}.json").is_file()]
            dataset = open_coco(root, (existing or names)[0], people=people, keypoints=people)
        return dataset if self.limit is None else dataset.first(self.limit)


def check(data: DataChoice, *, pictures: bool) -> int:
    """Print every finding, one a line; returns the exit code: 1 where training would stop or skip something."""
    if data.folder is None:
        findings = check_files(data.images, data.annotations, pictures=pictures)
    else:
        findings = check_folder(Path(data.folder), data.split, pictures=pictures)
    counts: Counter[str] = Counter()
    for finding in findings:
        counts[finding.level] += 1
        print(one_line(str(finding)))
    print(f"{counts['error']} errors, {counts['skipped']} skipped annotations, {counts['warning']} warnings")
    return int(counts["error"] + counts["skipped"] > 0)


def one_line(text: str) -> str:
    """The text with whatever is no printable character spelt as in Python: file names may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def find_pictures(dataset: CocoDataset) -> None:
    """FileNotFoundError where pictures are missing, ValueError where one is empty: at the start, not hours later."""
    paths = [dataset.folder / record.file_name for record in dataset.images]
    absent = [path for path in paths if not path.is_file()]
    if absent:
        more = f" ({len(absent)} of {len(paths)} are missing; {LISTS_THEM})" if len(absent) > 1 else ""
        raise FileNotFoundError(f"{absent[0]}: no such picture{more}")
    for path in paths:
        if path.stat().st_size == 0:
            raise ValueError(f"{path}: an empty file")


def ready_to_train(dataset: CocoDataset, masks: bool) -> CocoDataset:
    """The data set for a model with masks or without; errors of `require_trainable` and `find_pictures`."""
    require_trainable(dataset, masks)
    find_pictures(dataset)
    return dataset if masks else dataset.without_masks()


def require_trainable(dataset: CocoDataset, masks: bool) -> None:
    """ValueError for a file without pictures or categories, or without masks for a model that has them."""
    for key, found in (("images", dataset.images), ("categories", dataset.categories)):
        if not found:
            raise ValueError(f"{dataset.annotation_file}: no {key}: nothing to train on")
    if masks and not dataset.has_masks:
        raise ValueError(
            f"{dataset.annotation_file}: no object has a segmentation; --preset {BOX_PRESET} trains on boxes alone"
        )


def unmasked_line(file: Path, count: int) -> str:
    """One line about `count` objects of a file that masks are not compared with, empty for none."""
    noun = "object" if count == 1 else "objects"
    return f"{file}: segm leaves out {count} {noun} without a mask" if count else ""


def describe_skipped(dataset: CocoDataset, strict: bool) -> str:
    """One line about the objects that training leaves out, empty where there are none; with `strict`, ValueError."""
    skipped = dataset.skipped()
    if not skipped:
        return ""
    number = sum(map(len, skipped.values()))
    reasons = ", ".join(f"{len(ids)} {reason}" for reason, ids in skipped.items())
    if strict:
        reason, ids = next(iter(skipped.items()))
        raise ValueError(
            f"{dataset.annotation_file}: annotation {ids[0]}: {reason}; --strict stops at {number}: {reasons}; "
            f"{LISTS_THEM}"
        )
    noun = "annotation" if number == 1 else "annotations"
    return f"skipped {number} {noun}: {reasons}; {LISTS_THEM}"


def make_toybox(out: Path, *, train: int, val: int, seed: int) -> None:
    """Generated scenes in COCO's layout, so many in each split."""
    ensure_toybox(out, train_images=train, val_images=val, seed=seed, config=ToyboxConfig())
    print(f"{train} + {val} scenes in COCO's layout: {out} (splits train, val)")


def get_coco(root: Path, splits: list[str], *, base_url: str, archives: Path | None) -> None:
    """COCO 2017's own pictures and annotations, fetched or from archives that are there."""
    fetch_coco(root, splits, base_url=base_url, archives=archives)
    flags = "" if len(set(splits)) > 1 else f" --split {splits[0]} --val-split {splits[0]}"
    print(f"Next: python -m minimaskrcnn train --data {root}{flags} --out runs/coco")
