"""The structure of the packages: no circle of imports, no public name with two meanings, documented operations."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "minimaskrcnn": ROOT / "minimaskrcnn",
    "minimaskrcnn_kernels": ROOT / "kernels" / "minimaskrcnn_kernels",
    "minimaskrcnn_lessons": ROOT / "lessons" / "minimaskrcnn_lessons",
}
# One meaning on purpose: every command has a `main`.
SHARED_NAMES = {"main"}

Graph = dict[str, set[str]]


def modules() -> dict[str, Path]:
    """Every file of the packages by its dotted name; a package's own name is its `__init__.py`."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_modules(tree: ast.Module, known: dict[str, Path]) -> Iterator[str]:
    """The files that one imports, anywhere in it: of `from a import b` the module a.b or, where b is a name, a."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in known or node.module in known:
                    yield whole if whole in known else node.module


def import_graph() -> Graph:
    known = modules()
    return {name: set(imported_modules(tree_of(path), known)) for name, path in known.items()}


def circle_in(graph: Graph) -> list[str]:
    """A circle as the modules along it, the first one again at the end; empty where there is none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph[name]):
            if circle := walk(other, [*path, name]):
                return circle
        done.add(name)
        return []

    return next((circle for name in sorted(graph) if (circle := walk(name, []))), [])


def test_files_do_not_import_each_other_in_a_circle():
    graph = import_graph()
    assert len(graph) > 100 and sum(map(len, graph.values())) > 300
    # Lazy ones are in it.
    assert "minimaskrcnn.ops.roi_align_triton" in graph["minimaskrcnn.ops.roi_align"]
    assert "minimaskrcnn_kernels.nms" in graph["minimaskrcnn.ops.nms"]
    assert not (circle := circle_in(graph)), " -> ".join(circle)


def test_a_circle_is_found():
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle_in({"a": {"a"}}) == ["a", "a"]


def public_definitions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name[0] != "_":
            yield node


def modules_by_public_name() -> dict[str, list[str]]:
    """Where each public function and class of minimaskrcnn is defined; the reference's loops are twins on purpose."""
    places = defaultdict(list)
    for name, path in modules().items():
        if name.startswith("minimaskrcnn.") and "reference" not in name:
            for node in public_definitions(tree_of(path)):
                places[node.name].append(name)
    return places


def test_a_public_name_has_one_meaning():
    places = modules_by_public_name()
    assert len(places) > 300
    twice = {name for name, where in places.items() if len(where) > 1} - SHARED_NAMES
    assert not twice, {name: places[name] for name in twice}


def test_no_two_public_classes_differ_only_in_case():
    places = defaultdict(set)
    for name, path in modules().items():
        if name.startswith("minimaskrcnn."):
            for node in public_definitions(tree_of(path)):
                if isinstance(node, ast.ClassDef):
                    places[node.name.lower()].add(node.name)
    assert all(len(names) == 1 for names in places.values())


@pytest.mark.parametrize("folder", ["minimaskrcnn", "kernels/minimaskrcnn_kernels"])
def test_public_functions_have_docstrings(folder):
    missing = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in public_definitions(tree_of(path)):
            members = node.body if isinstance(node, ast.ClassDef) else []
            methods = [m for m in members if isinstance(m, ast.FunctionDef) and m.name[0] != "_"]
            missing += [f"{path.name}: {d.name}" for d in (node, *methods) if not ast.get_docstring(d)]
    assert not missing, missing
