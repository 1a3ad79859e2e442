"""COCO's format: a miniature with every form of everything, broken files, and the real sample."""

import copy
import json
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from models import write_scenes
from PIL import Image
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from minimaskrcnn.data.coco import CocoDataset, open_coco
from minimaskrcnn.data.coco_json import Category, ImageRecord

H, W = 12, 16
DISC = (np.indices((H, W)) - [[[6]], [[9]]]).__pow__(2).sum(axis=0) < 14
DISC_BOX = [6, 3, 7, 7]


def string_runs(mask: np.ndarray) -> dict:
    code = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [H, W], "counts": code["counts"].decode()}


def list_runs(mask: np.ndarray) -> dict:
    edges = np.flatnonzero(np.diff(mask.T.reshape(-1), prepend=False))
    return {"size": [H, W], "counts": np.diff(edges, prepend=0, append=H * W).tolist()}


def annotation(id: int, image_id: int, category_id: int, bbox: list, segmentation, **more) -> dict:
    return dict(
        id=id, image_id=image_id, category_id=category_id, bbox=bbox, segmentation=segmentation, **more
    )


SQUARE = [2, 3, 5, 3, 5, 7, 2, 7]  # rows 3..6, columns 2..4
CONTENT = {
    "images": [
        {"id": 50, "file_name": "forms.png", "height": H, "width": W},
        {"id": 7, "file_name": "deeper/nothing.png", "height": W, "width": H},
        {"id": 60, "file_name": "odd.png", "height": H, "width": W},
    ],
    "categories": [{"id": 9, "name": "disc"}, {"id": 2, "name": "square"}, {"id": 40, "name": "never"}],
    "annotations": [
        annotation(500, 60, 9, [-3, 4, 40, 30], [[-3, 4, 37, 4, 37, 34, -3, 34]], iscrowd=0),
        annotation(1, 50, 2, [2, 3, 3, 4], [SQUARE], iscrowd=0),
        annotation(2, 50, 2, [2, 0, 13, 7], [SQUARE, [10, 0, 15, 0, 15, 2, 10, 2]]),
        annotation(3, 50, 9, DISC_BOX, list_runs(DISC), iscrowd=0),
        annotation(4, 50, 9, DISC_BOX, string_runs(DISC), iscrowd=0),
        annotation(5, 50, 9, [0, 0, W, H], list_runs(~DISC), iscrowd=1),
        annotation(6, 50, 9, [0, 0, W, H], string_runs(~DISC), iscrowd=1),
        annotation(7, 50, 9, [0, 0, W, H], [SQUARE], iscrowd=1),
        annotation(501, 60, 9, [3, 3, 0, 5], [SQUARE]),  # no width
        annotation(502, 60, 9, [W, 3, 5, 5], [[W, 3, 21, 3, 21, 8, W, 8]]),  # outside
        annotation(503, 60, 9, [2, 3, 3, 4], [[2, 3, 5, 7]]),  # a line
        annotation(504, 60, 9, [2, 3, 3, 4], string_runs(np.zeros((H, W), bool))),
    ],
}
POSE = [n for k in range(17) for n in (k, (k * 5) % H, k % 3)]
KEYPOINTS = {
    "annotations": [
        {"id": 4, "image_id": 50, "category_id": 9, "keypoints": POSE, "num_keypoints": 12},
        {"id": 1, "image_id": 50, "category_id": 2, "keypoints": [0] * 51, "num_keypoints": 0},
        {"id": 999, "image_id": 99, "category_id": 9, "keypoints": POSE},  # of a picture that is not here
    ]
}


def write(folder: Path, content: object, name: str = "instances.json") -> Path:
    (folder / name).write_text(json.dumps(content))
    return folder / name


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "pictures" / "deeper").mkdir(parents=True)
    for image in CONTENT["images"]:
        size = image["width"], image["height"]
        Image.effect_noise(size, 99).convert("RGB").save(tmp_path / "pictures" / image["file_name"])
    return tmp_path


@pytest.fixture
def dataset(folder) -> CocoDataset:
    keypoints = write(folder, KEYPOINTS, "keypoints.json")
    return CocoDataset(folder / "pictures", write(folder, CONTENT), keypoints)


def test_labels_are_contiguous_in_the_order_of_the_ids(dataset):
    assert dataset.categories == [Category(2, "square"), Category(9, "disc"), Category(40, "never")]
    assert dataset.label_of == {2: 1, 9: 2, 40: 3}
    assert dataset.category_of == {1: 2, 2: 9, 3: 40}
    assert dataset.num_classes == 4
    assert dataset[0].target["labels"].tolist() == [1, 1, 2, 2]


