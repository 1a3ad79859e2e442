"""`evaluate --results`: the numbers that pycocotools alone gives on the file, and a sentence for a broken row."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import write_scenes
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from test_cli import call

from minimaskrcnn.data.coco import open_coco
from minimaskrcnn.data.segmentation import unpack_runs
from minimaskrcnn.engine.evaluate import KEYPOINT_METRICS, METRICS
from minimaskrcnn.engine.results import evaluate_results


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), train=1, val=8)


def detections(root: Path, people: bool, seed: int = 0) -> list[dict[str, Any]]:
    """The true objects of a data set, shifted by up to two pixels; some of another category, some not at all."""
    rng = np.random.default_rng(seed)
    dataset = open_coco(root, "val", people=people)
    found = []
    for index, record in enumerate(dataset.images):
        target = dataset.target(index)
        for k, label in enumerate(target["labels"].tolist()):
            if rng.random() < 0.2:
                continue
            shift = rng.integers(-2, 3, 2)
            x1, y1, x2, y2 = target["boxes"][k].tolist()
            mask = np.roll(target["masks"][k].numpy(), shift[::-1], (0, 1)).astype(np.uint8)
            code = coco_mask.encode(np.asfortranarray(mask))
            row = {
                "image_id": record.id,
                "category_id": dataset.category_of[label if rng.random() < 0.9 else 1],
                "score": round(float(rng.random()), 2),
                "bbox": [x1 + float(shift[0]), y1 + float(shift[1]), x2 - x1, y2 - y1],
                "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
            }
            if people:
                points = target["keypoints"][k].numpy() + rng.normal(0, 1, (17, 3))
                row["keypoints"] = points.reshape(-1).tolist()
            found.append(row)
    assert len(found) >= (4 if people else 6)
    return found


def by_pycocotools(annotations: Path, results: Path, kind: str) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize(
    "field, kind, names",
    [
        ("bbox", "bbox", METRICS),
        ("segmentation", "segm", METRICS),
        ("keypoints", "keypoints", KEYPOINT_METRICS),
    ],
)
@pytest.mark.parametrize("split", ["val", None])
def test_pycocotools_alone_gives_the_same_numbers(root, tmp_path, field, kind, names, split):
    people = kind == "keypoints"
    annotations = root / "annotations" / f"{'person_keypoints' if people else 'instances'}_val.json"
    keep = ("image_id", "category_id", "score", field)
    rows = [{key: row[key] for key in keep} for row in detections(root, people)]
    file = write(tmp_path / "found.json", rows)
    expected = dict(zip(names, by_pycocotools(annotations, file, kind), strict=True))
    assert evaluate_results(file, annotations) == {kind: expected}
    assert 0.05 < expected["AP"] < 0.95
    data = ("--data", root, *(("--split", split) if split else ()))
    outcome = call("evaluate", "--results", file, *data, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == {kind: expected}
    assert f"| {kind} | {100 * expected['AP']:.1f} |" in " ".join(outcome.out.split())


def test_boxes_and_masks_in_one_file_are_as_in_two(root, tmp_path):
    annotations = root / "annotations" / "instances_val.json"
    rows = detections(root, False)
    together = evaluate_results(write(tmp_path / "both.json", rows), annotations)
    for field, kind in (("bbox", "bbox"), ("segmentation", "segm")):
        alone = [
            {k: v for k, v in row.items() if k in ("image_id", "category_id", "score", field)} for row in rows
        ]
        assert evaluate_results(write(tmp_path / "one.json", alone), annotations) == {kind: together[kind]}


def test_uncompressed_run_lengths_are_the_same_masks(root, tmp_path):
    annotations = root / "annotations" / "instances_val.json"
    rows = detections(root, False)
    expected = evaluate_results(write(tmp_path / "a.json", rows), annotations)
    for row in rows:
        code = row["segmentation"]
        runs = unpack_runs(code["counts"].encode()).tolist()
        row["segmentation"] = {"size": code["size"], "counts": runs}
    assert evaluate_results(write(tmp_path / "b.json", rows), annotations) == expected


def test_no_results_are_zero(root, tmp_path):
    metrics = evaluate_results(write(tmp_path / "none.json", []), root / "annotations" / "instances_val.json")
    assert metrics["bbox"]["AP"] == metrics["segm"]["AP"] == 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image_id": 999}, "no image has its image_id 999"),
        ({"image_id": "1"}, "'image_id' must be an integer"),
        ({"category_id": None}, "'category_id' must be an integer"),
        ({"score": float("nan")}, "'score' must be a finite number"),
        ({"score": 10**400}, "'score' must be a finite number"),
        ({"score": None}, "'score' must be a finite number"),
        ({"bbox": [1, 2, 3]}, "'bbox' must be"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6]]}, "must be run lengths"),
        ({"segmentation": {"size": [48, 48], "counts": "oooo"}}, "run-length string|have size"),
        ({"keypoints": [1, 2, 3]}, "17 times x, y, v"),
        ({"keypoints": [1, 2, 2] * 17}, r"it has \['bbox', 'keypoints', 'segmentation'\], row 0 has"),
    ],
)
def test_a_broken_row_is_named(root, tmp_path, change, message):
    rows = detections(root, False)
    rows[2].update(change)
    with pytest.raises(ValueError, match=rf"found\.json: row 2: .*({message})"):
        evaluate_results(write(tmp_path / "found.json", rows), root / "annotations" / "instances_val.json")


def test_what_is_no_file_of_results(root, tmp_path):
    annotations = root / "annotations" / "instances_val.json"
    for value, message in (
        ({}, "expected a list"),
        ([3], "row 0: a result must be"),
        ([{}], "row 0: 'image_id'"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate_results(write(tmp_path / "found.json", value), annotations)
    (tmp_path / "found.json").write_bytes(b"[")
    with pytest.raises(ValueError, match="not JSON"):
        evaluate_results(tmp_path / "found.json", annotations)
    with pytest.raises(FileNotFoundError, match="no such file of results"):
        evaluate_results(tmp_path / "nothing.json", annotations)
    no_id = [{"image_id": open_coco(root, "val").images[0].id, "category_id": 1, "score": 1}]
    with pytest.raises(ValueError, match="row 0: it has no 'bbox'"):
        evaluate_results(write(tmp_path / "found.json", no_id), annotations)


def test_joints_of_the_ground_truth_that_are_not_cocos(root, tmp_path):
    rows = [{k: v for k, v in row.items() if k != "segmentation"} for row in detections(root, True)]
    content = json.loads((root / "annotations" / "person_keypoints_val.json").read_text())
    broken = content["annotations"][-1]
    broken["keypoints"] = broken["keypoints"][:-3]
    file = write(tmp_path / "truth.json", content)
    with pytest.raises(ValueError, match=rf"truth\.json: annotation {broken['id']}: .*17 times x, y, v"):
        evaluate_results(write(tmp_path / "found.json", rows), file)


def test_bad_usage(root, tmp_path):
    file = write(tmp_path / "none.json", [])
    for arguments in (
        ("--results", file),
        ("--data", root),
        ("--results", file, "--weights", file, "--data", root),
        ("--results", file, "--data", root, "--annotations", file),
        ("--results", tmp_path / "nothing.json", "--data", root),
        ("--results", file, "--data", root, "--split", "test"),
    ):
        outcome = call("evaluate", *arguments, "--out", tmp_path / "out")
        assert outcome.code == 2 and outcome.err.count("\n") == 1, outcome


def test_what_pycocotools_does_not_need(root, tmp_path):
    annotations = root / "annotations" / "instances_val.json"
    rows = detections(root, False)
    expected = evaluate_results(write(tmp_path / "found.json", rows), annotations)
    content = json.loads(annotations.read_text())
    content["images"][0]["file_name"] = "/data/1.png"
    del content["images"][1]["file_name"], content["categories"][0]["name"]
    for entry in content["annotations"]:
        entry["image_id"] = float(entry["image_id"])
    for row in rows:
        row["category_id"] = float(row["category_id"])
    found, truth = write(tmp_path / "found.json", rows), write(tmp_path / "truth.json", content)
    assert evaluate_results(found, truth) == expected


def test_objects_without_a_mask_are_counted(root, tmp_path, capsys):
    content = json.loads((root / "annotations" / "instances_val.json").read_text())
    content["annotations"][0]["segmentation"] = []
    truth = write(tmp_path / "truth.json", content)
    evaluate_results(write(tmp_path / "found.json", detections(root, False)), truth)
    assert capsys.readouterr().out == f"{truth}: segm leaves out 1 object without a mask\n"
