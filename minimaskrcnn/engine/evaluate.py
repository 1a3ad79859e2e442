"""Evaluation: run the model over a data set and let pycocotools say what the detections are worth.

Masks go from the head's 28×28 probabilities straight to COCO's run-length code, picture by picture, so no stack
of full-size masks is ever held.  Results are COCO's own JSON; COCO's 12 numbers are means over IoU thresholds
0.50..0.95, areas and numbers of detections, and -1 where there is no ground truth to find.  For keypoints there are
10, over thresholds of object keypoint similarity.

Of several processes each runs the model on its share of the batches, and all of them return the same metrics.
"""

import contextlib
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from minimaskrcnn.data.coco import CocoDataset
from minimaskrcnn.data.loader import make_loader
from minimaskrcnn.distributed import gather_json, rank, world_size
from minimaskrcnn.markdown import table_lines
from minimaskrcnn.mask_rcnn import MaskRCNN
from minimaskrcnn.ops import paste_masks_rle
from minimaskrcnn.postprocess import Detection
from minimaskrcnn.views import ViewsConfig, detect_in_views

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
KEYPOINT_METRICS = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
Metrics = dict[str, dict[str, float]]
Result = dict[str, Any]


def to_results(
    detection: Detection,
    image_id: int,
    image_size: tuple[int, int],
    category_of: dict[int, int],
    *,
    exact_paste: bool = False,
) -> list[Result]:
    """One COCO result for each detection made with `paste=False`; labels without a category are left out.

    `exact_paste` is `MaskHeadConfig`'s.
    """
    boxes = detection["boxes"].double()
    boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
    results = [
        {"image_id": image_id, "category_id": category_of.get(label), "bbox": box, "score": score}
        for box, label, score in zip(boxes, detection["labels"].tolist(), detection["scores"].tolist())
    ]
    if "mask_probs" in detection:
        probs = detection["mask_probs"].float()
        corners = detection["boxes"].float()
        codes = paste_masks_rle(probs, corners, image_size, exact=exact_paste)
        for result, code in zip(results, codes):
            result["segmentation"] = code
    if "keypoints" in detection:
        for result, points in zip(results, detection["keypoints"].double().flatten(1).tolist()):
            result["keypoints"] = points
    return [result for result in results if result["category_id"] is not None]


def detect_all(
    model: MaskRCNN,
    dataset: CocoDataset,
    category_of: dict[int, int],
    *,
    batch_size: int,
    workers: int = 0,
    views: ViewsConfig | None = None,
) -> Iterator[list[Result]]:
    """COCO results of the whole data set, one list a batch; the model is left in evaluation mode.

    `views` turns test-time augmentation on.
    """
    model.eval()
    device = next(model.parameters()).device
    exact = model.mask_head is not None and model.mask_head.config.exact_paste
    loader = make_loader(dataset, batch_size=batch_size, workers=workers)
    for images, targets in tqdm(loader, desc="evaluate", unit="batch", disable=None, leave=False):
        with torch.no_grad():
            pictures = [image.to(device) for image in images]
            if views is None:
                detections = model(pictures, paste=False)
            else:
                detections = [detect_in_views(model, picture, views, paste=False) for picture in pictures]
        results: list[Result] = []
        for image, target, detection in zip(images, targets, detections):
            size = (image.shape[-2], image.shape[-1])
            results += to_results(detection, target["image_id"], size, category_of, exact_paste=exact)
        yield results


def coco_metrics(annotations: Path, results: list[Result], image_ids: list[int] | None = None) -> Metrics:
    """COCO's numbers, fractions: 12 for `bbox`, and for `segm`, 10 for `keypoints`, where results and annotations
    have them.

    `image_ids` restricts the evaluation.  No detection at all gives 0 (or -1 where there is no ground truth).
    """
    content = json.loads(annotations.read_bytes())
    objects = content["annotations"]
    outlined = [_without_lines(annotation) for annotation in objects]
    outlined = [annotation for annotation in outlined if annotation.get("segmentation")]
    with contextlib.redirect_stdout(io.StringIO()):
        metrics = {"bbox": _summarize(_index(content, objects), results, "bbox", image_ids)}
        if all("segmentation" in result for result in results) and (outlined or not objects):
            # Without the boxes, or pycocotools would take their areas for those of the masks.
            masks = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
            metrics["segm"] = _summarize(_index(content, outlined), masks, "segm", image_ids)
        posed = [annotation for annotation in objects if "keypoints" in annotation]
        has_joints = any("keypoints" in category for category in content["categories"])
        if all("keypoints" in result for result in results) and (posed or (not objects and has_joints)):
            metrics["keypoints"] = _summarize(_index(content, posed), results, "keypoints", image_ids)
    return metrics


