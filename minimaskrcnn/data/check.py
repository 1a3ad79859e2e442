"""What is wrong with a data set in COCO's format: every finding at once, not only the first.

| finding | level |
|---|---|
| no images or no categories | error |
| file missing, not JSON, not UTF-8, nested too deeply, not COCO's lists of objects | error |
| field missing or of another type; number NaN, infinite, or over 64 bits | error |
| duplicate id of an image, a category, an annotation: which one is meant? | error |
| annotation of an unknown image or category: the label would be a guess | error |
| file name that leaves the folder | error |
| picture missing, empty, cut short, of another size, or over Pillow's limit (a decompression bomb) | error |
| polygon with an odd count, or too far away to be rasterised | error |
| run lengths that do not decode, or are of another size than the picture | error |
| keypoints file: the wrong length, v not 0, 1 or 2, or more than a million pixels away | error |
| keypoints file: an annotation that the instances have in another picture | error |
| box of zero or negative extent, or wholly outside of the picture | skipped |
| no mask in a file that has masks, or no mask pixel inside the picture | skipped |
| box that leaves the picture by more than a pixel: cut to the picture | warning |
| polygon of under 6 numbers: dropped, the object's others count | warning |
| box of an IoU under a half with the extent of its polygons, or that is their two corners | warning |
| picture whose masks take over 8 GiB of memory together | warning |
| polygon of up to 5,000 points that crosses itself: rasterised even-odd, as pycocotools does | warning |
| labelled keypoint outside the picture: it is in no RoI, so it is not trained on | warning |
| two images with one file name; keypoints that only some annotations of a file have | warning |
| annotation id 0: evaluation by pycocotools takes it for no match | warning |
| keypoints of another length, or v, in a file that need not have them: for no keypoint model | warning |
| no object has a segmentation: for a model of boxes only | warning |
| keypoints of a split without its instances: it opens for keypoint models only | warning |

At an *error* training stops, where it opens the file or reads the picture.  A *skipped* object is in no sample;
`train` counts these in one line and `train --strict` stops.  A *warning* changes nothing: the file may say what is
meant.  Crowd regions are never trained on; they are checked for errors.

The entries are read by the functions that open a file for training, so what has no error here opens there.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from reprlib import repr as short
from typing import Any

from minimaskrcnn.data import coco_json
from minimaskrcnn.data.check_table import Finding, Level, check_table
from minimaskrcnn.data.coco_json import UNKNOWN_SIZE, Annotation, Category, Entry, ImageRecord, Known
from minimaskrcnn.data.coco_table import image_ids_of, make_table
from minimaskrcnn.data.keypoints import parse_keypoints
from minimaskrcnn.data.pictures import read_image
from minimaskrcnn.data.segmentation import parse_segmentation
from minimaskrcnn.data.transforms import ImageSize

Sized = tuple[Path, int, int]  # a picture that was read already, with its (height, width)
Problems = list[tuple[Level, str]]  # of one entry


def check_folder(root: Path, split: str | None = None, *, pictures: bool = True) -> Iterator[Finding]:
    """All findings of a folder in COCO's layout: of one split, or of every one that has an annotation file."""
    folder = root / "annotations"
    names = ("instances", "person_keypoints")
    files = [(name, file) for name in names for file in folder.glob(f"{name}_*.json") if file.exists()]
    found = {file.stem.removeprefix(f"{name}_") for name, file in files}
    if not found or split not in {None, *found}:
        wanted = f"instances_{split or '*'}.json"
        yield Finding("error", root, None, None, f"no annotations/{wanted}: not a folder in COCO's layout")
    for each in sorted(found if split is None else found & {split}):
        instances, posed = (folder / f"{name}_{each}.json" for name in names)
        seen: set[Sized] = set()
        image_ids: dict[int, int] = {}
        if instances.exists():
            yield from check_files(root / each, instances, pictures=pictures, seen=seen, image_ids=image_ids)
        else:
            yield Finding("warning", posed, None, None, f"no {instances.name}: for a keypoint model only")
        if posed.exists():
            yield from check_files(
                root / each, posed, keypoints=True, pictures=pictures, seen=seen, image_ids=image_ids
            )


