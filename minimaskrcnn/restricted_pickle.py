"""Pickle files of number arrays, read without calling what they name.

A pickle is a program whose dangerous instructions name any function and call it.  Here only the names in `_ALLOWED`
are known, and what they call is there too; each class has a `__setstate__`, or a file could change the class.  Left
out: arrays of anything but numbers, persistent ids, protocol 5's buffers, limits on a harmful file's memory and time.
"""

import pickle
import re
from pathlib import Path

import numpy as np

# What the unpickler raises for damaged files, beside ValueError.
_BROKEN = (pickle.UnpicklingError, EOFError, LookupError, TypeError, AttributeError, OverflowError, MemoryError)


def read_restricted_pickle(path: Path) -> object:
    """Its dicts, lists, tuples, strings (Python 2's as latin1), numbers, number arrays; ValueError for all else."""
    with path.open("rb") as file:
        if file.peek(4).startswith(b"PK\x03\x04"):
            raise ValueError(f"{path}: a zip archive, as torch.save writes, and not a pickle")
        try:
            return _Unpickler(file, encoding="latin1").load()
        except (ValueError, *_BROKEN) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(f"{path}: not a readable pickle of arrays: {reason}") from error


class _Dtype:
    def __init__(self, code: str, align: object, copy: object) -> None:
        if not re.fullmatch("[<>=|]?(b1|[iu][1248]|f[248])", code):
            raise ValueError(f"an array of something other than numbers (dtype {code!r})")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in ("<", ">", "=", "|") or state[2:] != (None, None, None, -1, -1, 0):
            raise ValueError("a dtype with fields, a shape or flags of objects")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    def __new__(cls, subtype: object, shape: object, code: object) -> "_Array":
        return super().__new__(cls, 0)

    def __setstate__(self, state: tuple) -> None:
        version, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype):
            raise ValueError("an array without a dtype of numbers")
        super().__setstate__((version, shape, dtype.dtype, fortran, data))


class _Number:
    __setstate__ = None

    def __new__(cls, dtype: _Dtype, data: bytes) -> bool | int | float:
        return np.frombuffer(data, dtype.dtype).reshape(()).item()


class _Dict(dict):
    def __setstate__(self, state: object) -> None:
        """Attributes of an ordered dict, such as the versions in torch's state dicts, are dropped."""


_ALLOWED = {
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray.scalar": _Number,
    "numpy.dtype": _Dtype,
    "numpy.ndarray": None,  # named as the kind of array, and never called
    "_codecs.encode": bytes,  # of a text and "latin1": how Python 3 writes bytes for Python 2
    "collections.OrderedDict": _Dict,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type | None:
        asked = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if asked not in _ALLOWED:
            raise ValueError(f"it asks for {asked!r}, and only arrays of numbers are read")
        return _ALLOWED[asked]
