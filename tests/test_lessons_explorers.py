"""The explorers' numbers: what the package computes, what is stored, and what each module computes in a browser."""

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from browser import serve
from optional import need

need("anywidget")

from minimaskrcnn_lessons.explorers import FOLDER

pytestmark = pytest.mark.lessons
NAMES = sorted(path.stem for path in FOLDER.glob("*.js"))
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def page(browser: Any) -> Iterator[Any]:
    """A page that may import the modules."""
    with serve(FOLDER) as url:
        page = browser.new_page()
        page.goto(f"{url}/golden/")
        yield page


@pytest.mark.parametrize("name", NAMES)
def test_golden_values_are_the_package_s(name: str) -> None:
    computed = import_module(f"minimaskrcnn_lessons.explorers.{name}").golden()
    stored = _golden(name)
    assert len(stored) > 0
    # As JSON has them: tuples become lists.
    assert _differences(json.loads(json.dumps(computed)), stored) == []


@pytest.mark.parametrize("name", NAMES)
def test_module_computes_golden_values(page: Any, name: str) -> None:
    stored = _golden(name)
    results = page.evaluate(
        """async ([name, cases]) => {
             const module = await import(`/${name}.js`);
             return cases.map((c) => module[c.function](...c.args));
           }""",
        [name, stored],
    )
    assert _differences(results, [case["result"] for case in stored]) == []


@pytest.mark.parametrize("name", NAMES)
def test_module_imports_nothing(name: str) -> None:
    """It is loaded from a text, where a relative address means nothing."""
    source = (FOLDER / f"{name}.js").read_text(encoding="utf-8")
    assert "import " not in source and "https://" not in source
    assert "export default" in source


def test_comparison_sees_differences() -> None:
    assert _differences([1.0, {"a": [True]}], [1.0 + 1e-9, {"a": [True]}]) == []
    assert len(_differences([1.0, [2]], [1.1, [2, 3]])) == 2
    assert len(_differences({"a": 1}, {"b": 1})) == len(_differences(None, 0.0)) == 1


def _golden(name: str) -> list[dict[str, Any]]:
    return json.loads(Path(FOLDER / "golden" / f"{name}.json").read_text(encoding="utf-8"))


def _differences(found: Any, expected: Any, where: str = "") -> list[str]:
    """Where the two, of lists, dicts, numbers and texts, are not the same."""
    if isinstance(expected, dict) and isinstance(found, dict) and found.keys() == expected.keys():
        return [
            text for key in expected for text in _differences(found[key], expected[key], f"{where}.{key}")
        ]
    if isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        pairs = enumerate(zip(found, expected))
        return [text for i, (f, e) in pairs for text in _differences(f, e, f"{where}[{i}]")]
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (found, expected))
    same = abs(found - expected) <= TOLERANCE * max(1, abs(expected)) if numbers else found == expected
    return [] if same else [f"{where}: {found!r}, expected {expected!r}"]
