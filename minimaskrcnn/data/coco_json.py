"""Reading COCO's JSON: each entry checked, with a sentence for whatever is not COCO's.

`coco.py` opens a file with these functions and stops at the first sentence; `check.py` goes on and lists all.
What a number means for training (an object without area, a box outside) is decided in `coco_table.py`.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path, PureWindowsPath
from reprlib import repr as short
from typing import Any, NamedTuple

import numpy as np

from minimaskrcnn.data.pictures import most_pixels
from minimaskrcnn.data.segmentation import Segmentation, parse_field, parse_segmentation
from minimaskrcnn.data.transforms import ImageSize

Entry = dict[str, Any]
UNKNOWN_SIZE: ImageSize = (0, 0)  # of a listed picture whose size is no size; `check.py` alone goes on with it


class Category(NamedTuple):
    """One class of objects, with the id that the annotation file gives it."""

    id: int
    name: str


class ImageRecord(NamedTuple):
    """One picture as the annotation file lists it."""

    id: int
    file_name: str
    height: int
    width: int


class Annotation(NamedTuple):
    """One object of the annotation file, checked."""

    id: int
    image: int  # index into the list of records
    category_id: int
    crowd: bool
    bbox: np.ndarray  # float64 [4]: x, y, width, height
    segmentation: Segmentation


class Known(NamedTuple):
    """What annotations may refer to."""

    index_of: dict[int, int]  # image id -> index
    sizes: list[ImageSize]
    category_ids: set[int]
    image_ids: dict[int, int]  # of keypoints: by annotation id, as the instances have it


def known_to(
    images: Iterable[ImageRecord], categories: Iterable[Category], image_ids: dict[int, int] | None = None
) -> Known:
    """The ids of these pictures and categories."""
    images = list(images)
    index_of = {record.id: index for index, record in enumerate(images)}
    sizes = [(record.height, record.width) for record in images]
    return Known(index_of, sizes, {category.id for category in categories}, image_ids or {})


def load_json(file: Path, kind: str) -> Any:
    """What is in a JSON file, a `kind` of file.  FileNotFoundError without it; ValueError for what is no JSON."""
    if file.exists() and not file.is_file():  # a pipe could be read forever
        raise ValueError(f"{file}: not a file")
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{file}: no such {kind}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not JSON in UTF-8: {error}") from None
    except ValueError as error:
        raise ValueError(f"{file}: not JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"{file}: nested too deeply to be read") from None


def read_json(file: Path) -> Entry:
    """The object in an annotation file.  FileNotFoundError without the file; ValueError for no JSON, or no object."""
    content = load_json(file, "annotation file")
    if not isinstance(content, dict):
        raise ValueError(
            f"{file}: expected an object with images, annotations and categories, got {short(content)}"
        )
    return content


def entries(file: Path, content: Entry, key: str) -> list[Entry]:
    """The list of objects under `key`; ValueError for anything else."""
    found = content.get(key)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ValueError(f"{file}: {key!r} must be a list of objects, got {short(found)}")
    return found


def read_all(file: Path, content: Entry, key: str, what: str, parse: Callable[[Entry], Any]) -> list[Any]:
    """Every entry under `key`, parsed, with ids that occur once.  ValueError names file and entry."""
    found = []
    for entry in entries(file, content, key):
        try:
            found.append(parse(entry))
        except ValueError as error:
            name = short(entry if what == "category" else entry.get("id"))
            raise ValueError(f"{file}: {what} {name}: {error}") from None
    for id in repeated(item.id for item in found):
        raise ValueError(f"{file}: {what} id {id} occurs more than once")
    return found


def repeated(ids: Iterable[int]) -> list[int]:
    """The ids that occur more than once."""
    ids = list(ids)
    return [id for id, count in Counter(ids).items() if count > 1] if len(set(ids)) < len(ids) else []


def parse_category(entry: Entry) -> Category:
    """ValueError without an integer id and a name."""
    return Category(integer(entry, "id"), text(entry, "name"))


def parse_image(entry: Entry) -> ImageRecord:
    """ValueError also for a name that leads out of the folder and a size that no picture may have."""
    height, width = parse_size(entry)
    return ImageRecord(integer(entry, "id"), parse_file_name(entry), height, width)


def parse_size(entry: Entry) -> ImageSize:
    """(height, width); ValueError for a size that no picture may have."""
    height = integer(entry, "height")
    width = integer(entry, "width")
    if min(height, width) < 1:
        raise ValueError(f"(height, width) must be positive, got {(height, width)}")
    if height * width > most_pixels():
        raise ValueError(f"(height, width) {(height, width)} is over the limit of {most_pixels()} pixels")
    return height, width


def parse_file_name(entry: Entry) -> str:
    """LVIS gives none, but a `coco_url` whose last two parts are split and file: below COCO's own folder."""
    url = entry.get("coco_url")
    if "file_name" not in entry and isinstance(url, str):
        return _inside(text({"coco_url": "/".join(url.split("/")[-2:])}, "coco_url"))
    return _inside(text(entry, "file_name"))


