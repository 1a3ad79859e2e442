"""Files that are whole or absent: written under a temporary name, then renamed.

Whatever ends a process in between, or the machine, the name holds the old content or the new one, and no half.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to; where the block ends without an error, its file takes the name `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    yield temporary
    replace_durably(temporary, path)


def write_text(path: Path, text: str) -> None:
    """Write a whole file in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Write a whole JSON file; with `indent` None in one line."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def replace_durably(temporary: Path, path: Path) -> None:
    """Give a whole file its name, once the disk holds it."""
    _sync(temporary)
    temporary.replace(path)
    if os.name == "posix":  # Windows opens no folders
        _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
