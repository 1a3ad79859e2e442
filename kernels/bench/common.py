"""What the benchmarks share: types of options, errors of one line, torchvision where it imports."""

import argparse
from collections.abc import Callable
from types import ModuleType
from typing import Any


def positive_int(text: str) -> int:
    """An option's whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def positive_float(text: str) -> float:
    """An option's finite number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


positive_int.__name__ = "positive whole number"
positive_float.__name__ = "positive number"


def run(parser: argparse.ArgumentParser, work: Callable[[], Any]) -> Any:
    """`work()`; what is wrong with the options or with this machine is one line and exit code 2."""
    try:
        return work()
    except (ValueError, OSError, ModuleNotFoundError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def torchvision() -> ModuleType | None:
    """torchvision, or None where it is absent or, which raises RuntimeError, was built for another torch."""
    try:
        import torchvision
    except (ModuleNotFoundError, RuntimeError):
        return None
    return torchvision
