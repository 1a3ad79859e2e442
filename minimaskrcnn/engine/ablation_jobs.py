"""One training of an ablation as a job, and many of them in processes.

A `Job` owns a folder whose `run.json` says what it is and whose `metrics.json` says that it is finished.  So a run
that was cut off goes on where it stopped, and a folder that was made with anything else is refused before training.

With several processes each is started fresh (spawn), trains with its own number of threads, and writes what it would
have printed to its own `log.txt`.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch

from minimaskrcnn import __version__
from minimaskrcnn.config_json import typed_fields
from minimaskrcnn.data.coco import open_coco
from minimaskrcnn.data.loader import CachedDataset
from minimaskrcnn.engine.evaluate import evaluate_dataset, write_json
from minimaskrcnn.engine.settings import differences
from minimaskrcnn.engine.train import TrainConfig, train_model
from minimaskrcnn.mask_rcnn import MaskRCNN, MaskRCNNConfig
from minimaskrcnn.weights import CategoryName


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row and seed of a table."""

    folder: Path
    scenes: Path
    people: bool
    config: MaskRCNNConfig
    training: TrainConfig
    threads: int

    def settings(self) -> dict[str, Any]:
        """What makes it this run and no other, as JSON gives it back."""
        stamp = json.loads((self.scenes / "toybox.json").read_text(encoding="utf-8"))
        quiet = {"log_every", "eval_every", "checkpoint_every"}
        training = {name: value for name, value in asdict(self.training).items() if name not in quiet}
        values = {"network": typed_fields(self.config), "training": training, "scenes": stamp}
        values["version"] = __version__
        return json.loads(json.dumps(values))

    @property
    def finished(self) -> bool:
        """Whether its metrics are there."""
        return (self.folder / "metrics.json").is_file()


def claim(job: Job) -> None:
    """Write the folder's `run.json`; ValueError where it says that the folder belongs to another run."""
    file, wanted = job.folder / "run.json", job.settings()
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
        changes = list(differences(found, wanted))
        if changes:
            raise ValueError(
                f"{job.folder} was made with other settings ({'; '.join(changes[:3])}): "
                "name another --out, or delete the folder"
            )
        return
    job.folder.mkdir(parents=True, exist_ok=True)
    write_json(file, wanted)


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
    train_model(
        model,
        dataset,
        job.folder,
        job.training,
        preset="ablation",
        categories=[CategoryName(dataset.label_of[c.id], c.id, c.name) for c in dataset.categories],
        resume=True,
    )
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


def run_child(job: Job) -> None:
    """`run_job` in a process of its own."""
    # The terminal sends Ctrl-C to all of its processes; the parent's answer is to end this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    torch.set_num_threads(job.threads)
    with (job.folder / "log.txt").open("w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        run_job(job)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """End as a process that has finished does, so that Python gives its semaphores back."""
    raise SystemExit(128 + number)


def run_jobs(left: list[Job], processes: int) -> None:
    """Run the jobs, `processes` at a time, or one after the other in this process; says when each is done."""
    total, waiting = len(left), list(left)
    if processes == 1:
        for number, job in enumerate(waiting, start=1):
            run_job(job)
            _say(job, number, total)
        return
    context = multiprocessing.get_context("spawn")
    running: dict[int, tuple[BaseProcess, Job]] = {}
    done = 0
    with ending(running):
        while waiting or running:
            while waiting and len(running) < processes:
                job = waiting.pop(0)
                process = context.Process(target=run_child, args=(job,), daemon=True)
                process.start()
                running[process.sentinel] = (process, job)
            for sentinel in wait(list(running)):
                process, job = running.pop(sentinel)
                process.join()
                done += 1
                _check(process, job)
                _say(job, done, total)


@contextlib.contextmanager
def ending(running: dict[int, tuple[BaseProcess, Job]]) -> Iterator[None]:
    """Leave no process behind, whatever ends the block."""
    try:
        yield
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.join()


def _check(process: BaseProcess, job: Job) -> None:
    if process.exitcode == 0:
        return
    log = job.folder / "log.txt"
    lines = log.read_text(encoding="utf-8").strip().splitlines() if log.is_file() else []
    last = lines[-1] if lines else "no output"
    raise ChildProcessError(f"{job.folder.name} ended with exit code {process.exitcode}: {last} (see {log})")


def _say(job: Job, number: int, total: int) -> None:
    result = read_result(job)
    found = ", ".join(f"{kind} AP {100 * values['AP']:.1f}" for kind, values in result["metrics"].items())
    seconds = sum(result["seconds"].values())
    print(f"{number} of {total}: {job.folder.name}: {found} ({seconds:.0f} s of processor time)", flush=True)


def read_result(job: Job) -> dict[str, Any]:
    """A finished job's `metrics.json`."""
    return json.loads((job.folder / "metrics.json").read_text(encoding="utf-8"))