def check_files(
    folder: Path,
    file: Path,
    *,
    keypoints: bool = False,
    pictures: bool = True,
    seen: set[Sized] | None = None,
    image_ids: dict[int, int] | None = None,
) -> Iterator[Finding]:
    """All findings of a folder of pictures and an annotation file.

    `keypoints` says that every annotation must have them.  `seen` are pictures that need not be read again.
    `image_ids`, by annotation, are those that keypoints must have; without `keypoints` the file's are put there.
    """
    if not folder.is_dir():
        yield Finding("error", folder, None, None, "no such folder of pictures")
    try:
        content = coco_json.read_json(file)
    except (ValueError, OSError) as error:
        yield Finding("error", file, None, None, str(error).removeprefix(f"{file}: "))
        return
    categories: list[Category] = []
    yield from _check_list(file, content, "category", _read_category, categories)
    images: list[ImageRecord] = []
    yield from _check_list(file, content, "image", _read_image, images)
    yield from _check_file_names(file, images)
    known = coco_json.known_to(images, categories, image_ids if keypoints else None)
    without_keypoints: Level | None = "warning" if _have_keypoints(content) else None
    read = partial(_read_annotation, known, "error" if keypoints else without_keypoints)
    rows: list[Annotation] = []
    yield from _check_list(file, content, "annotation", read, rows)
    del content
    table = make_table(rows, len(images))
    del rows
    if not keypoints and image_ids is not None:
        image_ids.update(image_ids_of(table, images))
    yield from check_table(file, table, images)
    if pictures and folder.is_dir():
        yield from _check_pictures(folder, images, set() if seen is None else seen)


def _have_keypoints(content: Entry) -> bool:
    """Whether some annotation has keypoints: then all should."""
    found = content.get("annotations")
    return isinstance(found, list) and any(isinstance(entry, dict) and "keypoints" in entry for entry in found)


def _check_list(
    file: Path, content: Entry, what: str, read: Callable[[Entry, Problems], Any], good: list[Any]
) -> Iterator[Finding]:
    """Findings of a list's entries; `good` gets what `read` returns, unless it is None."""
    key = "categories" if what == "category" else f"{what}s"
    found = content.get(key)
    if not isinstance(found, list):
        yield Finding("error", file, None, None, f"{key!r} must be a list of objects, got {short(found)}")
        return
    if not found and what != "annotation":
        yield Finding("error", file, None, None, f"no {key}: nothing to train on")
    ids: list[int] = []
    for position, entry in enumerate(found):
        if not isinstance(entry, dict):
            sentence = f"{key!r} must be a list of objects, entry {position} is {short(entry)}"
            yield Finding("error", file, None, None, sentence)
            continue
        id = _integer_or_none(entry, "id")
        if id is not None:
            ids.append(id)
        problems: Problems = []
        record = read(entry, problems)
        if record is not None:
            good.append(record)
        at = "" if id is not None and what != "category" else f"{what} at position {position}: "
        for level, sentence in problems:
            yield Finding(level, file, *_place(what, id, _integer_or_none(entry, "image_id")), at + sentence)
    for id in coco_json.repeated(ids):
        yield Finding("error", file, *_place(what, id), f"{what} id {short(id)} occurs more than once")


def _place(what: str, id: int | None, image_id: int | None = None) -> tuple[int | None, int | None]:
    """The ids of image and annotation in a finding about an entry."""
    return {"category": (None, None), "image": (id, None), "annotation": (image_id, id)}[what]


def _attempt(problems: Problems, parse: Callable[..., Any], *arguments: Any, default: Any = None) -> Any:
    """What `parse` reads; where it cannot, the default, and one more error in `problems`."""
    try:
        return parse(*arguments)
    except ValueError as error:
        problems.append(("error", str(error)))
        return default


