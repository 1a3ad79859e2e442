"""COCO 2017's official archives: what they are called, and how a folder in COCO's layout is made of them.

`fetch_coco(root, splits)` leaves `root/{split}/*.jpg` and `root/annotations/instances_{split}.json`, which
`data/coco.py` opens.  What is there already is not fetched again: a folder with all its files, an archive at
`root/NAME.zip` or in a folder of archives, the first bytes of one at `root/NAME.zip.partial`, half of an unpacked one
at `root/FOLDER.partial`.  Archives stay beside what they hold.

COCO publishes no sizes and checksums of its own.  The sizes are what its server announces (Content-Length, as logs
of downloads show it), the MD5s what public download scripts list, PaddlePaddle's and MLCommons' among them.  All six
were looked up, none was compared with a download yet; a mismatch says what was expected and what was found.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from minimaskrcnn.data.download import Say, download, length_of, partial_of
from minimaskrcnn.data.unpack import need_room, unpack

OFFICIAL = "http://images.cocodataset.org"
ANNOTATIONS = "annotations"


class Archive(NamedTuple):
    """One zip archive: the files of one folder."""

    path: str  # below the base URL
    files: int  # how many it holds
    size: int  # bytes
    md5: str

    @property
    def name(self) -> str:
        """Of the file."""
        return self.path.rsplit("/", 1)[-1]


# By the folder that each holds; the splits and the annotations of both.
COCO_2017: Mapping[str, Archive] = {
    ANNOTATIONS: Archive(
        "annotations/annotations_trainval2017.zip", 6, 252_907_541, "f4bbac642086de4f52a3fdda2de5fa2c"
    ),
    "train2017": Archive("zips/train2017.zip", 118_287, 19_336_861_798, "cced6f7f71b7629ddf16f17bbcfab6b2"),
    "val2017": Archive("zips/val2017.zip", 5_000, 815_585_330, "442b8da7639aecaf257c1dceb8ba8c80"),
}
SPLITS = [folder for folder in COCO_2017 if folder != ANNOTATIONS]


def fetch_coco(
    root: Path,
    splits: Sequence[str],
    *,
    base_url: str = OFFICIAL,
    archives: Path | None = None,
    table: Mapping[str, Archive] = COCO_2017,
    say: Say = tqdm.write,
) -> None:
    """Make `root` hold these splits of COCO 2017 and the annotations.

    `base_url` is a mirror's (http, https); with `archives`, a folder of archives, nothing is fetched.  `say` gets a
    line for each step.  ConnectionError, with what to put where, for what cannot be fetched; FileNotFoundError for an
    archive that `archives` lacks; ValueError for an archive that is not the expected one or is unsafe; OSError for a
    disk that is too full.
    """
    if not re.match("https?://[^/]", base_url):
        raise ValueError(f"{base_url!r}: expected the address of a mirror: http://... or https://...")
    base_url = base_url.rstrip("/")
    source = archives or root
    missing: dict[str, Archive] = {}
    for folder in dict.fromkeys([ANNOTATIONS, *splits]):
        if _is_complete(root / folder, splits, table[folder]):
            say(f"{root / folder}: complete")
        else:
            missing[folder] = table[folder]
    absent = [archive for archive in missing.values() if not (source / archive.name).is_file()]
    if archives is not None and absent:
        raise FileNotFoundError(f"{_listed(absent[:1], source, OFFICIAL)}: no such archive")
    root.mkdir(parents=True, exist_ok=True)
    # Unpacked, pictures take as much as their archive; of an archive that is here `unpack` knows exactly.
    room = sum(2 * archive.size - length_of(partial_of(source / archive.name)) for archive in absent)
    need_room(root, room, "fetch and unpack")
    for folder, archive in missing.items():
        path = source / archive.name
        try:
            download(f"{base_url}/{archive.path}", path, archive.size, archive.md5, say)
        except ConnectionError as error:
            wanted = _listed(absent[absent.index(archive) :], root, base_url)
            raise ConnectionError(
                f"{error}. The same command goes on where this one stopped. Without a network, fetch elsewhere and "
                f"put here {wanted}, then run the same command; or name the folder that holds them: --archives DIR"
            ) from None
        unpack(path, root, folder, archive.files)
        say(f"{root / folder}: complete ({path} is needed no more)")


def _is_complete(folder: Path, splits: Sequence[str], archive: Archive) -> bool:
    """Whether a folder has what the splits need: all its pictures, or their annotation files."""
    if folder.name == ANNOTATIONS:
        kinds = ("instances", "person_keypoints")
        return all((folder / f"{kind}_{split}.json").is_file() for split in splits for kind in kinds)
    return len(list(folder.glob("*.jpg"))) >= archive.files


def _listed(archives: Sequence[Archive], folder: Path, base_url: str) -> str:
    """Where archives should lie and where they come from."""
    return " and ".join(f"{folder / a.name} ({a.size} bytes, from {base_url}/{a.path})" for a in archives)
