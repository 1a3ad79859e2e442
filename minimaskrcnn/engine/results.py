"""Evaluation of a file of results in COCO's format, without a model.

The numbers are those that pycocotools alone gives on that file: for boxes where the results have `bbox`, for masks
where they have `segmentation`, for people where they have `keypoints`.  Where they have boxes as well as masks, the
masks' own areas decide which are small, as if the boxes were not in the file.  pycocotools itself fails on a broken
file in many ways, one of them a read past the end of a string; so every row is checked first.
"""

from pathlib import Path
from reprlib import repr as short
from typing import Any

from pycocotools import mask as coco_mask

from minimaskrcnn.data.coco import parse_content
from minimaskrcnn.data.coco_json import Entry, entries, finite, integer, load_json, parse_box, read_json
from minimaskrcnn.data.coco_table import without_outline
from minimaskrcnn.data.commands import unmasked_line
from minimaskrcnn.data.keypoints import NUM_KEYPOINTS, parse_keypoints
from minimaskrcnn.data.segmentation import parse_field, parse_segmentation
from minimaskrcnn.data.transforms import ImageSize
from minimaskrcnn.engine.evaluate import Metrics, Result, coco_metrics, format_metrics
from minimaskrcnn.files import write_json

KIND_OF = {"bbox": "bbox", "segmentation": "segm", "keypoints": "keypoints"}  # field -> kind of evaluation
INTEGERS = ("id", "image_id", "category_id", "height", "width")


def evaluate_file(
    results: Path, out: Path, annotations: Path | None, data: str | None, split: str | None
) -> None:
    """The command `evaluate --results`: prints COCO's numbers and writes `out/metrics.json`.

    Compared with `annotations`, or with the file of a split of `data` that has what the results have.
    """
    if (annotations is None) == (data is None):
        raise ValueError("give --data DIR or --annotations FILE")
    if annotations is None:
        rows = read_results(results)
        people = bool(rows) and all(isinstance(row, dict) and "keypoints" in row for row in rows)
        kind = "person_keypoints" if people else "instances"
        splits = [split] if split else ["val2017", "val"]
        files = [Path(data) / "annotations" / f"{kind}_{name}.json" for name in splits]
        annotations = next((file for file in files if file.is_file()), files[0])
    metrics = evaluate_results(results, annotations)
    write_json(out / "metrics.json", metrics)
    print(format_metrics(metrics))
    print(f"Written: {out / 'metrics.json'}")


def read_results(file: Path) -> list[Any]:
    """The list in a file of results, unchecked.  FileNotFoundError; ValueError for what is no list in JSON."""
    content = load_json(file, "file of results")
    if not isinstance(content, list):
        raise ValueError(f"{file}: expected a list of results, got {short(content)}")
    return content


def evaluate_results(file: Path, annotations: Path) -> Metrics:
    """COCO's numbers of the results in `file`; ValueError names the file and the row that is not COCO's.

    Prints a line on objects without a mask, where others have one.
    """
    rows = read_results(file)
    content = read_json(annotations)
    _, images, table = parse_content(annotations, _as_pycocotools_reads(content))
    sizes = {record.id: (record.height, record.width) for record in images}
    results: list[Result] = []
    for position, row in enumerate(rows):
        try:
            results.append(_parse(row, sizes))
            if results[-1].keys() != results[0].keys():
                first = sorted(KIND_OF.keys() & results[0].keys())
                raise ValueError(f"it has {sorted(KIND_OF.keys() & results[-1].keys())}, row 0 has {first}")
        except ValueError as error:
            raise ValueError(f"{file}: row {position}: {error}") from None
    if results and "keypoints" in results[0]:
        _check_joints(annotations, content)
    metrics = coco_metrics(annotations, results)
    given = {kind for field, kind in KIND_OF.items() if not results or field in results[0]}
    metrics = {kind: numbers for kind, numbers in metrics.items() if kind in given}
    unmasked = int(without_outline(table).sum())
    if "segm" in metrics and unmasked:
        print(unmasked_line(annotations, unmasked))
    if not metrics:
        raise ValueError(f"{annotations}: nothing in it to compare {sorted(given)} of {file} with")
    return metrics


def _as_pycocotools_reads(content: Entry) -> Entry:
    """The content without names of pictures and categories, which nothing here reads, and with 1 for an id of 1.0."""
    unused = {"images": {"file_name": "unread"}, "categories": {"name": "unread"}, "annotations": {}}
    lists = {key: content[key] for key in unused if isinstance(content.get(key), list)}
    return content | {
        key: [{**_whole(entry), **unused[key]} if isinstance(entry, dict) else entry for entry in entries]
        for key, entries in lists.items()
    }


def _whole(entry: Entry) -> Entry:
    """The entry, its integers that are written as floats as integers."""
    written = {key: entry[key] for key in INTEGERS if isinstance(entry.get(key), float)}
    return {**entry, **{key: int(value) for key, value in written.items() if value.is_integer()}}


def _check_joints(annotations: Path, content: Entry) -> None:
    """ValueError for keypoints of the ground truth that are not COCO's."""
    for entry in entries(annotations, content, "annotations"):
        try:
            if "keypoints" in entry:
                parse_keypoints(entry)
        except ValueError as error:
            raise ValueError(f"{annotations}: annotation {entry['id']}: {error}") from None


def _parse(row: Any, sizes: dict[int, ImageSize]) -> Result:
    if not isinstance(row, dict):
        raise ValueError(f"a result must be an object, got {short(row)}")
    row = _whole(row)
    image_id = integer(row, "image_id")
    if image_id not in sizes:
        raise ValueError(f"no image has its image_id {image_id}")
    score = row.get("score")
    if isinstance(score, bool) or not finite(score):
        raise ValueError(f"'score' must be a finite number, got {short(score)}")
    result: Result = {"image_id": image_id, "category_id": integer(row, "category_id"), "score": score}
    if not KIND_OF.keys() & row.keys():
        raise ValueError("it has no 'bbox', 'segmentation' or 'keypoints'")
    if "bbox" in row:
        result["bbox"] = parse_box(row).tolist()
    if "segmentation" in row:
        result["segmentation"] = _parse_mask(row, sizes[image_id])
    if "keypoints" in row:
        meaning = f"{NUM_KEYPOINTS} times x, y, v"
        result["keypoints"] = parse_field(row, "keypoints", 3 * NUM_KEYPOINTS, meaning).tolist()
    return result


def _parse_mask(row: Entry, image_size: ImageSize) -> Any:
    """Compressed run lengths, which is the one form that pycocotools takes as a result."""
    code = row["segmentation"]
    if not isinstance(code, dict):
        raise ValueError(f"'segmentation' of a result must be run lengths, got {short(code)}")
    runs = parse_segmentation(code, image_size).parts[0]
    if isinstance(code["counts"], str):
        return code
    return coco_mask.frPyObjects({"size": list(image_size), "counts": runs.astype(int).tolist()}, *image_size)
