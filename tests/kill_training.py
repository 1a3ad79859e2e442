"""Kill a real training again and again, go on with --resume, and compare it with one that was never interrupted.

    python tests/kill_training.py [--kills 20] [--steps 60] [--workers 2] [--seed 0] [--folder DIR]

Each run is a `minimaskrcnn train` in a process of its own, ended by SIGKILL after a random time, also while it
starts and while it writes a checkpoint (one is written after every step).  In the end every line of metrics.jsonl and
every tensor of the last checkpoint must be the same, bit by bit.  Exit code 1 where they are not.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from minimaskrcnn.data.toybox import ToyboxConfig, write_toybox
from minimaskrcnn.weights import read_safetensors

ROOT = Path(__file__).parents[1]
# As this process would train, with a checkpoint and a line after each step.
CHILD = """
import sys
from dataclasses import replace
from minimaskrcnn import cli, commands
from minimaskrcnn.presets import PRESETS
recipe = PRESETS["maskrcnn_toy"]
PRESETS["maskrcnn_toy"] = recipe._replace(training=replace(recipe.training, log_every=1, checkpoint_every=1))
sys.exit(cli.main(sys.argv[1:]))
"""


def command(folder: Path, run: str, steps: int, workers: int, seed: int) -> list[str]:
    """One training, which goes on where it stopped."""
    options = {"preset": "maskrcnn_toy", "data": folder / "scenes", "out": folder / run, "steps": steps}
    options |= {"batch-size": 2, "workers": workers, "seed": seed, "eval-every": 0, "device": "cpu"}
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return [sys.executable, "-c", CHILD, "train", *flags, "--resume"]


def start(arguments: list[str]) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(arguments, env=environment, start_new_session=True, text=True, **quiet)


def kill_until_done(arguments: list[str], kills: int, longest: float, chance: random.Random) -> list[float]:
    """Run, kill after up to `longest` seconds, and so on; at last let it finish.  Returns the times."""
    times = []
    for _ in range(kills):
        process = start(arguments)
        seconds = chance.uniform(0, longest)
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            # Its loader's workers too.
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            times.append(seconds)
            continue
        if process.returncode:
            raise SystemExit(f"a resumed run failed after {len(times)} kills")
        break
    finish(arguments)
    return times


def finish(arguments: list[str]) -> None:
    process = start(arguments)
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"the run failed:\n{errors[-2000:]}")


def differences(folder: Path) -> list[str]:
    """In what the killed run is not the uninterrupted one."""
    found = []
    one, other = ((folder / run / "metrics.jsonl").read_text().splitlines() for run in ("whole", "killed"))
    if len(one) != len(other):
        found.append(f"{len(other)} lines of metrics, expected {len(one)}")
    found += [f"line {i}: {b}, expected {a}" for i, (a, b) in enumerate(zip(one, other)) if a != b]
    one, other = (read_safetensors(folder / run / "last.safetensors")[0] for run in ("whole", "killed"))
    if one.keys() != other.keys():
        found.append(f"tensors {sorted(one.keys() ^ other.keys())[:5]} are in one checkpoint only")
    return found + [
        f"tensor {name}" for name in one if name in other and not torch.equal(one[name], other[name])
    ]


def run(folder: Path, kills: int, steps: int, workers: int, seed: int) -> list[str]:
    """Both trainings; returns the differences."""
    small = ToyboxConfig(min_size=(64, 64), max_size=(96, 96))
    if not (folder / "scenes").exists():
        for split, count in (("train", 12), ("val", 2)):
            write_toybox(folder / "scenes", split=split, num_images=count, seed=seed, config=small)
    began = time.perf_counter()
    finish(command(folder, "whole", steps, workers, seed))
    seconds = time.perf_counter() - began
    # Some attempts end while they start, the others get some steps further: about 7 s are spent on starting.
    longest = 7 + 2 * seconds / max(kills, 1)
    times = kill_until_done(
        command(folder, "killed", steps, workers, seed), kills, longest, random.Random(seed)
    )
    print(
        f"{len(times)} kills after {', '.join(f'{t:.1f}' for t in times)} s; a whole run takes {seconds:.1f} s"
    )
    return differences(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        found = run(folder, options.kills, options.steps, options.workers, options.seed)
    print("\n".join(found) or "the same, bit by bit")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
