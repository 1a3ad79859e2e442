"""Benchmarks: the table with and without a peer, and that torchvision's model learns from the demo's scenes."""

import time

import parity
import pytest
import torch
from models import tiny_config, write_scenes

from minimaskrcnn.bench import ops as bench
from minimaskrcnn.bench import peer
from minimaskrcnn.data.coco import open_coco


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
    monkeypatch.setattr(bench, "_torchvision", lambda: torch)  # anything with a version
    bench.run(repeats=3)
    header, _, row = rows(capsys.readouterr().out)
    assert header == ["operation", "torchvision", "ours", "ratio", "goal"]
    assert row[0] == "waiting" and row[4] == "3"
    assert float(row[1]) >= 20 and float(row[2]) >= 2
    assert float(row[3]) == pytest.approx(float(row[1]) / float(row[2]), abs=0.5)


def test_without_torchvision_its_columns_are_empty(one_case, monkeypatch, capsys):
    monkeypatch.setattr(bench, "_torchvision", lambda: None)
    bench.run(repeats=2)
    row = rows(capsys.readouterr().out)[-1]
    assert (row[1], row[3]) == ("", "") and float(row[2]) >= 2


def test_torchvisions_model_trains_and_is_evaluated(tmp_path):
    parity.torchvision()
    root = write_scenes(tmp_path, train=4, val=2)
    dataset, held_out = open_coco(root, "train"), open_coco(root, "val")
    torch.manual_seed(0)
    model = peer.make_peer(tiny_config(dataset.num_classes), 64)
    before = model.backbone.body.conv1.weight.clone()
    assert peer.train_for(model, dataset, minutes=0.01, batch_size=2) >= 1
    assert not torch.equal(before, model.backbone.body.conv1.weight)
    metrics = peer.evaluate(model, held_out)
    assert set(metrics) == {"bbox", "segm"} and -1 <= metrics["segm"]["AP"] <= 1
