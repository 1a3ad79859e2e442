"""The toybox's files: pictures and annotations in COCO's layout, the same for any number of processes.

Everything is written under a temporary name and renamed, so that a folder or a file is whole or absent.
"""

import json
import multiprocessing
import os
import shutil
import signal
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

from PIL import Image

from minimaskrcnn.data.keypoints import KEYPOINT_NAMES, SKELETON
from minimaskrcnn.data.toybox.coco_masks import bounding_box
from minimaskrcnn.data.toybox.layout import CATEGORIES, PERSON, ToyboxConfig
from minimaskrcnn.data.toybox.scenes import SceneObject, make_scene
from minimaskrcnn.files import write_text

FORMAT_VERSION = 2  # part of the stamp: to be raised whenever the same arguments give other bytes


def annotation(thing: SceneObject, image_id: int) -> dict[str, object]:
    """COCO's record of one object, without its id; keypoints included whatever it is."""
    return {
        "segmentation": thing.segmentation, "area": float(thing.mask.sum()), "iscrowd": int(thing.iscrowd),
        "image_id": image_id, "bbox": bounding_box(thing.mask), "category_id": thing.category_id,
        "keypoints": thing.keypoints.ravel().tolist(), "num_keypoints": int((thing.keypoints[:, 2] > 0).sum()),
    }  # fmt: skip


def write_scene(config: ToyboxConfig, seed: int, folder: Path, index: int) -> tuple[dict, list[dict]]:
    """Write one picture (JPEG, quality 95, colours at full resolution); return COCO's records of it."""
    scene = make_scene(config, seed, index)
    height, width = scene.image.shape[:2]
    name = f"{index + 1:012d}.jpg"
    Image.fromarray(scene.image).save(folder / name, quality=95, subsampling=0)
    record = {
        "license": 1, "file_name": name, "coco_url": "", "height": height, "width": width,
        "date_captured": "2017-01-01 00:00:00", "flickr_url": "", "id": index + 1,
    }  # fmt: skip
    return record, [annotation(thing, index + 1) for thing in scene.objects]


def each_scene(write: partial, num_images: int, workers: int) -> Iterator[tuple[dict, list[dict]]]:
    """`write(index)` for every index in order, in this process or in `workers` others."""
    if workers < 2:
        yield from map(write, range(num_images))
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process whose torch runs threads can hang
    # A terminal sends Ctrl-C to all of its processes: this one answers it.
    ignore = (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(workers, context, initializer=signal.signal, initargs=ignore) as pool:
        yield from pool.map(write, range(num_images), chunksize=16)


def coco_tables(scenes: Iterable[tuple[dict, list[dict]]], split: str) -> tuple[dict, dict]:
    """The contents of instances_{split}.json and person_keypoints_{split}.json; ids agree."""
    images = []
    instances = []
    people = []
    for image, annotations in scenes:
        images.append(image)
        for joined in annotations:
            instance = {k: v for k, v in joined.items() if k not in ("keypoints", "num_keypoints")}
            number = {"id": len(instances) + 1}
            instances.append({**instance, **number})
            if joined["category_id"] == PERSON:
                people.append({**joined, **number})
    info = {
        "description": f"minimaskrcnn toybox, {split}", "url": "", "version": str(FORMAT_VERSION), "year": 2017,
        "contributor": "minimaskrcnn", "date_created": "2017/01/01",
    }  # fmt: skip
    licenses = [{"url": "https://www.apache.org/licenses/LICENSE-2.0", "id": 1, "name": "Apache License 2.0"}]
    common = {"info": info, "licenses": licenses, "images": images}
    person = {
        **CATEGORIES[0],
        "keypoints": list(KEYPOINT_NAMES),
        "skeleton": [[start + 1, end + 1] for start, end in SKELETON],
    }
    return (
        {**common, "annotations": instances, "categories": list(CATEGORIES)},
        {**common, "annotations": people, "categories": [person]},
    )


def write_toybox(
    root: Path, *, split: str, num_images: int, seed: int, config: ToyboxConfig, workers: int = 0
) -> None:
    """Write `root/{split}/*.jpg` and `root/annotations/{instances,person_keypoints}_{split}.json`.

    Scenes are `make_scene(config, crc32("seed/split"), index)`, so that splits share none.  The files are the same
    for any number of `workers` (processes; 0 and 1 use this one).  Raises FileExistsError where the folder exists.
    """
    folder = root / split
    unfinished = root / f"{split}.partial"
    if folder.exists():
        raise FileExistsError(f"{folder} exists: name a new root or a new split")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True)
    write = partial(write_scene, config, zlib.crc32(f"{seed}/{split}".encode()), unfinished)
    instances, people = coco_tables(each_scene(write, num_images, workers), split)
    write_text(root / "annotations" / f"instances_{split}.json", _json(instances))
    write_text(root / "annotations" / f"person_keypoints_{split}.json", _json(people))
    os.replace(unfinished, folder)


def ensure_toybox(
    root: Path,
    *,
    train_images: int,
    val_images: int,
    seed: int,
    config: ToyboxConfig,
    train_config: ToyboxConfig | None = None,
    workers: int = 0,
) -> Path:
    """The toybox with splits 'train' and 'val' under `root`, generated unless it is there already; returns `root`.

    `train_config` gives the training split scenes of its own.

    `root/toybox.json` records what the files were made from; a toybox made from anything else is replaced.  Raises
    FileExistsError where `root` holds files and is no toybox.
    """
    stamp = {"format": FORMAT_VERSION, "seed": seed, "train": train_images, "val": val_images}
    stamp |= {"config": asdict(config)} | ({"train_config": asdict(train_config)} if train_config else {})
    text = _json(stamp)
    marker = root / "toybox.json"
    if marker.is_file() and marker.read_text(encoding="utf-8") == text:
        return root
    if not marker.is_file() and root.exists() and any(root.iterdir()):
        raise FileExistsError(f"{root} holds files but no toybox.json: name a new or an empty folder")
    unfinished = root.with_name(root.name + ".partial")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    for split, count, scenes in (
        ("train", train_images, train_config or config),
        ("val", val_images, config),
    ):
        write_toybox(unfinished, split=split, num_images=count, seed=seed, config=scenes, workers=workers)
    write_text(unfinished / "toybox.json", text)
    if root.exists():
        shutil.rmtree(root)
    os.replace(unfinished, root)
    return root


def _json(content: object) -> str:
    return json.dumps(content, separators=(",", ":"))
