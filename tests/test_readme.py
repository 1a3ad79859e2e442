"""README and the book's pages: what they say of files is true, their links lead somewhere, their code runs."""

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "lessons" / "book").glob("*.md"))]
CORE = [
    "boxes",
    "anchors",
    "matching",
    "norms",
    "resnet",
    "fpn",
    "rpn",
    "pooler",
    "box_head",
    "mask_head",
    "keypoint_head",
    "mask_rcnn",
    "presets",
]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not re.match(r"https?:", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_that_is_named_exists(page):
    # Paths of this checkout, or of a file of the package without the package's name.
    named = re.findall(r"`([\w./-]+(?:\.py|\.md|/))`", prose(page))
    places = [ROOT, ROOT / "minimaskrcnn", ROOT / "lessons"]
    made_by_commands = re.compile(r"runs/|train2017/|val2017/|annotations/")
    for path in named:
        assert made_by_commands.match(path) or any((place / path).exists() for place in places), path


def test_the_readme_can_be_read_at_once():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_each_file_of_the_core_has_its_tests():
    for stem in CORE:
        assert (ROOT / "minimaskrcnn" / f"{stem}.py").exists() and (
            ROOT / "tests" / f"test_{stem}.py"
        ).exists(), stem


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # What the examples read.
    (tmp_path / "runs" / "coco").mkdir(parents=True)
    shutil.copy(ROOT / "lessons" / "models" / "toybox.safetensors", "runs/coco/last.safetensors")
    shutil.copy(ROOT / "lessons" / "pictures" / "demo.jpg", "street.jpg")
    for block in re.findall(r"(?ms)^```python\n(.*?)^```", page.read_text(encoding="utf-8")):
        exec(compile(block, str(page), "exec"), {"__name__": "readme"})


def test_the_backbone_of_ones_own_is_the_tested_one():
    tested = (ROOT / "tests" / "test_own_parts.py").read_text(encoding="utf-8")
    (code,) = re.findall(r"(?ms)^# A backbone in \d+ lines\.\n(.*?)^# The end of it", tested)
    shown = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [
        line
        for line in code.replace(": torch.Tensor", "").replace(" -> list[torch.Tensor]", "").splitlines()
        if line
    ]
    assert "\n".join(lines) in re.sub(r"\n+", "\n", shown)
