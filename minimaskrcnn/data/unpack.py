"""Unpack a zip archive of one folder: nothing outside it, no half file under its name, half-done work goes on.

Every member is checked before the first byte is written.  A folder that is not there yet is filled under the name
`FOLDER.partial` and then renamed, so that the folder means a whole archive; into one that is there only missing files
are added.  Each file is written to a temporary name and renamed: what a killed run left is found again and kept.
"""

import re
import shutil
import stat
import zipfile
import zlib
from pathlib import Path

from tqdm import tqdm

from minimaskrcnn.data.download import BLOCK, amount

# Annotations unpack to 3.3 times their archive, pictures to 1 time; a bomb to 1,000 times.
MOST_INFLATION = 20


def unpack(archive: Path, root: Path, folder: str, *, files: int | None = None) -> None:
    """Unpack `archive`, which holds the files `folder/NAME` and nothing else, to `root/folder`.

    `files` is how many it must hold, where that is known.  ValueError, with the member, for an archive that is
    damaged, unsafe or another one, and for a file that is there with another size than the archive's: none is
    replaced.  OSError where the disk has too little room.
    """
    final = root / folder
    root.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _check_members(archive, opened, folder, files)
            work = final if final.is_dir() else root / f"{folder}.partial"
            work.mkdir(exist_ok=True)
            missing = [info for name, info in members.items() if _is_missing(work / name, info)]
            need_room(root, sum(info.file_size for info in missing), f"unpack {archive}")
            for info in tqdm(missing, desc=f"unpack {archive.name}", unit="file", disable=None, leave=False):
                _write(opened, info, work / _name(info))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ValueError(f"{archive}: a damaged zip archive: {error}") from None
    if work != final:
        work.rename(final)


def need_room(folder: Path, size: int, what: str) -> None:
    """OSError unless the disk of `folder` has `size` bytes left."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(f"{folder}: to {what} takes {amount(size)} and the disk has {amount(free)} left")


def _name(info: zipfile.ZipInfo) -> str:
    return info.filename.split("/", 1)[1]


def _check_members(
    archive: Path, opened: zipfile.ZipFile, folder: str, files: int | None
) -> dict[str, zipfile.ZipInfo]:
    """The files of the archive by their names in the folder, all of them safe."""
    found = [info for info in opened.infolist() if info.filename != f"{folder}/"]
    for info in found:
        if fault := _fault(info, folder):
            raise ValueError(f"{archive}: member {info.orig_filename!r} {fault}")
    # Compared without case: on some systems Name and name are one file.
    if len({info.filename.lower() for info in found}) < len(found):
        raise ValueError(f"{archive}: a name occurs more than once")
    if not found or (files is not None and len(found) != files):
        raise ValueError(f"{archive}: expected {files or 'some'} files in {folder}/, found {len(found)}")
    total, packed = sum(info.file_size for info in found), archive.stat().st_size
    if total > MOST_INFLATION * packed:
        raise ValueError(
            f"{archive}: unpacks from {amount(packed)} to {amount(total)}, more than {MOST_INFLATION} times as much"
        )
    return {_name(info): info for info in found}


def _fault(info: zipfile.ZipInfo, folder: str) -> str | None:
    """What is wrong with a member, from the archive's directory alone."""
    # Plain names only: no separator, drive, leading dot or control character of any system gets through.
    if not re.fullmatch(rf"{re.escape(folder)}/[A-Za-z0-9_][A-Za-z0-9_.-]*", info.orig_filename):
        return f"is no plain file of {folder}/"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        return "is a link or a special file"
    if info.flag_bits & 1:
        return "is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"has compression {info.compress_type}, expected none or deflate"
    return None


def _is_missing(path: Path, info: zipfile.ZipInfo) -> bool:
    if not path.exists():
        return True
    if not path.is_file() or path.stat().st_size != info.file_size:
        raise ValueError(
            f"{path}: not the archive's file of {info.file_size} bytes; move it away to have that"
        )
    return False


def _write(opened: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    """One member, whole and with the checksum that the archive has for it, or nothing under its name."""
    temporary = path.with_name(f"{path.name}.partial")
    with opened.open(info) as source, temporary.open("wb") as file:
        # Reads at most the size that the archive declares; its end compares the checksum.
        shutil.copyfileobj(source, file, BLOCK)
    written = temporary.stat().st_size
    if written != info.file_size:
        raise zipfile.BadZipFile(f"{info.filename}: {written} bytes, declared {info.file_size}")
    temporary.replace(path)