def parse_annotation(entry: Entry, known: Known) -> Annotation:
    """ValueError for the first field that is not COCO's."""
    image = known_image(entry, known)
    parse_area(entry)
    return Annotation(
        id=integer(entry, "id"),
        image=image,
        category_id=known_category(entry, known),
        crowd=parse_crowd(entry),
        bbox=parse_box(entry),
        segmentation=parse_segmentation(entry.get("segmentation"), known.sizes[image]),
    )


def known_image(entry: Entry, known: Known) -> int:
    """The picture's index; ValueError for an id that no picture has."""
    id = integer(entry, "image_id")
    if id not in known.index_of:
        raise ValueError(f"no image has its image_id {id}")
    return known.index_of[id]


def known_category(entry: Entry, known: Known) -> int:
    """The category's id; ValueError for one that no category has."""
    id = integer(entry, "category_id")
    if id not in known.category_ids:
        raise ValueError(f"no category has its category_id {id}")
    return id


def check_image_id(entry: Entry, image_ids: dict[int, int]) -> None:
    """ValueError where the instances, whose pictures' ids these are, have this annotation in another picture."""
    id = entry.get("id")
    image_id = entry.get("image_id")
    if type(id) is int and image_ids.get(id, image_id) != image_id:
        raise ValueError(f"its image_id is {short(image_id)}, among the instances it is in image {image_ids[id]}")


def parse_crowd(entry: Entry) -> bool:
    """Whether it is a crowd region; ValueError for anything but 0 and 1."""
    crowd = entry.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise ValueError(f"'iscrowd' must be 0 or 1, got {short(crowd)}")
    return bool(crowd)


def parse_box(entry: Entry) -> np.ndarray:
    """float64 [4]: x, y, width, height; ValueError for anything but four numbers."""
    return parse_field(entry, "bbox", 4, "[x, y, width, height]")


def parse_area(entry: Entry) -> None:
    """Evaluation compares the area, where there is one; a file may leave it out."""
    area = entry.get("area", 0)
    if not finite(area):
        raise ValueError(f"'area' must be a finite number, got {short(area)}")


def finite(value: Any) -> bool:
    """Whether it is a number, and one that a float can hold."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer of over 308 digits
        return False


def integer(entry: Entry, key: str) -> int:
    """The integer of 64 bits under `key`; ValueError for anything else."""
    value = entry.get(key)
    if type(value) is not int:
        raise ValueError(f"{key!r} must be an integer, got {short(value)}")
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{key!r} must be an integer of 64 bits, got {short(value)}")
    return value


def text(entry: Entry, key: str) -> str:
    """The text under `key`; ValueError for anything else, and for an empty one."""
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key!r} must be a text, got {short(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can spell half a character, which no file name or terminal can hold
        raise ValueError(f"{key!r} must be a text in Unicode, got {short(value)}") from None
    return value


def _inside(file_name: str) -> str:
    """The name, unless it leads out of the folder on any system."""
    path = PureWindowsPath(file_name)  # knows both separators, and drives
    if path.anchor or ".." in path.parts or "\0" in file_name:
        raise ValueError(f"file_name {file_name!r} leaves the image folder")
    # What Linux, macOS and Windows allow; beyond it, even asking whether there is such a file fails.
    if len(file_name.encode()) > 1000 or max(len(part.encode()) for part in path.parts or [""]) > 255:
        raise ValueError(f"file_name {short(file_name)} is too long for a file")
    return file_name
