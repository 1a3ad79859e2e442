"""Packages that most tests can do without: a test that needs one gets it, or skips and says why."""

import importlib
import os
from importlib.metadata import version
from types import ModuleType

import pytest

# By package: the variable that, set to 1, makes its absence an error instead of a skip (CI sets them).
REQUIRED_BY = {"torchvision": "REQUIRE_PARITY", "triton": "REQUIRE_TRITON", "playwright": "REQUIRE_BROWSER"}

# The first error by package: a second import of the same broken package ends in another one.
_failed: dict[str, str] = {}


def need(package: str, *modules: str) -> ModuleType:
    """Import `package` and its `modules`.  Skips the test, or the file, where that fails.

    A package may be absent, or there and broken: torchvision beside a torch that it was not built for raises
    RuntimeError at its first import and AttributeError at its second, a library that does not load is an OSError.
    """
    if package in _failed:
        pytest.skip(_failed[package], allow_module_level=True)
    try:
        found = importlib.import_module(package)
        for name in modules:
            importlib.import_module(f"{package}.{name}")
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        if os.environ.get(REQUIRED_BY.get(package, "")) == "1":
            raise
        _failed[package] = f"{package} does not import: {str(error).splitlines()[0]}"
        pytest.skip(_failed[package], allow_module_level=True)
    return found


def need_kernels() -> None:
    """Skip the file where Triton's kernels cannot run: on a GPU, or under the interpreter."""
    need("triton")
    if os.environ.get("TRITON_INTERPRET") == "1" and _release("triton") < (3, 7) and _release("numpy") >= (2, 4):
        pytest.skip(
            f"the interpreter of triton {version('triton')} cannot run loops with numpy {version('numpy')}: "
            "it needs numpy<2.4, or triton>=3.7",
            allow_module_level=True,
        )


def _release(package: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version(package).split(".")[:2])
