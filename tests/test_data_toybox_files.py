"""The toybox's files: that they are COCO's, say what is in the scenes, and are written once."""

import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from minimaskrcnn.data.toybox import Scene, ToyboxConfig, ensure_toybox, make_scene, write_toybox
from minimaskrcnn.data.toybox.coco_masks import signed_area, trace_borders

# pycocotools 2.0.11 decodes through an __array__ that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
CONFIG = ToyboxConfig()
PERSON = 1
IMAGES = 40


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toybox")
    write_toybox(folder, split="val", num_images=IMAGES, seed=3, config=CONFIG)
    return folder


@pytest.fixture(scope="module")
def written() -> list[Scene]:
    """The scenes that `root` was written from."""
    return [make_scene(CONFIG, zlib.crc32(b"3/val"), index) for index in range(IMAGES)]


@pytest.fixture(scope="module")
def instances(root: Path) -> COCO:
    return COCO(str(root / "annotations" / "instances_val.json"))


@pytest.fixture(scope="module")
def keypoints(root: Path) -> COCO:
    return COCO(str(root / "annotations" / "person_keypoints_val.json"))


# ---- what is in them


def test_pycocotools_decodes_every_mask(instances: COCO, written: list[Scene]) -> None:
    for index, scene in enumerate(written):
        annotations = instances.loadAnns(instances.getAnnIds(imgIds=[index + 1]))
        assert len(annotations) == len(scene.objects)
        for annotation, thing in zip(annotations, scene.objects):
            mask = instances.annToMask(annotation).astype(bool)
            assert np.array_equal(mask, thing.mask)
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert annotation["bbox"] == box and annotation["area"] == mask.sum()
            assert annotation["category_id"] == thing.category_id
            assert annotation["iscrowd"] == thing.iscrowd


def test_every_form_of_segmentation_occurs(instances: COCO) -> None:
    ordinary = [entry for entry in instances.dataset["annotations"] if not entry["iscrowd"]]
    crowds = [entry for entry in instances.dataset["annotations"] if entry["iscrowd"]]
    polygons = [entry for entry in ordinary if isinstance(entry["segmentation"], list)]
    counts = [
        entry["segmentation"]["counts"] for entry in ordinary if isinstance(entry["segmentation"], dict)
    ]
    assert any(len(entry["segmentation"]) > 1 for entry in polygons)
    assert any(isinstance(code, str) for code in counts) and any(isinstance(code, list) for code in counts)
    assert crowds and all(isinstance(entry["segmentation"]["counts"], list) for entry in crowds)
    assert len(polygons) > 0.7 * len(ordinary)
    encoded = [instances.annToMask(entry) for entry in ordinary if isinstance(entry["segmentation"], dict)]
    holes = [any(signed_area(loop) < 0 for loop in trace_borders(mask.astype(bool))) for mask in encoded]
    assert any(holes) and not all(holes), "also objects that polygons could describe"
    used = {entry["image_id"] for entry in instances.dataset["annotations"]}
    assert {image["id"] for image in instances.dataset["images"]} - used, "a picture without any object"
    ids = sorted(category["id"] for category in instances.dataset["categories"])
    assert ids[-1] > len(ids), "ids with gaps"


def test_both_files_agree(instances: COCO, keypoints: COCO, written: list[Scene]) -> None:
    assert instances.dataset["images"] == keypoints.dataset["images"]
    persons = instances.getAnnIds(catIds=[PERSON])
    assert sorted(keypoints.anns) == sorted(persons)
    for number, entry in keypoints.anns.items():
        bare = {key: value for key, value in entry.items() if key not in ("keypoints", "num_keypoints")}
        assert bare == instances.anns[number]
        assert entry["num_keypoints"] == np.count_nonzero(entry["keypoints"][2::3])
    stored = [entry["keypoints"] for entry in keypoints.dataset["annotations"]]
    drawn = [t.keypoints.ravel().tolist() for s in written for t in s.objects if t.category_id == PERSON]
    assert stored == drawn


def test_fields_are_those_of_coco(instances: COCO, keypoints: COCO, coco_real: Path) -> None:
    for ours, name in ((instances, "instances"), (keypoints, "person_keypoints")):
        real = json.loads((coco_real / "annotations" / f"{name}_val2017.json").read_text(encoding="utf-8"))
        assert list(ours.dataset) == ["info", "licenses", "images", "annotations", "categories"]
        for table in ("licenses", "images", "annotations", "categories"):
            assert ours.dataset[table][0].keys() == real[table][0].keys(), table
    assert keypoints.dataset["categories"] == real["categories"]


