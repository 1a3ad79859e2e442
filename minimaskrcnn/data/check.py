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
from pathlib import Path
from reprlib import repr as short
from typing import Any

from minimaskrcnn.data import coco_json
from minimaskrcnn.data.check_annotations import (
    Finding,
    check_annotations,
    check_table,
    integer_or_none,
    objects,
)
from minimaskrcnn.data.coco_json import Annotation, Category, Entry, ImageRecord
from minimaskrcnn.data.coco_table import image_ids_of, make_table
from minimaskrcnn.data.pictures import read_image

Sized = tuple[Path, int, int]  # a picture that was read already, with its (height, width)


def check_folder(root: Path, split: str | None = None, *, pictures: bool = True) -> Iterator[Finding]:
    """All findings of a folder in COCO's layout: of one split, or of every one that has an annotation file."""
    folder = root / "annotations"
    names = ("instances", "person_keypoints")
    found = {file.stem.removeprefix(f"{name}_") for name in names for file in folder.glob(f"{name}_*.json")}
    splits = [split] if split else sorted(found)
    files = [(name, each) for each in splits for name in names if (folder / f"{name}_{each}.json").exists()]
    if not files:
        wanted = f"instances_{split or '*'}.json"
        yield Finding("error", root, None, None, f"no annotations/{wanted}: not a folder in COCO's layout")
    seen: set[Sized] = set()
    image_ids: dict[str, dict[int, int]] = {each: {} for each in splits}
    for name, each in files:
        file = folder / f"{name}_{each}.json"
        keypoints = name == "person_keypoints"
        if keypoints and ("instances", each) not in files:
            yield Finding("warning", file, None, None, f"no instances_{each}.json: for a keypoint model only")
        options: dict[str, Any] = {"keypoints": keypoints, "pictures": pictures, "image_ids": image_ids[each]}
        yield from check_files(root / each, file, seen=seen, **options)


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
    images: list[ImageRecord] = []
    yield from _check_list(file, content, "categories", "category", _read_category, categories)
    yield from _check_list(file, content, "images", "image", _read_image, images)
    yield from _check_file_names(file, images)
    known = coco_json.known_to(images, categories, image_ids if keypoints else None)
    rows: list[Annotation] = []
    yield from check_annotations(file, content, known, keypoints, rows)
    del content
    table = make_table(rows, len(images))
    del rows
    if not keypoints and image_ids is not None:
        image_ids.update(image_ids_of(table, images))
    yield from check_table(file, table, images)
    if pictures and folder.is_dir():
        yield from _check_pictures(folder, images, set() if seen is None else seen)


def _check_list(
    file: Path, content: Entry, key: str, what: str, read: Callable[[Entry, list[str]], Any], known: list[Any]
) -> Iterator[Finding]:
    """Findings of categories or images; those with an id, which annotations may refer to, are appended to `known`."""
    ids: list[int] = []
    if content.get(key) == []:
        yield Finding("error", file, None, None, f"no {key}: nothing to train on")
    for item in objects(file, content, key):
        if isinstance(item, Finding):
            yield item
            continue
        position, entry = item
        id = integer_or_none(entry)
        if id is not None:
            ids.append(id)
        problems: list[str] = []
        record = read(entry, problems)
        if record.id is not None:
            known.append(record)
        for problem in problems:
            image_id = id if what == "image" else None
            sentence = problem if image_id is not None else f"{what} at position {position}: {problem}"
            yield Finding("error", file, image_id, None, sentence)
    for id in coco_json.repeated(ids):
        image_id = id if what == "image" else None
        yield Finding("error", file, image_id, None, f"{what} id {short(id)} occurs more than once")


def _or_problem(parse: Callable[..., Any], entry: Entry, *key: str, problems: list[str], default: Any = None) -> Any:
    """What `parse` reads; where it cannot, the default, and one more sentence in `problems`."""
    try:
        return parse(entry, *key)
    except ValueError as error:
        problems.append(str(error))
        return default


def _read_category(entry: Entry, problems: list[str]) -> Category:
    """The category with what can be read of it."""
    id = _or_problem(coco_json.integer, entry, "id", problems=problems)
    return Category(id, _or_problem(coco_json.text, entry, "name", problems=problems, default=""))


def _read_image(entry: Entry, problems: list[str]) -> ImageRecord:
    """The picture with what can be read of it; a name that cannot be used is empty."""
    id = _or_problem(coco_json.integer, entry, "id", problems=problems)
    name = _or_problem(coco_json.parse_file_name, entry, problems=problems, default="")
    size = _or_problem(coco_json.parse_size, entry, problems=problems, default=coco_json.UNKNOWN_SIZE)
    return ImageRecord(id, name, *size)


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
        path, size = folder / record.file_name, (record.height, record.width)
        if not record.file_name or size == coco_json.UNKNOWN_SIZE or (path, *size) in seen:
            continue
        seen.add((path, *size))
        try:
            read_image(path, size)
        except (ValueError, OSError) as error:
            yield Finding("error", path, record.id, None, str(error).removeprefix(f"{path}: "))
