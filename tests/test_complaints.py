"""What users of detection systems complain of, in data, training and evaluation: each stays a thing of the past.

The numbers are those of the project's list of 15 complaints.  Numbers 1, 7 and 15 (training that repeats itself,
bfloat16, resume) are tests of these names in `test_engine_train.py`; 4, 6, 9 and 14 are of operations.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import random_image, random_target, tiny_config, tiny_model, with_keypoints
from PIL import Image
from pycocotools import mask as coco_mask

from minimaskrcnn.data.coco import CocoDataset
from minimaskrcnn.engine.evaluate import coco_metrics, evaluate_dataset
from minimaskrcnn.engine.train import TrainConfig, training_step
from minimaskrcnn.mask_rcnn import MaskRCNN

H, W = 48, 64
SQUARE = [[4, 4, 20, 4, 20, 20, 4, 20]]


def annotation(id: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": id,
        "image_id": 1,
        "category_id": 1,
        "bbox": [4, 4, 16, 16],
        "segmentation": SQUARE,
        **fields,
    }


def open_scene(
    folder: Path, *annotations: dict[str, Any], categories: tuple[int, ...] = (1,), **options: Any
):
    """One picture of noise, 48 × 64, with these objects."""
    Image.effect_noise((W, H), 99).convert("RGB").save(folder / "1.png")
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": H, "width": W}],
        "annotations": list(annotations),
        "categories": [{"id": id, "name": str(id), "keypoints": ["joint"] * 17} for id in categories],
    }
    file = folder / "all.json"
    file.write_text(json.dumps(content))
    return CocoDataset(folder, file, file if options.get("keypoints") else None)


def losses_of(model: MaskRCNN, *samples: Any) -> dict[str, float]:
    """Of one step; each finite, or `training_step` raises."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    images, targets = [sample[0] for sample in samples], [sample[1] for sample in samples]
    losses = training_step(
        model, optimizer, images, targets, 0, TrainConfig(steps=1, warmup_steps=0, lr=1e-3)
    )
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    return {name: loss.item() for name, loss in losses.items()}


@pytest.mark.parametrize(
    "box",
    [[4, 4, 0, 9], [4, 4, -9, 9], [4, 4, 1e-7, 9], [4, 4, 9, 1e-30], [63.9999999, 4, 5, 5], [-9, 4, 9, 5]],
)
def test_complaint_02_degenerate_boxes_give_no_nan_loss(tmp_path, box):
    """Complaint 2: NaN loss from degenerate boxes.  They are skipped, counted, and the loss is finite."""
    dataset = open_scene(tmp_path, annotation(1), annotation(2, bbox=box))
    assert [id for ids in dataset.skipped().values() for id in ids] == [2]
    assert dataset[0].target["annotation_ids"] == [1]
    losses_of(tiny_model(2), dataset[0])
    # Given to the model by hand, one is refused by name.
    target = dict(dataset[0].target)
    x, y, w, h = torch.tensor(box).tolist()
    target["boxes"] = torch.tensor([[x, y, x + min(w, 0), y + h]], dtype=torch.float32)
    with pytest.raises(ValueError, match="box 0 needs finite x1 < x2"):
        losses_of(tiny_model(2), (dataset[0].image, target))


def test_complaint_02_the_smallest_box_that_trains_gives_a_finite_loss(tmp_path):
    """Complaint 2: a box of a 64th of a pixel far from the corner is the worst that is let through."""
    dataset = open_scene(tmp_path, annotation(1, bbox=[50, 30, 1 / 64, 1 / 64]))
    assert not dataset.skipped()
    losses_of(tiny_model(2), dataset[0])


def test_complaint_03_images_without_objects_train(tmp_path):
    """Complaint 3: images without objects, alone in a batch and beside one with objects."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    empty = open_scene(tmp_path / "empty")[0]
    full = open_scene(tmp_path / "full", annotation(1))[0]
    assert empty.target["boxes"].shape == (0, 4) and empty.target["masks"].shape == (0, H, W)
    alone = losses_of(tiny_model(2), empty, empty)
    assert (
        alone["loss_mask"]
        == alone["loss_box_reg"]
        == alone["loss_rpn_box_reg"]
        == 0
        < alone["loss_objectness"]
    )
    beside = losses_of(tiny_model(2), empty, full)
    assert beside["loss_mask"] > 0


def test_complaint_05_five_hundred_objects_train():
    """Complaint 5: memory that explodes with many ground truths (`test_ops_match_boxes.py` measures it)."""
    image, target = random_image(H, W), random_target(H, W, 500, num_classes=2)
    del target["keypoints"]
    losses_of(tiny_model(2), (image, target))


PASTE = """
import resource, torch
from minimaskrcnn.engine.evaluate import to_results
torch.set_num_threads(1)
def found(n, high, wide):
    corner = torch.rand(n, 2) * torch.tensor([wide / 2, high / 2])
    boxes = torch.cat([corner, corner + torch.tensor([wide / 2, high / 2])], 1)
    detection = {"boxes": boxes, "labels": torch.ones(n, dtype=torch.int64), "scores": torch.rand(n)}
    return to_results({**detection, "mask_probs": torch.rand(n, 28, 28)}, 1, (high, wide), {1: 1})
