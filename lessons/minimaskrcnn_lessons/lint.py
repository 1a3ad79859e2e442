"""What a lesson must look like: order of sections, lengths, cells, alternative text, exercises."""

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import nbformat
from nbformat import NotebookNode

from minimaskrcnn_lessons import editions
from minimaskrcnn_lessons.editions import Lesson

SECTIONS = [
    "After this lesson you can",
    "Before you start",
    "The idea",
    "The mathematics",
    "The loop version",
    "Exercises",
    "The vectorised version",
    "The Triton version",
    "The proof",
    "What it costs",
    "The picture to keep",
    "Try this",
    "Summary",
    "References",
]
OPTIONAL = {"The Triton version"}
WORDS, CODE_CELLS, EXERCISES = range(1200, 2501), range(15, 26), range(3, 7)
MEDIAN_LINES, MOST_LINES, MOST_BYTES, MOST_SECONDS = 8, 40, 1_000_000, 60
FORBIDDEN = {
    "a pip cell": r"^\s*[!%]\s*(pip|conda)|^\s*import pip\b|subprocess.*\bpip\b",
    "a download": r"\burllib\.request|\brequests\.(get|post)|\bwget\b|\bcurl\b|load_state_dict_from_url",
    "a private API of Triton": r"\btriton\.\w*(\.\w+)*\._|triton\.runtime\.interpreter",
    "a picture by its address": r"!\[[^\]]*\]\(https?:|<img[^>]+src=[\"']https?:",
}


def findings(path: Path) -> list[str]:
    """What is wrong with a source and its self-study edition, a sentence each; none if all is well."""
    lesson = editions.read(path)
    made = editions.build(lesson, "self-study")
    found = [*_sections(lesson), *_lengths(lesson, made), *_exercises(lesson, made), *_contents(made)]
    found += editions.library_differences(lesson)
    committed = editions.notebook_path(lesson.stem, "self-study")
    if not committed.exists():
        return [
            f"{lesson.stem}: {text}"
            for text in [*found, f"{committed.name} is not there: build, then execute"]
        ]
    notebook = nbformat.read(committed, as_version=4)
    found += [*_generated(made, notebook), *_outputs(notebook), *_budget(lesson)]
    if committed.stat().st_size > MOST_BYTES:
        found.append(f"the notebook has {committed.stat().st_size} bytes, at most {MOST_BYTES}")
    return [f"{lesson.stem}: {text}" for text in found]


def _markdown(lesson: Lesson) -> str:
    return "\n\n".join(cell.source for cell in lesson.cells if cell.cell_type == "markdown")


def _sections(lesson: Lesson) -> Iterator[str]:
    headings = re.findall(r"(?m)^## (.+?)\s*$", _markdown(lesson))
    expected = [name for name in SECTIONS if name in headings or name not in OPTIONAL]
    if headings != expected:
        yield f"sections {headings}, expected {expected}"
    text = _markdown(lesson)
    if not re.match(rf"# {lesson.number} · \S", text):
        yield f"the title is {text.splitlines()[0]!r}, expected '# {lesson.number} · ...'"
    points = len(re.findall(r"(?m)^[-*] ", _section(text, "After this lesson you can")))
    if points not in range(3, 7):
        yield f"{points} points under 'After this lesson you can', expected 3 to 6"
    references = len(re.findall(r"(?m)^(?:[-*]|\d+\.) ", _section(text, "References")))
    if references not in range(3, 7):
        yield f"{references} references, expected 3 to 6"
    before = _section(text, "Before you start")
    for key in ("minutes", "difficulty", "seconds", "memory"):
        if f"{{{{{key}}}}}" not in before:
            yield f"{{{{{key}}}}} is missing under 'Before you start'"
    if "|---" not in _section(text, "The mathematics").replace(" ", ""):
        yield "no table of symbols under 'The mathematics'"


def _section(text: str, heading: str) -> str:
    match = re.search(rf"(?ms)^## {re.escape(heading)}\s*$(.*?)(?=^## |\Z)", text)
    return match[1] if match else ""


