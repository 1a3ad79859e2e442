"""Benchmarks: the table with and without a peer, and that torchvision's model learns from the demo's scenes."""

import subprocess
import sys
import time
from pathlib import Path

import demo
import ops as bench
import parity
import pytest
import torch
from models import tiny_config, write_scenes

from minimaskrcnn.data.coco import open_coco

SCRIPTS = Path(bench.__file__).parent


@pytest.fixture
def one_case(monkeypatch):
    case = bench.Case("waiting", lambda: time.sleep(0.002), lambda: time.sleep(0.02), goal=3.0)
    monkeypatch.setattr(bench, "_cases", lambda: [case])


def rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def test_a_row_has_both_times_and_their_ratio(one_case, monkeypatch, capsys):
    monkeypatch.setattr(bench.common, "torchvision", lambda: torch)  # anything with a version
    bench.run(repeats=3)
    lines = capsys.readouterr().out.splitlines()[2:]
    assert len({len(line) for line in lines}) == 1
    header, _, row = rows("\n".join(lines))
    assert header == ["operation", "torchvision", "ours", "ratio", "goal"]
    assert row[0] == "waiting" and row[4] == "3"
    assert float(row[1]) >= 20 and float(row[2]) >= 2
    assert float(row[3]) == pytest.approx(float(row[1]) / float(row[2]), abs=0.5)


def test_without_torchvision_its_columns_are_empty(one_case, monkeypatch, capsys):
    monkeypatch.setattr(bench.common, "torchvision", lambda: None)
    bench.run(repeats=2)
    row = rows(capsys.readouterr().out)[-1]
    assert (row[1], row[3]) == ("", "") and float(row[2]) >= 2


@pytest.mark.parametrize("script", ["demo.py", "gpu_kernels.py", "model.py", "ops.py"])
def test_each_runs_as_a_script_from_anywhere(script, tmp_path):
    command = [sys.executable, SCRIPTS / script, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0 and done.stdout.startswith(f"usage: {script}"), done.stderr


@pytest.mark.parametrize(
    "script, options", [(bench, "--repeats 0"), (demo, "--minutes 0"), (demo, "--minutes inf")]
)
def test_bad_usage_names_the_option(script, options, capsys):
    with pytest.raises(SystemExit) as exit_:
        script.main(options.split())
    assert exit_.value.code == 2
    assert f"{options.split()[0]}: invalid positive" in capsys.readouterr().err


def test_torchvisions_model_trains_and_is_evaluated(tmp_path):
    parity.torchvision()
    root = write_scenes(tmp_path, train=4, val=2)
    dataset, held_out = open_coco(root, "train"), open_coco(root, "val")
    torch.manual_seed(0)
    model = demo.make_peer(tiny_config(dataset.num_classes), 64)
    before = model.backbone.body.conv1.weight.clone()
    assert demo.train_for(model, dataset, minutes=0.01, batch_size=2) >= 1
    assert not torch.equal(before, model.backbone.body.conv1.weight)
    metrics = demo.evaluate(model, held_out)
    assert set(metrics) == {"bbox", "segm"} and -1 <= metrics["segm"]["AP"] <= 1
