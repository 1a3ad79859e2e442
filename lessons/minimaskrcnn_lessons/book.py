"""The web book: the lessons' sources with the outputs of the executed notebooks, made into pages by Sphinx.

Beside the lessons it holds a page for each file of the checkout that a lesson links to, so that every link leads
somewhere without a network.  Nothing in a page is fetched from elsewhere: MathJax and the explorers are copied in.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import nbformat
from nbformat import NotebookNode

from minimaskrcnn.files import write_text
from minimaskrcnn_lessons import editions
from minimaskrcnn_lessons.editions import LESSONS, Lesson
from minimaskrcnn_lessons.explorers import FOLDER as EXPLORERS

ROOT = LESSONS.parent
BOOK = LESSONS / "book"
# The one file of MathJax that the pages load: TeX in, SVG out, its fonts inside.
MATHJAX = "sphinx-mathjax-offline/static/mathjax/tex-svg.js"
WIDGETS = "application/vnd.jupyter.widget-"
# Code (passed over), or the end of a link's text with its target.
LINK = re.compile(r"(?s)(?P<code>```.*?```|`[^`\n]+`)|\]\((?P<target>[^)\s]+)\)")


class Linked(NamedTuple):
    """A file of the checkout that pages link to, and the lessons that do."""

    path: PurePosixPath
    lessons: list[str]


def build_book(out: Path) -> None:
    """Write the book's pages to `out`; what they are made from is kept beside it, in `pages` and `doctrees`.

    Raises ValueError for links that lead nowhere, and RuntimeError with what Sphinx says, warnings included.
    """
    out = out.resolve()
    pages, static = out.parent / "pages", out.parent / "static"
    lessons = [editions.read(path) for path in editions.sources()]
    if not lessons:
        raise ValueError(f"no lesson in {editions.SOURCES}")
    made = dict(_pages(lessons))
    for name, content in made.items():
        if isinstance(content, NotebookNode):
            editions.write(content, pages / name)
        else:
            _write(content, pages / name)
    _remove_stale(pages, set(made))
    _remove_stale(out, {f"{Path(name).with_suffix('')}.html" for name in made} | {"search.html"}, "*.html")
    _copy_scripts(static)
    _run_sphinx(pages, out, static)


def guides() -> list[Path]:
    """The pages that are no lessons."""
    return [path for path in sorted(BOOK.glob("*.md")) if path.name != "index.md"]


def _remove_stale(folder: Path, names: set[str], pattern: str = "*") -> None:
    """Pages of lessons and files that are no more; what Sphinx and its themes bring begins with "_"."""
    for path in folder.rglob(pattern):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in names and not name.startswith("_"):
            path.unlink()


def _run_sphinx(pages: Path, out: Path, static: Path) -> None:
    """Pages that did not change are not made again."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-c", str(BOOK)]
    command += ["-D", f"html_static_path={BOOK / '_static'},{static}", "-d", str(out.parent / "doctrees")]
    done = subprocess.run([*command, str(pages), str(out)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"Sphinx could not build the book:\n{done.stdout}{done.stderr}")


def _pages(lessons: list[Lesson]) -> Iterator[tuple[str, str | NotebookNode]]:
    """The name and the content of each page."""
    linked: dict[PurePosixPath, Linked] = {}
    titles = {}
    for lesson in lessons:
        notebook = _notebook(lesson)
        titles[lesson.stem] = _title(notebook)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = _relinked(cell.source, LESSONS, lesson, linked)
        yield f"{lesson.stem}.ipynb", notebook
    for guide in guides():
        yield guide.name, _relinked(guide.read_text(encoding="utf-8"), BOOK, None, linked)
    done: set[PurePosixPath] = set()
    while todo := [path for path in linked if path not in done]:
        for path in todo:
            done.add(path)
            yield _page_name(path), _file_page(linked[path], titles, linked)
    yield "index.md", _index(lessons, titles, bool(done))
    if done:
        yield "code.md", _code_index(sorted(done))


def _notebook(lesson: Lesson) -> NotebookNode:
    """The edition "book" with the outputs of the self-study edition; its solutions unfold under that name."""
    source = editions.notebook_path(lesson.stem, "self-study")
    if not source.exists():
        raise ValueError(
            f"{source.name} is not there: python -m minimaskrcnn_lessons execute {lesson.number}"
        )
    old = nbformat.read(source, as_version=4)
    made = editions.with_outputs_of(editions.build(lesson, "book"), old)
    for cell in made.cells:
        if cell.cell_type != "code":
            continue
        if "solution" in cell.metadata.get("tags", ()):
            cell.metadata["mystnb"] = {"code_prompt_show": "Show a solution", "code_prompt_hide": "Hide it"}
        for output in cell.outputs:
            for mime in [mime for mime in output.get("data", {}) if mime.startswith(WIDGETS)]:
                del output.data[mime]
    return made


def _relinked(text: str, folder: Path, lesson: Lesson | None, linked: dict[PurePosixPath, Linked]) -> str:
    """`text` with links to files, which are relative to `folder`, made links to pages of the book."""

    def page(match: re.Match[str]) -> str:
        target = match["target"]
        if match["code"] or re.match(r"[a-z]+:|#", target):
            return match[0]
        path = (folder / target.partition("#")[0]).resolve()
        if not path.exists() or not path.is_relative_to(ROOT):
            raise ValueError(f"{lesson.stem if lesson else folder}: the link to {target} leads nowhere")
        if (path.parent == LESSONS and path.suffix == ".ipynb") or path in guides():
            return f"](/{path.name})"
        name = PurePosixPath(path.relative_to(ROOT).as_posix())
        if path.suffix not in (".py", ".md"):
            # Nothing to show in a page; the text stays, as a link to the top of its own page.
            return "](#)"
        entry = linked.setdefault(name, Linked(name, []))
        if lesson is not None and lesson.stem not in entry.lessons:
            entry.lessons.append(lesson.stem)
        return f"](/{_page_name(name)})"

    return LINK.sub(page, text)


def _page_name(path: PurePosixPath) -> str:
    return f"code/{path}" if path.suffix == ".md" else f"code/{path}.md"


def _file_page(file: Linked, titles: dict[str, str], linked: dict[PurePosixPath, Linked]) -> str:
    text = (ROOT / file.path).read_text(encoding="utf-8")
    if file.path.suffix == ".md":
        return _relinked(text, (ROOT / file.path).parent, None, linked)
    taught = "; ".join(f"[{titles[stem]}](/{stem}.ipynb)" for stem in file.lessons)
    about = f"Taught in {taught}.\n\n" if taught else ""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    title = str(file.path).replace("_", r"\_")
    return f"# {title}\n\n{about}{fence}{{code-block}} python\n:linenos:\n\n{text.rstrip()}\n{fence}\n"


def _index(lessons: list[Lesson], titles: dict[str, str], has_code: bool) -> str:
    rows = ["| lesson | the question | minutes | difficulty |", "|:--|:--|--:|:--|"]
    for lesson in lessons:
        link = f"[{titles[lesson.stem]}](/{lesson.stem}.ipynb)"
        # A space that does not break.
        difficulty = f"{lesson.difficulty}\u00a0of\u00a03"
        rows.append(f"| {link} | {_question(lesson)} | {lesson.minutes} | {difficulty} |")
    text = (BOOK / "index.md").read_text(encoding="utf-8")
    text = text.replace("{{lessons}}", "\n".join(rows))
    text = text.replace("{{pages}}", "\n".join(f"/{lesson.stem}" for lesson in lessons))
    text = text.replace("{{guides}}", "\n".join(f"/{guide.stem}" for guide in guides()))
    return text.replace("{{code}}", "/code" if has_code else "")


def _code_index(paths: list[PurePosixPath]) -> str:
    rows = "\n".join(f"- [`{path}`](/{_page_name(path)})" for path in paths)
    entries = "\n".join(f"/{_page_name(path).removesuffix('.md')}" for path in paths)
    about = "The files that the lessons link to, as they were when this book was built."
    return f"# The code\n\n{about}\n\n{rows}\n\n```{{toctree}}\n:hidden:\n\n{entries}\n```\n"


def _title(notebook: NotebookNode) -> str:
    first = notebook.cells[0].source.splitlines()[0]
    if not first.startswith("# "):
        raise ValueError(f"a lesson begins with its title, '# NN · Title'; found {first!r}")
    return first[2:].strip()


def _question(lesson: Lesson) -> str:
    """The first question below the title with the sentence before it, else the first sentence."""
    below = lesson.cells[0].source.partition("\n")[2].strip() or lesson.cells[1].source
    sentences = re.findall(r"(?s)\S.*?[.?!](?=[\"”)]*(?:\s|$))", below.replace("**", ""))
    asked = next((i for i, sentence in enumerate(sentences) if sentence.endswith("?")), 0)
    return " ".join(" ".join(sentences[max(0, asked - 1) : asked + 1]).replace("|", r"\|").split())


def _copy_scripts(static: Path) -> None:
    """MathJax, and each explorer as a classic script that holds its module's text: a page read from a disk may not
    import modules from files."""
    (static / "mathjax").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(
        distribution("sphinx-mathjax-offline").locate_file(MATHJAX), static / "mathjax" / "tex-svg.js"
    )
    for module in sorted(EXPLORERS.glob("*.js")):
        text = json.dumps(module.read_text(encoding="utf-8"))
        _write(f"(window.mmExplorers ??= {{}})[{json.dumps(module.stem)}] = {text};\n",
               static / "explorers" / module.name)  # fmt: skip


def _write(text: str, path: Path) -> None:
    """Only where it differs: Sphinx asks when a file was written."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    write_text(path, text)
