"""The course as its people use it: every edition executed, every misconception named, nbgrader, JupyterLab."""

import ast
import copy
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from optional import need

need("matplotlib")
need("nbclient")
need("IPython")

from minimaskrcnn_lessons import catalogue, editions
from minimaskrcnn_lessons.checking import judge
from minimaskrcnn_lessons.execute import execute

pytestmark = [
    pytest.mark.lessons,
    # matplotlib hands tensors to NumPy, which finds torch's methods of conversion old.
    pytest.mark.filterwarnings("ignore:__array(__|_wrap__):DeprecationWarning"),
]
LESSONS = editions.sources()
lessons = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
EXERCISES = [exercise for lesson in catalogue.lessons() for exercise in catalogue.of_lesson(lesson)]
exercises = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)
# The contract's limit, and twice it for a machine that also does other things.
SECONDS = 120


def html_of(notebook):
    return "".join(
        "".join(output.get("data", {}).get("text/html", ""))
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )


@lessons
def test_the_self_study_edition_runs_with_no_exercise_solved(path):
    lesson = editions.read(path)
    done = execute(editions.build(lesson, "self-study"), editions.LESSONS)
    shown = html_of(done.notebook)
    for exercise in lesson.exercises:
        assert f"Not yet: {exercise.name}" in shown
    assert done.seconds < SECONDS


@lessons
def test_the_solutions_are_right(path):
    lesson = editions.read(path)
    done = execute(editions.build(lesson, "solutions"), editions.LESSONS)
    shown = html_of(done.notebook)
    for exercise in lesson.exercises:
        assert f"Right: {exercise.name}" in shown


def test_exercises_have_names_of_their_own():
    names = [exercise.name for exercise in EXERCISES]
    assert len(set(names)) == len(names) and len(names) >= 3 * len(LESSONS)


@exercises
def test_each_misconception_is_named_and_its_counterexample_drawn(exercise):
    import matplotlib.pyplot as plt

    assert judge(exercise, exercise.right)
    for mistake in exercise.misconceptions:
        start = time.perf_counter()
        result = judge(exercise, mistake.answer)
        seconds = time.perf_counter() - start
        assert result.misconception == mistake, (mistake.name, result.message)
        # 10 on an idle machine.
        assert seconds < 20
        # Copies: a wrong answer may overwrite what it is given.
        yours, right = (f(**copy.deepcopy(result.inputs)) for f in (mistake.answer, exercise.right))
        figure, alt = exercise.draw(result.inputs, yours, right)
        plt.close(figure)
        assert 30 <= len(alt) <= 500
    figure, alt = exercise.picture(exercise.right)
    plt.close(figure)
    assert 30 <= len(alt) <= 500


def nbgrader(course: Path, *arguments: str) -> None:
    # nbgrader starts `alembic` by its name.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", "nbgrader", *arguments]
    environment = os.environ | {"PATH": path}
    done = subprocess.run(command, cwd=course, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course folder with every lesson as an assignment."""
    need("nbgrader")
    root = tmp_path_factory.mktemp("course")
    (root / "nbgrader_config.py").write_text(
        f"c = get_config()\nc.CourseDirectory.root = {str(root)!r}\nc.CourseDirectory.course_id = 'minimaskrcnn'\n"
        "c.ExecutePreprocessor.timeout = 300\nc.Execute.timeout = 300\n"
    )
    return root


@lessons
def test_a_teacher_generates_collects_grades_and_exports(course, path):
    name = path.stem
    lesson = editions.read(path)
    source = course / "source" / name / f"{name}.ipynb"
    editions.write(editions.build(lesson, "release"), source)
    nbgrader(course, "generate_assignment", name, "--create", "--force")
    released = course / "release" / name / source.name
    text = released.read_text()
    assert "BEGIN SOLUTION" not in text and "BEGIN HIDDEN TESTS" not in text
    for student, notebook in (("stub", released), ("solution", source)):
        folder = course / "submitted" / student / name
        folder.mkdir(parents=True)
        shutil.copy(notebook, folder)
    nbgrader(course, "autograde", name, "--force")
    nbgrader(course, "export", "--to", str(course / "grades.csv"))
    rows = [
        row
        for row in csv.DictReader((course / "grades.csv").read_text().splitlines())
        if row["assignment"] == name
    ]
    points = sum(exercise.points for exercise in lesson.exercises)
    scores = {row["student_id"]: (float(row["score"]), float(row["max_score"])) for row in rows}
    assert scores == {"stub": (0, points), "solution": (points, points)}


@lessons
def test_no_cell_is_python_that_does_not_parse(path):
    for edition in ("self-study", "solutions", "release"):
        for cell in editions.build(editions.read(path), edition).cells:
            if cell.cell_type == "code":
                ast.parse(cell.source)


def test_budgets_are_of_lessons_that_exist():
    assert set(json.loads(editions.BUDGETS.read_text())) == {path.stem for path in LESSONS}
