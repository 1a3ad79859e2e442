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
from models import tiny_model, write_scenes
from torch import distributed

from minimaskrcnn.data.coco import open_coco
from minimaskrcnn.distributed import processes, shared_means
from minimaskrcnn.engine.evaluate import evaluate_dataset, in_turn, shared_pictures
from minimaskrcnn.losses import Loss
from minimaskrcnn.weights import CategoryName, load_model, read_safetensors, save_weights

SCRIPT = Path(__file__).with_name("ranks.py")
SECONDS = 240


def torchrun(count: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]


def command(count: int, what: str, folder: Path) -> list[str]:
    launcher = [sys.executable] if count == 1 else torchrun(count)
    return [*launcher, str(SCRIPT), what, str(folder)]


def environment() -> dict[str, str]:
    here = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    # The checkout's package, whatever folder the script lies in.
    root = str(SCRIPT.parents[1])
    return here | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([root, str(SCRIPT.parent)])}


def outcome(arguments: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(arguments, env=environment(), timeout=SECONDS, capture_output=True, text=True)


def run(count: int, what: str, folder: Path) -> None:
    done = outcome(command(count, what, folder))
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    write_scenes(folder / "scenes", train=8, val=5)
    run(1, "gradients", folder)
    run(1, "accumulated", folder)
    run(1, "dealt", folder)
    run(1, "train", folder)
    return folder


@pytest.mark.parametrize("what, count", [("gradients", 2), ("gradients", 3), ("accumulated", 2), ("dealt", 2)])
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
    whole_run(alone, count)
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


@pytest.mark.parametrize("count", [2, 3])
def test_complaint_15_a_resumed_run_of_many_is_the_uninterrupted_one(alone, count):
    """Bit by bit, as with one process: every rank takes up the first one's checkpoint.

    Two numbers have the same sum in any order; three do not.
    """
    whole, resumed = whole_run(alone, count), alone / f"cut-{count}"
    stopped = outcome(command(count, "cut", alone))
    assert stopped.returncode != 0 and "InterruptedError" in stopped.stderr
    assert len((resumed / "metrics.jsonl").read_text().splitlines()) == 2
    run(count, "resume", alone)
    losses = [line for line in (whole / "metrics.jsonl").read_text().splitlines() if "eval" not in line]
    assert (resumed / "metrics.jsonl").read_text().splitlines() == losses and len(losses) == 3
    a, b = (read_safetensors(folder / "last.safetensors")[0] for folder in (whole, resumed))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def whole_run(folder: Path, count: int) -> Path:
    """The folder of the run `train`, which two tests look at."""
    found = folder / f"run-{count}"
    if not (found / "results.json").exists():
        run(count, "train", folder)
    return found


def test_batch_norms_statistics_are_evaluated_as_saved(alone):
    run(2, "batch_norm", alone)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the ranks
    try:
        model, _ = load_model(alone / "run-of-batch-norm" / "last.safetensors")
        _, results = evaluate_dataset(model, open_coco(alone / "scenes", "val"), batch_size=2)
    finally:
        torch.set_num_threads(threads)
    assert results == json.loads((alone / "run-of-batch-norm" / "results.json").read_text()) != []


def test_folders_that_nodes_do_not_share_are_named_on_every_rank(alone):
    (alone / "node-0").mkdir()
    save_weights(alone / "node-0" / "last.safetensors", tiny_model(), preset="tiny", categories=[])
    run(2, "nodes", alone)
    for rank in range(2):
        file, checkpoint = json.loads((alone / f"told-{rank}.json").read_text())
        for text, kind in ((file, "file"), (checkpoint, "checkpoint")):
            assert f"a {kind} for rank 0, no {kind} for rank 1: " in text
            assert text.endswith("must be on a file system that all nodes share") and f"node-{rank}" in text


def test_a_gradient_that_is_not_finite_names_all_pictures_and_all_write_theirs(alone):
    done = outcome(command(2, "nan_gradient", alone))
    assert done.returncode != 0
    ids = []
    for rank in range(2):
        _, metadata = read_safetensors(alone / "nan_gradient" / f"failed-step-0-rank-{rank}.safetensors")
        ids += json.loads(metadata["image_ids"])
    assert len(ids) == 6
    assert f"the gradient of mask_head.predictor.weight is not finite; images {ids};" in done.stderr


def test_a_loss_of_one_rank_that_is_not_finite_ends_all(alone):
    done = outcome(command(2, "nan_loss", alone))
    assert done.returncode != 0 and "step 0: the loss is not finite" in done.stderr
    assert [path.name for path in (alone / "nan_loss").glob("failed*")] == ["failed-step-0-rank-1.safetensors"]


def test_an_error_of_one_rank_is_told_and_ends_all(tmp_path):
    scenes = write_scenes(tmp_path / "scenes", train=4, val=1)
    sorted((scenes / "train").iterdir())[1].write_text("no picture")
    options = ["--data", str(scenes), "--preset", "maskrcnn_toy", "--out", str(tmp_path / "run")]
    options += ["--device", "cpu", "--batch-size", "2", "--eval-every", "0"]
    done = outcome([*torchrun(2), "-m", "minimaskrcnn", "train", *options])
    told = [line for line in done.stderr.splitlines() if line.startswith("minimaskrcnn train: ")]
    assert done.returncode != 0 and len(told) == 1 and "cannot identify" in told[0]


def test_the_command_evaluate_shares_the_pictures(alone, tmp_path):
    dataset, weights = open_coco(alone / "scenes", "val"), tmp_path / "tiny.safetensors"
    categories = [CategoryName(dataset.label_of[c.id], c.id, c.name) for c in dataset.categories]
    save_weights(weights, tiny_model(dataset.num_classes), preset="tiny", categories=categories)
    options = ["--data", alone / "scenes", "--weights", weights, "--batch-size", 2, "--device", "cpu"]
    arguments = ["-m", "minimaskrcnn", "evaluate", *map(str, options), "--out"]
    one = outcome([sys.executable, *arguments, str(tmp_path / "one")])
    two = outcome([*torchrun(2), *arguments, str(tmp_path / "two")])
    assert one.returncode == two.returncode == 0, two.stderr[-3000:]
    # Gloo of torch 2.9 greets on standard output.
    said = "".join(line for line in two.stdout.splitlines(keepends=True) if not line.startswith("[Gloo]"))
    assert said.replace(str(tmp_path / "two"), str(tmp_path / "one")) == one.stdout
    for name in ("metrics.json", "results.json"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_a_dead_rank_ends_all(alone):
    began = time.monotonic()
    done = outcome(command(2, "die", alone))
    assert done.returncode != 0 and time.monotonic() - began < SECONDS / 2


@pytest.mark.parametrize("killed", [False, True])
def test_ctrl_c_ends_all_and_so_does_the_launchers_death(alone, tmp_path, killed):
    if killed and sys.platform != "linux":
        pytest.skip("only Linux ends a process with its parent")
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
    if killed:
        launcher.kill()
    else:
        # As a terminal does: to the whole group.
        os.killpg(launcher.pid, signal.SIGINT)
    assert launcher.wait(timeout=SECONDS) != 0
    deadline = time.monotonic() + (10 if killed else 30)
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.2)
    left = [pid for pid in workers if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A child that nobody has waited for yet is dead all the same.
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_one_process_divides_by_its_own_count():
    losses = {str(n): Loss(torch.tensor(7.0), torch.tensor(n)) for n in (0, 1, 7)}
    assert [mean.item() for mean in shared_means(losses).values()] == [7, 7, 1]
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


@pytest.fixture
def started(monkeypatch) -> list[str]:
    """As a process of torchrun on a machine with two GPUs; the backends and the ends of its process groups."""
    calls = []
    for name, value in {"WORLD_SIZE": 2, "RANK": 1, "LOCAL_RANK": 1, "MASTER_ADDR": "here", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    monkeypatch.setattr(distributed, "init_process_group", calls.append)
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: calls.append("end"))
    return calls


@pytest.mark.parametrize(
    "wish, device, calls",
    [
        (None, "cuda:1", ["cuda:1", "nccl", "end"]),
        ("cuda", "cuda:1", ["cuda:1", "nccl", "end"]),
        ("cpu", "cpu", ["gloo", "end"]),
    ],
)
def test_each_process_has_a_gpu_of_its_own_unless_told_otherwise(started, wish, device, calls):
    with processes(wish) as found:
        assert found == device
    assert started == calls


def test_one_gpu_for_all_and_more_processes_than_gpus_are_refused(started, monkeypatch):
    with pytest.raises(ValueError, match="--device cuda:0: under torchrun give cpu, or cuda"), processes("cuda:0"):
        pass
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="process 1 of this machine has no GPU: there are 1;"), processes():
        pass
    assert not started


def test_after_an_error_nobody_waits_for_the_group(started):
    with pytest.raises(InterruptedError), processes("cpu"):
        raise InterruptedError
    assert started == ["gloo"]


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
