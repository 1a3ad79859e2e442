"""`data check`: every finding at once, levels as its table says, and training that agrees with it under damage."""

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corruptions import sweep
from hypothesis import given
from hypothesis import strategies as st
from models import tiny_config, write_scenes
from PIL import Image
from test_cli import TINY, call

from minimaskrcnn.data.check import Finding, check_files, check_folder
from minimaskrcnn.data.check_table import crosses_itself
from minimaskrcnn.data.coco import CocoDataset, open_coco
from minimaskrcnn.data.commands import describe_skipped, find_pictures, require_trainable
from minimaskrcnn.engine.evaluate import coco_metrics
from minimaskrcnn.engine.recipes import Preset
from minimaskrcnn.presets import PRESETS

H, W = 20, 30
SQUARE = [2, 3, 9, 3, 9, 10, 2, 10]
HOURGLASS = [2, 3, 9, 10, 9, 3, 2, 10]


def annotation(id: int, **fields: Any) -> dict[str, Any]:
    plain = {"image_id": 1, "category_id": 5, "bbox": [2, 3, 7, 7], "segmentation": [SQUARE], "iscrowd": 0}
    return {"id": id, **plain, **fields}


def content(*annotations: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": [{"id": k, "file_name": f"{k}.png", "height": H, "width": W} for k in (1, 2)],
        "annotations": [annotation(100), *annotations],
        "categories": [{"id": 5, "name": "thing"}],
    }


@pytest.fixture
def folder(tmp_path) -> Path:
    for k in (1, 2):
        Image.effect_noise((W, H), 99).convert("RGB").save(tmp_path / f"{k}.png")
    return tmp_path


def write(folder: Path, value: Any) -> Path:
    file = folder / "all.json"
    file.write_text(json.dumps(value))
    return file


def findings(folder: Path, value: Any, **options: Any) -> list[Finding]:
    return list(check_files(folder, write(folder, value), **options))


# --- one kind of damage at a time

RLE = {"size": [H, W], "counts": [0, H * W]}
POSE = [2, 3, 2] * 17
WIDE = {"segmentation": [[2, 3, 29, 3, 29, 10, 2, 10]]}
OF_ONE_ANNOTATION = {
    "zero box": ({"bbox": [2, 3, 0, 7]}, "skipped", "without area: bbox [2, 3, 0, 7]"),
    "negative box": ({"bbox": [9, 3, -7, 7]}, "skipped", "without area: bbox [9, 3, -7, 7]"),
    "hair of a box": ({"bbox": [9, 3, 0.01, 7]}, "skipped", "without area"),
    "box outside": ({"bbox": [31, 3, 5, 5]}, "skipped", "outside the picture: bbox [31, 3, 5, 5]"),
    "nan box": ({"bbox": [2, float("nan"), 7, 7]}, "error", "'bbox' must be"),
    "infinite box": ({"bbox": [2, 3, float("inf"), 7]}, "error", "'bbox' must be"),
    "box of three": ({"bbox": [2, 3, 7]}, "error", "'bbox' must be"),
    "box leaves": ({**WIDE, "bbox": [2, 3, 30, 7]}, "warning", "leaves the picture of (height, width) (20, 30)"),
    "line": ({"segmentation": [[2, 3, 9, 3], SQUARE]}, "warning", "a polygon of 4 numbers encloses nothing"),
    "odd count": ({"segmentation": [SQUARE[:-1]]}, "error", "as many y as x, got 7 numbers"),
    "hourglass": ({"segmentation": [HOURGLASS]}, "warning", "a polygon crosses itself"),
    "nan polygon": ({"segmentation": [[2, 3, float("nan"), 3, 9, 9]]}, "error", "expected finite numbers"),
    "far polygon": ({"segmentation": [[0, 0, 1e9, 0, 0, 9]]}, "error", "polygon reaches 1e+09"),
    "polygon outside": ({"segmentation": [[40, 3, 49, 3, 49, 9]]}, "skipped", "without a mask pixel"),
    "no outline": ({"segmentation": []}, "skipped", "without a mask: "),
    "rle of another size": ({"segmentation": {**RLE, "size": [W, H]}}, "error", "run lengths have size [30, 20]"),
    "rle too long": ({"segmentation": {**RLE, "counts": [0, H * W + 1]}}, "error", "add up to"),
    "rle broken": ({"segmentation": {**RLE, "counts": "ooooooo0"}}, "error", "number of 8 characters"),
    "half a character": ({"segmentation": {**RLE, "counts": "\ud800"}}, "error", "broken run-length string"),
    "rle of nothing": ({"segmentation": {**RLE, "counts": [H * W]}}, "skipped", "without a mask pixel"),
    "unknown image": ({"image_id": 3}, "error", "no image has its image_id 3"),
    "unknown category": ({"category_id": 6}, "error", "no category has its category_id 6"),
    "id of 65 bits": ({"category_id": 2**64}, "error", "'category_id' must be an integer of 64 bits"),
    "crowd of 2": ({"iscrowd": 2}, "error", "'iscrowd' must be 0 or 1"),
    "area as text": ({"area": "big"}, "error", "'area' must be a finite number, got 'big'"),
    "area of 401 digits": ({"area": 10**400}, "error", "'area' must be a finite number, got 1000"),
    "box elsewhere": ({"bbox": [15, 10, 7, 7]}, "warning", "box [15, 10, 7, 7] is not where its polygons are"),
    "box of two corners": ({"bbox": [2, 3, 9, 10]}, "warning", "is it [x, y, width, height]?"),
    "endless box": ({"bbox": [0, 0, 1e308, 1e308]}, "error", "expected smaller numbers"),
    "16 joints": ({"keypoints": POSE[3:]}, "error", "17 times x, y, v, got 48 numbers"),
    "v of 3": ({"keypoints": [2, 3, 3] * 17}, "error", "v must be 0, 1 or 2"),
    "joint in the next town": ({"keypoints": [1e30, 3, 2] * 17}, "error", "a keypoint lies at 1e+30"),
    "joint outside": ({"keypoints": [*POSE[3:], 50, 3, 1]}, "warning", "1 labelled keypoints outside the picture"),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_ONE_ANNOTATION)
