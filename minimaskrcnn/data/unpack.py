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

from minimaskrcnn.data.download import BLOCK


def unpack(archive: Path, root: Path, folder: str, files: int) -> None:
    """Unpack `archive`, which holds `files` files `folder/NAME` and nothing else, to `root/folder`.

    ValueError, with the member, for an archive that is damaged, unsafe or another one, and for a file that is there
    with another size than the archive's: none is replaced.  OSError where the disk has too little room.
    """
    final = root / folder
    root.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _check_members(archive, opened, folder, files)
            work = final if final.is_dir() else root / f"{folder}.partial"
            work.mkdir(exist_ok=True)
            missing = [info for info in members if _is_missing(work / Path(info.filename).name, info)]
            need_room(root, sum(info.file_size for info in missing), f"unpack {archive}")
            for info in tqdm(missing, desc=f"unpack {archive.name}", unit="file", disable=None, leave=False):
                path = work / Path(info.filename).name
                temporary = path.with_name(f"{path.name}.partial")
                with opened.open(info) as source, temporary.open("wb") as file:
                    shutil.copyfileobj(source, file, BLOCK)  # its end compares the checksum
                temporary.replace(path)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise ValueError(f"{archive}: a damaged zip archive: {error}") from None
    if work != final:
        work.rename(final)


def need_room(folder: Path, size: int, what: str) -> None:
    """OSError unless the disk of `folder` has `size` bytes left."""
    free = shutil.disk_usage(folder).free
    if size > free:
        needs, has = (tqdm.format_sizeof(number, "B") for number in (size, free))
        raise OSError(f"{folder}: to {what} takes {needs} and the disk has {has} left")


def _check_members(archive: Path, opened: zipfile.ZipFile, folder: str, files: int) -> list[zipfile.ZipInfo]:
    """The files of the archive, all of them safe."""
    found = [info for info in opened.infolist() if info.filename != f"{folder}/"]
    for info in found:
        # Plain names only: no separator, drive, leading dot or control character of any system gets through.
        if (
            not re.fullmatch(rf"{re.escape(folder)}/[A-Za-z0-9_][A-Za-z0-9_.-]*", info.orig_filename)
            or stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG)
            or info.flag_bits & 1  # encrypted
            or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        ):
            raise ValueError(f"{archive}: member {info.orig_filename!r} is no plain file of {folder}/")
    # Counted without case: on some systems Name and name are one file.
    names = {info.filename.lower() for info in found}
    if not len(names) == len(found) == files:
        raise ValueError(f"{archive}: expected {files} files in {folder}/, found {len(names)}")
    return found


def _is_missing(path: Path, info: zipfile.ZipInfo) -> bool:
    if not path.exists():
        return True
    if not path.is_file() or path.stat().st_size != info.file_size:
        raise ValueError(f"{path}: not the archive's file of {info.file_size} bytes; move it away to have that")
    return False
