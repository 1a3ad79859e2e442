"""What the lessons share: set-up, checked exercises, figures with alternative text, explorers.

    from minimaskrcnn_lessons import setup, check, hint, expected, show

`python -m minimaskrcnn_lessons` builds the editions of the course; `lessons/AUTHORING.md` says how to write a lesson.
Importing this loads matplotlib and Hypothesis on first use only.
"""

from minimaskrcnn_lessons.checking import CheckResult, check, expected, grade, hint
from minimaskrcnn_lessons.display import progress, show
from minimaskrcnn_lessons.environment import setup

__all__ = ["CheckResult", "check", "expected", "grade", "hint", "progress", "setup", "show"]