def test_records(dataset, folder):
    assert len(dataset) == 3
    assert dataset.images[1] == ImageRecord(7, "deeper/nothing.png", W, H)
    assert dataset.aspect_ratios == [W / H, H / W, W / H]
    assert dataset.annotation_file == folder / "instances.json"


def test_every_form_of_a_segmentation_gives_its_pixels(dataset):
    target = dataset[0].target
    square = np.zeros((H, W), bool)
    square[3:7, 2:5] = True
    both = square.copy()
    both[0:2, 10:15] = True
    assert target["masks"].dtype == torch.bool
    np.testing.assert_array_equal(target["masks"].numpy(), np.stack([square, both, DISC, DISC]))
    assert target["boxes"].tolist() == [[2, 3, 5, 7], [2, 0, 15, 7], [6, 3, 13, 10], [6, 3, 13, 10]]
    assert target["boxes"].dtype == torch.float32


def test_crowds_are_left_out_without_being_counted(dataset):
    target = dataset[0].target
    assert (target["image_id"], target["annotation_ids"], target["left_out"]) == (50, [1, 2, 3, 4], [])


def test_a_picture_without_objects(dataset):
    image, target = dataset[1]
    assert image.shape == (3, W, H)
    shapes = {key: tuple(value.shape) for key, value in target.items() if torch.is_tensor(value)}
    assert shapes == {"boxes": (0, 4), "labels": (0,), "masks": (0, W, H), "keypoints": (0, 17, 3)}


def test_boxes_are_cut_to_the_picture_and_objects_without_area_listed(dataset):
    target = dataset[2].target
    assert target["boxes"].tolist() == [[0, 4, W, H]]
    assert target["masks"][0, 4:].all() and not target["masks"][0, :4].any()
    assert (target["annotation_ids"], target["left_out"]) == ([500], [501, 502, 503, 504])


def test_keypoints_are_merged_by_annotation_id(dataset):
    keypoints = dataset[0].target["keypoints"]
    expected = np.array(POSE, dtype=np.float32).reshape(17, 3)
    expected[expected[:, 2] == 0] = 0
    assert keypoints.shape == (4, 17, 3) and keypoints.dtype == torch.float32
    np.testing.assert_array_equal(keypoints[3].numpy(), expected)
    assert not keypoints[:3].any()


def test_without_keypoint_file_there_are_no_keypoints(folder):
    dataset = CocoDataset(folder / "pictures", write(folder, CONTENT))
    assert not dataset.has_keypoints and "keypoints" not in dataset[0].target


def test_boxes_alone(folder):
    content = copy.deepcopy(CONTENT)
    for entry in content["annotations"]:
        entry["segmentation"] = []
    dataset = CocoDataset(folder / "pictures", write(folder, content))
    assert not dataset.has_masks and "masks" not in dataset[0].target
    assert dataset[0].target["annotation_ids"] == [1, 2, 3, 4]
    assert dataset[2].target["left_out"] == [501, 502]


def test_no_annotations_at_all(folder):
    content = {**CONTENT, "annotations": []}
    assert CocoDataset(folder / "pictures", write(folder, content))[0].target["masks"].shape == (0, H, W)


def test_first_pictures_only(dataset):
    fewer = dataset.first(2)
    assert (len(fewer), len(fewer.aspect_ratios), len(dataset)) == (2, 2, 3)
    assert fewer[0].target["annotation_ids"] == dataset[0].target["annotation_ids"]
    assert fewer[-1].target["image_id"] == 7
    with pytest.raises(IndexError):
        fewer[2]


def test_indices_count_from_either_end(dataset):
    assert dataset[-1].target["annotation_ids"] == dataset[2].target["annotation_ids"] == [500]
    with pytest.raises(IndexError):
        dataset[3]


def test_it_reaches_worker_processes(dataset):
    again = pickle.loads(pickle.dumps(dataset))
    torch.testing.assert_close(again[0].target["masks"], dataset[0].target["masks"])


def test_cocos_own_layout(folder, dataset):
    root = folder / "root"
    (root / "annotations").mkdir(parents=True)
    (folder / "pictures").rename(root / "val2017")
    (folder / "instances.json").rename(root / "annotations" / "instances_val2017.json")
    opened = open_coco(root, "val2017")
    assert len(opened[0].target["boxes"]) == 4 and not opened.has_keypoints
    (folder / "keypoints.json").rename(root / "annotations" / "person_keypoints_val2017.json")
    assert open_coco(root, "val2017").has_keypoints
    with pytest.raises(FileNotFoundError, match=r"instances_test\.json.*instances_val2017\.json"):
        open_coco(root, "test")


