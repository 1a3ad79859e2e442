"""Checks of answers: the right one passes, wrong ones are shrunk, drawn and named; nothing typed raises."""

import re
import time
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from hypothesis import strategies as st
from optional import need

need("IPython")
need("matplotlib")

from minimaskrcnn_lessons import catalogue, checking, display
from minimaskrcnn_lessons.checking import check, expected, grade, hint, judge
from minimaskrcnn_lessons.exercise import Exercise, Misconception, difference


def drawing(*_):
    import matplotlib.pyplot as plt

    return plt.figure(figsize=(1, 1)), "A small empty figure, as wide as it is high."


HALF = Exercise(
    name="half_up",
    title="Round halves up",
    difficulty=1,
    minutes=5,
    points=2,
    right=lambda x: torch.floor(x + 0.5),
    inputs=st.lists(st.integers(-8, 8), min_size=1, max_size=4).map(lambda n: {"x": torch.tensor(n) / 2}),
    misconceptions=(
        Misconception(
            name="banker", sentence="This is rounding to even numbers: halves go up.", answer=torch.round
        ),
        Misconception(name="floor", sentence="This is floor: halves go up.", answer=lambda x: x.floor()),
    ),
    hints=("Add something.", "Add a half, then *floor*."),
    draw=drawing,
    picture=drawing,
)


@pytest.fixture
def known(monkeypatch):
    """The catalogue with this one exercise, and what is displayed."""
    monkeypatch.setattr(catalogue, "lessons", lambda: ["lesson99"])
    monkeypatch.setattr(catalogue, "of_lesson", lambda lesson: (HALF,))
    shown = []
    with patch("IPython.display.display", lambda item, **_: shown.append(item.data)):
        yield shown


def test_the_right_answer_passes(known):
    result = check("half_up", lambda x: (x + 0.5).floor())
    assert result and result.status == "right" and result.misconception is None
    assert "✓ Right: half_up" in known[0] and "<img" not in known[0]
    grade("half_up", HALF.right)


@pytest.mark.parametrize("mistake", HALF.misconceptions, ids=lambda m: m.name)
def test_a_known_mistake_is_named_and_drawn(known, mistake):
    result = check("half_up", mistake.answer)
    assert not result and result.status == "wrong" and result.misconception == mistake
    assert mistake.sentence in result.message and "<img" in known[0]
    with pytest.raises(AssertionError, match=r"This is"):
        grade("half_up", mistake.answer)


def test_a_counterexample_is_the_smallest():
    result = judge(HALF, lambda x: torch.floor(x + 0.5) + (x > 1).float())
    # One number, and the smallest above 1 that Hypothesis can draw.
    assert result.inputs["x"].tolist() == [1.5]
    assert result.misconception is None and "[0] is 3, expected 2" in result.message


def test_a_stub_is_not_yet(known):
    def stub(x):
        raise NotImplementedError()

    assert check("half_up", stub).status == "not yet"
    assert "Not yet" in known[0]
    with pytest.raises(AssertionError, match="still a stub"):
        grade("half_up", stub)


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (lambda x: 1 / 0, "error", "ZeroDivisionError: division by zero, in line"),
        (lambda: 0, "error", "raised TypeError"),
        # torch raises NotImplementedError of its own.
        (lambda x: 0.5 & x, "error", "raised NotImplementedError: "),
        (lambda x: None, "wrong", "Is a `return` missing?"),
        (lambda x: x[None], "wrong", r"shape \(1, 1\), expected \(1,\)"),
        (lambda x: "1", "wrong", "expected a tensor"),
        (3, "error", "3 is not a function"),
    ],
)
def test_whatever_is_typed_gets_an_answer(known, answer, status, words):
    result = check("half_up", answer)
    assert result.status == status and len(known) == 1
    with pytest.raises(AssertionError, match=words):
        grade("half_up", answer)


def test_an_answer_may_overwrite_its_inputs():
    assert judge(HALF, lambda x: x.add_(0.5).floor_())


def test_checks_repeat_themselves():
    first, second = (judge(HALF, lambda x: x * x) for _ in range(2))
    assert first.message == second.message and torch.equal(first.inputs["x"], second.inputs["x"])


