"""Editions: what each keeps of a source, the same bytes each time, and the committed notebooks' form."""

from unittest.mock import patch

import nbformat
import pytest
from optional import need

need("jupytext")
need("IPython")

from minimaskrcnn_lessons import catalogue, editions, lint
from test_lessons_checking import HALF

SOURCE = '''# ---
# lesson:
#   minutes: 30
#   difficulty: 2
# ---
# %% [markdown]
# # 99 · Rounding
#
# {{minutes}} minutes, {{difficulty}}, {{seconds}} s
# %%
from minimaskrcnn_lessons import check, setup; setup()
# %% [markdown] exercise="half_up"
# Round.
# %% exercise="half_up"
def my_half_up(x):
    """To integers."""
    ### BEGIN SOLUTION
    shifted = x + 0.5
    return shifted.floor()
    ### END SOLUTION
# %%
check("half_up", my_half_up)
# %% grade="half_up"
grade("half_up", my_half_up)
### BEGIN HIDDEN TESTS
assert my_half_up(torch.tensor(2.5)) == 3
### END HIDDEN TESTS
'''


@pytest.fixture
def lesson(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "of_lesson", lambda name: (HALF,))
    monkeypatch.setattr(catalogue, "lessons", lambda: ["lesson99"])
    path = tmp_path / "99_rounding.py"
    path.write_text(SOURCE)
    return editions.read(path)


def code(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


STUB = 'def my_half_up(x):\n    """To integers."""\n    # YOUR CODE HERE\n    raise NotImplementedError()'
SOLUTION = 'def my_half_up(x):\n    """To integers."""\n    shifted = x + 0.5\n    return shifted.floor()'


def test_the_self_study_edition_has_a_stub_and_no_grades(lesson):
    made = editions.build(lesson, "self-study")
    assert code(made)[1:] == [STUB, 'check("half_up", my_half_up)']
    nbformat.validate(made)


def test_the_solutions_have_the_solution(lesson):
    assert code(editions.build(lesson, "solutions"))[1:] == [SOLUTION, 'check("half_up", my_half_up)']


def test_the_book_folds_the_solution_behind_the_stub(lesson):
    made = editions.build(lesson, "book")
    assert code(made)[1:3] == [STUB, SOLUTION]
    assert [c.metadata.get("tags") for c in made.cells if c.source == SOLUTION] == [
        ["hide-input", "solution"]
    ]


def test_the_release_is_nbgraders(lesson):
    made = editions.build(lesson, "release")
    kinds = [cell.metadata["nbgrader"] for cell in made.cells if "nbgrader" in cell.metadata]
    assert [(k["solution"], k["grade"], k["locked"], k.get("points")) for k in kinds] == [
        (False, False, True, None),
        (True, False, False, None),
        (False, True, True, 2),
    ]
    assert len({k["grade_id"] for k in kinds}) == 3
    assert "### BEGIN SOLUTION" in code(made)[1] and "### BEGIN HIDDEN TESTS" in code(made)[-1]


def test_a_task_has_its_heading_and_folded_hints(lesson):
    (task,) = [
        c.source for c in editions.build(lesson, "self-study").cells if c.source.startswith("### Exercise")
    ]
    assert task.startswith(
        "### Exercise 99.1 · Round halves up\n\n*difficulty ●○○ (1 of 3), about 5 minutes*"
    )
    assert "<details><summary>Hint 2</summary>\n\nAdd a half, then *floor*." in task


def test_the_headers_numbers_are_filled_in(lesson):
    with patch.object(editions, "budgets", lambda: {"99_rounding": {"seconds": 12.4, "mib": 300}}):
        first = editions.build(lesson, "self-study").cells[0].source
    assert first.endswith("30 minutes, difficulty ●●○ (2 of 3), 12 s")


def test_the_same_bytes_each_time_and_ids_of_their_own(lesson):
    for edition in ("self-study", "solutions", "release", "book"):
        one, two = (editions.build(lesson, edition) for _ in range(2))
        assert editions.dumps(one) == editions.dumps(two)
        assert len({cell.id for cell in one.cells}) == len(one.cells)


def test_outputs_stay_with_cells_that_did_not_change(lesson):
    old = editions.build(lesson, "self-study")
    old.cells[1].outputs = [nbformat.v4.new_output("stream", text="kept")]
    old.cells[-1].outputs, old.cells[-1].source = [nbformat.v4.new_output("stream", text="gone")], "other"
    made = editions.with_outputs_of(editions.build(lesson, "self-study"), old)
    assert made.cells[1].outputs[0].text == "kept" and made.cells[-1].outputs == []


def test_a_header_without_numbers_and_a_solution_without_an_end_are_refused(tmp_path, lesson):
    path = tmp_path / "98_other.py"
    path.write_text("# %%\n1\n")
    with pytest.raises(ValueError, match="the header needs lesson: minutes, difficulty"):
        editions.read(path)
    path.write_text(SOURCE.replace("    ### END SOLUTION\n", ""))
    with pytest.raises(ValueError, match="expected one ### BEGIN SOLUTION"):
        editions.build(editions.read(path), "solutions")


def test_code_that_claims_to_be_the_librarys_is_compared(tmp_path, lesson):
    path = tmp_path / "97_copy.py"
    cell = '# %% library="minimaskrcnn_lessons.editions:_dots"\n'
    for text, count in [
        ("def _dots(difficulty: int) -> str:\n    return 1\n", 1),
        (editions.inspect.getsource(editions._dots), 0),
    ]:
        path.write_text(SOURCE + cell + text)
        assert len(list(editions.library_differences(editions.read(path)))) == count


def test_lint_finds_what_is_missing(tmp_path, lesson):
    found = "\n".join(lint.findings(tmp_path / "99_rounding.py"))
    for words in ("sections []", "words, expected 1200", "code cells, expected 15", "1 exercises, expected 3",
                  "no expected(...)", "knows 2 misconceptions", "is not there: build, then execute"):  # fmt: skip
        assert words in found


def test_an_unknown_lesson_is_not_passed_over(capsys):
    from minimaskrcnn_lessons.__main__ import main

    with pytest.raises(SystemExit):
        main(["execute", "06", "77"])
    assert "no lesson 77: there are 00, 01" in capsys.readouterr().err


@pytest.mark.parametrize("path", editions.sources(), ids=lambda path: path.stem)
def test_the_form_of_a_lesson(path):
    assert lint.findings(path) == []