def broken(change, content=CONTENT) -> dict:
    content = copy.deepcopy(content)
    change(content)
    return content


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.pop("images"), "'images' must be a list of objects, got None"),
        (lambda c: c.pop("annotations"), "'annotations' must be a list"),
        (lambda c: c.update(categories=["disc"]), "'categories' must be a list of objects"),
        (lambda c: c["images"][1].pop("height"), "image 7: 'height' must be an integer, got None"),
        (lambda c: c["images"][1].update(width=0), "image 7: .* must be positive"),
        (lambda c: c["images"][1].update(width=5.0), "image 7: 'width' must be an integer, got 5.0"),
        (lambda c: c["images"][1].update(id="7"), "image '7': 'id' must be an integer"),
        (lambda c: c["images"][1].update(id=50), "image id 50 occurs more than once"),
        (lambda c: c["images"][1].update(file_name=""), "image 7: 'file_name' must be a text"),
        (lambda c: c["categories"][1].update(id=9), "category id 9 occurs more than once"),
        (lambda c: c["categories"][1].update(name=3), "category .*'name' must be a text, got 3"),
        (lambda c: c["annotations"][1].update(id=2), "annotation id 2 occurs more than once"),
        (lambda c: c["annotations"][1].update(image_id=8), "annotation 1: no image has its image_id 8"),
        (
            lambda c: c["annotations"][1].update(category_id=3),
            "annotation 1: no category has its category_id 3",
        ),
        (lambda c: c["annotations"][1].update(iscrowd=2), "annotation 1: 'iscrowd' must be 0 or 1, got 2"),
        (
            lambda c: c["annotations"][1].update(bbox=[1, 2, 3]),
            "annotation 1: 'bbox' must be .*, got 3 numbers",
        ),
        (lambda c: c["annotations"][1].update(bbox=None), "annotation 1: 'bbox' must be .*: .* got None"),
        (lambda c: c["annotations"][1].update(bbox=[1, 2, 3, float("nan")]), "annotation 1: 'bbox'.*finite"),
        (lambda c: c["annotations"][1].update(segmentation=[[1, 2, 3]]), "annotation 1: a polygon needs"),
        (lambda c: c["annotations"][4].update(segmentation={"size": [1, 2]}), "annotation 4: run lengths"),
    ],
)
def test_a_broken_file_names_itself_and_the_entry(folder, change, message):
    with pytest.raises(ValueError, match=rf"instances\.json: {message}"):
        CocoDataset(folder / "pictures", write(folder, broken(change)))


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "a/../../b.png", "/etc/passwd", "C:\\b.png", "..\\b.png", "\\\\host\\b.png", "a\0b"],
)
def test_file_names_may_not_leave_the_folder(folder, name):
    content = broken(lambda c: c["images"][0].update(file_name=name))
    with pytest.raises(ValueError, match=r"instances\.json: image 50: file_name .* leaves the image folder"):
        CocoDataset(folder / "pictures", write(folder, content))


@pytest.mark.parametrize(
    "points, message",
    [
        (POSE[:-3], "'keypoints' must be 17 times x, y, v, got 48 numbers"),
        (None, "'keypoints' must be .* got None"),
        ([3] * 51, "v must be 0, 1 or 2"),
    ],
)
def test_broken_keypoints(folder, points, message):
    content = broken(lambda c: c["annotations"][0].update(keypoints=points), KEYPOINTS)
    with pytest.raises(ValueError, match=rf"keypoints\.json: annotation 4: .*{message}"):
        instances, keypoints = write(folder, CONTENT), write(folder, content, "keypoints.json")
        CocoDataset(folder / "pictures", instances, keypoints)


def test_a_far_polygon_is_named_when_the_file_is_opened(folder):
    content = broken(lambda c: c["annotations"][1].update(segmentation=[[0, 0, 1e9, 0, 0, 5]]))
    with pytest.raises(ValueError, match=r"instances\.json: annotation 1: polygon reaches 1e\+09"):
        CocoDataset(folder / "pictures", write(folder, content))


