"""Damage to a valid data set, at random but by seed, and what must become of it.

Run a sweep of any length:  python tests/corruptions.py COUNT [FIRST_SEED]
"""

import json
import math
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import tiny_config, tiny_model, with_keypoints, write_scenes
from PIL import Image, features

from minimaskrcnn.data.check import check_folder
from minimaskrcnn.data.coco import CocoDataset, open_coco
from minimaskrcnn.data.commands import describe_skipped, find_pictures, require_trainable
from minimaskrcnn.data.loader import pack, training_batches, unpack_sample
from minimaskrcnn.data.transforms import AugmentConfig
from minimaskrcnn.engine.evaluate import coco_metrics
from minimaskrcnn.engine.train import TrainConfig, training_step
from minimaskrcnn.mask_rcnn import MaskRCNN

NAN, INF = float("nan"), float("inf")
DEEP = "nested a hundred thousand deep"  # replaced in the text: json.dumps cannot write it
SECONDS = 60  # after which a case counts as hanging
JUNK = [
    None, True, False, 0, -1, 1, 0.5, -0.0, NAN, INF, -INF, 1e308, -1e308, 1e-300, 10**30, -(10**30), 10**400,
    2**63, 2**31,
    "", "text", "1", "\ud800", "\0", "é" * 70000, [], {}, [[]], [{}], {"a": 1}, [None], [NAN] * 4, [0] * 4,
    [1e308] * 4, ["1"] * 4, [10**30] * 4, [[0, 0, 9, 0]], [[1, 2, NAN, 4, 5, 6]], [[5, 5] * 40], [[[1]]],
    {"size": [48, 48], "counts": "oooooooooooo"}, {"size": [1, 1], "counts": [1]}, {"size": None}, {"counts": []},
    DEEP,
]  # fmt: skip
NAMES = [
    "../x.png", "/etc/passwd", "/dev/zero", "C:\\x", "a\\..\\..\\b", ".", "./", "x" * 300, "a/" * 3000, "nul\0",
    "\ud83d", "no.png", " ", "~", "%s%n", "\n", "con", "//host/x",
]  # fmt: skip


class Hang(BaseException):
    """Not an Exception, so that nothing on the way takes it for an error of its own."""


# --- what is damaged


def corrupt(root: Path, seed: int) -> str:
    """Damage the training split of a data set in place, one to three times; returns what was done."""
    rng = random.Random(seed)
    return "; ".join(rng.choice(KINDS)(root, rng) for _ in range(rng.choice([1, 1, 1, 2, 3])))


def _file(root: Path, rng: random.Random) -> Path:
    kind = rng.choice(["instances", "instances", "person_keypoints"])
    return root / "annotations" / f"{kind}_train.json"


def _edit(root: Path, rng: random.Random, change: Callable[[Any], str]) -> str:
    file = _file(root, rng)
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, OSError, RecursionError):
        return "nothing: broken before"
    done = change(content)
    text = json.dumps(content).replace(json.dumps(DEEP), "[" * 100_000 + "]" * 100_000)
    file.write_text(text)
    return f"{file.name}: {done}"


def _anywhere(content: Any, rng: random.Random) -> tuple[Any, Any] | None:
    """A container in the content and one of its keys or positions, at any depth."""
    found, node = None, content
    while isinstance(node, dict | list) and node and (found is None or rng.random() < 0.8):
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        found, node = (node, key), node[key]
    return found


def replace_value(root: Path, rng: random.Random) -> str:
    def change(content: Any) -> str:
        place = _anywhere(content, rng)
        if place is None:
            return "nothing to replace"
        node, key = place
        before, node[key] = node[key], rng.choice(JUNK)
        return f"{key!r}: {repr(before)[:40]} -> {repr(node[key])[:40]}"

    return _edit(root, rng, change)


def change_number(root: Path, rng: random.Random) -> str:
    def change(content: Any) -> str:
        for _ in range(50):
            place = _anywhere(content, rng)
            # Integers of 400 digits, which may be there from before, do not go with floats.
            if place and type(place[0][place[1]]) in (int, float) and abs(place[0][place[1]]) < 10**300:
                node, key = place
                before = node[key]
                node[key] = rng.choice(
                    [
                        -before,
                        before * 1000,
                        before * 1e300,
                        before + 0.5,
                        before + 1,
                        before - 1,
                        0,
                        before * 1e-9,
                    ]
                )
                return f"{key!r}: {before!r} -> {node[key]!r}"
        return "no number found"

    return _edit(root, rng, change)


def delete_key(root: Path, rng: random.Random) -> str:
    def change(content: Any) -> str:
        place = _anywhere(content, rng)
        if place is None:
            return "nothing to delete"
        del place[0][place[1]]
        return f"{place[1]!r} deleted"

    return _edit(root, rng, change)


