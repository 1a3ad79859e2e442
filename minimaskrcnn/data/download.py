"""Fetch one zip archive over HTTP: what came is kept and continued, checked, and only then given its name.

The bytes go to `NAME.partial` beside the target.  After a break the next attempt, or the next run, asks for the rest
(`Range`, RFC 9110 section 14).  A server that sends the whole file instead, or another part than the one asked for,
or says that the file's size changed, starts the file over; a file that was continued and then fails its check is
fetched once more from its beginning.  Attempts end after `Patience.attempts` in a row that brought no new byte, so
a connection that breaks off often still gets a large file.  Left out: two processes that fetch the same file at once.
"""

import hashlib
import os
import re
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPMessage, InvalidURL
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

BLOCK = 1 << 20  # bytes read at a time
# Answers that another attempt may change; 404 too, since mirrors of several machines differ for a while.
PASSING = {404, 408, 425, 429, 500, 502, 503, 504}
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait for a server."""

    timeout: float = 30.0  # seconds without a byte that end an attempt
    attempts: int = 6  # in a row without a new byte: 1 + 2 + 4 + 8 + 16 = 31 seconds of waits
    first_wait: float = 1.0  # seconds; doubles with each attempt in a row
    longest_wait: float = 60.0  # seconds; also the most that a server's Retry-After is obeyed for
    sleep: Callable[[float], None] = time.sleep


def partial_of(target: Path) -> Path:
    """Where the bytes of an unfinished download of `target` lie."""
    return target.with_name(f"{target.name}.partial")


def length_of(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def amount(number: int) -> str:
    """A number of bytes for people, such as 816 MB (powers of 1000)."""
    if number < 1000:
        return f"{number} B"
    scaled = tqdm.format_sizeof(number)
    return f"{scaled[:-1]} {scaled[-1]}B"


def check_archive(path: Path, *, size: int | None = None, md5: str | None = None) -> None:
    """ValueError, with what was expected and found, unless a file has this size and MD5 and is a whole zip archive.

    MD5 because it is what is known of COCO's archives; it finds damage, not a forger.
    """
    found = path.stat().st_size
    if size is not None and found != size:
        raise ValueError(f"{path}: expected {size} bytes, found {found}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: expected a whole zip archive, found something else in its {found} bytes")
    if md5 is not None and (digest := _md5_of(path)) != md5:
        raise ValueError(f"{path}: expected MD5 {md5}, found {digest}")


def download(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    md5: str | None = None,
    patience: Patience | None = None,
    say: Say = tqdm.write,
) -> None:
    """Fetch the zip archive at `url` (http or https) to `target`, with a progress bar on a terminal.

    `size` in bytes and `md5` are checked where they are known.  ConnectionError where the server cannot be reached
    or does not give an archive: what came stays in `partial_of(target)`.  ValueError where all came and is not what
    was expected: that is removed.  `say` gets a line at each break.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(target)
    continued = length_of(partial) > 0
    while True:
        _receive(url, partial, size, patience or Patience(), say)
        try:
            check_archive(partial, size=size, md5=md5)
            break
        except ValueError as error:
            partial.unlink()
            if not continued:
                raise ValueError(f"{url}: {error}; removed") from None
            say(f"{error}; an earlier run began it: starting over")
            continued = False
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(target)