def _read_category(entry: Entry, problems: Problems) -> Category | None:
    """The category with what can be read of it, if it has an id."""
    id = _attempt(problems, coco_json.integer, entry, "id")
    name = _attempt(problems, coco_json.text, entry, "name", default="")
    return None if id is None else Category(id, name)


def _read_image(entry: Entry, problems: Problems) -> ImageRecord | None:
    """The picture with what can be read of it, if it has an id; a name that cannot be used is empty."""
    id = _attempt(problems, coco_json.integer, entry, "id")
    name = _attempt(problems, coco_json.parse_file_name, entry, default="")
    size = _attempt(problems, coco_json.parse_size, entry, default=UNKNOWN_SIZE)
    return None if id is None else ImageRecord(id, name, *size)


def _read_annotation(known: Known, level: Level | None, entry: Entry, problems: Problems) -> Annotation | None:
    """The annotation if it opens; `level` is of what has no keypoints, None where that is no finding."""
    id = _attempt(problems, coco_json.integer, entry, "id")
    image = _attempt(problems, coco_json.known_image, entry, known)
    category_id = _attempt(problems, coco_json.known_category, entry, known)
    crowd = _attempt(problems, coco_json.parse_crowd, entry)
    bbox = _attempt(problems, coco_json.parse_box, entry)
    _attempt(problems, coco_json.parse_area, entry)
    size = UNKNOWN_SIZE if image is None else known.sizes[image]
    segmentation = None
    if size != UNKNOWN_SIZE:  # run lengths need it
        segmentation = _attempt(problems, parse_segmentation, entry.get("segmentation"), size)
    opens = segmentation is not None and not problems
    problems.extend(_keypoint_problems(entry, known, level, size))
    if id == 0:
        sentence = "pycocotools takes id 0 for no match: whatever finds this object counts as wrong"
        problems.append(("warning", sentence))
    outline = entry.get("segmentation")
    for part in outline if isinstance(outline, list) else []:
        if isinstance(part, list) and len(part) in (0, 2, 4):
            problems.append(("warning", f"a polygon of {len(part)} numbers encloses nothing and is dropped"))
    return Annotation(id, image, category_id, crowd, bbox, segmentation) if opens else None


def _keypoint_problems(entry: Entry, known: Known, level: Level | None, size: ImageSize) -> Problems:
    """Of an entry's keypoints; nothing where there are none and `level` is None."""
    if "keypoints" not in entry and level is None:
        return []
    unusable = "" if level == "error" else ": a keypoint model cannot train on this file"
    if "keypoints" not in entry and level == "warning":
        return [(level, f"no keypoints, which others have{unusable}")]
    try:
        coco_json.check_image_id(entry, known.image_ids)
        points = parse_keypoints(entry)
    except ValueError as error:
        return [(level, f"{error}{unusable}")]
    x, y, v = points.T
    outside = (v > 0) & ~((x >= 0) & (y >= 0) & (x <= size[1]) & (y <= size[0]))
    if size == UNKNOWN_SIZE or not outside.any():
        return []
    x, y, _ = points[outside][0].tolist()
    return [("warning", f"{outside.sum()} labelled keypoints outside the picture, the first at ({x:g}, {y:g})")]


def _integer_or_none(entry: Entry, key: str) -> int | None:
    value = entry.get(key)
    return value if type(value) is int else None


def _check_file_names(file: Path, images: list[ImageRecord]) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for record in images:
        if not record.file_name:
            continue
        other = first.setdefault(record.file_name, record.id)
        if other != record.id:
            sentence = f"the same file as image {other}: {record.file_name!r}"
            yield Finding("warning", file, record.id, None, sentence)


def _check_pictures(folder: Path, images: Iterable[ImageRecord], seen: set[Sized]) -> Iterator[Finding]:
    """Every picture is read as training reads it."""
    for record in images:
        path = folder / record.file_name
        size = (record.height, record.width)
        if not record.file_name or size == UNKNOWN_SIZE or (path, *size) in seen:
            continue
        seen.add((path, *size))
        try:
            read_image(path, size)
        except (ValueError, OSError) as error:
            yield Finding("error", path, record.id, None, str(error).removeprefix(f"{path}: "))