def repeat_entry(root: Path, rng: random.Random) -> str:
    def change(content: Any) -> str:
        key = rng.choice(["images", "annotations", "categories"])
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not entries:
            return "nothing to repeat"
        entries.append(rng.choice(entries))
        return f"an entry of {key} twice"

    return _edit(root, rng, change)


def damage_object(root: Path, rng: random.Random) -> str:
    """One annotation, in ways that real files have."""

    def change(content: Any) -> str:
        entries = content.get("annotations") if isinstance(content, dict) else None
        if not isinstance(entries, list) or not entries or not isinstance(entry := rng.choice(entries), dict):
            return "no annotation"
        x, y = rng.uniform(-30, 90), rng.uniform(-30, 90)
        size = rng.choice([[48, 48], [64, 64], [48, 64], [64, 48], [1, 1]])
        key, value = rng.choice([
            ("bbox", [x, y, 0, 9]), ("bbox", [x, y, -5, 9]), ("bbox", [x, y, 1e-6, 9]), ("bbox", [x, y, 9, 1e-30]),
            ("bbox", [x, y, 1e9, 1e9]), ("bbox", [-1e9, -1e9, 2e9, 2e9]), ("bbox", [500, 500, 5, 5]),
            ("bbox", [x, y, 9, NAN]), ("bbox", [x, y, 9]), ("bbox", [63.99999, 1, 5, 5]),
            ("bbox", [-5, -5, 5.001, 9]),
            ("segmentation", [[x, y, x + 9, y]]), ("segmentation", [[x, y, x + 9, y + 9, x + 9, y, x, y + 9]]),
            ("segmentation", [[x, y, x + 9, y, x]]), ("segmentation", [[x, y] * 5]), ("segmentation", []),
            ("segmentation", [[x, y, x + 1e-3, y, x, y + 1e-3]]), ("segmentation", [[0, 0, 1e9, 0, 0, 1e9]]),
            ("segmentation", [[0, 0, 1000, 0, 0, 1000]]), ("segmentation", [[1e300, 0, 0, 1e300, 5, 5]]),
            ("segmentation", {"size": size, "counts": [size[0] * size[1]]}),
            ("segmentation", {"size": size, "counts": [0, size[0] * size[1]]}),
            ("segmentation", {"size": size, "counts": [5, -3, size[0] * size[1] - 2]}),
            ("segmentation", {"size": size, "counts": "".join(rng.choices("0123OPQRo`XYZabc", k=9))}),
            ("segmentation", {"size": size, "counts": None}), ("segmentation", None), ("segmentation", "0123"),
            ("keypoints", [0] * 50), ("keypoints", [x, y, 3] * 17), ("keypoints", [1e300, y, 2] * 17),
            ("keypoints", [x, y, 2] * 17), ("keypoints", [NAN, NAN, 0] * 17), ("keypoints", None),
            ("image_id", 10**9), ("category_id", 0), ("category_id", 10**9), ("iscrowd", 1), ("iscrowd", 2),
            ("area", "big"), ("area", NAN), ("area", None), ("num_keypoints", "many"), ("id", -1), ("id", 0),
        ])  # fmt: skip
        entry[key] = value
        return f"annotation {entry.get('id')!r}: {key} = {repr(value)[:60]}"

    return _edit(root, rng, change)


def rename_picture(root: Path, rng: random.Random) -> str:
    def change(content: Any) -> str:
        entries = content.get("images") if isinstance(content, dict) else None
        if not isinstance(entries, list) or not entries or not isinstance(entry := rng.choice(entries), dict):
            return "no image"
        others = [other.get("file_name") for other in entries if isinstance(other, dict)]
        entry["file_name"] = rng.choice([*NAMES, rng.choice(others)])
        return f"file_name {repr(entry['file_name'])[:40]}"

    return _edit(root, rng, change)


def damage_json(root: Path, rng: random.Random) -> str:
    file = _file(root, rng)
    if not file.is_file():
        return "nothing: no file any more"
    data = file.read_bytes()
    how = rng.choice(
        ["cut", "flip", "insert", "empty", "utf-16", "latin", "bom", "list", "deep", "gone", "folder"]
    )
    if how == "cut":
        data = data[: rng.randrange(len(data) + 1)]
    elif how in ("flip", "insert"):
        data = _scrambled(data, rng, insert=how == "insert")
    elif how in ("utf-16", "latin"):
        data = (
            data.decode(errors="replace")
            .replace("name", "namé")
            .encode(how + "1" * (how == "latin"), "replace")
        )
    elif how == "gone":
        file.unlink()
        return f"{file.name}: gone"
    elif how == "folder":
        file.unlink()
        file.mkdir()
        return f"{file.name}: a folder"
    else:
        data = {"empty": b"", "bom": b"\xef\xbb\xbf" + data, "list": b"[1, 2]", "deep": b'{"a":' * 100_000}[
            how
        ]
    file.write_bytes(data)
    return f"{file.name}: {how}"


