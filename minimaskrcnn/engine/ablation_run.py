"""Running an ablation: every row and seed of a table under one budget, and what came of it.

Files of a table, under OUT/TABLE: `toybox/`, its scenes; `runs/ROW-SEED/`, one folder a training
(`ablation_jobs.py`); `table.json` with everything that was measured, `table.md` and `figure.png`.  Seeds draw
weights, batches and samples; the scenes are the same for all of a table's runs.
"""

import os
import platform
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minimaskrcnn import __version__
from minimaskrcnn.data.coco import open_coco
from minimaskrcnn.data.toybox import ensure_toybox
from minimaskrcnn.engine.ablation_jobs import Job, claim, read_result, run_jobs
from minimaskrcnn.engine.ablation_report import draw_figure, half_range, markdown, mean
from minimaskrcnn.engine.ablations import TABLES, Row, Table
from minimaskrcnn.engine.evaluate import Metrics, write_json
from minimaskrcnn.engine.recipes import cpu_precision


def run(name: str, out: Path, *, steps: int | None = None, seeds: int = 2, jobs: int = 1) -> dict[str, Any]:
    """Train and evaluate all of table `name`, or what is left of it; writes and returns `OUT/TABLE/table.json`.

    `steps` replaces the table's own; seeds are 0, 1, ..., `seeds` - 1; `jobs` processes run at a time.  Also writes
    `table.md` and, with matplotlib, `figure.png`.  ValueError for a folder of other settings;
    ChildProcessError where a process fails.
    """
    table = TABLES[name]
    planned = plan(table, out, steps=steps, seeds=seeds, jobs=jobs)
    left = [job for job in planned if not job.finished]
    print(f"Table {name}: {len(planned)} runs, {len(planned) - len(left)} of them already there.", flush=True)
    run_jobs(left, jobs)
    report = collect(table, planned, seeds)
    report["command"] = command(name, out, steps=steps, seeds=seeds, jobs=jobs)
    write_report(report, out / name)
    return report


def plan(table: Table, out: Path, *, steps: int | None, seeds: int, jobs: int) -> list[Job]:
    """The jobs of a table, all rows of a seed before the next; generates the scenes and claims the folders."""
    print(f"Scenes: {table.train_scenes} + {table.val_scenes} in {out / table.name / 'toybox'}", flush=True)
    root = ensure_toybox(
        out / table.name / "toybox",
        train_images=table.train_scenes,
        val_images=table.val_scenes,
        seed=0,
        config=table.scenes,
        workers=jobs,
    )
    steps = steps or table.training.steps
    training = replace(
        table.training,
        steps=steps,
        # A short run warms up over a tenth of its steps at most.
        warmup_steps=min(table.training.warmup_steps, steps // 10),
        precision=cpu_precision(),
    )
    classes = open_coco(root, "val", people=table.people).num_classes
    planned = []
    for seed in range(seeds):
        for row in table.rows:
            job = Job(
                folder=out / table.name / "runs" / f"{slug(row.name)}-{seed}",
                scenes=root,
                people=table.people,
                config=row.change(table.network(classes)),
                training=replace(training, seed=seed),
                threads=max(1, cores() // jobs),
            )
            claim(job)
            planned.append(job)
    return planned


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def slug(name: str) -> str:
    """A row's name as a folder's."""
    return "_".join(name.replace(",", "").lower().split())


def collect(table: Table, jobs: list[Job], seeds: int) -> dict[str, Any]:
    """Everything about the finished jobs of a table, for `table.json`; fractions, the paper's numbers in percent."""
    training = jobs[0].training
    return {
        "table": table.name,
        "title": table.title,
        "note": table.note,
        "paper_network": table.paper_network,
        "steps": training.steps,
        "seeds": list(range(seeds)),
        "training": {key: value for key, value in asdict(training).items() if key != "seed"},
        "scenes": {"train": table.train_scenes, "val": table.val_scenes, **asdict(table.scenes)},
        "versions": {
            "minimaskrcnn": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "machine": {"processor": platform.machine(), "cores": cores()},
        "columns": [list(column) for column in table.columns],
        "rows": [_row(table, row, jobs[index :: len(table.rows)]) for index, row in enumerate(table.rows)],
    }


def _row(table: Table, row: Row, jobs: list[Job]) -> dict[str, Any]:
    results = [read_result(job) for job in jobs]
    values = [[number(result["metrics"], *column) for column in table.columns] for result in results]
    columns = list(zip(*values))
    return {
        "name": row.name,
        "paper": list(row.paper),
        "values": values,
        "mean": [mean(column) for column in columns],
        "half_range": [half_range(column) for column in columns],
        "runs": [{"seed": job.training.seed, **result} for job, result in zip(jobs, results)],
    }


def number(metrics: Metrics, kind: str, metric: str) -> float | None:
    """One of the metrics, or None for a head that the network has not."""
    return metrics[kind][metric] if kind in metrics else None


def command(name: str, out: Path, *, steps: int | None, seeds: int, jobs: int) -> str:
    """The command line that asks for this."""
    budget = "" if steps is None else f" --steps {steps}"
    return f"minimaskrcnn ablate {name}{budget} --seeds {seeds} --jobs {jobs} --out {out}"


def write_report(report: dict[str, Any], folder: Path) -> None:
    """Print the table; write `table.json`, `table.md` and `figure.png`."""
    write_json(folder / "table.json", report)
    text = markdown(report)
    (folder / "table.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"Written: {folder / 'table.json'}, {folder / 'table.md'}")
    try:
        draw_figure(report, folder / "figure.png")
    except ModuleNotFoundError as error:
        print(f"No figure: {error}")
    else:
        print(f"Figure: {folder / 'figure.png'}")