def _md5_of(path: Path) -> str:
    digest, size = hashlib.md5(usedforsecurity=False), path.stat().st_size
    with (
        path.open("rb") as file,
        tqdm(
            total=size, desc=f"check {path.name}", unit="B", unit_scale=True, disable=None, leave=False
        ) as bar,
    ):
        while block := file.read(BLOCK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _receive(url: str, partial: Path, size: int | None, patience: Patience, say: Say) -> None:
    """Attempts until `partial` is whole, as far as the server and `size` tell."""
    if size is not None and length_of(partial) > size:
        say(f"{partial}: {length_of(partial)} bytes are more than the archive's {size}; starting over")
        partial.unlink()
    failures, best = 0, length_of(partial)
    with tqdm(
        total=size, initial=best, desc=partial.stem, unit="B", unit_scale=True, disable=None, leave=False
    ) as bar:
        transfer = _Transfer(url, partial, size, patience.timeout, say, bar)
        while True:
            wait = 0.0
            try:
                if transfer.attempt():
                    return
                reason = "the connection ended early"
            except _Again as again:
                reason, wait = str(again), again.wait
            have = length_of(partial)
            failures, best = (1 if have > best else failures + 1), max(best, have)
            if failures >= patience.attempts:
                kept = f" ({amount(have)} are kept in {partial})" if have else ""
                raise ConnectionError(f"{url}: {reason}{kept}")
            wait = min(max(wait, patience.first_wait * 2 ** (failures - 1)), patience.longest_wait)
            say(f"{url}: {reason}; have {amount(have)}, trying again in {wait:g} s")
            patience.sleep(wait)


class _Again(Exception):
    """An attempt that failed and may be repeated, after `wait` seconds or more."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass
class _Transfer:
    """One file on its way: what is known of it from one attempt to the next."""

    url: str
    partial: Path
    size: int | None  # known beforehand
    timeout: float
    say: Say
    bar: tqdm
    ranges: bool = True  # False after a server sent another part than the one asked for
    total: int | None = field(init=False)  # known beforehand, or as the server last said

    def __post_init__(self) -> None:
        self.total = self.size

    def attempt(self) -> bool:
        """One request; whether the file is whole now.  _Again for what may pass, ConnectionError for the rest."""
        have = length_of(self.partial)
        if have == self.total:
            return True
        with self._open(have) as response:
            status = response.getcode()
            if status == 416 and have:
                return self._nothing_left(response.headers, have)
            if status not in (200, 206):
                raise self._refusal(status, response.headers)
            start = self._check_part(response.headers, have) if status == 206 else 0
            if status == 200:
                self._check_total(_number(response.headers.get("Content-Length")))
            self._write(response, start)
        return self.total is None or length_of(self.partial) == self.total

    def _open(self, have: int) -> Any:
        """The server's answer, errors included."""
        headers = {"User-Agent": "minimaskrcnn", "Accept-Encoding": "identity"}
        if have and self.ranges:
            headers["Range"] = f"bytes={have}-"
        try:
            return urlopen(Request(self.url, headers=headers), timeout=self.timeout)
        except HTTPError as error:
            return error
        except (ValueError, InvalidURL) as error:  # of the address, or of one that the server redirects to
            raise ValueError(f"{self.url}: not an address that can be asked: {error}") from None
        except (OSError, HTTPException) as error:
            raise _Again(_reason(error)) from None

    def _nothing_left(self, headers: HTTPMessage, have: int) -> bool:
        """416: the file ends where ours does, or ours is of another file."""
        total = _number(headers.get("Content-Range", "").removeprefix("bytes */"))
        self._check_total(total)
        if total == have:
            return True
        self.partial.unlink()
        raise _Again(f"the server has nothing after byte {have}; starting over")

    def _refusal(self, status: int, headers: HTTPMessage) -> Exception:
        reason = f"the server answered with error {status}"
        if status in PASSING:
            return _Again(reason, float(_number(headers.get("Retry-After")) or 0))
        return ConnectionError(f"{self.url}: {reason}")

    def _check_part(self, headers: HTTPMessage, have: int) -> int:
        """Where the part begins that a 206 announces: where ours ends."""
        announced = headers.get("Content-Range", "")
        part = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", announced)
        if part is None or int(part[1]) != have:
            self.ranges = False
            raise _Again(f"asked for bytes {have}-, the server sent {announced or 'some'!r}; starting over")
        self._check_total(_number(part[3]))
        return have

    def _check_total(self, total: int | None) -> None:
        """Compare the size that the server announces with what was known of it."""
        if total is None or total == self.total:
            return
        if self.size is not None:
            raise ConnectionError(f"{self.url}: expected {self.size} bytes, the server offers {total}")
        before, self.total, self.bar.total = self.total, total, total
        if before is not None:
            self.partial.unlink(missing_ok=True)
            raise _Again(f"the file on the server changed from {before} to {total} bytes; starting over")

    def _write(self, response: Any, start: int) -> None:
        """Append the answer's body from byte `start` on; no byte beyond the total."""
        block = _read(response)
        if not block:
            raise _Again("the connection ended before the first byte")
        if not start and not block.startswith(b"PK"[: len(block)]):
            kind = response.headers.get("Content-Type", "of unknown type")
            raise ConnectionError(
                f"{self.url}: the server sent no zip archive ({kind}, begins {block[:30]!r})"
            )
        if not start and length_of(self.partial):
            self.say(f"{self.url}: the server does not continue downloads; starting over")
        self.bar.n = start
        self.bar.refresh()
        with self.partial.open("ab" if start else "wb") as file:
            while block:
                left = len(block) if self.total is None else self.total - file.tell()
                self.bar.update(file.write(block[:left]))
                if left <= 0:
                    break
                block = _read(response)


def _read(response: Any) -> bytes:
    try:
        # read1 returns what there is: after a break nothing is lost in a half-filled block.
        return response.read1(BLOCK)
    except (OSError, HTTPException) as error:
        raise _Again(_reason(error)) from None


def _reason(error: Exception) -> str:
    """A network error in a few words."""
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return "the server is silent"
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return f"no connection ({text})" if isinstance(error, URLError) else f"the connection broke off ({text})"


def _number(text: str | None) -> int | None:
    """A header's whole number; None for anything else."""
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,18}", text) else None
