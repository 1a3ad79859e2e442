"""What `minimaskrcnn data` does: make, fetch, check; and the line on what is skipped that `train` begins with."""

import argparse
from collections import Counter
from pathlib import Path

from minimaskrcnn.data.check import check_files, check_folder
from minimaskrcnn.data.coco import CocoDataset
from minimaskrcnn.data.coco_archives import fetch_coco
from minimaskrcnn.data.toybox import ToyboxConfig, ensure_toybox

LISTS_THEM = "`minimaskrcnn data check` lists them"
BOX_PRESET = "fasterrcnn_resnet50_fpn"


def check(options: argparse.Namespace) -> int:
    """Print every finding, one a line; returns the exit code: 1 where training would stop or skip something."""
    if options.directory is not None:
        if options.images is not None or options.annotations is not None:
            raise ValueError("give DIR, or --images with --annotations, not both")
        findings = check_folder(options.directory, options.split, pictures=options.pictures)
    elif options.images is None or options.annotations is None:
        raise ValueError("give DIR in COCO's layout, or --images DIR with --annotations FILE")
    else:
        findings = check_files(options.images, options.annotations, pictures=options.pictures)
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


def describe_unmasked(dataset: CocoDataset) -> str:
    """One line about the objects that masks are not compared with, empty where there are none."""
    return unmasked_line(dataset.annotation_file, dataset.unmasked())


def unmasked_line(file: Path, count: int) -> str:
    """One line about `count` objects without a mask, empty for none."""
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


def make_toybox(options: argparse.Namespace) -> None:
    """Generated scenes in COCO's layout."""
    ensure_toybox(
        options.out,
        train_images=options.train,
        val_images=options.val,
        seed=options.seed,
        config=ToyboxConfig(),
    )
    print(f"{options.train} + {options.val} scenes in COCO's layout: {options.out} (splits train, val)")


def get_coco(options: argparse.Namespace) -> None:
    """COCO 2017's own pictures and annotations, fetched or from archives that are there."""
    fetch_coco(options.root, options.split, base_url=options.base_url, archives=options.archives)
    first = options.split[0]
    splits = "" if len(set(options.split)) > 1 else f" --split {first} --val-split {first}"
    print(f"Next: python -m minimaskrcnn train --data {options.root}{splits} --out runs/coco")