def test_damage_of_an_annotation(folder, name):
    fields, level, sentence = OF_ONE_ANNOTATION[name]
    others = {"keypoints": POSE} if "keypoints" in fields else {}
    value = content(annotation(7, **fields))
    value["annotations"][0].update(others)
    joints = folder / "all.json" if "keypoints" in fields else None
    (found,) = findings(folder, value, keypoints=joints is not None)
    assert (found.level, found.annotation_id) == (level, 7) and sentence in found.sentence, found
    assert (found.file, found.image_id) == (folder / "all.json", fields.get("image_id", 1))
    # ... and training does what the level says
    if level == "error":
        with pytest.raises(ValueError, match=r"all\.json: annotation 7: "):
            CocoDataset(folder, folder / "all.json", joints)
        return
    dataset = CocoDataset(folder, folder / "all.json", joints)
    assert dataset.target(0)["annotation_ids"] == ([100] if level == "skipped" else [100, 7])
    assert [id for ids in dataset.skipped().values() for id in ids] == ([7] if level == "skipped" else [])


def test_joints_on_the_edge_and_unlabelled_ones_are_inside(folder):
    edges = [0, 0, 2, W, H, 1, W, 0, 2, 0, H, 2, -5, 99, 0, W + 1, 3, 0]
    value = content(annotation(7, keypoints=edges + POSE[len(edges) :]))
    value["annotations"][0]["keypoints"] = POSE
    assert not findings(folder, value)


OF_THE_FILE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "annotation twice": (lambda c: c["annotations"].append(annotation(100)), "id 100 occurs more than once"),
    "image twice": (lambda c: c["images"][1].update(id=1), "image id 1 occurs more than once"),
    "category twice": (lambda c: c["categories"].append(c["categories"][0]), "category id 5 occurs more than once"),
    "no list": (lambda c: c.update(categories=None), "'categories' must be a list"),
    "no object": (lambda c: c["annotations"].append(3), "entry 1 is 3"),
    "name leaves": (lambda c: c["images"][1].update(file_name="../2.png"), "'../2.png' leaves the image folder"),
    "name too long": (lambda c: c["images"][1].update(file_name="x" * 256), "too long for a file"),
    "half a character": (lambda c: c["images"][1].update(file_name="\ud800"), "must be a text in Unicode"),
    "image over the limit": (lambda c: c["images"][1].update(height=10**9), "over the limit of 178956970 pixels"),
    "no id": (lambda c: c["annotations"].append({**annotation(1), "id": None}), "annotation at position 1: 'id'"),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_THE_FILE)
def test_damage_of_a_file(folder, name):
    change, sentence = OF_THE_FILE[name]
    value = content()
    change(value)
    found = [finding for finding in findings(folder, value, pictures=False) if finding.level == "error"]
    assert any(sentence in finding.sentence for finding in found), found
    with pytest.raises(ValueError, match=r"all\.json: "):
        CocoDataset(folder, folder / "all.json")


