"""What an exercise is, and when two answers are the same."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy
    from matplotlib.figure import Figure

Inputs = dict[str, Any]
# A figure and its alternative text.
Drawing = tuple["Figure", str]


@dataclass(frozen=True, kw_only=True)
class Misconception:
    """A wrong answer that people really give."""

    name: str
    sentence: str
    """Begins "This is ..." and says what to change."""
    answer: Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """A function that the reader writes, what judges it, and what is known of wrong answers."""

    name: str
    title: str
    difficulty: int
    minutes: int
    points: int
    right: Callable[..., Any]
    """The judge: the package's function or its definition, on the same arguments."""
    inputs: "SearchStrategy[Inputs]"
    """The arguments by name; shrinks to what fits on a picture."""
    misconceptions: tuple[Misconception, ...]
    hints: tuple[str, str]
    draw: Callable[[Inputs, Any, Any], Drawing]
    """A counterexample: the inputs, the reader's result, the right one."""
    picture: Callable[[Callable[..., Any]], Drawing]
    """What a right answer produces."""
    tolerance: float = 1e-5
    examples: int = 60


def difference(yours: Any, right: Any, tolerance: float) -> str | None:
    """In what the two results differ, in a phrase; None if in nothing.  NaN equals NaN."""
    if isinstance(right, torch.Tensor | np.ndarray):
        return _array_difference(yours, right, tolerance)
    if isinstance(right, bool | np.bool_):
        same = isinstance(yours, bool | np.bool_ | torch.Tensor) and bool(yours) == bool(right)
        return None if same else f"{_short(yours)}, expected {right}"
    if isinstance(right, int | float | np.number):
        return _number_difference(yours, right, tolerance)
    if isinstance(right, Mapping):
        if not isinstance(yours, Mapping) or set(yours) != set(right):
            return f"{_short(yours)}, expected a dict with the keys {sorted(right)}"
        found = ((key, difference(yours[key], right[key], tolerance)) for key in right)
        return next((f"under {key!r}: {text}" for key, text in found if text), None)
    if isinstance(right, str) or right is None:
        return None if yours == right else f"{_short(yours)}, expected {right!r}"
    if isinstance(right, Sequence):
        if not isinstance(yours, Sequence | torch.Tensor | np.ndarray) or len(yours) != len(right):
            return f"{_short(yours)}, expected {len(right)} result{'s' * (len(right) != 1)}"
        found = ((i, difference(y, r, tolerance)) for i, (y, r) in enumerate(zip(yours, right)))
        return next((_at(i, text) for i, text in found if text), None)
    return None if yours == right else f"{_short(yours)}, expected {_short(right)}"


def _at(index: int, text: str) -> str:
    """ "result [1][0]: ..." of a difference within a sequence within another."""
    inner = text.removeprefix("result ")
    return f"result [{index}]{inner}" if inner != text else f"result [{index}]: {text}"


def _number_difference(yours: Any, right: float, tolerance: float) -> str | None:
    try:
        number = float(yours)
    except (TypeError, ValueError, RuntimeError):
        return f"{_short(yours)}, expected the number {right}"
    if math.isnan(number) and math.isnan(right):
        return None
    if math.isclose(number, right, rel_tol=tolerance, abs_tol=tolerance):
        return None
    return f"{number:.6g}, expected {right:.6g}"


def _array_difference(yours: Any, right: Any, tolerance: float) -> str | None:
    wanted = torch.as_tensor(right).detach().cpu()
    try:
        found = torch.as_tensor(yours).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        return f"{_short(yours)}, expected a tensor of shape {tuple(wanted.shape)}"
    if found.shape != wanted.shape:
        return f"shape {tuple(found.shape)}, expected {tuple(wanted.shape)}"
    if (found.dtype == torch.bool) != (wanted.dtype == torch.bool):
        return f"dtype {found.dtype}, expected {wanted.dtype}"
    close = torch.isclose(found.double(), wanted.double(), tolerance, tolerance, equal_nan=True)
    if close.all():
        return None
    place = tuple((~close).nonzero()[0].tolist())
    where = f"[{', '.join(map(str, place))}]" if place else "the value"
    return f"{where} is {found[place].item():.6g}, expected {wanted[place].item():.6g}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."
