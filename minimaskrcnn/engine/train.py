"""Training: a plain loop.

What is trained how is in `settings.py`, one update in `step.py`.  Everything random is drawn from (seed, step) or
(seed, step, image id), so nothing depends on the number of loader workers or of processes: N of them that share a
batch have the gradients that one has, except batch norm's statistics, which are each process's own.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from minimaskrcnn.data.coco import CocoDataset
from minimaskrcnn.data.loader import training_batches
from minimaskrcnn.distributed import (
    averaging,
    gather_json,
    mean_over_ranks,
    need_same,
    rank,
    share_buffers,
    wait_for_all,
    world_size,
)
from minimaskrcnn.engine.checkpoint import load_checkpoint, save_checkpoint
from minimaskrcnn.engine.evaluate import Metrics
from minimaskrcnn.engine.progress import Progress, say
from minimaskrcnn.engine.settings import (
    TrainConfig,
    categories_of,
    learning_rate,
    make_optimizer,
    run_settings,
)
from minimaskrcnn.engine.step import training_step
from minimaskrcnn.files import write_text
from minimaskrcnn.mask_rcnn import MaskRCNN

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None


class Log:
    """`metrics.jsonl`: one JSON object a line, {"step": ..., losses} or {"step": ..., "eval": {...}}."""

    def __init__(self, path: Path, first_step: int) -> None:
        """Open for appending; lines after `first_step` belong to a run that was cut off, and are dropped."""
        self.path = path
        text = path.read_text() if path.exists() else None
        # What follows the last line's end was cut off while it was written.
        lines = (text or "").splitlines(keepends=True) if first_step else []
        kept = "".join(
            line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= first_step
        )
        if kept != text:
            # Not in place: a kill in between must not lose the lines before.
            write_text(path, kept)

    def write(self, **values: Any) -> None:
        """Append a line."""
        with self.path.open("a") as file:
            file.write(json.dumps(values) + "\n")

    def evaluation_at(self, step: int) -> Metrics | None:
        """What was found at `step`; None where nothing was."""
        found = [line["eval"] for line in self._lines() if "eval" in line and line["step"] == step]
        return found[-1] if found else None

    def best(self) -> float:
        """The best score so far, or less than any."""
        return max((_score(line["eval"]) for line in self._lines() if "eval" in line), default=-2.0)

    def _lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]


def train_model(
    model: MaskRCNN,
    dataset: CocoDataset,
    run: Path,
    config: TrainConfig,
    *,
    preset: str,
    workers: int = 0,
    resume: bool = False,
    evaluation: Callable[[MaskRCNN], Metrics] | None = None,
) -> Metrics:
    """Train `model` in place; writes `metrics.jsonl`, `last.safetensors` and `best.safetensors` into `run`.

    `evaluation` is called every `eval_every` steps and at the end; the best checkpoint is the one with the
    highest mask AP (keypoint AP without masks, box AP without both).  With `resume` it goes on from
    `last.safetensors`, if there is one; otherwise both files of an older run are removed.  Returns the last
    evaluation's metrics.  Of several processes (`distributed.py`) the first writes.  ValueError where another run
    is writing into `run`.
    """
    run.mkdir(parents=True, exist_ok=True)
    with _alone_in(run):
        return _train(model, dataset, run, config, preset, workers, resume, evaluation)


def _train(
    model: MaskRCNN,
    dataset: CocoDataset,
    run: Path,
    config: TrainConfig,
    preset: str,
    workers: int,
    resume: bool,
    evaluation: Callable[[MaskRCNN], Metrics] | None,
) -> Metrics:
    model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, config)
    last = run / "last.safetensors"
    settings = run_settings(config, dataset)
    first = _resumed(last, model, optimizer, settings) if resume else 0
    batches = training_batches(
        dataset, batch_size=config.batch_size, seed=config.seed, start_step=first, workers=workers,
        augment=config.augment, rank=rank(), world_size=world_size(),
    )  # fmt: skip
    # The first rank removes and writes only when all have read, and what they read can be trained on.
    wait_for_all()
    if rank() == 0 and not first:
        # Before the log: a new run that ends before its first checkpoint must not go on as the old one.
        for old in (last, run / "best.safetensors"):
            old.unlink(missing_ok=True)
    log = Log(run / "metrics.jsonl", first) if rank() == 0 else None
    together = averaging(model)
    save = partial(
        save_checkpoint, model=model, optimizer=optimizer, settings=settings, preset=preset,
        categories=categories_of(dataset),
    )  # fmt: skip
    judge = None if evaluation is None else _Judge(evaluation, log, run, save, first)
    metrics: Metrics = {}
    if judge is not None and first and _due(first, config.eval_every, config.steps):
        # A run that was cut off between its checkpoint and its evaluation makes up for it.
        metrics = judge.known or judge(model, first)
    progress = Progress(first, config.steps, config.say_seconds, shown=rank() == 0)
    for step, (images, targets) in zip(progress, batches):
        model.train()
        losses = training_step(together, optimizer, images, targets, step, config, failed=run)
        done = step + 1
        progress.tell(done, losses)
        if done % config.log_every == 0 or done == config.steps:
            _report(log, progress.bar, done, learning_rate(step, config), mean_over_ranks(losses))
        if _due(done, config.checkpoint_every, config.steps):
            save(last, step=done)
        if judge is not None and _due(done, config.eval_every, config.steps):
            metrics = judge(model, done)
    return metrics


@contextlib.contextmanager
def _alone_in(run: Path) -> Iterator[None]:
    """Hold the first rank's lock on a folder, which the system takes back however the process ends."""
    if rank() or fcntl is None:
        yield
        return
    with (run / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{run}: another process is training in it; end that, or name another") from None
        except OSError:
            pass  # a file system without locks
        yield


def _resumed(
    last: Path, model: MaskRCNN, optimizer: torch.optim.Optimizer, settings: dict[str, object]
) -> int:
    """The steps done by the run that goes on from `last`; 0 where it is not there."""
    exists = last.exists()
    need_same(last, "a checkpoint" if exists else "no checkpoint")
    if not exists:
        say(f"There is no {last}: starts at step 0")
        return 0
    step, before = load_checkpoint(last, model, optimizer, settings)
    need_same(last, f"a checkpoint of step {step}")
    say(f"Goes on from {last} after {step} steps")
    if before not in (0, world_size()):
        say(
            f"Begun by {before} processes, now {world_size()}: losses keep their meaning, but are not bit by bit "
            "those of an uninterrupted run"
        )
    return step


class _Judge:
    """Evaluates, and keeps the best checkpoint; `known` is what was found at the step that a run goes on from."""

    def __init__(
        self,
        evaluation: Callable[[MaskRCNN], Metrics],
        log: "Log | None",
        run: Path,
        save: Callable[..., None],
        first: int,
    ) -> None:
        self.evaluation = evaluation
        self.log = log
        self.run = run
        self.save = save
        mine = [None, -2.0] if log is None else [log.evaluation_at(first), log.best()]
        self.known, self.best = gather_json(mine)[0]

    def __call__(self, model: MaskRCNN, done: int) -> Metrics:
        # Those of the checkpoint, which is the first rank's.
        share_buffers(model)
        metrics = self.evaluation(model)
        # The line comes last: where it stands, the best checkpoint does too.
        if _score(metrics) > self.best:
            self.best = _score(metrics)
            self.save(self.run / "best.safetensors", step=done)
        if self.log is not None:
            self.log.write(step=done, eval=metrics)
            say(f"step {done}: {_headline(metrics)}")
        return metrics


def _due(done: int, every: int, steps: int) -> bool:
    return done == steps or (every > 0 and done % every == 0)


def _report(log: Log | None, bar: tqdm, done: int, rate: float, losses: dict[str, Tensor]) -> None:
    if log is None:
        return
    values = {name: round(value.item(), 6) for name, value in losses.items()}
    log.write(step=done, lr=rate, **values)
    bar.set_postfix(loss=f"{values['loss']:.3f}")


def _score(metrics: Metrics) -> float:
    values = metrics.get("segm") or metrics.get("keypoints") or metrics.get("bbox") or {}
    return values.get("AP", -1.0)


def _headline(metrics: Metrics) -> str:
    return ", ".join(f"{kind} AP {values['AP']:.3f}" for kind, values in metrics.items())
