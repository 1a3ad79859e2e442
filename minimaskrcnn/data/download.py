"""Fetch one large zip archive over HTTP: what came is kept and continued, checked, and only then given its name.

The bytes go to `NAME.partial` beside the target.  After a break the next attempt, or the next run, asks for the rest
(`Range`, RFC 9110 section 14); of a server that sends the whole file instead, what is there already is skipped.  That
the file is still the one that was begun is what the checksum is for: what fails it is removed.  Attempts end after
`ATTEMPTS` in a row that brought no new byte.  Left out: two processes that fetch the same file at once.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from http.client import HTTPException, InvalidURL
from pathlib import Path
from time import sleep
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from minimaskrcnn.files import replace_durably

BLOCK = 1 << 20  # bytes read at a time
TIMEOUT = 30.0  # seconds without a byte that end an attempt
ATTEMPTS = 6  # in a row without a new byte: 1 + 2 + 4 + 8 + 16 = 31 seconds of waits
LONGEST_WAIT = 60.0  # seconds
# Answers that another attempt may change; 404 too, since mirrors of several machines differ for a while.
PASSING = {404, 408, 425, 429, 500, 502, 503, 504}
Say = Callable[[str], None]


def partial_of(target: Path) -> Path:
    """Where the bytes of an unfinished download of `target` lie."""
    return target.with_name(f"{target.name}.partial")


def length_of(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def check_archive(path: Path, size: int, md5: str) -> None:
    """ValueError, with what was expected and found, unless a file has this size in bytes and this MD5.

    MD5 because it is what is known of COCO's archives; it finds damage, not a forger.
    """
    if length_of(path) != size:
        raise ValueError(f"{path}: expected {size} bytes, found {length_of(path)}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise ValueError(f"{path}: expected MD5 {md5}, found {found}")


def download(url: str, target: Path, size: int, md5: str, say: Say) -> None:
    """Fetch the zip archive at `url` (http or https), of `size` bytes, to `target`, or check the one that is there.

    ConnectionError where the server cannot be reached or does not give the archive: what came stays in
    `partial_of(target)`.  ValueError where all came and is not what was expected: that is removed.  `say` gets a line
    at each break.
    """
    if target.is_file():
        say(f"{target}: checking")
        check_archive(target, size, md5)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(target)
    say(f"{url}: fetching {size} bytes to {target}, {length_of(partial)} are there")
    _receive(url, partial, size, say)
    try:
        check_archive(partial, size, md5)
    except ValueError as error:
        partial.unlink()
        raise ValueError(f"{url}: {error}; it is removed, and the next run fetches it again") from None
    replace_durably(partial, target)


class _Failure(Exception):
    """Why an attempt ended, and whether another one may do better."""


def _receive(url: str, partial: Path, size: int, say: Say) -> None:
    """Attempts until `partial` has `size` bytes or more."""
    failures = 0
    reason = ""
    style = {"unit": "B", "unit_scale": True, "disable": None, "leave": False}
    with tqdm(total=size, initial=length_of(partial), desc=partial.stem, **style) as bar:
        while (have := length_of(partial)) < size:
            amount = tqdm.format_sizeof(have, "B")
            if failures >= ATTEMPTS:
                raise ConnectionError(f"{url}: {reason} ({amount} are kept in {partial})")
            if failures:
                wait = min(2.0 ** (failures - 1), LONGEST_WAIT)
                say(f"{url}: {reason}; have {amount}, trying again in {wait:g} s")
                sleep(wait)
            reason = "the connection ended early"
            try:
                with partial.open("ab") as file:
                    for place, block in _blocks(url, have, size):
                        # Without what is there already and what is beyond the end.
                        bar.update(file.write(block[max(0, have - place) : size - place]))
            except _Failure as failure:
                reason, passes = failure.args
                if not passes:
                    raise ConnectionError(f"{url}: {reason}") from None
            failures = 1 if length_of(partial) > have else failures + 1


def _blocks(url: str, have: int, size: int) -> Iterator[tuple[int, bytes]]:
    """One request for what follows byte `have`: blocks and their places in the file.  _Failure, or ValueError."""
    headers = {"User-Agent": "minimaskrcnn"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as response:
            place = _first_place(response, have, size)
            # read1 returns what there is: after a break nothing is lost in a half-filled block.
            while place < size and (block := response.read1(BLOCK)):
                if place == 0 and not block.startswith(b"PK"[: len(block)]):
                    raise _Failure(f"the server sent no zip archive (it begins {block[:30]!r})", False)
                yield place, block
                place += len(block)
    except HTTPError as error:
        raise _Failure(f"the server answered with error {error.code}", error.code in PASSING) from None
    except (ValueError, InvalidURL) as error:  # of the address, or of one that the server redirects to
        raise ValueError(f"{url}: not an address that can be asked: {error}") from None
    except (OSError, HTTPException) as error:
        raise _Failure(f"no connection any more: {error}", True) from None


def _first_place(response: Any, have: int, size: int) -> int:
    """Where in the file the answer begins: at the byte asked for, or at 0 where the server sends all."""
    place = 0
    total = response.headers.get("Content-Length")
    if response.status == 206:
        announced = response.headers.get("Content-Range", "")
        part = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", announced)
        if part is None or int(part[1]) != have:
            raise _Failure(f"asked for bytes {have}-, the server sent {announced or 'some'!r}", True)
        place = have
        total = part[2]
    if total not in (None, "*", str(size)):
        raise _Failure(f"expected {size} bytes, the server offers {total}", False)
    return place
