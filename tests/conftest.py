"""Shared by all tests: executed shape annotations, threads, one Hypothesis profile, real data, what was skipped."""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from browser import chromium, need_browser
from jaxtyping import install_import_hook

if os.environ.get("JAXTYPING_DISABLE") != "1":
    # Must stand before the first import of minimaskrcnn.  Kernels are left out: triton reads their source.
    install_import_hook("minimaskrcnn", "typechecker.typechecker")

# The benchmarks are plain scripts beside the kernels; they import each other.
sys.path.insert(0, str(Path(__file__).parents[1] / "kernels" / "bench"))

if not torch.cuda.is_available():
    # Before the first kernel is imported: its decorator reads this.  The tests that compile set it to 0.
    os.environ.setdefault("TRITON_INTERPRET", "1")

if "PYTEST_XDIST_WORKER" in os.environ:
    # As many workers as cores: a thread each, and each in the processes that they start.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
else:
    torch.set_num_threads(min(2, os.cpu_count() or 1))
hypothesis.settings.register_profile(
    "default", deadline=None, derandomize=True, database=None, max_examples=50, print_blob=True
)
# For mutate_kernels.py, which only asks whether a test fails: shrinking a failure takes the interpreter minutes.
hypothesis.settings.register_profile(
    "unshrunk",
    hypothesis.settings.get_profile("default"),
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)
hypothesis.settings.load_profile("default")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium: one for all tests, since playwright runs one at a time."""
    need_browser()
    with chromium() as running:
        yield running


@pytest.fixture(scope="session")
def coco_real() -> Path:
    """A folder of real COCO pictures and annotations: $COCO_REAL, or shared/coco-real beside the checkout."""
    folder = Path(os.environ.get("COCO_REAL") or Path(__file__).parents[2] / "shared" / "coco-real")
    if not (folder / "annotations").is_dir():
        pytest.skip(f"no real COCO sample: set COCO_REAL (looked in {folder})")
    return folder


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line: how many tests were skipped, for each reason.

    $SKIPPED names a file that carries the counts from one pytest process to the next, so that the last of `make
    test`'s three says it for all of them.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    skipped = terminalreporter.stats.get("skipped", [])
    counts = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    log = os.environ.get("SKIPPED")
    if log:
        before = Path(log)
        counts += Counter(json.loads(before.read_text()) if before.exists() else {})
        before.write_text(json.dumps(counts))
    if counts:
        reasons = "; ".join(f"{count} × {reason}" for reason, count in counts.most_common())
        terminalreporter.write_line(f"skipped {counts.total()}: {reasons}")
