"""Checks of the reader's answers: draw inputs, shrink the first that differs, draw it, and name the mistake.

Hypothesis draws the inputs and shrinks them.  It is derandomised, keeps no database and is cut off after a few
seconds: what it has found by then is shown.
"""

import copy
import html
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from textwrap import shorten
from typing import Any, Literal

import torch

from minimaskrcnn_lessons import catalogue
from minimaskrcnn_lessons.display import display_html, picture_html, show
from minimaskrcnn_lessons.exercise import Exercise, Inputs, Misconception, difference

# Seconds for drawing and shrinking together, for shrinking, and for asking which mistake it is: 10 at most together.
SEARCH, SHRINKING, DIAGNOSIS = 7.5, 4.0, 2.0
# An answer that agrees on fewer inputs than this when the time is over has not been judged.
FEWEST = 10
# Inputs on which an answer must equal a misconception's to be called by its name.
COMPARED = 25

# Characters of an error's text that are shown.
LONGEST = 300

Status = Literal["right", "not yet", "too slow", "wrong", "error"]


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What a check found; shown when it was made."""

    exercise: str
    status: Status
    message: str
    inputs: Inputs | None = None
    misconception: Misconception | None = None

    def __bool__(self) -> bool:
        return self.status == "right"

    def _ipython_display_(self) -> None:
        """Nothing: `check` has shown it already."""


class _Failure(Exception):
    """Raised in the reader's function; carries what to say of it."""


def check(name: str, answer: Callable[..., Any]) -> CheckResult:
    """Compare the reader's function with the right one, show and return what was found; raises for no answer."""
    exercise = catalogue.find(name)
    result = judge(exercise, answer)
    display_html(_as_html(exercise, answer, result))
    return result


def grade(name: str, answer: Callable[..., Any]) -> None:
    """Raise AssertionError unless the reader's function is right: nbgrader's cell."""
    result = judge(catalogue.find(name), answer)
    if not result:
        raise AssertionError(result.message)


def hint(name: str, number: int = 1) -> None:
    """Show hint 1 or 2 of an exercise."""
    from IPython.display import Markdown, display

    hints = catalogue.find(name).hints
    if number not in (1, 2):
        raise ValueError(f"hint {number}: there are hints 1 and 2")
    display(Markdown(f"**Hint {number}.** {hints[number - 1]}"))


def expected(name: str) -> None:
    """Show what a right answer produces."""
    exercise = catalogue.find(name)
    show(*exercise.picture(exercise.right))


def judge(exercise: Exercise, answer: Callable[..., Any]) -> CheckResult:
    """What `check` returns, without showing it."""

    def result(status: Status, message: str, **found: Any) -> CheckResult:
        return CheckResult(exercise=exercise.name, status=status, message=message, **found)

    if not callable(answer):
        return result("error", f"{answer!r} is not a function: pass it by its name, without brackets")
    start = time.perf_counter()
    try:
        inputs, drawn = _smallest_failure(exercise, answer)
    except NotImplementedError:
        return result("not yet", "The function is still a stub. Replace its last line by your answer.")
    if inputs is None and drawn < FEWEST and time.perf_counter() - start > SEARCH:
        return result("too slow", f"It agrees, but on {drawn} inputs only in {SEARCH:g} seconds.")
    if inputs is None:
        return result("right", f"Equal to the definition on all {drawn} inputs drawn.")
    mistake = _diagnosis(exercise, answer)
    try:
        yours = _call(answer, inputs)
    except _Failure as failure:
        message = f"{mistake.sentence} ({failure})" if mistake is not None else str(failure)
        return result("error", message, inputs=inputs, misconception=mistake)
    if yours is None:
        message = "Your function returned None for the inputs below. Is a `return` missing?"
        return result("wrong", message, inputs=inputs)
    what = difference(yours, exercise.right(**copy.deepcopy(inputs)), exercise.tolerance)
    message = f"{what}, for the inputs below, the smallest on which it differs."
    if mistake is not None:
        message = f"{mistake.sentence} ({message})"
    return result("wrong", message, inputs=inputs, misconception=mistake)