found(2, 40, 60)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert len(found(100, 2000, 3000)) == 100
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_complaint_08_a_hundred_masks_of_a_large_picture_fit():
    """Complaint 8: mask pasting memory.  100 masks of 2000 × 3000 are 572 MiB as bytes, and 2.2 GiB as float32."""
    run = subprocess.run([sys.executable, "-c", PASTE], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 200


def test_complaint_10_evaluation_survives_zero_detections(tmp_path):
    """Complaint 10: evaluation crashes with zero detections."""
    dataset = open_scene(tmp_path, annotation(1))
    model = tiny_model(2)
    with torch.no_grad():
        model.box_head.classifier.weight.zero_()
        model.box_head.classifier.bias.copy_(torch.tensor([50.0, -50.0]))
    metrics, results = evaluate_dataset(model, dataset)
    assert results == [] and metrics["bbox"]["AP"] == metrics["segm"]["AP"] == 0
    nothing_there = open_scene(tmp_path)
    assert evaluate_dataset(model, nothing_there)[0]["bbox"]["AP"] == -1


def test_complaint_11_category_ids_with_gaps(tmp_path):
    """Complaint 11: category ids with gaps, as COCO's 1..90: labels without, results with the file's own ids."""
    dataset = open_scene(
        tmp_path, annotation(1, category_id=90), annotation(2, category_id=7), categories=(90, 1, 7)
    )
    assert dataset[0].target["labels"].tolist() == [3, 2] and dataset.num_classes == 4
    found = [{"image_id": 1, "category_id": dataset.category_of[3], "bbox": [4, 4, 16, 16], "score": 1.0}]
    # Perfect for one of the two categories that occur; the third counts nowhere.
    assert coco_metrics(dataset.annotation_file, found)["bbox"]["AP"] == pytest.approx(0.5)


def test_complaint_12_crowds_and_every_form_of_segmentation(tmp_path):
    """Complaint 12: polygons and both kinds of RLE give one mask; a crowd is neither trained nor counted."""
    mask = np.zeros((H, W), np.uint8)
    mask[4:20, 4:20] = 1
    code = coco_mask.encode(np.asfortranarray(mask))
    runs = [4 * H + 4, *[16, H - 16] * 15, 16, H * W - 19 * H - 20]
    forms = [SQUARE, {"size": [H, W], "counts": runs}, {"size": [H, W], "counts": code["counts"].decode()}]
    crowd = {"size": [H, W], "counts": [H * W // 2, H * W // 2]}
    dataset = open_scene(
        tmp_path,
        *(annotation(k, segmentation=form) for k, form in enumerate(forms, start=1)),
        annotation(9, segmentation=crowd, bbox=[W // 2, 0, W // 2, H], iscrowd=1),
    )
    target = dataset[0].target
    assert target["annotation_ids"] == [1, 2, 3] and not dataset.skipped()
    for found in target["masks"].numpy():
        np.testing.assert_array_equal(found, mask.astype(bool))
    # Four false positives inside the crowd region cost nothing.
    row = {"image_id": 1, "category_id": 1, "bbox": [4, 4, 16, 16], "score": 0.5}
    inside = [{**row, "bbox": [40 + k, 10, 9, 9], "score": 0.9} for k in range(4)]
    assert coco_metrics(dataset.annotation_file, [row] * 3 + inside)["bbox"]["AP"] == pytest.approx(1)


@pytest.mark.parametrize("v, trained", [(0, False), (1, True), (2, True)])
def test_complaint_13_keypoint_visibility_flags(tmp_path, v, trained):
    """Complaint 13: v = 0 is no joint wherever it lies, 1 (hidden) and 2 (visible) are trained on alike."""
    dataset = open_scene(tmp_path, annotation(1, keypoints=[9, 9, v] * 17), keypoints=True)
    points = dataset[0].target["keypoints"]
    assert points[0].tolist() == [[9, 9, v] if v else [0, 0, 0]] * 17
    assert dataset.with_keypoints() == ([0] if trained else [])
    torch.manual_seed(0)
    losses = losses_of(MaskRCNN(with_keypoints(tiny_config(2))), dataset[0])
    assert (losses["loss_keypoint"] > 0) == trained