def test_a_slow_answer_is_cut_off():
    def slow(x):
        time.sleep(0.3)
        return x + 7

    start = time.perf_counter()
    assert judge(replace(HALF, examples=1000), slow).status == "wrong"
    assert time.perf_counter() - start < 2 + checking.SEARCH + checking.DIAGNOSIS


def test_a_slow_right_answer_says_on_how_many_inputs_it_was_compared(monkeypatch):
    monkeypatch.setattr(checking, "SEARCH", 0.5)

    def slow(x):
        time.sleep(0.1)
        return torch.floor(x + 0.5)

    result = judge(HALF, slow)
    assert not result and result.status == "too slow"
    assert re.search(r"on [1-5] inputs only in 0.5 seconds", result.message)
    monkeypatch.undo()
    assert judge(HALF, HALF.right).message == "Equal to the definition on all 60 inputs drawn."


def test_a_known_mistake_that_raises_is_named():
    whole = Misconception(
        name="item", sentence="This is for one number: take them all.", answer=lambda x: x[9]
    )
    result = judge(replace(HALF, misconceptions=(whole,)), lambda x: x[7])
    assert result.status == "error" and result.misconception == whole
    assert result.message.startswith(whole.sentence) and "raised IndexError" in result.message


def test_random_answers_repeat_themselves():
    result = judge(HALF, lambda x: torch.rand(len(x)))
    assert result.status == "wrong" and "None" not in result.message
    # And leave the reader's own random numbers alone.
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    judge(HALF, lambda x: torch.rand(len(x)))
    assert torch.equal(torch.rand(3), expected)


def test_a_long_error_is_cut():
    def fails(x):
        raise ValueError("many words " * 100)

    message = judge(HALF, fails).message
    assert "raised ValueError: many words" in message and len(message) < 500


def test_hints_and_the_expected_picture(known):
    hint("half_up")
    hint("half_up", 2)
    expected("half_up")
    assert "Add something." in known[0] and "Add a half" in known[1] and "<img alt=" in known[2]
    with pytest.raises(ValueError, match="hint 3"):
        hint("half_up", 3)
    with pytest.raises(ValueError, match="no exercise is called 'third'; there are half_up"):
        check("third", torch.floor)


@pytest.mark.parametrize(
    ("yours", "right", "words"),
    [
        (torch.tensor([1.0, 2]), torch.tensor([1.0, 2]), None),
        (torch.tensor([float("nan")]), torch.tensor([float("nan")]), None),
        ([1.0, 3], torch.tensor([1.0, 2]), r"[1] is 3, expected 2"),
        (torch.tensor([1]), torch.tensor([True]), "dtype torch.int64, expected torch.bool"),
        (torch.tensor(2.0), 2.0, None),
        (2.1, 2.0, "2.1, expected 2"),
        ("x", 2.0, "'x', expected the number 2.0"),
        (1, True, "1, expected True"),
        ((1, torch.zeros(2)), (1, torch.zeros(3)), "result [1]: shape (2,), expected (3,)"),
        ([[1], [2, 3]], [[1], [2, 4]], "result [1][1]: 3, expected 4"),
        ([1], (1, 2), "[1], expected 2 results"),
        (3, [1], "3, expected 1 result"),
        ({"a": 1}, {"a": 2}, "under 'a': 1, expected 2"),
        ({}, {"a": 2}, "{}, expected a dict with the keys ['a']"),
        (None, torch.zeros(1), "None, expected a tensor of shape (1,)"),
        ("a", "b", "'a', expected 'b'"),
    ],
)
def test_differences_are_said_in_a_phrase(yours, right, words):
    assert difference(yours, right, 1e-5) == words


def test_a_figure_needs_its_alternative_text():
    figure, _ = drawing()
    for alt in ("", "Short.", "x" * 501):
        with pytest.raises(ValueError, match=f"alternative text of {len(alt)} characters"):
            display.picture_html(figure, alt)
    text = display.picture_html(figure, 'Three boxes < four "boxes", and one more of them.')
    assert 'alt="Three boxes &lt; four &quot;boxes&quot;, and one more of them."' in text


def test_progress_passes_everything_on_and_says_how_long(known):
    with patch("IPython.display.display") as shown:
        assert list(display.progress([3, 4], "Boxes < 3")) == [3, 4]
    last = shown.return_value.update.call_args[0][0].data
    assert last.startswith("<p>Boxes &lt; 3: done in ")
