"""Pickle files as data: numbers' arrays in plain containers, and no call of anything.

A pickle is a program for a stack machine, and its dangerous instructions name any function and call it.  Here the
machine is a small one of our own that imports nothing: the few names below are only recognised, and what numpy would
do for them is done from the bytes, after all sizes have been compared.  The standard library's tables decode the
instructions' arguments; its unpickler does not run.

| name in the file | what is read |
|---|---|
| `numpy.core.multiarray._reconstruct` (also `numpy._core`), `numpy.ndarray` | array |
| `numpy.core.multiarray.scalar` (also `numpy._core`) | Python's number |
| `numpy.dtype` | bool, integer or float of 1 to 8 bytes, either byte order |
| `_codecs.encode` to latin1 | bytes, as Python 3 writes them in protocol 2 |
| `collections.OrderedDict` | dict, without attributes such as the versions in torch's state dicts |

Python 2's strings are read as latin1.  Left out: every other name, objects in arrays, dtypes with fields, persistent
ids, extension codes, sets, protocol 5's buffers, and dict keys that are neither str nor int (hashing nested tuples
can take forever, or the C stack).
"""

import io
import math
import pickletools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

MAX_BYTES = 2**31
"""Of a file; detectron2's largest detectors of COCO have under 2**30."""
MAX_INSTRUCTIONS = 10**6
"""Of a file; an array takes about 30, a detector has 300 to 700 arrays.  An empty dict costs only one byte."""

