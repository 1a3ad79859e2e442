"""One source, four editions: `source/NN_name.py` made into notebooks.

A source is jupytext's py:percent, with the keys of `lessons/AUTHORING.md`.  Cells come out byte for byte the same
each time: their ids are a hash of lesson, position and source.
"""

import ast
import hashlib
import importlib
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jupytext
import nbformat
from nbformat import NotebookNode

from minimaskrcnn.files import write_text
from minimaskrcnn_lessons import catalogue
from minimaskrcnn_lessons.exercise import Exercise

LESSONS = Path(__file__).parents[1]
SOURCES, BUDGETS = LESSONS / "source", LESSONS / "budgets.json"
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
BEGIN_HIDDEN, END_HIDDEN = "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"
# What nbgrader puts there too, so that both editions ask alike.
STUB = "# YOUR CODE HERE\nraise NotImplementedError()"
KERNEL = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}

Edition = Literal["self-study", "solutions", "release", "book"]


class Lesson(NamedTuple):
    """A parsed source."""

    stem: str
    """NN_name"""
    minutes: int
    difficulty: int
    cells: list[NotebookNode]

    @property
    def number(self) -> str:
        return self.stem[:2]

    @property
    def exercises(self) -> tuple[Exercise, ...]:
        return catalogue.of_lesson(f"lesson{self.number}")


def sources() -> list[Path]:
    """All sources, in the order of the course."""
    return sorted(SOURCES.glob("[0-9][0-9]_*.py"))


def read(path: Path) -> Lesson:
    """Parse a source; ValueError where its header lacks the lesson's numbers."""
    first, *cells = jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent").cells
    about = (
        dict(re.findall(r"(?m)^  (minutes|difficulty): (\d+)$", first.source))
        if first.cell_type == "raw"
        else {}
    )
    if set(about) != {"minutes", "difficulty"}:
        raise ValueError(f"{path}: the header needs lesson: minutes, difficulty; it has {about}")
    return Lesson(path.stem, int(about["minutes"]), int(about["difficulty"]), cells)


def notebook_path(stem: str, edition: Edition) -> Path:
    """Where an edition of a lesson lies."""
    if edition == "self-study":
        return LESSONS / f"{stem}.ipynb"
    if edition == "solutions":
        return LESSONS / "solutions" / f"{stem}.ipynb"
    if edition == "release":
        return LESSONS / "release" / "source" / stem / f"{stem}.ipynb"
    return LESSONS / "book" / "pages" / f"{stem}.ipynb"


def build(lesson: Lesson, edition: Edition) -> NotebookNode:
    """An edition without outputs."""
    made = nbformat.v4.new_notebook(metadata=KERNEL)
    made.nbformat_minor = 5
    for cell in lesson.cells:
        made.cells += _cells(lesson, cell, edition)
    for position, cell in enumerate(made.cells):
        text = f"{lesson.stem}/{position}/{cell.cell_type}/{cell.source}"
        cell.id = hashlib.sha256(text.encode()).hexdigest()[:12]
    return made


def dumps(notebook: NotebookNode) -> str:
    """The notebook as text, the same for the same cells and outputs."""
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def write(notebook: NotebookNode, path: Path) -> None:
    """Write the whole file."""
    write_text(path, dumps(notebook))


def with_outputs_of(made: NotebookNode, old: NotebookNode) -> NotebookNode:
    """`made` with the outputs that cells of the same source had in `old`."""
    known = {cell.source: cell for cell in old.cells if cell.cell_type == "code"}
    for cell in made.cells:
        if cell.cell_type == "code" and cell.source in known:
            cell.outputs = known[cell.source].outputs
            cell.execution_count = known[cell.source].execution_count
    return made


def budgets() -> dict[str, dict[str, float]]:
    """Seconds and MiB of each lesson, as measured by `python -m minimaskrcnn_lessons execute`."""
    return json.loads(BUDGETS.read_text()) if BUDGETS.exists() else {}


def library_differences(lesson: Lesson) -> Iterator[str]:
    """Cells that claim to be the library's code and are not."""
    for cell in lesson.cells:
        name = cell.metadata.get("library")
        if name is None:
            continue
        module, _, attribute = name.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        # Triton wraps the functions that it compiles.
        source = inspect.getsource(getattr(found, "fn", found))
        if _tree(source) != _tree(cell.source):
            yield f"{lesson.stem}: the cell library={name!r} is not {name}"


