"""Run notebooks from top to bottom, measure them, and make their outputs fit to be read on the web."""

import os
import time
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

# Seconds that one cell may take before it counts as hung.
CELL_TIMEOUT = 300
WIDGETS = ("application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json")
PEAK = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"


class Executed(NamedTuple):
    """A notebook with its outputs, and what running it took."""

    notebook: NotebookNode
    seconds: float
    mib: float
    """Peak resident memory of the kernel."""


def execute(notebook: NotebookNode, folder: Path) -> Executed:
    """Run a copy with `folder` as working folder; raises nbclient's CellExecutionError where a cell raises."""
    copy = nbformat.from_dict(notebook)
    copy.cells.append(nbformat.v4.new_code_cell(PEAK))
    environment = {
        **os.environ,
        "PYTHONWARNINGS": "ignore::DeprecationWarning",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    client = NotebookClient(
        copy,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        # A notebook that is read on the web has no kernel: its widgets are pictures.
        store_widget_state=False,
    )
    start = time.perf_counter()
    client.execute(env=environment)
    seconds = time.perf_counter() - start
    # KiB, on Linux.
    mib = int(copy.cells.pop().outputs[0]["text"]) / 1024
    return Executed(_fit_for_the_web(copy), seconds, mib)


def _fit_for_the_web(notebook: NotebookNode) -> NotebookNode:
    """Without widgets, where each has its still picture beside it, times of execution, and metadata of this run."""
    notebook.metadata.pop("widgets", None)
    # The kernel's name and language stay; the version of Python would differ from machine to machine.
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            for mime in WIDGETS:
                output.get("data", {}).pop(mime, None)
        cell.outputs = [o for o in cell.outputs if o.output_type != "display_data" or _says_something(o)]
    return notebook


def _says_something(output: NotebookNode) -> bool:
    """Whether more than a widget's name in plain text is left."""
    return set(output.data) != {"text/plain"} or not output.data["text/plain"].startswith(
        (
            "Explorer(",
            "interactive(",
            "VBox(",
            "HBox(",
            "Output(",
            "interactive_output(",
            "IntSlider(",
            "FloatSlider(",
        )
    )
