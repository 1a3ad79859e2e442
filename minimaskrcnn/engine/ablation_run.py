"""Running an ablation: every row and seed of a table under one budget, and what came of it.

Files of a table, under OUT/TABLE: `toybox/`, its scenes; `runs/ROW-SEED/`, one folder a training; `table.json` with
everything that was measured, `table.md` and `figure.png`.  Seeds draw weights, batches and samples; the scenes are
the same for all of a table's runs.

A run's folder has a `run.json` that says what it is and, once it is finished, a `metrics.json`.  So a run that was
cut off goes on where it stopped, and a folder that was made with anything else is refused before training.  With
several processes a run writes what it would have printed to its own `log.txt`.
"""

import json
import multiprocessing
import os
import platform
import signal
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np
import torch

from minimaskrcnn import __version__
from minimaskrcnn.config_json import typed_fields
from minimaskrcnn.data.coco import open_coco
from minimaskrcnn.data.loader import CachedDataset
from minimaskrcnn.data.toybox import ensure_toybox
from minimaskrcnn.engine.ablation_report import half_range, markdown, mean, save_figure
from minimaskrcnn.engine.ablations import TABLES, Row, Table
from minimaskrcnn.engine.evaluate import evaluate_dataset
from minimaskrcnn.engine.recipes import cpu_precision
from minimaskrcnn.engine.settings import differences, shared_settings
from minimaskrcnn.engine.train import TrainConfig, train_model
from minimaskrcnn.files import write_json
from minimaskrcnn.mask_rcnn import MaskRCNN, MaskRCNNConfig


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row and seed of a table: a training in a folder of its own."""

    folder: Path
    scenes: Path
    people: bool
    config: MaskRCNNConfig
    training: TrainConfig

    @property
    def finished(self) -> bool:
        """Whether its metrics are there."""
        return (self.folder / "metrics.json").is_file()

    def result(self) -> dict[str, Any]:
        """Its metrics, seconds, threads and number of parameters, once it is finished."""
        return _read(self.folder / "metrics.json")


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


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
    budget = "" if steps is None else f" --steps {steps}"
    report["command"] = f"minimaskrcnn ablate {name}{budget} --seeds {seeds} --jobs {jobs} --out {out}"
    write_report(report, out / name)
    return report


def plan(table: Table, out: Path, *, steps: int | None, seeds: int, jobs: int) -> list[Job]:
    """The jobs of a table, all rows of a seed before the next; generates the scenes and claims the folders."""
    root = out / table.name / "toybox"
    print(f"Scenes: {table.train_scenes} + {table.val_scenes} in {root}", flush=True)
    counts = {"train_images": table.train_scenes, "val_images": table.val_scenes}
    ensure_toybox(root, **counts, seed=0, config=table.scenes, workers=jobs)
    steps = steps or table.training.steps
    # A short run warms up over a tenth of its steps at most.
    warmup = min(table.training.warmup_steps, steps // 10)
    training = replace(table.training, steps=steps, warmup_steps=warmup, precision=cpu_precision())
    classes = open_coco(root, "val", people=table.people).num_classes
    planned = [
        Job(
            folder=out / table.name / "runs" / f"{slug(row.name)}-{seed}",
            scenes=root,
            people=table.people,
            config=row.change(table.network(classes)),
            training=replace(training, seed=seed),
        )
        for seed in range(seeds)
        for row in table.rows
    ]
    for job in planned:
        claim(job)
    return planned


def slug(name: str) -> str:
    """A row's name as a folder's."""
    return "_".join(name.replace(",", "").lower().split())


def claim(job: Job) -> None:
    """Write the folder's `run.json`; ValueError where it says that the folder belongs to another run."""
    file = job.folder / "run.json"
    settings = {
        "network": typed_fields(job.config),
        "training": shared_settings(job.training),
        "scenes": _read(job.scenes / "toybox.json"),
        "version": __version__,
    }
    wanted = json.loads(json.dumps(settings))
    changes = list(differences(_read(file), wanted)) if file.is_file() else []
    if changes:
        raise ValueError(
            f"{job.folder} was made with other settings ({'; '.join(changes[:3])}): "
            "name another --out, or delete the folder"
        )
    if not file.is_file():
        job.folder.mkdir(parents=True, exist_ok=True)
        write_json(file, wanted)


# ---- trainings