def test_pictures_are_the_scenes(root: Path, instances: COCO, written: list[Scene]) -> None:
    assert instances.imgs[1]["file_name"] == "000000000001.jpg"
    for image, scene in zip(instances.dataset["images"], written):
        with Image.open(root / "val" / image["file_name"]) as picture:
            stored = np.asarray(picture).astype(int)
        assert stored.shape == scene.image.shape == (image["height"], image["width"], 3)
        assert np.abs(stored - scene.image).mean() < 3


@pytest.mark.parametrize("kind", ["bbox", "segm", "keypoints"])
def test_the_truth_evaluates_to_one(instances: COCO, keypoints: COCO, kind: str) -> None:
    truth = keypoints if kind == "keypoints" else instances
    results = []
    for entry in truth.dataset["annotations"]:
        if not entry["iscrowd"] and entry.get(
            "num_keypoints", 1
        ):  # nothing is asked about people without joints
            found = {"image_id": entry["image_id"], "category_id": entry["category_id"], "score": 1.0}
            values = {
                "bbox": entry["bbox"],
                "segm": truth.annToRLE(entry),
                "keypoints": entry.get("keypoints"),
            }
            results.append({**found, {"segm": "segmentation"}.get(kind, kind): values[kind]})
    evaluation = COCOeval(truth, truth.loadRes(results), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


# ---- when and how they are written


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_files_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    for workers in (0, 2):
        folder = tmp_path / str(workers)
        write_toybox(folder, split="train", num_images=18, seed=1, config=CONFIG, workers=workers)
    assert len(contents(tmp_path / "0")) == 20
    assert contents(tmp_path / "0") == contents(tmp_path / "2")


def test_ensure_generates_once_and_again_when_asked_for_something_else(tmp_path: Path) -> None:
    root = tmp_path / "box"
    (tmp_path / "box.partial" / "train").mkdir(parents=True)  # what an interrupted run leaves behind
    sizes = {"train_images": 3, "val_images": 2}
    assert ensure_toybox(root, **sizes, seed=0, config=CONFIG) == root
    first = contents(root)
    assert len([name for name in first if name.endswith(".jpg")]) == 5
    assert first["train/000000000001.jpg"] != first["val/000000000001.jpg"]
    (root / "witness").touch()
    ensure_toybox(root, **sizes, seed=0, config=CONFIG)
    assert (root / "witness").exists()
    for config, seed in ((CONFIG, 1), (replace(CONFIG, attach_share=0.1), 1)):
        (root / "witness").touch()
        ensure_toybox(root, **sizes, seed=seed, config=config)
        assert not (root / "witness").exists()
        assert contents(root).keys() == first.keys() and contents(root) != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["box"]


def test_training_scenes_of_their_own_leave_the_held_out_ones(tmp_path: Path) -> None:
    sizes = {"train_images": 2, "val_images": 2, "seed": 0, "config": CONFIG}
    usual, own = ensure_toybox(tmp_path / "usual", **sizes), tmp_path / "own"
    ensure_toybox(own, **sizes, train_config=replace(CONFIG, person_share=1.0, objects=(4, 4)))
    one, other = contents(usual), contents(own)
    assert {name for name in one if one[name] != other[name]} == {
        "train/000000000001.jpg",
        "train/000000000002.jpg",
        "annotations/instances_train.json",
        "annotations/person_keypoints_train.json",
        "toybox.json",
    }
    # Known again, and as another toybox where they are not asked for.
    (own / "witness").touch()
    ensure_toybox(own, **sizes, train_config=replace(CONFIG, person_share=1.0, objects=(4, 4)))
    assert (own / "witness").exists()
    ensure_toybox(own, **sizes)
    assert contents(own) == one


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match=r"toybox\.json"):
        ensure_toybox(tmp_path, train_images=1, val_images=1, seed=0, config=CONFIG)
    (tmp_path / "train").mkdir()
    with pytest.raises(FileExistsError, match="train"):
        write_toybox(tmp_path, split="train", num_images=1, seed=0, config=CONFIG)
    assert contents(tmp_path) == {"mine.txt": b"precious"}
