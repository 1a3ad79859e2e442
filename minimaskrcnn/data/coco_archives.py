"""COCO 2017's official archives: what they are called, and how a folder in COCO's layout is made of them.

`fetch_coco(root, splits)` leaves `root/{split}/*.jpg` and `root/annotations/instances_{split}.json`, which
`data/coco.py` opens.  What is there already is not fetched again: a folder with all its files, an archive at
`root/NAME.zip` or in a folder of archives, the first bytes of one at `root/NAME.zip.partial`, half of an unpacked one
at `root/FOLDER.partial`.  Archives stay beside what they hold.

COCO publishes no sizes and checksums of its own.  The sizes in `COCO_2017` are what images.cocodataset.org announces
(Content-Length, as logs of downloads show it), the MD5s what public download scripts list, PaddlePaddle's and
MLCommons' among them.  All six were looked up, none was compared with a download yet; a mismatch says what was
expected and what was found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tqdm import tqdm

from minimaskrcnn.data.download import Patience, Say, amount, check_archive, download, length_of, partial_of
from minimaskrcnn.data.unpack import need_room, unpack

OFFICIAL = "http://images.cocodataset.org"
ANNOTATIONS = "annotations"


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One zip archive: the files of one folder."""

    path: str  # below the base URL
    files: int | None = None  # how many it holds
    size: int | None = None  # bytes
    md5: str | None = None

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]


# By the folder that each holds; the splits and the annotations of both.
COCO_2017: Mapping[str, Archive] = {
    ANNOTATIONS: Archive(
        path="annotations/annotations_trainval2017.zip",
        files=6,
        size=252_907_541,
        md5="f4bbac642086de4f52a3fdda2de5fa2c",
    ),
    "train2017": Archive(
        path="zips/train2017.zip",
        files=118_287,
        size=19_336_861_798,
        md5="cced6f7f71b7629ddf16f17bbcfab6b2",
    ),
    "val2017": Archive(
        path="zips/val2017.zip",
        files=5_000,
        size=815_585_330,
        md5="442b8da7639aecaf257c1dceb8ba8c80",
    ),
}
SPLITS = [folder for folder in COCO_2017 if folder != ANNOTATIONS]


def fetch_coco(
    root: Path,
    splits: Sequence[str],
    *,
    base_url: str = OFFICIAL,
    archives: Path | None = None,
    table: Mapping[str, Archive] = COCO_2017,
    patience: Patience | None = None,
    say: Say = tqdm.write,
) -> None:
    """Make `root` hold these splits of COCO 2017 and the annotations.

    `base_url` is a mirror's (http, https), or file:///FOLDER; `archives` is a folder of archives that are there
    already, from which nothing is fetched.  `say` gets a line for each step.  ConnectionError, with what to put
    where, for what cannot be fetched; FileNotFoundError for an archive that `archives` lacks; ValueError for an
    archive that is not the expected one or is unsafe; OSError for a disk that is too full.
    """
    archives = _local_folder(base_url) if archives is None else archives
    missing = []
    for folder in dict.fromkeys([ANNOTATIONS, *splits]):
        if _is_complete(root, folder, splits, table[folder]):
            say(f"{root / folder}: complete")
        else:
            missing.append(folder)
    found = {folder: _find(root, archives, table[folder]) for folder in missing}
    root.mkdir(parents=True, exist_ok=True)
    need_room(root, sum(_room(root, found[folder], table[folder]) for folder in missing), "fetch and unpack")
    for position, folder in enumerate(missing):
        archive, path = table[folder], found[folder]
        if path is not None:
            say(f"{path}: checking")
            _check_given(path, root, archive)
        else:
            path = root / archive.name
            try:
                _fetch(f"{base_url.rstrip('/')}/{archive.path}", path, archive, patience, say)
            except ConnectionError as error:
                wanted = [table[name] for name in missing[position:] if found[name] is None]
                raise ConnectionError(f"{error}. {_by_hand(root, base_url, wanted)}") from None
        unpack(path, root, folder, files=archive.files)
        say(f"{root / folder}: complete ({path} is needed no more)")


def _local_folder(base_url: str) -> Path | None:
    """The folder that a file: URL names; ValueError for what is no URL of a mirror."""
    try:
        parts = urlsplit(base_url)
    except ValueError as error:
        raise ValueError(f"{base_url!r}: no address of a mirror: {error}") from None
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(
            f"{base_url!r}: expected the address of a mirror: http://..., https://... or file:///..."
        )
    return None


def _is_complete(root: Path, folder: str, splits: Sequence[str], archive: Archive) -> bool:
    """Whether a folder has what the splits need: all its pictures, or their annotation files."""
    if folder == ANNOTATIONS:
        kinds = ("instances", "person_keypoints")
        return all(_ends(root / folder / f"{kind}_{split}.json") for split in splits for kind in kinds)
    if archive.files is None or not (root / folder).is_dir():
        return False
    return sum(path.suffix == ".jpg" for path in (root / folder).iterdir()) >= archive.files


def _ends(file: Path) -> bool:
    """Whether a JSON file is there to its last brace, which an interrupted unzip would not have written."""
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        opened.seek(max(0, length_of(file) - 64))
        return opened.read().rstrip().endswith(b"}")


def _find(root: Path, archives: Path | None, archive: Archive) -> Path | None:
    """The archive on this machine: in the folder of archives, flat or below it as on the server, or in root."""
    if archives is None:
        return root / archive.name if (root / archive.name).is_file() else None
    for path in (archives / archive.name, archives / archive.path):
        if path.is_file():
            return path
    size = f" ({archive.size} bytes)" if archive.size else ""
    raise FileNotFoundError(
        f"{archives / archive.name}: no such archive; expected {OFFICIAL}/{archive.path}{size}"
    )


def _room(root: Path, found: Path | None, archive: Archive) -> int:
    """Bytes that are still to be written, at least, for an archive that is not here yet.

    Unpacked, pictures take as much as their archive.  Of an archive that is here `unpack` knows exactly.
    """
    size = 0 if found else archive.size or 0
    return 2 * size - min(size, length_of(partial_of(root / archive.name)))


def _check_given(path: Path, root: Path, archive: Archive) -> None:
    try:
        check_archive(path, size=archive.size, md5=archive.md5)
    except ValueError as error:
        partial = partial_of(root / archive.name)
        raise ValueError(f"{error}; remove it, or rename it to {partial} if a download broke off") from None


def _fetch(url: str, path: Path, archive: Archive, patience: Patience | None, say: Say) -> None:
    have = length_of(partial_of(path))
    whole = f"{amount(archive.size)} " if archive.size else ""
    say(f"{url}: fetching {whole}to {path}" + (f", going on from {amount(have)}" if have else ""))
    download(url, path, size=archive.size, md5=archive.md5, patience=patience, say=say)


def _by_hand(root: Path, base_url: str, wanted: Sequence[Archive]) -> str:
    """What to put where, for a machine without a network."""
    files = [
        f"{root / archive.name} ({f'{archive.size} bytes, ' if archive.size else ''}"
        f"from {base_url.rstrip('/')}/{archive.path})"
        for archive in wanted
    ]
    return (
        f"The same command goes on where this one stopped. Without a network, fetch elsewhere and put here "
        f"{' and '.join(files)}, then run the same command; or name the folder that holds them: --archives DIR"
    )