def run_job(job: Job) -> None:
    """Train from the last checkpoint, if there is one, evaluate, and write `metrics.json`.

    Its seconds are of processor time, and of the last sitting where it was `resumed`.
    """
    dataset = CachedDataset(open_coco(job.scenes, "train", people=job.people))
    held_out = open_coco(job.scenes, "val", people=job.people)
    torch.manual_seed(job.training.seed)
    model = MaskRCNN(job.config)
    resumed = (job.folder / "last.safetensors").exists()
    began = time.process_time()
    train_model(model, dataset, job.folder, job.training, preset="ablation", resume=True)
    trained = time.process_time()
    metrics, _ = evaluate_dataset(model, held_out)
    ended = time.process_time()
    result = {
        "metrics": metrics,
        "seconds": {"train": round(trained - began, 1), "evaluate": round(ended - trained, 1)},
        "resumed": resumed,
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    write_json(job.folder / "metrics.json", result)


def run_jobs(left: list[Job], processes: int) -> None:
    """Run the jobs, `processes` at a time, or one after the other in this process; says when each is done.

    ChildProcessError, with the run's row and seed, where one fails; whatever ends this ends its processes.
    """
    if processes > 1:
        _run_in_processes(left, processes)
        return
    for number, job in enumerate(left, start=1):
        run_job(job)
        _say(job, number, len(left))


def _run_in_processes(left: list[Job], processes: int) -> None:
    """A thread for each job that runs, which waits for the job's process.

    A pool of processes would not say which of its jobs was killed, and may miss that its newest process was.
    """
    threads = max(1, cores() // processes)
    with ThreadPoolExecutor(processes) as pool:
        futures = {pool.submit(_run_child, job, threads): job for job in left}
        try:
            for number, future in enumerate(as_completed(futures), start=1):
                future.result()
                _say(futures[future], number, len(left))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            while any(future.running() for future in futures):
                for process in multiprocessing.active_children():
                    process.terminate()
                time.sleep(0.5)  # one that was about to start is ended the next time


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run_child(job: Job, threads: int) -> None:
    """Run the job in a process of its own; ChildProcessError, with the last line of its log, where it fails."""
    process = multiprocessing.get_context("spawn").Process(target=_child, args=(job, threads), daemon=True)
    process.start()
    process.join()
    if not job.finished:
        log = job.folder / "log.txt"
        lines = log.read_text(encoding="utf-8").strip().splitlines() if log.is_file() else []
        last = lines[-1] if lines else "no output"
        raise ChildProcessError(
            f"{job.folder.name} ended with exit code {process.exitcode}: {last} (see {log})"
        )


def _child(job: Job, threads: int) -> None:
    # The terminal sends Ctrl-C to all of its processes; the parent's answer is to end this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    torch.set_num_threads(threads)
    with (job.folder / "log.txt").open("w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        run_job(job)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """End as a process that has finished does, so that Python gives its semaphores back."""
    raise SystemExit(128 + number)


def _say(job: Job, number: int, total: int) -> None:
    result = job.result()
    found = ", ".join(f"{kind} AP {100 * values['AP']:.1f}" for kind, values in result["metrics"].items())
    seconds = sum(result["seconds"].values())
    print(f"{number} of {total}: {job.folder.name}: {found} ({seconds:.0f} s of processor time)", flush=True)


# ---- results


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
    runs = [{"seed": job.training.seed, **job.result()} for job in jobs]
    # None for a head that the network has not.
    values = [
        [run["metrics"][kind][metric] if kind in run["metrics"] else None for kind, metric in table.columns]
        for run in runs
    ]
    columns = list(zip(*values))
    return {
        "name": row.name,
        "paper": list(row.paper),
        "values": values,
        "mean": [mean(column) for column in columns],
        "half_range": [half_range(column) for column in columns],
        "runs": runs,
    }


def write_report(report: dict[str, Any], folder: Path) -> None:
    """Print the table; write `table.json`, `table.md` and `figure.png`."""
    write_json(folder / "table.json", report)
    text = markdown(report)
    (folder / "table.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"Written: {folder / 'table.json'}, {folder / 'table.md'}")
    try:
        save_figure(report, folder / "figure.png")
    except ImportError as error:  # also of a matplotlib that is there and broken
        print(f"No figure: {error}")
    else:
        print(f"Figure: {folder / 'figure.png'}")