@pytest.mark.parametrize(
    "data, sentence",
    [
        (b"", "not JSON"),
        (b"[1]", "expected an object"),
        (b'{"a": "\xff"}', "not JSON in UTF-8"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (None, "no such annotation file"),
    ],
)
def test_what_is_no_annotation_file(folder, data, sentence):
    if data is not None:
        (folder / "all.json").write_bytes(data)
    (found,) = check_files(folder, folder / "all.json")
    assert found.level == "error" and sentence in found.sentence
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        CocoDataset(folder, folder / "all.json")


def bomb(side: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "damage, sentence",
    [
        (lambda path: path.unlink(), "no such picture"),
        (lambda path: path.write_bytes(b""), "an empty file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "truncated"),
        (lambda path: path.write_bytes(b"text"), "cannot identify"),
        (lambda path: Image.new("RGB", (W, H + 1)).save(path), "is (21, 30), the annotation file says (20, 30)"),
        (lambda path: path.write_bytes(bomb(60_000)), "more than 178,956,970 pixels, perhaps a decompression bomb"),
        (lambda path: path.write_bytes(bomb(10_000)), "is (10000, 10000), the annotation file says (20, 30)"),
        (lambda path: (path.unlink(), path.mkdir()), "not a file"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "not a file"),
    ],
)  # fmt: skip
def test_damage_of_a_picture(folder, damage, sentence):
    damage(folder / "2.png")
    (found,) = findings(folder, content())
    assert found[:4] == ("error", folder / "2.png", 2, None) and sentence in found.sentence, found
    with pytest.raises((ValueError, FileNotFoundError), match=r"2\.png: "):
        CocoDataset(folder, folder / "all.json")[1]
    assert findings(folder, content(), pictures=False) == []


def test_everything_at_once(folder):
    (folder / "2.png").unlink()
    value = content(
        annotation(1, bbox=[0, 0, 0, 0]),
        annotation(2, bbox=[1, 2], segmentation=[[1]], category_id=9),
        annotation(3, segmentation=[HOURGLASS]),
    )
    value["images"][0]["license"] = value["categories"]
    found = findings(folder, value)
    of_two = [finding.sentence for finding in found if finding.annotation_id == 2]
    assert len(of_two) == 3 and len(found) == 6
    assert {(f.level, f.annotation_id) for f in found} == {
        ("skipped", 1), ("error", 2), ("warning", 3), ("error", None)
    }  # fmt: skip


def test_a_crowd_may_be_anything_that_decodes(folder):
    assert findings(folder, content(annotation(7, iscrowd=1, bbox=[0, 0, 0, 0], segmentation=[]))) == []


def test_annotation_id_zero_is_evaluated_wrongly(folder):
    (found,) = findings(folder, content(annotation(0)))
    assert (found.level, found.annotation_id) == ("warning", 0)
    results = [{"image_id": 1, "category_id": 5, "bbox": [2, 3, 7, 7], "score": 0.9}] * 2
    assert coco_metrics(folder / "all.json", results)["bbox"]["AP"] < 0.6  # two objects, both found


def test_keypoints_are_asked_of_all_or_none(folder):
    value = content(annotation(7, keypoints=POSE))
    (found,) = findings(folder, value)
    assert (found.level, found.annotation_id) == ("warning", 100)
    (found,) = findings(folder, value, keypoints=True)
    assert (found.level, found.annotation_id) == ("error", 100)


# --- polygons that cross themselves, and masks without a pixel


@pytest.mark.parametrize(
    "polygon, crosses",
    [
        (SQUARE, False),
        (HOURGLASS, True),
        ([0, 0, 4, 0, 4, 4, 0, 4, 0, 0], False),  # closed by its first point
        ([0, 0, 9, 0, 5, 0, 5, 9], False),  # runs back over itself
        ([0, 0, 4, 4, 8, 0, 8, 8, 4, 4, 0, 8], False),  # touches itself in a point
        ([0, 0, 9, 0, 9, 9, 4, -1], True),
    ],
)
def test_crossing_by_hand(polygon, crosses):
    assert crosses_itself(np.reshape(np.array(polygon, float), (1, -1, 2))).tolist() == [crosses]


@given(st.lists(st.floats(0.2, 9), min_size=4, max_size=30), st.integers(0, 40), st.booleans())
def test_stars_do_not_cross_until_two_points_change_places(radii, turn, swap):
    angle = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    points = np.array(radii)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    if swap:
        points = np.stack([np.cos(angle), np.sin(angle)], 1)  # a convex one: swapped neighbours always cross
        points[[0, 1]] = points[[1, 0]]
    assert crosses_itself(np.roll(points, turn, axis=0)[None] + 50).tolist() == [swap]


coordinates = st.one_of(st.floats(-8, 40, width=32), st.integers(-2, 32).map(float))


@given(
    st.lists(st.lists(coordinates, min_size=6, max_size=10).map(lambda p: p[: len(p) // 2 * 2]), max_size=3)
)
def test_the_count_at_the_start_is_what_samples_leave_out(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("skip")
    objects = [annotation(k, segmentation=[part]) for k, part in enumerate(parts)]
    dataset = CocoDataset(folder, write(folder, content(*objects, annotation(50, segmentation=parts))))
    announced = sorted(id for ids in dataset.skipped().values() for id in ids)
    assert announced == sorted(dataset.target(0)["left_out"])


def test_the_count_is_of_the_pictures_that_are_trained_on(folder):
    value = content(annotation(7, bbox=[0, 0, 0, 0]), annotation(8, image_id=2, segmentation=[]))
    dataset = CocoDataset(folder, write(folder, value))
    assert dataset.skipped() == {"without area": [7], "without a mask": [8]}
    assert dataset.subset([1]).skipped() == dataset.subset([1, 1]).skipped() == {"without a mask": [8]}
    assert describe_skipped(dataset, strict=False) == (
        "skipped 2 annotations: 1 without area, 1 without a mask; `minimaskrcnn data check` lists them"
    )
    with pytest.raises(ValueError, match=r"all\.json: annotation 7: without area; --strict stops at 2"):
        describe_skipped(dataset, strict=True)
    assert describe_skipped(CocoDataset(folder, write(folder, content())), strict=True) == ""


def test_pictures_are_looked_for_at_the_start(folder):
    dataset = CocoDataset(folder, write(folder, content()))
    find_pictures(dataset)
    (folder / "2.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2\.png: an empty file"):
        find_pictures(dataset)
    (folder / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1\.png: no such picture$"):
        find_pictures(dataset)
    (folder / "2.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1\.png: no such picture \(2 of 2 are missing"):
        find_pictures(dataset)


# --- the command


def test_the_command(tmp_path):
    root = write_scenes(tmp_path / "data", train=2, val=1)
    outcome = call("data", "check", root)
    assert outcome == (0, "0 errors, 0 skipped annotations, 0 warnings\n", "")
    file = root / "annotations" / "instances_train.json"
    value = json.loads(file.read_text())
    value["annotations"][0].update(bbox=[1, 1, 0, 0])
    file.write_text(json.dumps(value))
    id, image = value["annotations"][0]["id"], value["annotations"][0]["image_id"]
    outcome = call("data", "check", root, "--no-pictures")
    line = f"skipped: {file}: image {image}: annotation {id}: without area: bbox [1, 1, 0, 0]"
    assert outcome == (1, f"{line}\n0 errors, 1 skipped annotations, 0 warnings\n", "")
    assert call("data", "check", root, "--split", "val").code == 0
    assert call("data", "check", "--images", root / "train", "--annotations", file).code == 1
    outcome = call("data", "check", root, "--split", "test")
    assert outcome.code == 1 and "no annotations/instances_test.json" in outcome.out
    assert call("data", "check").code == call("data", "check", root, "--images", root).code == 2


def test_train_says_what_it_skips_and_strict_stops(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", Preset(tiny_config, TINY))
    root = write_scenes(tmp_path / "data", train=2, val=1)
    file = root / "annotations" / "instances_train.json"
    value = json.loads(file.read_text())
    value["annotations"][0].update(bbox=[1, 1, 0, 0])
    file.write_text(json.dumps(value))
    (root / "annotations" / "person_keypoints_train.json").write_text("read by keypoint models only")
    held_out = root / "annotations" / "instances_val.json"
    value = json.loads(held_out.read_text())
    value["annotations"][0]["segmentation"] = []
    held_out.write_text(json.dumps(value))
    run = ("train", "--data", root, "--preset", "tiny", "--device", "cpu", "--out", tmp_path / "run")
    outcome = call(*run)
    line = "skipped 1 annotation: 1 without area; `minimaskrcnn data check` lists them"
    second = f"{held_out}: segm leaves out 1 object without a mask"
    assert outcome.code == 0 and outcome.out.splitlines()[:2] == [line, second], outcome
    assert outcome.out.count(second) == 1
    outcome = call(*run, "--strict")
    assert (
        outcome.code == 2
        and outcome.err.count("\n") == 1
        and "without area; --strict stops at 1" in outcome.err
    )
    next((root / "val").iterdir()).unlink()  # found before the training, not at its evaluation
    outcome = call(*run)
    assert outcome.code == 2 and "no such picture" in outcome.err


def test_keypoints_without_instances_are_for_keypoint_models(tmp_path):
    root = write_scenes(tmp_path / "data", train=2, val=1)
    (root / "annotations" / "instances_train.json").unlink()
    (found,) = check_folder(root, "train")
    assert found.level == "warning" and "for a keypoint model only" in found.sentence


def test_the_real_sample_has_no_errors(coco_real):
    found = list(check_folder(coco_real))
    assert {finding.level for finding in found} <= {"warning"}, found


# --- damage at random


def test_corruption_sweep(tmp_path):
    """`CORRUPTIONS` cases, 60 unless told; any number: `python tests/corruptions.py COUNT`."""
    valid = write_scenes(tmp_path / "valid", train=6, val=1)
    count = int(os.environ.get("CORRUPTIONS", "60"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        outcomes = sweep(valid, tmp_path, range(count))
    finally:
        torch.set_num_threads(threads)
    assert min(outcomes["error"], outcomes["valid samples"]) > count / 5


MEASURE = """
import resource, sys, time
from pathlib import Path
from minimaskrcnn.data.check import check_files
from minimaskrcnn.data.coco import CocoDataset, open_coco
folder = Path(sys.argv[1])
began = time.perf_counter()
if sys.argv[2] == "open":
    print(len(CocoDataset(folder, folder / "all.json").skipped()["without area"]))
else:
    print(sum(finding.level == "skipped" for finding in check_files(folder, folder / "all.json", pictures=False)))
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("task", ["open", "check"])
def test_a_million_annotations(tmp_path, task):
    """100,000 pictures of ten objects, each a polygon of 20 points; every thousandth box has no area."""
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    with (tmp_path / "all.json").open("w") as file:
        images = [{"id": k, "file_name": f"{k}.jpg", "height": 480, "width": 640} for k in range(100_000)]
        file.write('{"categories": [{"id": 1, "name": "thing"}], "images": ' + json.dumps(images))
        file.write(', "annotations": [')
        for k in range(1_000_000):
            radius, (x, y) = rng.uniform(5, 60), rng.uniform(100, 380, 2)
            points = np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], 1).round(2)
            side = 0 if k % 1000 == 0 else round(2 * radius, 2)
            box = [round(x - radius, 2), round(y - radius, 2), side, side]
            entry = {
                "id": k,
                "image_id": k // 10,
                "category_id": 1,
                "iscrowd": 0,
                "area": side * side,
                "bbox": box,
            }
            file.write("," * (k > 0) + json.dumps({**entry, "segmentation": [points.reshape(-1).tolist()]}))
        file.write("]}")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), task], capture_output=True, text=True, check=True
    )
    skipped, seconds, mebibytes = map(float, done.stdout.split())
    print(
        f"{task}: {(tmp_path / 'all.json').stat().st_size / 2**20:.0f} MiB, {seconds:.0f} s, {mebibytes:.0f} MiB"
    )
    assert skipped == 1000
    assert seconds < 600 and mebibytes < 6000


# --- what the check and training agree on


@pytest.mark.parametrize("key", ["categories", "images"])
def test_nothing_to_train_on(folder, key):
    value = {**content(), "annotations": [], key: []}
    (found,) = findings(folder, value, pictures=False)
    assert found.level == "error" and f"no {key}" in found.sentence
    with pytest.raises(ValueError, match=rf"all\.json: no {key}"):
        require_trainable(CocoDataset(folder, folder / "all.json"), masks=False)


def test_a_bad_image_or_category_hides_no_other_finding(folder):
    value = content(annotation(1, bbox=[1]), annotation(2, image_id=2, bbox=[1]), annotation(3, image_id=2))
    value["images"][0].update(file_name="../1.png", width=0)
    value["images"][1].update(file_name="/2.png")
    value["categories"][0].update(name=3)
    found = sorted((f.image_id or 0, f.annotation_id or 0, f.sentence[:14]) for f in findings(folder, value))
    assert found == [
        (0, 0, "category at po"),
        (1, 0, "(height, width"),
        (1, 0, "file_name '../"),
        (1, 1, "'bbox' must be"),
        (2, 0, "file_name '/2."),
        (2, 2, "'bbox' must be"),
    ]


def test_keypoints_that_nobody_reads_are_no_error(folder):
    value = content(annotation(7, keypoints=[]))
    value["annotations"][0]["keypoints"] = POSE
    (found,) = findings(folder, value)
    assert (found.level, found.annotation_id) == ("warning", 7) and "a keypoint model cannot" in found.sentence


def test_boxes_alone_are_for_a_model_of_boxes(folder):
    value = content(annotation(7, iscrowd=1))
    value["annotations"][0]["segmentation"] = []
    (found,) = findings(folder, value)
    assert (found.level, found.annotation_id) == ("warning", None) and "fasterrcnn_resnet50_fpn" in found.sentence
    dataset = CocoDataset(folder, folder / "all.json")
    with pytest.raises(ValueError, match=r"all\.json: no object has a segm.*--preset fasterrcnn_resnet50_fpn"):
        require_trainable(dataset, masks=True)
    require_trainable(dataset, masks=False)
    assert dataset.target(0)["annotation_ids"] == [100]


def test_keypoints_of_another_picture(tmp_path):
    root = write_scenes(tmp_path, train=3, val=1)
    file = root / "annotations" / "person_keypoints_train.json"
    value = json.loads(file.read_text())
    entry = value["annotations"][0]
    entry["image_id"] = next(image["id"] for image in value["images"] if image["id"] != entry["image_id"])
    file.write_text(json.dumps(value))
    (found,) = (f for f in check_folder(root, "train") if f.level == "error")
    assert found.annotation_id == entry["id"] and "among the instances it is in image" in found.sentence
    with pytest.raises(ValueError, match=rf"annotation {entry['id']}: its image_id is {entry['image_id']}, among"):
        open_coco(root, "train")
    assert not open_coco(root, "train", keypoints=False).has_keypoints


def test_a_pipe_is_no_annotation_file(folder):
    os.mkfifo(folder / "all.json")
    (found,) = check_files(folder, folder / "all.json")
    assert found.level == "error" and found.sentence == "not a file"


def test_lvis_names_its_pictures_by_their_address(folder):
    value = content()
    (folder / "val2017").mkdir()
    for image in value["images"]:
        (folder / image["file_name"]).rename(folder / "val2017" / image["file_name"])
        image["coco_url"] = f"http://images.cocodataset.org/val2017/{image.pop('file_name')}"
    assert findings(folder, value) == []
    assert CocoDataset(folder, folder / "all.json")[1].image.shape == (3, H, W)


def test_masks_that_no_memory_holds(folder):
    value = content(*(annotation(k) for k in range(200, 300)))
    value["images"][0].update(height=10_000, width=9_000)
    (found,) = findings(folder, value, pictures=False)
    assert (found.level, found.image_id) == ("warning", 1)
    assert "101 masks of (height, width) (10000, 9000) take 8.5 GiB" in found.sentence


def test_long_ids_are_shortened(folder):
    for finding in findings(folder, content(annotation(10**3000), annotation(10**3000))):
        assert len(str(finding).replace(str(folder), "")) < 250


def test_file_names_are_printed_as_they_are(folder):
    value = content()
    value["images"][0]["file_name"] = "a  b.png"
    value["images"][1]["file_name"] = "\x1b[31m\n.png"
    outcome = call("data", "check", "--images", folder, "--annotations", write(folder, value))
    assert f"error: {folder}/a  b.png: image 1: no such" in outcome.out and outcome.out.count("\n") == 3
    assert f"error: {folder}/\\x1b[31m\\n.png: image 2: no such" in outcome.out


COMMAND = [sys.executable, "-m", "minimaskrcnn", "data", "check"]


def test_an_output_of_another_encoding(folder):
    value = content()
    value["images"][0]["file_name"] = "\u0436.png"
    files = ["--images", folder, "--annotations", write(folder, value)]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([*COMMAND, *files], capture_output=True, env=environment, text=True)
    assert (done.returncode, done.stderr) == (1, "") and r"\u0436.png: image 1: no such picture" in done.stdout


def test_a_reader_that_goes_ends_quietly(folder):
    files = ["--images", folder, "--annotations", write(folder, content())]
    read, written = os.pipe()
    os.close(read)
    with open(written, "w") as nobody:
        done = subprocess.run([*COMMAND, *files], stdout=nobody, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "")