def _lengths(lesson: Lesson, made: NotebookNode) -> Iterator[str]:
    words = len(
        re.findall(r"\w[\w'’-]*", re.sub(r"\$\$.*?\$\$|\$[^$]*\$", " ", _markdown(lesson), flags=re.S))
    )
    if words not in WORDS:
        yield f"{words} words, expected {WORDS.start} to {WORDS.stop - 1}"
    lines = [_lines(cell.source) for cell in made.cells if cell.cell_type == "code"]
    if len(lines) not in CODE_CELLS:
        yield f"{len(lines)} code cells, expected {CODE_CELLS.start} to {CODE_CELLS.stop - 1}"
    if lines and median(lines) > MEDIAN_LINES:
        yield f"the median code cell has {median(lines)} lines, at most {MEDIAN_LINES}"
    if lines and max(lines) > MOST_LINES:
        yield f"a code cell has {max(lines)} lines, at most {MOST_LINES}"


def _lines(source: str) -> int:
    return sum(bool(line.strip()) for line in source.splitlines())


def _exercises(lesson: Lesson, made: NotebookNode) -> Iterator[str]:
    if len(lesson.exercises) not in EXERCISES:
        yield f"{len(lesson.exercises)} exercises, expected 3 to 6"
    code = "\n".join(cell.source for cell in made.cells if cell.cell_type == "code")
    for exercise in lesson.exercises:
        name = exercise.name
        keys = [cell.metadata for cell in lesson.cells]
        if (
            sum(key.get("exercise") == name for key in keys) != 2
            or sum(key.get("grade") == name for key in keys) != 1
        ):
            yield f"exercise {name!r} needs a task, a cell for the answer and a grade cell"
        yield from (f"exercise {name!r} has no {call}(...)" for call in ("check", "expected")
                    if f'{call}("{name}"' not in code)  # fmt: skip
        if len(exercise.misconceptions) < 3:
            yield f"exercise {name!r} knows {len(exercise.misconceptions)} misconceptions, at least 3"
        if not (1 <= exercise.difficulty <= 3 and exercise.points > 0 and all(exercise.hints)):
            yield f"exercise {name!r} needs a difficulty of 1 to 3, points and two hints"


def _contents(made: NotebookNode) -> Iterator[str]:
    code = [cell.source for cell in made.cells if cell.cell_type == "code"]
    if not code or "setup" not in code[0]:
        yield "the first code cell does not call setup()"
    for cell in made.cells:
        for what, pattern in FORBIDDEN.items():
            if re.search(pattern, cell.source, re.M):
                yield f"{what}: {cell.source[:60]!r}"
        if re.search(r"!\[\s*\]\(", cell.source):
            yield f"a picture without alternative text: {cell.source[:60]!r}"


def _generated(made: NotebookNode, committed: NotebookNode) -> Iterator[str]:
    if [(c.id, c.source) for c in made.cells] != [(c.id, c.source) for c in committed.cells]:
        yield "the notebook's cells are not those of the source: python -m minimaskrcnn_lessons build"
    if committed.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "no kernelspec python3 in the notebook's metadata"
    if "widgets" in committed.metadata:
        yield "widget state in the notebook's metadata"


def _outputs(notebook: NotebookNode) -> Iterator[str]:
    pictures = 0
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        if cell.source.strip() and cell.execution_count is None:
            yield f"a cell was not executed: {cell.source[:60]!r}"
        for output in cell.outputs:
            data = output.get("data", {})
            if output.output_type == "error":
                yield f"a cell raised {output.ename}: {cell.source[:60]!r}"
            if output.output_type == "stream" and output.name == "stderr":
                yield f"a cell wrote to standard error: {output.text[:60]!r}"
            if any(mime.startswith("image/") for mime in data):
                yield f"a picture without alternative text (use show): {cell.source[:60]!r}"
            if any("widget" in mime for mime in data):
                yield f"a widget in the stored outputs: {cell.source[:60]!r}"
            images = re.findall(r"<img\b[^>]*>", "".join(data.get("text/html", "")))
            pictures += len(images)
            if any(not re.search(r'alt="[^"]{30,}"', image) for image in images):
                yield f"a picture without alternative text: {cell.source[:60]!r}"
    if not pictures:
        yield "no picture in the stored outputs"


def _budget(lesson: Lesson) -> Iterator[str]:
    budget = editions.budgets().get(lesson.stem)
    if budget is None:
        yield "no measured budget: python -m minimaskrcnn_lessons execute"
    elif budget["seconds"] > MOST_SECONDS:
        yield f"{budget['seconds']:.0f} s on two cores, at most {MOST_SECONDS}"
