"""Evaluation: perfect and useless detections, crowds, gaps, missing fields, and what AP must never do."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import tiny_config, tiny_model, with_keypoints, write_scenes
from pycocotools import mask as coco_mask

from minimaskrcnn.data.coco import CocoDataset, open_coco
from minimaskrcnn.engine.evaluate import (
    KEYPOINT_METRICS,
    METRICS,
    coco_metrics,
    evaluate_dataset,
    format_metrics,
    to_results,
)
from minimaskrcnn.mask_rcnn import MaskRCNN
from minimaskrcnn.ops import paste_masks


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> CocoDataset:
    return open_coco(write_scenes(tmp_path_factory.mktemp("scenes"), train=1, val=4), "val")


def encode(mask: np.ndarray) -> dict:
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": code["counts"].decode()}


def rectangle(x: int, y: int, w: int, h: int, size: tuple[int, int] = (100, 100)) -> dict:
    mask = np.zeros(size)
    mask[y : y + h, x : x + w] = 1
    return encode(mask)


def thing(image_id: int, category_id: int, box: list[int], **more) -> dict:
    x, y, w, h = box
    corners = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return {"image_id": image_id, "category_id": category_id, "bbox": box, "segmentation": corners, **more}


def found(image_id: int, category_id: int, box: list[int], score: float) -> dict:
    outline = {"segmentation": rectangle(*box)}
    return {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score, **outline}


def write(path: Path, things: list[dict], categories: tuple[int, ...] = (1, 90), images: int = 2) -> Path:
    content = {
        "images": [
            {"id": i + 1, "file_name": f"{i}.png", "height": 100, "width": 100} for i in range(images)
        ],
        "annotations": [
            {"id": i + 1, "iscrowd": 0, "area": t["bbox"][2] * t["bbox"][3], **t}
            for i, t in enumerate(things)
        ],
        "categories": [{"id": id, "name": str(id)} for id in categories],
    }
    path.write_text(json.dumps(content))
    return path


def ap(path: Path, results: list[dict], kind: str = "bbox", name: str = "AP", **options) -> float:
    before = copy.deepcopy(results)
    metrics = coco_metrics(path, results, **options)
    assert results == before, "the results were changed"
    assert all(tuple(values) == METRICS for values in metrics.values())
    return metrics[kind][name]


OBJECTS = [thing(1, 1, [10, 10, 30, 40]), thing(1, 90, [50, 20, 20, 20]), thing(2, 90, [5, 5, 60, 60])]
PERFECT = [found(t["image_id"], t["category_id"], t["bbox"], 0.9) for t in OBJECTS]


def test_ground_truth_as_detections_is_perfect(dataset):
    results = []
    for index, record in enumerate(dataset.images):
        target = dataset.target(index)
        assert target["left_out"] == []
        for box, label, mask in zip(
            target["boxes"].tolist(), target["labels"].tolist(), target["masks"].numpy()
        ):
            x1, y1, x2, y2 = box
            row = {"bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": encode(mask), "score": 1.0}
            results.append({"image_id": record.id, "category_id": dataset.category_of[label], **row})
    assert len(results) >= 8
    # Ids 1, 3, 4, 7, ...: a label taken for an id would find next to nothing.
    assert {result["category_id"] for result in results} - set(range(1, 9))
    for kind in ("bbox", "segm"):
        metrics = coco_metrics(dataset.annotation_file, results)[kind]
        assert all(metrics[name] == pytest.approx(1.0) for name in ("AP", "AP50", "AP75"))


def test_half_right_by_hand(tmp_path):
    path = write(tmp_path / "a.json", OBJECTS)
    assert ap(path, PERFECT) == pytest.approx(1) and ap(path, PERFECT, "segm") == pytest.approx(1)
    # One of category 90's two objects: precision 1 up to recall 0.5, so 51 of 101 recall points; category 1 is whole.
    assert ap(path, PERFECT[:2]) == pytest.approx((1 + 51 / 101) / 2)
    # An IoU of 0.8 counts at 0.50, 0.55, ..., 0.80: 7 of 10 thresholds.
    alone = write(tmp_path / "b.json", [thing(1, 1, [0, 0, 100, 10])], (1,))
    assert ap(alone, [found(1, 1, [0, 0, 80, 10], 0.5)]) == pytest.approx(0.7)
    assert ap(alone, [found(1, 1, [0, 0, 80, 10], 0.5)], name="AP75") == pytest.approx(1.0)


def test_no_detection_gives_zero_and_no_ground_truth_minus_one(tmp_path):
    metrics = coco_metrics(write(tmp_path / "a.json", OBJECTS), [])
    assert metrics["bbox"]["AP"] == metrics["segm"]["AP"] == metrics["bbox"]["AR100"] == 0
    empty = write(tmp_path / "b.json", [])
    for results in ([], PERFECT):
        metrics = coco_metrics(empty, results)
        assert {value for values in metrics.values() for value in values.values()} == {-1.0}
        assert set(metrics) == {"bbox", "segm"}
    nothing = write(tmp_path / "c.json", [], images=0)
    assert coco_metrics(nothing, [])["bbox"]["AP"] == -1


def test_a_crowd_region_is_neither_object_nor_false_positive(tmp_path):
    crowd = {**thing(1, 1, [50, 50, 40, 40], iscrowd=1), "segmentation": rectangle(50, 50, 40, 40)}
    path = write(tmp_path / "a.json", [thing(1, 1, [0, 0, 20, 20]), crowd], (1,))
    right = found(1, 1, [0, 0, 20, 20], 0.5)
    in_crowd = [found(1, 1, [52 + 5 * i, 52, 10, 10], 0.9) for i in range(3)]
    elsewhere = found(1, 1, [30, 0, 10, 10], 0.9)
    for kind in ("bbox", "segm"):
        assert ap(path, [right], kind) == pytest.approx(1)
        assert ap(path, [right, *in_crowd], kind) == pytest.approx(1)
        # The same box outside of the crowd halves precision at every recall.
        assert ap(path, [right, elsewhere], kind) == pytest.approx(0.5)


def test_evaluation_is_restricted_to_the_given_pictures(tmp_path):
    path = write(tmp_path / "a.json", OBJECTS)
    assert ap(path, PERFECT[:2], image_ids=[1]) == pytest.approx(1)
    assert ap(path, PERFECT[:2], image_ids=[2, 1]) < 0.8


def test_mask_areas_decide_the_size_of_masks(tmp_path):
    # The false positive's mask is small, though its box is of medium size.
    path = write(tmp_path / "a.json", [thing(1, 1, [0, 0, 20, 20])], (1,))
    wrong = {"image_id": 1, "category_id": 1, "bbox": [40, 40, 50, 50], "score": 0.9}
    wrong["segmentation"] = rectangle(40, 40, 50, 2)
    results = [found(1, 1, [0, 0, 20, 20], 0.5), wrong]
    assert ap(path, results, "segm", "APs") == pytest.approx(0.5)
    assert ap(path, results, "bbox", "APs") == pytest.approx(1)


def test_fields_that_files_may_leave_out(tmp_path):
    path = write(tmp_path / "a.json", OBJECTS)
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        del annotation["iscrowd"], annotation["area"]
    path.write_text(json.dumps(content))
    assert ap(path, PERFECT) == pytest.approx(1) and ap(path, PERFECT, "segm") == pytest.approx(1)
    # Without any outline there is nothing to hold masks against.
    for annotation in content["annotations"]:
        annotation["segmentation"] = []
    path.write_text(json.dumps(content))
    for results in (PERFECT, []):
        assert set(coco_metrics(path, results)) == {"bbox"}
    del content["annotations"][0]["segmentation"]
    content["annotations"][1]["segmentation"] = OBJECTS[1]["segmentation"]
    path.write_text(json.dumps(content))
    assert ap(path, PERFECT) == pytest.approx(1) and ap(path, PERFECT[1:2], "segm") == pytest.approx(1)


def test_detections_without_masks_have_boxes_only(tmp_path):
    boxes = [{key: value for key, value in row.items() if key != "segmentation"} for row in PERFECT]
    assert set(coco_metrics(write(tmp_path / "a.json", OBJECTS), boxes)) == {"bbox"}


box = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 40), st.integers(1, 40)).map(list)
things = st.lists(st.builds(thing, st.integers(1, 2), st.sampled_from([1, 90]), box), max_size=4)
detections = st.lists(
    st.builds(found, st.integers(1, 2), st.sampled_from([1, 90]), box, st.floats(0.1, 1)), max_size=5
)


@settings(max_examples=25)
@given(things=things, results=detections, near=st.booleans(), place=box)
def test_ap_has_bounds_and_a_false_positive_never_raises_it(tmp_path_factory, things, results, near, place):
    if near:
        results = results + [found(t["image_id"], t["category_id"], t["bbox"], 0.5) for t in things]
    path = write(tmp_path_factory.mktemp("random") / "a.json", things)
    before = coco_metrics(path, results)
    # Of a category, but in a picture without any object: wrong wherever it is.
    content = json.loads(path.read_text())
    content["images"].append({"id": 3, "file_name": "2.png", "height": 100, "width": 100})
    path.write_text(json.dumps(content))
    after = coco_metrics(path, [*results, found(3, 1, place, 0.05)])
    for kind in ("bbox", "segm"):
        for name in METRICS:
            value = before[kind][name]
            assert value == -1 or 0 <= value <= 1
            assert (value == -1) == (after[kind][name] == -1)
            assert after[kind][name] <= value + 1e-12
    has_objects = bool(things)
    assert (before["bbox"]["AP"] >= 0) == has_objects


def detection(count: int = 3, masks: bool = True) -> dict:
    generator = torch.Generator().manual_seed(0)
    corner = 20 * torch.rand(count, 2, generator=generator)
    found = {
        "boxes": torch.cat([corner, corner + 5 + 10 * torch.rand(count, 2, generator=generator)], 1),
        "labels": torch.tensor([1, 2, 3])[:count],
        "scores": torch.tensor([0.9, 0.5, 0.25])[:count],
    }
    return found | ({"mask_probs": torch.rand(count, 6, 6, generator=generator)} if masks else {})


def test_results_are_cocos():
    one = detection()
    results = to_results(one, 7, (40, 50), {1: 13, 2: 1, 3: 90})
    assert json.loads(json.dumps(results)) == results
    assert [row["category_id"] for row in results] == [13, 1, 90]
    assert [row["score"] for row in results] == [row.item() for row in one["scores"]]
    masks = paste_masks(one["mask_probs"], one["boxes"], (40, 50))
    for row, (x1, y1, x2, y2), mask in zip(results, one["boxes"].tolist(), masks):
        assert (
            set(row) == {"image_id", "category_id", "bbox", "score", "segmentation"} and row["image_id"] == 7
        )
        assert row["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1])
        assert row["segmentation"] == encode(mask.numpy())


def test_labels_without_a_category_are_left_out():
    results = to_results(detection(), 7, (40, 50), {3: 90})
    assert [(row["category_id"], row["score"]) for row in results] == [(90, 0.25)]
    assert "segmentation" not in to_results(detection(masks=False), 7, (40, 50), {1: 1})[0]
    assert to_results(detection(0), 7, (40, 50), {1: 1}) == []


class Oracle(MaskRCNN):
    """A network that knows the answers: it gives each picture's objects, in the dataset's order."""

    def tell(self, dataset: CocoDataset) -> "Oracle":
        self.answers = [dataset.target(index) for index in range(len(dataset))]
        return self

    def forward(self, images, targets=None, *, paste=True, generator=None):
        told, self.answers = self.answers[: len(images)], self.answers[len(images) :]
        assert not paste and not self.training and not torch.is_grad_enabled()
        return [
            {
                "boxes": t["boxes"],
                "labels": t["labels"],
                "scores": torch.linspace(1, 0.5, len(t["labels"])),
                "mask_probs": torch.ones(len(t["labels"]), 8, 8),
            }
            for t in told
        ]


def test_a_data_set_with_gaps_evaluated_from_end_to_end(dataset):
    oracle = Oracle(tiny_model(dataset.num_classes).config).tell(dataset)
    metrics, results = evaluate_dataset(oracle.train(), dataset, batch_size=3)
    assert metrics["bbox"]["AP"] == pytest.approx(1) and 0 < metrics["segm"]["AP"] < 1
    assert {row["category_id"] for row in results} <= set(dataset.label_of)
    assert not oracle.answers


def test_only_the_given_pictures_are_evaluated(dataset):
    few = dataset.first(2)
    oracle = Oracle(tiny_model(dataset.num_classes).config).tell(few)
    metrics, results = evaluate_dataset(oracle, few)
    assert metrics["bbox"]["AP"] == pytest.approx(1)
    assert {row["image_id"] for row in results} <= {record.id for record in few.images}


def test_other_labels_of_the_model(dataset):
    # A model whose label 1 is the data set's second category, and that knows no other.
    oracle = Oracle(tiny_model(dataset.num_classes).config).tell(dataset)
    second = dataset.category_of[2]
    metrics, results = evaluate_dataset(oracle, dataset, category_of={1: second})
    assert {row["category_id"] for row in results} <= {second} and metrics["bbox"]["AP"] < 0.5


def test_batches_do_not_change_results(dataset):
    model = tiny_model(dataset.num_classes).double()

    class AsDouble(CocoDataset):
        def __init__(self, source: CocoDataset) -> None:
            vars(self).update(vars(source))

        def __getitem__(self, index: int):
            sample = super().__getitem__(index)
            return sample._replace(image=sample.image.double())

    one, many = (evaluate_dataset(model, AsDouble(dataset), batch_size=size) for size in (1, 3))
    assert one[0] == many[0] and len(one[1]) == len(many[1]) > 10
    for a, b in zip(one[1], many[1]):
        assert (a["image_id"], a["category_id"], a["segmentation"]) == (
            b["image_id"],
            b["category_id"],
            b["segmentation"],
        )
        assert a["bbox"] == pytest.approx(b["bbox"]) and a["score"] == pytest.approx(b["score"])


def test_a_model_that_finds_nothing(dataset):
    for masks in (True, False):
        model = tiny_model(dataset.num_classes, masks=masks)
        with torch.no_grad():
            model.box_head.classifier.bias[0] = 1e4
        metrics, results = evaluate_dataset(model, dataset)
        assert results == [] and metrics["bbox"]["AP"] == 0
        assert set(metrics) == ({"bbox", "segm"} if masks else {"bbox"})


def test_a_box_model_is_not_evaluated_on_masks(dataset):
    metrics, results = evaluate_dataset(tiny_model(dataset.num_classes, masks=False), dataset)
    assert set(metrics) == {"bbox"} and results and "segmentation" not in results[0]


def test_table_is_in_percent():
    row = dict.fromkeys(METRICS, 0.123)
    table = format_metrics({"bbox": row, "segm": {**row, "AP": 1.0, "APs": -1.0}}).splitlines()
    assert len(table) == 4 and len({len(line) for line in table}) == 1
    heading, _, bbox, segm = (line.replace("|", " ").split() for line in table)
    assert heading == list(METRICS)
    assert bbox == ["bbox"] + ["12.3"] * 12
    assert segm == ["segm", "100.0", "12.3", "12.3", "–"] + ["12.3"] * 8


def test_detections_per_image_bounds_results(dataset):
    model = tiny_model(dataset.num_classes)
    fewer = MaskRCNN(replace(model.config, box_head=replace(model.config.box_head, detections_per_image=2)))
    fewer.load_state_dict(model.state_dict())
    assert len(evaluate_dataset(fewer, dataset)[1]) == 2 * len(dataset)


def person(x: float, y: float, seen: int, **more) -> dict:
    """A person of 60 × 80 pixels whose 17 joints all lie at one point."""
    joints = [x, y, 2] * seen + [0, 0, 0] * (17 - seen)
    return thing(1, 1, [10, 10, 60, 80], keypoints=joints, num_keypoints=seen, **more)


def write_people(path: Path, things: list[dict]) -> Path:
    content = json.loads(write(path, things, categories=(1,)).read_text())
    content["categories"][0] |= {"keypoints": [str(i) for i in range(17)], "skeleton": []}
    path.write_text(json.dumps(content))
    return path


def posed(x: float, y: float, score: float = 0.9) -> dict:
    row = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 60, 80], "score": score}
    return {**row, "keypoints": [x, y, 1] * 17}


def test_keypoints_have_ten_numbers(tmp_path):
    path = write_people(tmp_path / "a.json", [person(40, 50, 17)])
    metrics = coco_metrics(path, [posed(40, 50)])
    assert set(metrics) == {"bbox", "keypoints"} and tuple(metrics["keypoints"]) == KEYPOINT_METRICS
    assert metrics["keypoints"]["AP"] == pytest.approx(1) and metrics["keypoints"]["AR"] == pytest.approx(1)
    assert coco_metrics(path, [posed(80, 90)])["keypoints"]["AP"] == 0
    assert set(coco_metrics(path, [])) == {"bbox", "segm", "keypoints"}


@pytest.mark.parametrize("distance", [0.5, 3.0, 5.0, 8.0, 14.0])
def test_object_keypoint_similarity_by_hand(tmp_path, distance):
    """OKS of the nose alone is exp(-d² / (2 · area · (2 · 0.026)²)); AP counts the thresholds that it passes."""
    path = write_people(tmp_path / "a.json", [person(40, 50, 1)])
    similarity = np.exp(-(distance**2) / (2 * 60 * 80 * (2 * 0.026) ** 2))
    expected = sum(similarity >= 0.5 + 0.05 * i for i in range(10)) / 10
    metrics = coco_metrics(path, [posed(40 + distance, 50)])
    assert metrics["keypoints"]["AP"] == pytest.approx(expected)


def test_people_without_labelled_joints_are_not_asked_for(tmp_path):
    path = write_people(tmp_path / "a.json", [person(40, 50, 17), person(0, 0, 0)])
    metrics = coco_metrics(path, [posed(40, 50)])
    assert metrics["keypoints"]["AR"] == pytest.approx(1) and metrics["bbox"]["AR100"] == pytest.approx(0.5)


def test_a_keypoint_model_is_evaluated_on_people(tmp_path):
    root = write_scenes(tmp_path, train=1, val=4)
    people = open_coco(root, "val", people=True)
    assert people.num_classes == 2 and people.has_keypoints and people.has_masks
    assert len(people) == len(open_coco(root, "val"))
    torch.manual_seed(0)
    model = MaskRCNN(with_keypoints(tiny_config(people.num_classes)))
    metrics, results = evaluate_dataset(model, people)
    assert set(metrics) == {"bbox", "segm", "keypoints"}
    assert all(len(result["keypoints"]) == 51 for result in results)
    metrics, _ = evaluate_dataset(tiny_model(people.num_classes), people)
    assert set(metrics) == {"bbox", "segm"}


def test_keypoints_have_a_heading_of_their_own():
    rows = {"bbox": dict.fromkeys(METRICS, 0.5), "keypoints": dict.fromkeys(KEYPOINT_METRICS, 0.25)}
    boxes, joints = format_metrics(rows).split("\n\n")
    assert boxes.replace("|", " ").splitlines()[0].split() == list(METRICS)
    heading, _, row = (line.replace("|", " ").split() for line in joints.splitlines())
    assert heading == list(KEYPOINT_METRICS) and row == ["keypoints", *["25.0"] * 10]
