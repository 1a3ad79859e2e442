"""Errors of a kernel as they were raised, without the wrapper that Triton's interpreter puts around them."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


# What the interpreter says, and what it means to who wrote the line.
MEANINGS = (
    (
        "'int' object is not iterable",
        "a pointer takes no index: tl.load(pointer + i), tl.store(pointer + i, value)",
    ),
    ("invalid operands of type pointer", "what is added to a pointer must be whole numbers: .to(tl.int32)"),
    ("cannot add pointers", "load both, then add the numbers"),
    (
        "Value argument cannot be block type",
        "a vector needs as many places: reduce it first, or add tl.arange",
    ),
    ("Mask argument cannot be block type", "a vector of masks needs a vector of places: pointer + i"),
    ("Unsupported ptr type", "the first argument is the place, a pointer; the second, in a store, the value"),
    (
        "must be of type tl.constexpr",
        "a vector's length is a constant: use BLOCK, and a mask for what is too much",
    ),
    ("invalid combination of arguments - got (tensor", "in a kernel use functions of tl, not of torch"),
    ("cannot convert acquire", "the order is tl.atomic_add(pointer + i, value, mask)"),
)


def plain_errors(launch: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """`launch`, but what a line of the kernel raises comes out as itself, with its meaning where that is known.

    Triton's interpreter raises InterpreterError from it, which hides a stub's NotImplementedError.
    """

    @wraps(launch)
    def launched(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        from triton import InterpreterError

        try:
            return launch(*args, **kwargs)
        except InterpreterError as error:
            if error.__cause__ is None:
                raise
            line = _in_the_kernel(error.__cause__.__traceback__)
            raise _explained(_innermost(error.__cause__, InterpreterError)).with_traceback(line) from None

    return launched


def _innermost(error: BaseException, wrapper: type[BaseException]) -> BaseException:
    """The first error that is no wrapper: functions of tl that are kernels themselves add one each."""
    while isinstance(error, wrapper) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _explained(error: BaseException) -> BaseException:
    """The error, its message without torch's list of what else it takes, followed by what it means."""
    message = str(error)
    for said, meaning in MEANINGS:
        if said in message:
            error.args = (f"{message.split(', but expected one of')[0]} ({meaning})",)
    return error


def _in_the_kernel(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the kernel's own line on."""
    while trace is not None and "triton" in Path(trace.tb_frame.f_code.co_filename).parts:
        trace = trace.tb_next
    return trace
