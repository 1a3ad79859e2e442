"""Build, run and check the course: `python -m minimaskrcnn_lessons build|execute|lint|book`."""

import argparse
import json
import sys
from pathlib import Path

import nbformat

from minimaskrcnn_lessons import editions, lint
from minimaskrcnn_lessons.execute import execute


def build() -> int:
    """Every edition of every lesson; the committed one keeps the outputs of cells that did not change."""
    for path in editions.sources():
        lesson = editions.read(path)
        for edition in ("solutions", "release"):
            editions.write(editions.build(lesson, edition), editions.notebook_path(lesson.stem, edition))
        target = editions.notebook_path(lesson.stem, "self-study")
        made = editions.build(lesson, "self-study")
        if target.exists():
            made = editions.with_outputs_of(made, nbformat.read(target, as_version=4))
        editions.write(made, target)
        print(f"built {lesson.stem}")
    return 0


def run(numbers: list[str]) -> int:
    """Run the self-study editions, store their outputs and what they took."""
    for path in editions.sources():
        if numbers and path.stem[:2] not in numbers:
            continue
        done = execute(editions.build(editions.read(path), "self-study"), editions.LESSONS)
        budgets = editions.budgets() | {
            path.stem: {"seconds": round(done.seconds, 1), "mib": round(done.mib)}
        }
        editions.BUDGETS.write_text(json.dumps(dict(sorted(budgets.items())), indent=1) + "\n")
        # Again, now that the header's numbers are known.
        made = editions.with_outputs_of(editions.build(editions.read(path), "self-study"), done.notebook)
        editions.write(made, editions.notebook_path(path.stem, "self-study"))
        print(f"executed {path.stem}: {done.seconds:.1f} s, {done.mib:.0f} MiB", flush=True)
    return 0


def check_form() -> int:
    """Print what lint finds."""
    found = [text for path in editions.sources() for text in lint.findings(path)]
    print("\n".join(found) if found else "nothing to mend")
    return int(bool(found))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="minimaskrcnn_lessons", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("build", help="generate every edition")
    runs = verbs.add_parser("execute", help="run the self-study editions and store their outputs and budgets")
    runs.add_argument("numbers", nargs="*", metavar="NN", help="only these lessons")
    verbs.add_parser("lint", help="what the lessons' form lacks")
    book = verbs.add_parser("book", help="the web book, from the executed notebooks")
    book.add_argument("--out", type=Path, default=editions.LESSONS / "book" / "html")
    options = parser.parse_args(arguments)
    if options.verb == "build":
        return build()
    if options.verb == "execute":
        known = [path.stem[:2] for path in editions.sources()]
        if unknown := set(options.numbers) - set(known):
            parser.error(f"no lesson {', '.join(sorted(unknown))}: there are {', '.join(known)}")
        return run(options.numbers)
    if options.verb == "lint":
        return check_form()
    from minimaskrcnn_lessons.book import build_book

    build_book(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