def test_missing_and_foreign_files(folder):
    file = write(folder, CONTENT)
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder"):
        CocoDataset(folder / "nowhere", file)
    with pytest.raises(FileNotFoundError, match=r"none\.json: no such annotation file"):
        CocoDataset(folder / "pictures", folder / "none.json")
    with pytest.raises(ValueError, match=r"list\.json: expected an object .* got \[\]"):
        CocoDataset(folder / "pictures", write(folder, [], "list.json"))
    for content in (b"", b"{", b"\xff\xfe\x00"):
        (folder / "broken.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"broken\.json: not JSON"):
            CocoDataset(folder / "pictures", folder / "broken.json")


@pytest.fixture(scope="module", params=["train2017", "val2017"])
def real(request, coco_real) -> CocoDataset:
    return open_coco(coco_real, request.param)


def test_real_categories_have_gaps_and_round_trip(real):
    assert len(real.categories) == 80 and real.num_classes == 81
    assert real.label_of[1] == 1 and real.label_of[90] == 80 and 12 not in real.label_of
    assert {real.category_of[label] for label in real.label_of.values()} == set(real.label_of)
    assert sorted(real.category_of) == list(range(1, 81))


def test_real_samples_agree_with_pycocotools(real, capsys):
    peer = COCO(str(real.annotation_file))
    crowds = 0
    for index in range(len(real)):
        image, target = real[index]
        record = real.images[index]
        assert image.shape == (3, record.height, record.width)
        pixels = image.numpy()
        assert pixels.min() >= 0 and pixels.max() <= 1 and pixels.std() > 0.01
        annotations = peer.loadAnns(peer.getAnnIds(imgIds=record.id))
        crowds += sum(a["iscrowd"] for a in annotations)
        ordinary = [a for a in annotations if not a["iscrowd"]]
        assert target["annotation_ids"] == [a["id"] for a in ordinary] and not target["left_out"]
        assert [real.category_of[label] for label in target["labels"].tolist()] == [
            a["category_id"] for a in ordinary
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools' decode, beside numpy 2
            masks = [peer.annToMask(a).astype(bool) for a in ordinary]
        for mask, expected in zip(target["masks"].numpy(), masks, strict=True):
            np.testing.assert_array_equal(mask, expected)
        assert (target["boxes"] >= 0).all() and (target["boxes"][:, 2:] > target["boxes"][:, :2]).all()
    assert crowds > 0


def test_real_keypoints(real):
    file = real.annotation_file.with_name(real.annotation_file.name.replace("instances", "person_keypoints"))
    expected = {
        a["id"]: np.reshape(a["keypoints"], (17, 3)) for a in json.loads(file.read_text())["annotations"]
    }
    labelled = 0
    for index in range(len(real)):
        target = real.target(index)
        for id, points in zip(target["annotation_ids"], target["keypoints"].numpy(), strict=True):
            np.testing.assert_array_equal(points, expected.get(id, np.zeros((17, 3))))
            labelled += bool(points.any())
    assert labelled >= 28


def test_a_subset_keeps_its_pictures_objects(dataset):
    fewer = dataset.subset([2, 0])
    assert [record.id for record in fewer.images] == [dataset.images[i].id for i in (2, 0)]
    for mine, theirs in zip((0, 1, -1), (2, 0, 0)):
        assert fewer.target(mine)["annotation_ids"] == dataset.target(theirs)["annotation_ids"]
    assert [record.id for record in fewer.subset([1]).images] == [dataset.images[0].id]
    assert fewer.first(1).target(0)["annotation_ids"] == dataset.target(2)["annotation_ids"]


def test_pictures_with_keypoints_have_a_labelled_joint(tmp_path):
    root = write_scenes(tmp_path, train=1, val=12)
    people = open_coco(root, "val", people=True)
    expected = [i for i in range(12) if people.target(i)["keypoints"][..., 2].any()]
    assert people.with_keypoints() == expected and 0 < len(expected) < 12
    assert people.subset([*expected, 0]).with_keypoints()[: len(expected)] == list(range(len(expected)))
    assert open_coco(root, "val").with_keypoints() == expected
    (root / "annotations" / "person_keypoints_val.json").unlink()
    assert open_coco(root, "val").with_keypoints() == []


def test_no_memory_for_the_masks_of_a_picture(dataset, monkeypatch):
    def decode(*_):
        raise MemoryError

    monkeypatch.setattr("minimaskrcnn.data.coco_table.decode_row", decode)
    with pytest.raises(ValueError, match=r"instances\.json: image 50: no memory for 4 masks .*\(12, 16\).*tiles"):
        dataset[0]


def test_a_model_of_boxes_needs_no_masks(dataset):
    assert dataset.unmasked() == dataset.subset([2]).unmasked() == 1 and dataset.subset([0]).unmasked() == 0
    boxes = dataset.without_masks()
    assert boxes[2].target["annotation_ids"] == [500, 503, 504] and "masks" not in boxes[0].target
    assert boxes.skipped() == {"without area": [501], "outside the picture": [502]}
    assert boxes.unmasked() == 0 and "masks" in dataset[0].target