def _smallest_failure(exercise: Exercise, answer: Callable[..., Any]) -> tuple[Inputs | None, int]:
    """The simplest inputs found on which the answer differs from the right one or raises, and how many agreed."""
    from hypothesis import HealthCheck, find, settings
    from hypothesis.errors import HypothesisException

    smallest: list[Inputs] = []
    stubs: list[NotImplementedError] = []
    agreed, until = 0, time.perf_counter() + SEARCH

    def fails(inputs: Inputs) -> bool:
        nonlocal agreed, until
        if stubs or time.perf_counter() > until:
            return False
        try:
            if _is_right(exercise, answer, inputs):
                agreed += 1
                return False
        except NotImplementedError as error:
            stubs.append(error)
            return False
        if not smallest:
            until = min(until, time.perf_counter() + SHRINKING)
        # Hypothesis goes from a failure to simpler ones only.
        smallest[:] = [inputs]
        return True

    how = settings(
        max_examples=exercise.examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    # Raised where nothing was found, and where the clock cut it off, which it calls flaky.
    with suppress(HypothesisException):
        find(exercise.inputs, fails, settings=how, database_key=None)
    if stubs:
        raise stubs[0]
    return (smallest[0] if smallest else None), agreed


def _is_right(exercise: Exercise, answer: Callable[..., Any], inputs: Inputs) -> bool:
    try:
        yours = _call(answer, inputs)
    except _Failure:
        return False
    return difference(yours, exercise.right(**copy.deepcopy(inputs)), exercise.tolerance) is None


def _call(answer: Callable[..., Any], inputs: Inputs) -> Any:
    """The answer to a copy of the inputs; _Failure for what it raises, but a stub's own error goes through.

    An answer that draws random numbers draws the same ones each time: it is asked again, for message and drawing.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return answer(**copy.deepcopy(inputs))
    # Whatever a reader's code raises is for the reader.
    except Exception as error:
        # A stub's has no message; torch raises it too, with one.
        if isinstance(error, NotImplementedError) and not str(error):
            raise
        frames = [
            f for f in traceback.extract_tb(error.__traceback__) if "minimaskrcnn_lessons" not in f.filename
        ]
        where = f", in line {frames[0].lineno}: {frames[0].line}" if frames else ""
        said = shorten(" ".join(str(error).split()), LONGEST)
        raise _Failure(f"Your function raised {type(error).__name__}: {said}{where}") from error


def _diagnosis(exercise: Exercise, answer: Callable[..., Any]) -> Misconception | None:
    """The misconception that the answer equals on all inputs drawn, where it differs from the right one on some."""
    from hypothesis import HealthCheck, Phase, given, settings

    drawn: list[Inputs] = []

    def collect(inputs: Inputs) -> None:
        drawn.append(inputs)

    how = settings(
        max_examples=COMPARED, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    how(given(exercise.inputs)(collect))()
    until = time.perf_counter() + DIAGNOSIS
    suspects, seen_wrong = list(exercise.misconceptions), set()
    for inputs in drawn:
        if time.perf_counter() > until:
            break
        outcome = _outcome(answer, inputs)
        right = _outcome(exercise.right, inputs)
        suspects = [s for s in suspects if _same(_outcome(s.answer, inputs), outcome, exercise.tolerance)]
        if not _same(outcome, right, exercise.tolerance):
            seen_wrong.update(s.name for s in suspects)
    return next((s for s in suspects if s.name in seen_wrong), None)


def _outcome(function: Callable[..., Any], inputs: Inputs) -> Any:
    """The result, or the type of the error."""
    try:
        return _call(function, inputs)
    except _Failure as failure:
        return type(failure.__cause__)


def _same(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, type) or isinstance(other, type) or other is None:
        return one is other
    return difference(one, other, tolerance) is None


def _as_html(exercise: Exercise, answer: Callable[..., Any], result: CheckResult) -> str:
    title, sign, edge = {
        "right": ("Right", "✓", "#00664B"),
        "not yet": ("Not yet", "…", "#555555"),
        "too slow": ("Too slow", "…", "#555555"),
        "wrong": ("Not right yet", "✗", "#A34700"),
        "error": ("An error", "!", "#A34700"),
    }[result.status]
    parts = [f"<strong>{sign} {title}: {exercise.name}.</strong> {html.escape(result.message)}"]
    if result.inputs is not None:
        rows = "".join(
            f"<li><code>{html.escape(f'{k} = {v!r}')}</code></li>" for k, v in result.inputs.items()
        )
        parts.append(f"<details><summary>The inputs</summary><ul>{rows}</ul></details>")
    if result.status == "wrong":
        parts += _counterexample(exercise, answer, result.inputs)
    body = "".join(f"<div>{part}</div>" for part in parts)
    style = f"border-left: 4px solid {edge}; padding: 0.3em 0.8em; background: #ffffff; color: #222222"
    return f'<div role="status" style="{style}">{body}</div>'


def _counterexample(exercise: Exercise, answer: Callable[..., Any], inputs: Inputs) -> list[str]:
    """The exercise's drawing of both results; nothing where the reader's cannot be drawn at all."""
    yours, right = _call(answer, inputs), exercise.right(**copy.deepcopy(inputs))
    try:
        return [picture_html(*exercise.draw(copy.deepcopy(inputs), yours, right))]
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError):
        # A result of another shape or type than the drawing knows; the message says which.
        return []
