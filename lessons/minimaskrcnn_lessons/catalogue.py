"""All exercises of the course by name: each lesson's package has them in `exercises.EXERCISES`."""

import pkgutil
from functools import cache
from importlib import import_module
from pathlib import Path

from minimaskrcnn_lessons.exercise import Exercise


def lessons() -> list[str]:
    """The packages of the lessons that have one, "lesson00" first."""
    names = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    return sorted(name for name in names if name.startswith("lesson") and name[6:].isdigit())


@cache
def of_lesson(lesson: str) -> tuple[Exercise, ...]:
    """The exercises of "lesson05", in order."""
    return import_module(f"minimaskrcnn_lessons.{lesson}.exercises").EXERCISES


def find(name: str) -> Exercise:
    """The exercise of that name; ValueError with the names that there are."""
    every = {exercise.name: exercise for lesson in lessons() for exercise in of_lesson(lesson)}
    if name not in every:
        raise ValueError(f"no exercise is called {name!r}; there are {', '.join(every)}")
    return every[name]
