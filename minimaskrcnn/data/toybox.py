"""The toybox: generated scenes of figures and jointed people, written as a real COCO dataset.

`make_scene(config, seed, index)` is a function of its arguments alone.  `write_toybox` turns scenes into pictures,
`instances_{split}.json` and `person_keypoints_{split}.json` in COCO's own layout; `ensure_toybox` does so once.
A scene is a textured backdrop, now and then a crowd of small look-alikes, then 2 to 8 objects painted from back to
front.  As in COCO a mask is what is visible, keypoints are whole pixels, v is 2 for a visible joint, 1 for a hidden
one and 0 for one outside the picture, and people of the small band have no keypoints.
Axes: h, w is the picture.

The distribution (`ToyboxConfig`'s defaults) is frozen: nothing is evaluated on easier scenes.  Measured over 3,000
scenes, 14,798 objects: people 16.5 %, each other class 11.4 to 12.4 %; COCO's small, medium and large in proportion
to the picture 24.1, 40.1 and 35.8 %; 36.9 % have at least 5 % of them hidden by other objects, 13.5 % are cut by
the border; 5.05 objects a picture with any, 2.2 % of pictures with none, 6.6 % with a crowd; 83 % of objects are
stored as polygons (13 % in several parts), 9 % as uncompressed and 8 % as compressed RLE.
"""

import json
import multiprocessing
import os
import shutil
import signal
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from minimaskrcnn.data.toybox_backdrop import backdrop
from minimaskrcnn.data.toybox_coco import Segmentation, bounding_box, segmentation, write_json
from minimaskrcnn.data.toybox_layout import (
    CATEGORIES,
    PERSON,
    Layer,
    ToyboxConfig,
    arrange,
    draw_palette,
    visible_masks,
)
from minimaskrcnn.data.toybox_pose import KEYPOINT_NAMES, SKELETON
from minimaskrcnn.data.toybox_shapes import Brush

__all__ = [
    "CATEGORIES",
    "Scene",
    "SceneObject",
    "ToyboxConfig",
    "ensure_toybox",
    "make_scene",
    "write_toybox",
]
Array = np.ndarray
FORMAT_VERSION = 2  # part of the stamp: to be raised whenever the same arguments give other bytes


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One annotation to be: an object, or a crowd region."""

    category_id: int
    mask: Bool[Array, "h w"]  # what is visible
    whole: Bool[Array, "h w"]  # the same as if nothing lay over it; the picture's border still cuts it
    segmentation: Segmentation  # the mask as COCO stores it
    keypoints: Int[Array, "17 3"]  # (x, y, v); all 0 for figures, crowds and people of the small band
    iscrowd: bool

    @property
    def hidden(self) -> float:
        """Share of the in-picture object that other objects cover."""
        return 1 - float(self.mask.sum()) / float(self.whole.sum())


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture and what is in it, back to front."""

    image: UInt8[Array, "h w 3"]
    objects: tuple[SceneObject, ...]


def paint(
    canvas: Float[Array, "h w 3"], layers: list[Layer], shadow_shift: tuple[int, int]
) -> UInt8[Array, "h w 3"]:
    """Every sprite over its shadow, which lies `shadow_shift` (down, right) of it, over the canvas."""
    picture = np.array(canvas, np.float32)
    height, width = picture.shape[:2]
    for placed in (placed for layer in layers for placed in layer.sprites):
        there, here = placed.overlap(height, width, shadow_shift)
        picture[there] *= 1 - 0.34 * placed.sprite.shadow[here][..., None]
        there, here = placed.overlap(height, width)
        picture[there] *= 1 - placed.sprite.alpha[here][..., None]
        picture[there] += placed.sprite.rgb[here]
    return np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)


def scene_keypoints(layer: Layer, mask: Bool[Array, "h w"], least_area: float) -> Int[Array, "17 3"]:
    """A layer's keypoints in the picture; people who show less than `least_area` pixels have none, as in COCO."""
    placed = layer.sprites[0]
    if layer.iscrowd or placed.sprite.keypoints is None or mask.sum() < least_area:
        return np.zeros((17, 3), np.int64)
    x, y, v = (placed.sprite.keypoints + np.array([placed.left, placed.top, 0])).T
    inside = (x >= 0) & (y >= 0) & (x < mask.shape[1]) & (y < mask.shape[0])
    covered = (layer.whole & ~mask)[np.where(inside, y, 0), np.where(inside, x, 0)]
    return np.stack([x, y, np.where(covered, 1, v)], axis=1) * inside[:, None]


def make_scene(config: ToyboxConfig, seed: int, index: int) -> Scene:
    """Scene number `index` of the series `seed` (both at least 0), whichever process makes it and when."""
    rng = np.random.default_rng([seed, index])
    low, high, step = np.array(config.min_size), np.array(config.max_size), config.size_step
    height, width = (low + step * rng.integers(0, (high - low) // step + 1)).tolist()
    side, turn = (height * width) ** 0.5, rng.uniform(0.25, 0.75) * np.pi
    # Light falls from above, between the left and the right.
    brush = Brush(light=(float(np.cos(turn)), float(np.sin(turn))), blur=side * 0.013)
    palette = draw_palette(rng)
    layers = arrange(rng, config, (height, width), palette, brush)
    shadow_shift = (round(side * 0.018 * brush.light[1]), round(side * 0.018 * brush.light[0]))
    image = paint(backdrop(rng, height, width, palette.pair), layers, shadow_shift)
    objects = []
    for layer, mask in zip(layers, visible_masks(layers)):
        polygons = not layer.iscrowd and bool(rng.random() >= config.rle_share)
        compressed = not layer.iscrowd and bool(rng.random() < 0.5)
        thing = SceneObject(
            category_id=layer.category_id, mask=mask, whole=layer.whole, iscrowd=layer.iscrowd,
            segmentation=segmentation(mask, polygons=polygons, compressed=compressed),
            keypoints=scene_keypoints(layer, mask, mask.size / 300),
        )  # fmt: skip
        objects.append(thing)
    return Scene(image=image, objects=tuple(objects))


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
    images, instances, people = [], [], []
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
        "skeleton": [list(pair) for pair in SKELETON],
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
    folder, unfinished = root / split, root / f"{split}.partial"
    if folder.exists():
        raise FileExistsError(f"{folder} exists: name a new root or a new split")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True)
    write = partial(write_scene, config, zlib.crc32(f"{seed}/{split}".encode()), unfinished)
    instances, people = coco_tables(each_scene(write, num_images, workers), split)
    write_json(root / "annotations" / f"instances_{split}.json", instances)
    write_json(root / "annotations" / f"person_keypoints_{split}.json", people)
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
    stamp = json.loads(json.dumps(stamp))
    marker = root / "toybox.json"
    if marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == stamp:
        return root
    if not marker.is_file() and root.exists() and any(root.iterdir()):
        raise FileExistsError(f"{root} holds files but no toybox.json: name a new or an empty folder")
    unfinished = root.with_name(root.name + ".partial")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    for split, count, scenes in (("train", train_images, train_config or config), ("val", val_images, config)):
        write_toybox(unfinished, split=split, num_images=count, seed=seed, config=scenes, workers=workers)
    write_json(unfinished / "toybox.json", stamp)
    if root.exists():
        shutil.rmtree(root)
    os.replace(unfinished, root)
    return root
