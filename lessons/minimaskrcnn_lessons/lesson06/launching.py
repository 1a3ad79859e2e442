"""Errors of a kernel as they were raised, without the wrapper that Triton's interpreter puts around them."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def plain_errors(launch: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """`launch`, but what a line of the kernel raises comes out as itself.

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
            raise error.__cause__.with_traceback(_in_the_kernel(error.__cause__.__traceback__)) from None

    return launched


def _in_the_kernel(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the kernel's own line on."""
    while trace is not None and "triton" in Path(trace.tb_frame.f_code.co_filename).parts:
        trace = trace.tb_next
    return trace