def _without_lines(annotation: Result) -> Result:
    """The annotation as it is, unless pycocotools would fail on it: on a first polygon of two points, or a point."""
    parts = annotation.get("segmentation")
    if not isinstance(parts, list) or not parts or (len(parts[0]) > 4 and min(map(len, parts)) > 2):
        return annotation
    return {**annotation, "segmentation": [part for part in parts if len(part) > 4]}


def _index(content: dict[str, Any], annotations: list[Result]) -> COCO:
    """pycocotools' table of `annotations`, with the fields that it needs and a file may leave out."""
    truth = COCO()
    rows = [{**_defaults(row), **row} for row in annotations]
    truth.dataset = {"images": content["images"], "categories": content["categories"], "annotations": rows}
    truth.createIndex()
    return truth


def _defaults(row: Result) -> Result:
    points = row.get("keypoints")
    labelled = sum(v in (1, 2) for v in points[2::3]) if isinstance(points, list) else 0
    return {"iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3], "num_keypoints": labelled}


def _summarize(
    truth: COCO, results: list[Result], kind: str, image_ids: list[int] | None
) -> dict[str, float]:
    # loadRes cannot take an empty list, and writes into the results that it is given.
    found = truth.loadRes([dict(result) for result in results]) if results else _index(truth.dataset, [])
    evaluation = COCOeval(truth, found, kind)
    if image_ids is not None:
        evaluation.params.imgIds = sorted(image_ids)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    names = KEYPOINT_METRICS if kind == "keypoints" else METRICS
    return dict(zip(names, (float(value) for value in evaluation.stats)))


def evaluate_dataset(
    model: MaskRCNN,
    dataset: CocoDataset,
    *,
    category_of: dict[int, int] | None = None,
    batch_size: int = 8,
    workers: int = 0,
    views: ViewsConfig | None = None,
) -> tuple[Metrics, list[Result]]:
    """Metrics and COCO results of `model` on `dataset`; `category_of` maps labels where the model's own differ.

    `views` turns test-time augmentation on (`views.py`).
    """
    mapping = dataset.category_of if category_of is None else category_of
    mine = dataset.subset(shared_pictures(len(dataset), batch_size))
    # The batches themselves are those of one process: a picture's padding is its batch's.
    batches = list(detect_all(model, mine, mapping, batch_size=batch_size, workers=workers, views=views))
    results = in_turn(gather_json(batches))
    image_ids = [record.id for record in dataset.images]
    metrics = {}
    if rank() == 0:
        metrics = coco_metrics(dataset.annotation_file, results, image_ids)
    metrics = gather_json(metrics)[0]
    # Without any detection nothing tells which heads there are.
    for kind, head in (("segm", model.mask_head), ("keypoints", model.keypoint_head)):
        if head is None:
            metrics.pop(kind, None)
    return metrics, results


def shared_pictures(count: int, batch_size: int) -> list[int]:
    """The pictures of this process: every batch of `batch_size` is one process's, in turn."""
    batches = [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    return [index for batch in batches[rank() :: world_size()] for index in batch]


def in_turn(shares: list[list[list[Result]]]) -> list[Result]:
    """The results of all processes' batches in the order of the data set."""
    rounds = itertools.zip_longest(*shares, fillvalue=[])
    return [result for one_round in rounds for batch in one_round for result in batch]


def format_metrics(metrics: Metrics) -> str:
    """A table in Markdown, one row a kind, in percent to one decimal; keypoints, of other numbers, have their own."""
    tables: dict[tuple[str, ...], list[list[str]]] = {}
    for kind, values in metrics.items():
        rows = tables.setdefault(tuple(values), [["", *values]])
        rows.append([kind, *(f"{100 * value:.1f}" if value >= 0 else "–" for value in values.values())])
    return "\n\n".join("\n".join(table_lines(rows)) for rows in tables.values())