def _tree(source: str) -> str:
    return ast.dump(ast.parse(textwrap.dedent(source)))


def _cells(lesson: Lesson, cell: NotebookNode, edition: Edition) -> list[NotebookNode]:
    keys = cell.metadata
    if cell.cell_type == "markdown":
        text = _filled(cell.source, lesson)
        if "exercise" in keys:
            text = _task(lesson, keys["exercise"], text)
        return [nbformat.v4.new_markdown_cell(text, metadata=_locked(lesson, text, edition))]
    if "exercise" in keys:
        return _answer(keys["exercise"], cell.source, edition)
    if "grade" in keys:
        if edition != "release":
            return []
        points = catalogue.find(keys["grade"]).points
        # Only this edition grades, so no other cell imports it.
        source = f"from minimaskrcnn_lessons import grade\n\n{cell.source}"
        return [_code(source, _graded(f"grade-{keys['grade']}", grade=True, locked=True, points=points))]
    return [_code(cell.source)]


def _answer(name: str, source: str, edition: Edition) -> list[NotebookNode]:
    if not (source.count(BEGIN) == source.count(END) == 1):
        raise ValueError(f"exercise {name!r}: expected one {BEGIN} and one {END}")
    stub, solution = _stubbed(source), re.sub(rf"[ \t]*{BEGIN}\n|\n[ \t]*{END}", "", source)
    if edition == "self-study":
        return [_code(stub)]
    if edition == "solutions":
        return [_code(solution)]
    if edition == "release":
        return [_code(source, _graded(f"answer-{name}", solution=True))]
    return [_code(stub), _code(solution, {"tags": ["hide-input", "solution"]})]


def _stubbed(source: str) -> str:
    def stub(match: re.Match) -> str:
        return textwrap.indent(STUB, match[1])

    return re.sub(rf"(?ms)^([ \t]*){BEGIN}.*?{END}", stub, source)


def _graded(name: str, **kind: Any) -> dict[str, Any]:
    """nbgrader's metadata, schema 3."""
    start = {"grade": False, "locked": False, "solution": False, "task": False, "schema_version": 3}
    return {"nbgrader": start | {"grade_id": name} | kind}


def _locked(lesson: Lesson, text: str, edition: Edition) -> dict[str, Any]:
    """Tasks are read-only in nbgrader's edition."""
    if edition != "release" or not text.startswith("### Exercise"):
        return {}
    digest = hashlib.sha256(f"{lesson.stem}/{text}".encode()).hexdigest()[:8]
    return _graded(f"task-{digest}", locked=True)


def _code(source: str, metadata: dict[str, Any] | None = None) -> NotebookNode:
    return nbformat.v4.new_code_cell(source, metadata=metadata or {})


def _task(lesson: Lesson, name: str, text: str) -> str:
    """Heading above the task, folded hints below."""
    names = [exercise.name for exercise in lesson.exercises]
    exercise = catalogue.find(name)
    number = f"{int(lesson.number)}.{names.index(name) + 1}"
    hints = "\n".join(
        f"<details><summary>Hint {i}</summary>\n\n{hint}\n\n</details>\n"
        for i, hint in enumerate(exercise.hints, 1)
    )
    about = f"*{_dots(exercise.difficulty)}, about {exercise.minutes} minutes*"
    return f"### Exercise {number} · {exercise.title}\n\n{about}\n\n{text}\n\n{hints}".rstrip()


def _filled(text: str, lesson: Lesson) -> str:
    budget = budgets().get(lesson.stem)
    numbers = {
        "minutes": str(lesson.minutes),
        "difficulty": _dots(lesson.difficulty),
        "seconds": f"{budget['seconds']:.0f}" if budget else "(not measured)",
        "memory": f"{budget['mib']:.0f}" if budget else "(not measured)",
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: numbers[match[1]], text)


def _dots(difficulty: int) -> str:
    return f"difficulty {'●' * difficulty}{'○' * (3 - difficulty)} ({difficulty} of 3)"
