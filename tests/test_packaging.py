"""Packaging: what the wheel holds, what importing costs, which way imports go, and how long files may be."""

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import minimaskrcnn

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "minimaskrcnn": ROOT / "minimaskrcnn",
    "minimaskrcnn_kernels": ROOT / "kernels" / "minimaskrcnn_kernels",
    "minimaskrcnn_lessons": ROOT / "lessons" / "minimaskrcnn_lessons",
}
# Scripts that nothing installs.
BENCHMARKS = ROOT / "kernels" / "bench"
# Wanted by some functions, by none of the imports: they load on first use.
OPTIONAL = (
    "triton",
    "matplotlib",
    "torchvision",
    "IPython",
    "jupyter",
    "ipywidgets",
    "notebook",
    "hypothesis",
)
# 300 and 40 are the aim; beyond these a reader is lost.
LONGEST_FILE, LONGEST_FUNCTION, MOST_PARAMETERS = 350, 50, 9
# All but their inputs are keywords.
OPERATIONS = {"multiscale_roi_align", "multiscale_roi_warp"}


def sources(package: str) -> list[Path]:
    found = sorted((PACKAGES | {"bench": BENCHMARKS})[package].rglob("*.py"))
    assert found, f"no sources of {package}"
    return found


def imported(path: Path) -> Iterator[str]:
    """The top-level names that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    return first.end_lineno - first.lineno + 1 if ast.get_docstring(node) else 0


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("folder", ["kernels", "kernels/bench", "lessons", "tests"])
def test_folders_that_must_not_be_packages(folder):
    # An importable top-level `kernels` would shadow another package of that name.
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_typed(package):
    assert (PACKAGES[package] / "__init__.py").is_file() and (PACKAGES[package] / "py.typed").is_file()


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("minimaskrcnn", {"minimaskrcnn_lessons", "detectron2"}),
        ("minimaskrcnn_kernels", {"minimaskrcnn", "minimaskrcnn_lessons"}),
        ("bench", {"minimaskrcnn_lessons"}),
    ],
)
def test_imports_go_one_way(package, forbidden):
    for path in sources(package):
        assert not forbidden & set(imported(path)), path


def test_no_benchmark_hides_another_package():
    # A script's own folder comes first on its path: ops.py may stand there, kernels.py may not.
    others = {"kernels", "torch", *OPTIONAL, *sys.stdlib_module_names}
    assert not others & {path.stem for path in sources("bench")}


def test_kernels_import_torch_and_triton_only():
    allowed = {"torch", "triton", "minimaskrcnn_kernels", *sys.stdlib_module_names}
    for path in sources("minimaskrcnn_kernels"):
        assert set(imported(path)) <= allowed, path


IMPORTS = """
import importlib.util, pkgutil, sys
import minimaskrcnn
print([name for name in {optional} if name in sys.modules])

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {optional}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

looked_for = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in {optional} else looked_for(name, *rest)
sys.meta_path.insert(0, Absent())
for name in [name for name in sys.modules if name.split(".")[0] == "minimaskrcnn"]:
    del sys.modules[name]
import minimaskrcnn
names = [module.name for module in pkgutil.walk_packages(minimaskrcnn.__path__, "minimaskrcnn.")]
for name in names:
    # What is imported only once a kernel is about to run.
    if name not in ("minimaskrcnn.__main__", "minimaskrcnn.ops.roi_align_triton"):
        importlib.import_module(name)
print(1 + len(names))
"""


def test_importing_needs_and_brings_none_of_the_optional_packages():
    brought, modules = run_python(IMPORTS.format(optional=OPTIONAL)).splitlines()
    assert brought == "[]"
    # Every module, also of the command line, imports where these packages are absent.
    assert int(modules) == len(sources("minimaskrcnn"))


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == minimaskrcnn.__version__
    citation = ROOT / "CITATION.cff"
    if citation.exists():
        assert (
            re.search(r"^version: *['\"]?([^'\"\n]+)", citation.read_text(), re.M)[1]
            == minimaskrcnn.__version__
        )


def test_public_names_exist():
    assert all(hasattr(minimaskrcnn, name) for name in minimaskrcnn.__all__)
    ops = importlib.import_module("minimaskrcnn.ops")
    assert all(hasattr(ops, name) for name in ops.__all__) and ops.__all__ == sorted(ops.__all__)


@pytest.mark.parametrize("package", ["minimaskrcnn", "minimaskrcnn_kernels", "bench"])
def test_files_and_functions_can_be_read_in_one_go(package):
    too_long = []
    for path in sources(package):
        text = path.read_text(encoding="utf-8")
        lines = text.count("\n")
        if lines > LONGEST_FILE:
            too_long.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno + 1 - docstring_lines(node)
                limit = 80 if package == "minimaskrcnn_kernels" else LONGEST_FUNCTION
                parameters = len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs)
                if length > limit:
                    too_long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines")
                excused = package != "minimaskrcnn" or node.name in OPERATIONS
                if not excused and parameters > MOST_PARAMETERS + 1:
                    too_long.append(
                        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {parameters} parameters"
                    )
    assert not too_long, "\n".join(too_long)


def test_code_has_a_docstring_no_star_import_and_no_catch_all():
    for path in [*sources("minimaskrcnn"), *sources("bench")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not tree.body or ast.get_docstring(tree), path
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert node.names[0].name != "*", path
            if isinstance(node, ast.ExceptHandler):
                caught = (
                    {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)}
                    if node.type
                    else {""}
                )
                assert not caught & {"", "Exception", "BaseException"}, f"{path}:{node.lineno}"


@pytest.mark.slow
def test_the_wheel_holds_the_three_packages(tmp_path):
    if importlib.util.find_spec("build") is None or importlib.util.find_spec("setuptools") is None:
        pytest.skip("needs build and setuptools (extra 'dev')")
    tree = tmp_path / "tree"
    # A copy, because building writes beside the sources.
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist")
    for folder in ("minimaskrcnn", "kernels", "lessons"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(tree),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"minimaskrcnn-{minimaskrcnn.__version__}-py3")
    names = set(zipfile.ZipFile(wheel).namelist())
    for package, folder in PACKAGES.items():
        expected = {f"{package}/{path.relative_to(folder).as_posix()}" for path in sources(package)}
        assert expected | {f"{package}/py.typed"} <= names
    info = f"minimaskrcnn-{minimaskrcnn.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {*PACKAGES, info}
    assert f"{info}/licenses/LICENSE" in names

    # Unpacked alone, each package imports, away from this checkout.
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
    code += "".join(f"import {package}; print({package}.__file__)\n" for package in PACKAGES)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert all(line.startswith(str(tmp_path / "site")) for line in done.stdout.splitlines())