def damage_picture(root: Path, rng: random.Random) -> str:
    path = rng.choice(sorted((root / "train").iterdir()))
    if not path.is_file():
        return "nothing: no file any more"
    data = path.read_bytes()
    how = rng.choice([*REPLACED, "cut", "flip", "flip", "flip", "insert", "empty", "text", "zeros", "gone"])
    if how in REPLACED:
        path.unlink()
        REPLACED[how](path, rng)
        return f"{path.name}: {how}"
    if how == "cut":
        data = data[: rng.randrange(len(data) + 1)]
    elif how in ("flip", "insert"):
        data = _scrambled(data, rng, insert=how == "insert")
    elif how == "gone":
        path.unlink()
        return f"{path.name}: gone"
    else:
        data = {"empty": b"", "text": b"no picture", "zeros": bytes(len(data))}[how]
    path.write_bytes(data)
    return f"{path.name}: {how}"


def _scrambled(data: bytes, rng: random.Random, *, insert: bool) -> bytes:
    changed = bytearray(data)
    # The head of a file holds its structure.
    reach = rng.choice([40, 400, len(data) + 1])
    for _ in range(rng.choice([1, 3, 20])):
        place = rng.randrange(min(reach, len(changed) + 1))
        if insert or place == len(changed):
            changed[place:place] = rng.randbytes(rng.choice([1, 4]))
        else:
            changed[place] = rng.randrange(256)
    return bytes(changed)


def _bomb(path: Path, rng: random.Random) -> None:
    """A PNG of a few bytes that says 60,000 × 60,000 pixels, or 9,000 × 9,000, which Pillow only warns of."""
    side = rng.choice([60_000, 10_000])

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


def _noise(mode: str, kind: str, **options: Any) -> Callable[[Path, random.Random], None]:
    """Another picture: of a random size that often fits, in a mode and a file format; some scrambled as well."""

    def write(path: Path, rng: random.Random) -> None:
        size = rng.choice([48, 64]), rng.choice([48, 64])
        noise = Image.effect_noise(size, 99)
        if mode == "I;16":
            picture = Image.fromarray(np.asarray(noise).astype(np.uint16) * 257)
        elif mode == "F":
            picture = Image.fromarray(np.asarray(noise).astype(np.float32) / rng.choice([1, 255]))
        else:
            picture = noise.convert("RGB").convert(mode)
        exif = picture.getexif()
        # libtiff writes no other orientation than 1 to 8.
        exif[0x0112] = rng.choice([1, 3, 6, 8] if kind == "TIFF" else [0, 1, 3, 6, 8, 9, 77])
        with path.open("wb") as file:
            picture.save(file, kind, exif=exif, **options)
        if rng.random() < 0.5:
            path.write_bytes(_scrambled(path.read_bytes(), rng, insert=False))

    return write


REPLACED: dict[str, Callable[[Path, random.Random], Any]] = {
    "folder": lambda path, rng: path.mkdir(),
    "pipe": lambda path, rng: os.mkfifo(path),
    "link to itself": lambda path, rng: path.symlink_to(path),
    "bomb": _bomb,
    "RGBA": _noise("RGBA", "PNG"),
    "P": _noise("P", "PNG", transparency=3),
    "CMYK": _noise("CMYK", "JPEG"),
    "1": _noise("1", "TIFF"),
    "I;16": _noise("I;16", "TIFF"),
    "F": _noise("F", "TIFF"),
    "LA": _noise("LA", "PNG"),
    "WEBP": _noise("RGB", "WEBP"),
    "ICNS": _noise("RGB", "ICNS"),
    **({"AVIF": _noise("RGB", "AVIF")} if features.check("avif") else {}),
    "EPS": _noise("RGB", "EPS"),
    "deflate": _noise("RGB", "TIFF", compression="tiff_adobe_deflate"),
}
KINDS = [
    replace_value,
    replace_value,
    change_number,
    delete_key,
    repeat_entry,
    damage_object,
    damage_object,
    damage_object,
    rename_picture,
    damage_json,
    damage_picture,
    damage_picture,
]


# --- what must become of it