_GLOBALS = {
    "numpy.core.multiarray _reconstruct": "array",
    "numpy._core.multiarray _reconstruct": "array",
    "numpy.core.multiarray scalar": "scalar",
    "numpy._core.multiarray scalar": "scalar",
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",
    "collections OrderedDict": "dict",
}
_LITERALS = re.compile(
    r"(BIN)?INT[12]?|LONG[14]?|(BIN)?FLOAT|(SHORT_)?(BIN)?STRING|(SHORT_)?BINBYTES8?|((SHORT_)?BIN)?UNICODE8?"
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_ESCAPES = {b"\\": b"\\", b"'": b"'", b'"': b'"', b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_PLAIN = {type(None), bool, int, float, str, bytes, list, tuple, dict, np.ndarray}
_NUMBERS = re.compile("[<>=|]?(b1|[iu][1248]|f[248])")


class _Global(str):
    """One of the values of `_GLOBALS`, which stands for the function of that name."""


class _Arguments(tuple):
    """A tuple of more than data: for REDUCE and BUILD, never for a container."""


class _Unfinished:
    """An array (`dtype` None) or a dtype between REDUCE and BUILD; `memo_keys` are where it has been put."""

    def __init__(self, dtype: np.dtype | None = None) -> None:
        self.dtype = dtype
        self.memo_keys: list[int] = []


def read_restricted_pickle(path: Path) -> object:
    """The content of a pickle file: dicts, lists, tuples, strings, bytes, numbers and arrays of numbers.

    Arrays are read-only and in the file's byte order.  The file is read whole: about twice its size is in memory.
    Raises ValueError, of one sentence with the path and what was found, for anything else; FileNotFoundError.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{path}: {size} bytes, and pickles of more than {MAX_BYTES} are not read")
    content = path.read_bytes()
    if content[:4] == b"PK\x03\x04":
        raise ValueError(f"{path}: a zip archive, as torch.save writes, and not a pickle")
    try:
        return _run(content)
    except (ValueError, LookupError) as error:
        # LookupError: an empty stack, an unknown memo key or instruction.  A reason may quote the file: cut it.
        reason = str(error) if isinstance(error, ValueError) else "its instructions do not fit together"
        raise ValueError(f"{path}: not a readable pickle of arrays: {reason[:200]}") from error


def _run(content: bytes) -> object:
    machine = _Machine(len(content))
    for count, (name, argument) in enumerate(_instructions(content)):
        if count == MAX_INSTRUCTIONS:
            raise ValueError(f"more than {MAX_INSTRUCTIONS} instructions")
        machine.step(name, argument)
    return _data(machine.stack.pop())


def _instructions(content: bytes) -> Iterator[tuple[str, Any]]:
    """(name, decoded argument) of each instruction before STOP, which has to be the last byte."""
    file = io.BytesIO(content)
    while (code := file.read(1)) != b".":
        if not code:
            raise ValueError(f"its {len(content)} bytes end without a STOP instruction")
        if code.decode("latin1") not in pickletools.code2op:
            raise ValueError(f"byte {code!r} at {file.tell() - 1} is no instruction")
        op = pickletools.code2op[code.decode("latin1")]
        if op.name == "STRING":
            yield op.name, _python2_string(file.readline())
        else:
            yield op.name, op.arg.reader(file) if op.arg else None
    if file.tell() < len(content):
        raise ValueError(f"{len(content) - file.tell()} bytes follow its end")


def _python2_string(line: bytes) -> str:
    """The quoted and escaped string of protocol 0; the standard library's table reads ASCII only."""
    if len(line) < 3 or line[:1] not in b"'\"" or line[-2:] != line[:1] + b"\n":
        raise ValueError("a string without its quotes")
    plain = re.sub(rb"\\(x[0-9a-fA-F]{2}|.)", _unescape, line[1:-2])
    return plain.decode("latin1")


def _unescape(match: re.Match[bytes]) -> bytes:
    return _ESCAPES[match[1]] if len(match[1]) == 1 else bytes.fromhex(match[1][1:].decode())


def _data(value: object) -> Any:
    """`value`, which has to be data: no name and nothing that is unfinished."""
    if type(value) not in _PLAIN:
        kinds = {_Global: "a function or class", _Unfinished: "an array or dtype without content"}
        raise ValueError(
            f"{kinds.get(type(value), 'a tuple with a function, a class or a dtype')} as a value"
        )
    return value


def _text(value: object) -> str:
    if type(value) is not str:
        raise ValueError(f"a function's name that is a {type(value).__name__}")
    return value


def _number_dtype(arguments: object) -> np.dtype:
    """What `numpy.dtype(code, align, copy)` names, for the codes of numbers."""
    if not (isinstance(arguments, tuple) and len(arguments) == 3 and isinstance(arguments[0], str)):
        raise ValueError("numpy.dtype called with something other than the code of a dtype")
    code = arguments[0]
    if not _NUMBERS.fullmatch(code):
        kind = "of Python objects" if code.lstrip("<>=|")[:1] == "O" else "of something other than numbers"
        raise ValueError(f"an array {kind} (dtype {code!r})")
    return np.dtype(code)


def _finish_dtype(dtype: np.dtype, state: object) -> np.dtype:
    """`dtype` with the state's byte order; the state may set nothing else."""
    if not (
        isinstance(state, tuple)
        and len(state) == 8
        and all(isinstance(item, str | int | None) for item in state)
        and state[1] in ("<", ">", "|", "=")
        and state[2:] == (None, None, None, -1, -1, 0)
    ):
        raise ValueError("a dtype with fields, a shape or flags of objects, and only plain numbers are read")
    return dtype.newbyteorder(state[1])


class _Machine:
    """The stack, the stacks below the marks, and the memo of a pickle's program."""

    def __init__(self, file_size: int) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        # An honest file has each string encoded, and each list made a dict, once; repeating it would make many
        # gigabytes of a small file.
        self.copyable = file_size

    def step(self, name: str, argument: Any) -> None:
        """Carry out one instruction."""
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self.below.append(self.stack)
                self.stack = []
            case "EMPTY_LIST" | "EMPTY_DICT":
                self.stack.append([] if name == "EMPTY_LIST" else {})
            case "APPEND" | "APPENDS" | "LIST" | "SETITEM" | "SETITEMS" | "DICT":
                self.fill(name)
            case "TUPLE":
                self.push_tuple(self.pop_mark())
            case "PUT" | "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                self.put(len(self.memo) if name == "MEMOIZE" else argument)
            case "GET" | "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "GLOBAL":
                self.push_global(argument)
            case "STACK_GLOBAL":
                self.push_global(" ".join(_text(part) for part in self.pop_many(2)))
            case "REDUCE":
                arguments = self.stack.pop()
                self.stack.append(self.reduce(self.stack.pop(), arguments))
            case "BUILD":
                self.build(self.stack.pop())
            case _ if _LITERALS.fullmatch(name):
                self.stack.append(argument)
            case _ if name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            case _ if name in _TUPLES:
                self.push_tuple(self.pop_many(_TUPLES[name]))
            case _:
                raise ValueError(f"the instruction {name}, which arrays and containers do not need")

    def pop_mark(self) -> list[Any]:
        """Everything above the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def pop_many(self, number: int) -> list[Any]:
        return [self.stack.pop() for _ in range(number)][::-1]

    def push_tuple(self, items: list[Any]) -> None:
        plain = all(type(item) in _PLAIN for item in items)
        self.stack.append(tuple(items) if plain else _Arguments(items))

    def push_global(self, name: str) -> None:
        if name not in _GLOBALS:
            raise ValueError(f"it asks for {name.replace(' ', '.')!r}, and only arrays of numbers are read")
        self.stack.append(_Global(_GLOBALS[name]))

    def put(self, key: int) -> None:
        value = self.stack[-1]
        self.memo[key] = value
        if isinstance(value, _Unfinished):
            value.memo_keys.append(key)

    def fill(self, name: str) -> None:
        """Put items, or keys and values, into the container below them; LIST and DICT make it first."""
        many = name in ("APPENDS", "LIST", "SETITEMS", "DICT")
        is_list = name in ("APPEND", "APPENDS", "LIST")
        items = self.pop_mark() if many else self.pop_many(1 if is_list else 2)
        if name in ("LIST", "DICT"):
            self.stack.append([] if is_list else {})
        target = self.stack[-1]
        if type(target) is not (list if is_list else dict):
            raise ValueError(
                f"the instruction {name} on something other than a {'list' if is_list else 'dict'}"
            )
        if is_list:
            target.extend(_data(item) for item in items)
        else:
            self.set_items(target, [items[i : i + 2] for i in range(0, len(items), 2)])

    def set_items(self, target: dict[Any, Any], pairs: list[Any]) -> None:
        for pair in pairs:
            if type(pair) not in (list, tuple) or len(pair) != 2:
                raise ValueError("a dict made of something other than pairs")
            key, value = pair
            if type(key) not in (str, int):
                raise ValueError(f"a dict's key that is neither str nor int but {type(key).__name__}")
            target[key] = _data(value)

    def spend(self, size: int) -> None:
        """Account for a copy of `size` bytes or items of the file."""
        self.copyable -= size
        if self.copyable < 0:
            raise ValueError("it copies its own parts to more than its size")

    def encode(self, text: str) -> bytes:
        self.spend(len(text))
        return text.encode("latin1")

    def reduce(self, function: object, arguments: object) -> Any:
        """What calling `function` would give, for the calls that arrays and dicts need."""
        match function if isinstance(function, _Global) else None, arguments:
            case "array", (_Global("ndarray"), (0,), b"b" | "b"):
                return _Unfinished()
            case "dtype", _:
                return _Unfinished(_number_dtype(arguments))
            case "scalar", (np.dtype() as dtype, bytes() | str() as data):
                return self.array((), dtype, False, data).item()
            case "encode", (str() as text, "latin1"):
                return self.encode(text)
            case "dict", () | (list(),):
                made: dict[Any, Any] = {}
                for pairs in arguments:
                    self.spend(len(pairs))
                    self.set_items(made, pairs)
                return made
        called = function if isinstance(function, _Global) else type(function).__name__
        raise ValueError(f"a call of {called!r} that makes no array of numbers")

    def build(self, state: object) -> None:
        """Give the unfinished array or dtype on top of the stack its content."""
        target = self.stack[-1]
        if type(target) is dict and type(state) is dict:
            return  # attributes of an ordered dict
        if not isinstance(target, _Unfinished):
            raise ValueError(f"a state (BUILD) for a {type(target).__name__}, and only arrays have one")
        if target.dtype is not None:
            finished = _finish_dtype(target.dtype, state)
        else:
            match state:
                case (
                    1,
                    tuple() as shape,
                    np.dtype() as dtype,
                    bool() | 0 | 1 as fortran,
                    bytes() | str() as data,
                ):
                    finished = self.array(shape, dtype, bool(fortran), data)
                case _:
                    raise ValueError("an array whose state is not shape, dtype of numbers, order and bytes")
        self.stack[-1] = finished
        self.memo |= dict.fromkeys(target.memo_keys, finished)
        # Copies of the target may lie deeper in the stack: they do not replace it again.
        target.memo_keys = []

    def array(self, shape: tuple, dtype: np.dtype, fortran: bool, data: bytes | str) -> np.ndarray:
        """The array whose elements are `data`, without a copy, once its size is what the shape says."""
        if len(shape) > 8 or not all(type(n) is int and 0 <= n < 2**31 for n in shape):
            raise ValueError("an array whose shape is more than 8 numbers or no numbers from 0 to 2**31 - 1")
        needed = math.prod(shape) * dtype.itemsize
        if len(data) != needed:
            raise ValueError(
                f"an array of shape {shape} and dtype {dtype} with {len(data)} bytes, not {needed}"
            )
        data = self.encode(data) if isinstance(data, str) else data
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
