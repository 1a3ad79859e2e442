"""Several processes: the gradients, losses and AP of one; a dead rank and Ctrl-C end all of them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from models import write_scenes

from minimaskrcnn.distributed import processes, shared_divisor
from minimaskrcnn.engine.evaluate import in_turn, shared_pictures
from minimaskrcnn.weights import read_safetensors

SCRIPT = Path(__file__).with_name("ranks.py")
SECONDS = 240


def command(count: int, what: str, folder: Path) -> list[str]:
    alone = [sys.executable, str(SCRIPT), what, str(folder)]
    if count == 1:
        return alone
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return [*launcher, *alone[1:]]


def environment() -> dict[str, str]:
    here = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    # The checkout's package, whatever folder the script lies in.
    root = str(SCRIPT.parents[1])
    return here | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([root, str(SCRIPT.parent)])}


def run(count: int, what: str, folder: Path) -> None:
    done = subprocess.run(
        command(count, what, folder), env=environment(), timeout=SECONDS, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    write_scenes(folder / "scenes", train=8, val=5)
    run(1, "gradients", folder)
    run(1, "accumulated", folder)
    run(1, "train", folder)
    return folder


@pytest.mark.parametrize("what, count", [("gradients", 2), ("gradients", 3), ("accumulated", 2)])
def test_gradients_are_those_of_one_process(alone, what, count):
    run(count, what, alone)
    expected, _ = read_safetensors(alone / f"{what}-1.safetensors")
    found, _ = read_safetensors(alone / f"{what}-{count}.safetensors")
    assert found.keys() == expected.keys()
    largest = max(gradient.abs().max() for gradient in expected.values())
    assert largest > 0 and sum(bool(gradient.any()) for gradient in expected.values()) > 0.9 * len(expected)
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() <= 1e-9 * largest, name


@pytest.mark.parametrize("count", [2, 3])
def test_a_run_and_its_evaluation_are_those_of_one_process(alone, count):
    run(count, "train", alone)
    ours, theirs = (
        [json.loads(line) for line in (alone / f"run-{n}" / "metrics.jsonl").read_text().splitlines()]
        for n in (count, 1)
    )
    assert [line.keys() for line in ours] == [line.keys() for line in theirs]
    for mine, one in zip(ours, theirs):
        for name in mine.keys() - {"eval"}:
            assert mine[name] == pytest.approx(one[name], rel=1e-3, abs=1e-4), (mine["step"], name)
    # Every picture once, in the data set's order, and all ranks know the numbers.
    results, expected = (json.loads((alone / f"run-{n}" / "results.json").read_text()) for n in (count, 1))
    assert [row["image_id"] for row in results] == [row["image_id"] for row in expected]
    metrics = [json.loads((alone / f"metrics-{count}-{rank}.json").read_text()) for rank in range(count)]
    assert all(one == metrics[0] for one in metrics)
    reference = json.loads((alone / "metrics-1-0.json").read_text())
    for kind, values in reference.items():
        for name, value in values.items():
            assert metrics[0][kind][name] == pytest.approx(value, abs=1e-3)


def test_complaint_15_a_resumed_run_of_two_is_the_uninterrupted_one(alone):
    """Bit by bit, as with one process: every rank takes up the first one's checkpoint."""
    run(2, "train", alone)
    stopped = subprocess.run(
        command(2, "cut", alone), env=environment(), timeout=SECONDS, capture_output=True, text=True
    )
    assert stopped.returncode != 0 and "InterruptedError" in stopped.stderr
    whole, resumed = alone / "run-2", alone / "cut-2"
    assert len((resumed / "metrics.jsonl").read_text().splitlines()) == 2
    run(2, "resume", alone)
    losses = [line for line in (whole / "metrics.jsonl").read_text().splitlines() if "eval" not in line]
    assert (resumed / "metrics.jsonl").read_text().splitlines() == losses and len(losses) == 3
    a, b = (read_safetensors(folder / "last.safetensors")[0] for folder in (whole, resumed))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_dead_rank_ends_all(alone):
    began = time.monotonic()
    done = subprocess.run(
        command(2, "die", alone), env=environment(), timeout=SECONDS, capture_output=True, text=True
    )
    assert done.returncode != 0 and time.monotonic() - began < SECONDS / 2


def test_ctrl_c_ends_all(alone, tmp_path):
    (tmp_path / "scenes").symlink_to(alone / "scenes")
    launcher = subprocess.Popen(
        command(2, "forever", tmp_path),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until = time.monotonic() + SECONDS
    while len(list(tmp_path.glob("started-*"))) < 2 and time.monotonic() < until:
        time.sleep(0.2)
    workers = [int(path.name.rsplit("-", 1)[1]) for path in tmp_path.glob("started-*")]
    assert len(workers) == 2
    # As a terminal does: to the whole group.
    os.killpg(launcher.pid, signal.SIGINT)
    assert launcher.wait(timeout=SECONDS) != 0
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(alive(pid) for pid in workers)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A child that nobody has waited for yet is dead all the same.
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_one_process_divides_by_its_own_count():
    assert [shared_divisor(torch.tensor(n)).item() for n in (0, 1, 7)] == [1, 1, 7]
    with processes() as device:
        assert device is None


def test_an_environment_without_torchrun_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with (
        pytest.raises(ValueError, match=r"WORLD_SIZE is set but RANK, .* is not: start with torchrun"),
        processes(),
    ):
        pass


@pytest.mark.parametrize("count", [1, 5, 6, 7, 12])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_pictures_are_shared_in_whole_batches(monkeypatch, count, size):
    monkeypatch.setattr("minimaskrcnn.engine.evaluate.world_size", lambda: size)
    shares = []
    for number in range(size):
        monkeypatch.setattr("minimaskrcnn.engine.evaluate.rank", lambda number=number: number)
        shares.append(shared_pictures(count, 2))
    assert sorted(index for share in shares for index in share) == list(range(count))
    batches = [
        [[{"i": i} for i in share[start : start + 2]] for start in range(0, len(share), 2)]
        for share in shares
    ]
    assert [row["i"] for row in in_turn(batches)] == list(range(count))