def train_once(root: Path, people: bool) -> str:
    """Open the training split, draw every sample, take one step, evaluate; returns a clear error, or ""."""
    try:
        dataset = open_coco(root, "train", people=people)
        require_trainable(dataset, masks=False)
        find_pictures(dataset)
        describe_skipped(dataset, strict=False)
        skipped = sorted(id for ids in dataset.skipped().values() for id in ids)
        left_out = sorted(id for i in range(len(dataset)) for id in _valid_sample(dataset, i)["left_out"])
        assert left_out == skipped, f"left out {left_out}, announced {skipped}"
        if people:
            dataset = dataset.subset(dataset.with_keypoints())
        config = TrainConfig(steps=9, warmup_steps=0, lr=1e-3)
        batches = training_batches(dataset, batch_size=3, seed=0, augment=AugmentConfig(flip_probability=1.0))
        model = _model(dataset.num_classes, dataset.has_masks, people)
        optimizer = torch.optim.SGD(model.parameters(), 1e-3)
        for step, (images, targets) in enumerate(islice(batches, 2)):
            losses = training_step(model, optimizer, images, targets, step, config)
            assert all(torch.isfinite(loss) for loss in losses.values()), losses
        for results in ([], _results(dataset)):
            metrics = coco_metrics(dataset.annotation_file, results, [record.id for record in dataset.images])
            assert all(math.isfinite(value) for kind in metrics.values() for value in kind.values())
    except (ValueError, OSError) as error:
        message = str(error)
        assert str(root) in message, repr(error)
        message.encode()
        assert len(message) < 1000, message
        return message
    return ""


def _model(num_classes: int, masks: bool, people: bool) -> MaskRCNN:
    if people:
        torch.manual_seed(0)
        return MaskRCNN(with_keypoints(tiny_config(num_classes)))
    return tiny_model(num_classes, masks=masks)


def _valid_sample(dataset: CocoDataset, index: int) -> Any:
    sample = dataset[index]
    image, target = unpack_sample(pack(sample))
    height, width = image.shape[1:]
    boxes, count = target["boxes"], len(target["boxes"])
    assert image.isfinite().all() and image.min() >= 0 and image.max() <= 1
    assert boxes.isfinite().all() and (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all()
    assert (boxes <= torch.tensor([width, height, width, height])).all()
    assert target["labels"].shape == (count,) and ((target["labels"] > 0) & (target["labels"] < 999)).all()
    assert len(target["annotation_ids"]) == count
    if dataset.has_masks:
        assert target["masks"].shape == (count, height, width) and target["masks"].any(2).any(1).all()
    if dataset.has_keypoints:
        assert target["keypoints"].shape == (count, 17, 3) and target["keypoints"].isfinite().all()
    return target


def _results(dataset: CocoDataset) -> list[dict[str, Any]]:
    """One box a picture, of any category."""
    return [
        {
            "image_id": record.id,
            "category_id": dataset.categories[0].id,
            "bbox": [3.0, 4.0, 20.0, 20.0],
            "score": 0.5,
        }
        for record in dataset.images
        if dataset.categories
    ]


def examine(root: Path, people: bool) -> str:
    """As `train_once`, and `data check` must agree with it; returns the error, or "" for valid samples."""
    signal.signal(signal.SIGALRM, _raise_hang)
    signal.alarm(SECONDS)
    try:
        error = train_once(root, people)
        findings = list(check_folder(root, "train"))
        "\n".join(map(str, findings)).encode()
        without = people and error.endswith("no such annotation file")  # keypoints, which nobody must have
        if error and not without:
            told = [f for f in findings if f.level == "error" or "for a keypoint model only" in f.sentence]
            assert told, f"training says {error!r}, the check {findings}"
        return error
    finally:
        signal.alarm(0)


def _raise_hang(*_: object) -> None:
    raise Hang(f"no outcome after {SECONDS} s")


def sweep(valid: Path, place: Path, seeds: range) -> Counter[str]:
    """Corrupt a copy of the data set `valid` for each seed; AssertionError names the first seed that fails."""
    outcomes: Counter[str] = Counter()
    for seed in seeds:
        root = place / f"case-{seed}"
        shutil.copytree(valid, root)
        done = corrupt(root, seed)
        try:
            error = examine(root, people=seed % 3 == 0)
        except BaseException as failure:
            raise AssertionError(f"seed {seed}: {done}: {type(failure).__name__}: {failure}") from failure
        outcomes["error" if error else "valid samples"] += 1
        shutil.rmtree(root)
    return outcomes


def main() -> int:
    count, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    torch.set_num_threads(1)
    failures, outcomes = 0, Counter()
    with tempfile.TemporaryDirectory() as place:
        valid = write_scenes(Path(place) / "valid", train=6, val=1)
        for seed in range(first, first + count):
            try:
                outcomes += sweep(valid, Path(place), range(seed, seed + 1))
            except AssertionError as failure:
                failures += 1
                print(failure, flush=True)
                shutil.rmtree(Path(place) / f"case-{seed}", ignore_errors=True)
    print(f"{count} corruptions: {dict(outcomes)}, {failures} failures")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
