"""Ablations: the paper's numbers, rows that differ in their fields alone, and runs that stop, go on and refuse."""

import contextlib
import io
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models import SCENES, random_image, random_target, tiny_config
from optional import need
from PIL import Image
from safetensors.torch import load_file

from minimaskrcnn import cli
from minimaskrcnn.config_json import typed_fields
from minimaskrcnn.engine import ablation_run
from minimaskrcnn.engine.ablation_report import (
    drawn_columns,
    half_range,
    markdown,
    mean,
    ours_text,
    save_figure,
)
from minimaskrcnn.engine.ablation_run import Job, run_jobs
from minimaskrcnn.engine.ablations import TABLES, Row, Table, pooled_by, unchanged
from minimaskrcnn.engine.settings import differences
from minimaskrcnn.engine.train import TrainConfig
from minimaskrcnn.mask_rcnn import MaskRCNN
from minimaskrcnn.pooler import RoIPoolConfig

TINY = Table(
    name="tiny",
    title="Two rows",
    paper_network="ResNet-50-FPN",
    network=tiny_config,
    scenes=SCENES,
    training=TrainConfig(
        steps=3, batch_size=2, optimizer="adamw", lr=1e-3, warmup_steps=1, log_every=1, checkpoint_every=1
    ),
    rows=(
        Row("RoIPool, max", pooled_by(RoIPoolConfig), (26.9, 48.8, None)),
        Row("RoIAlign", unchanged, (30.3, 51.2, 31.5)),
    ),
    note="A note.",
    train_scenes=6,
    val_scenes=2,
)


@pytest.fixture(autouse=True)
def tiny_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLES, "tiny", TINY)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT of a finished table of two rows and two seeds."""
    out = tmp_path_factory.mktemp("ablate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TABLES, "tiny", TINY)
        ablation_run.run("tiny", out)
    return out


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


# ---- tables


def paper(table: str, row: str) -> list[float]:
    return list(next(found for found in TABLES[table].rows if found.name == row).paper)


def test_the_papers_gains_are_those_that_its_captions_state() -> None:
    def gains(table: str, row: str, baseline: str) -> list[float]:
        return [round(b - a, 1) for a, b in zip(paper(table, row), paper(table, baseline))]

    assert gains("2b", "softmax", "sigmoid")[0] == 5.5
    assert gains("2d", "RoIPool", "RoIAlign") == [7.3, 5.3, 10.5, 5.8, 2.6, 9.5]
    assert gains("2e", "MLP", "FCN")[0] == 2.1
    assert gains("6", "RoIPool", "RoIAlign")[0] == 4.4
    # "About 3 points", and about 5 of AP75.
    assert gains("2c", "RoIPool, max", "RoIAlign, average") == [3.4, 2.4, 5.1]
    assert paper("2a", "ResNet-18-C4") == paper("2c", "RoIAlign, average") == paper("2b", "sigmoid")
    assert paper("2a", "ResNet-18-FPN") == paper("2e", "FCN")
    assert paper("agnostic", "class-agnostic")[0] == 29.7


@pytest.mark.parametrize(
    "table", [table for name, table in TABLES.items() if name != "tiny"], ids=lambda t: t.name
)
def test_every_table_is_whole(table: Table) -> None:
    names = [row.name for row in table.rows]
    assert TABLES[table.name] is table and len(set(map(ablation_run.slug, names))) == len(names) >= 2
    config = table.network(3)
    for row in table.rows:
        assert len(row.paper) == len(table.columns)
        heads = {
            "segm": row.change(config).mask_head,
            "keypoints": row.change(config).keypoint_head,
            "bbox": 1,
        }
        for (kind, _), value in zip(table.columns, row.paper):
            assert value is None or heads[kind] is not None
    assert any(row.change(config) == config for row in table.rows)
    assert table.people == (config.keypoint_head is not None)
    # No resizing: what is drawn is what is read.
    assert table.scenes.min_size == table.scenes.max_size == (config.transform.min_sizes[-1],) * 2
    assert table.training.augment.min_sizes in (None, ())


POOL = {
    "pooler.type was 'RoIAlignConfig', is 'RoIPoolConfig'", "pooler.aligned was True, is None",
    "pooler.sampling_ratio was 2, is None", "pooler.mode was 'avg', is None",
}  # fmt: skip
WARP = {"pooler.type was 'RoIAlignConfig', is 'RoIWarpConfig'", "pooler.aligned was True, is None"}
MLP = {
    "mask_head.type was 'FCNMaskHeadConfig', is 'MLPMaskHeadConfig'", "mask_head.channels was 48, is None",
    "mask_head.convs was 3, is None", "mask_head.norm was 'group', is None", "mask_head.hidden was None, is 256",
}  # fmt: skip
CHANGES = {
    ("2a", "ResNet-34-FPN"): {"resnet.depth was 18, is 34"},
    ("2a", "ResNeXt-50-FPN"): {
        "resnet.depth was 18, is 50", "resnet.groups was 1, is 8", "resnet.group_width was 64, is 32",
    },
    ("2b", "softmax"): {"mask_head.activation.type was 'SigmoidMasks', is 'SoftmaxMasks'"},
    ("2c", "RoIPool, max"): POOL,
    ("2c", "RoIWarp, max"): WARP | {"pooler.mode was 'avg', is 'max'"},
    ("2c", "RoIWarp, average"): WARP,
    ("2c", "RoIAlign, max"): {"pooler.mode was 'avg', is 'max'"},
    ("2d", "RoIPool"): POOL,
    ("2e", "MLP"): MLP | {"mask_head.hidden_layers was None, is 2"},
    ("2e", "deeper MLP"): MLP | {"mask_head.hidden_layers was None, is 3"},
    ("agnostic", "class-agnostic"): {"mask_head.activation.class_agnostic was False, is True"},
    ("6", "RoIPool"): POOL,
}  # fmt: skip


@pytest.mark.parametrize(("table", "row"), CHANGES)
def test_a_row_differs_in_its_own_fields_alone(table: str, row: str) -> None:
    config = TABLES[table].network(9)
    change = next(found.change for found in TABLES[table].rows if found.name == row)
    assert set(differences(typed_fields(config), typed_fields(change(config)))) == CHANGES[table, row]


def test_rows_of_other_heads_and_backbones() -> None:
    tasks = {row.name: row.change(TABLES["5"].network(2)) for row in TABLES["5"].rows}
    assert [(c.mask_head is None, c.keypoint_head is None) for c in tasks.values()] == [
        (True, True), (False, True), (True, False), (False, False),
    ]  # fmt: skip
    both = tasks["keypoint and mask"]
    for config in tasks.values():
        assert replace(config, mask_head=both.mask_head, keypoint_head=both.keypoint_head) == both
    shallow, deep = (row.change(TABLES["2a"].network(9)) for row in TABLES["2a"].rows[:2])
    assert shallow == TABLES["2c"].network(9) and shallow.fpn is None
    assert set(differences(typed_fields(shallow), typed_fields(deep))) == {"resnet.depth was 18, is 34"}


# Tables 2b, 2c and the class-agnostic one share a network, as do 2e and 2a.
ROWS = [("2a", "ResNeXt-50-FPN"), ("2c", "RoIAlign, average"), ("2d", "RoIAlign"), ("2e", "deeper MLP")]


@pytest.mark.parametrize(("table", "row"), [*ROWS, ("5", "keypoint and mask"), ("6", "RoIPool")])
def test_networks_train_and_detect(table: str, row: str) -> None:
    change = next(found.change for found in TABLES[table].rows if found.name == row)
    config = change(TABLES[table].network(3))
    torch.manual_seed(0)
    model = MaskRCNN(replace(config, transform=replace(config.transform, min_sizes=(64,))))
    images = [random_image(64, 64, seed=seed) for seed in range(2)]
    targets = [random_target(64, 64, 3, seed=seed, num_classes=3) for seed in range(2)]
    total = sum(model(images, targets).values())
    total.backward()
    assert torch.isfinite(total)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    model.eval()
    with torch.no_grad():
        found = model(images, paste=False)
    assert ("mask_probs" in found[0]) == (model.mask_head is not None)


# ---- running


def test_a_finished_table(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = finished / "tiny"
    report = json.loads((folder / "table.json").read_text())
    assert report["command"] == f"minimaskrcnn ablate tiny --seeds 2 --jobs 1 --out {finished}"
    assert (report["steps"], report["seeds"], report["versions"]["torch"]) == (3, [0, 1], torch.__version__)
    for row, paper_row in zip(report["rows"], TINY.rows):
        assert (row["name"], tuple(row["paper"])) == (paper_row.name, paper_row.paper)
        for seed, run in enumerate(row["runs"]):
            name = f"{ablation_run.slug(row['name'])}-{seed}"
            written = json.loads((folder / "runs" / name / "metrics.json").read_text())
            assert run == {"seed": seed, **written} and run["seconds"]["train"] > 0
            assert row["values"][seed] == [written["metrics"]["segm"][m] for m in ("AP", "AP50", "AP75")]
    assert (folder / "table.md").read_text() == markdown(report)
    with Image.open(folder / "figure.png") as figure:
        assert figure.width > 800


def test_rows_and_seeds_are_other_runs_of_one_budget(finished: Path) -> None:
    runs = {path.name: path for path in (finished / "tiny" / "runs").iterdir()}
    assert set(runs) == {"roipool_max-0", "roipool_max-1", "roialign-0", "roialign-1"}
    assert len({tuple(losses(path)) for path in runs.values()}) == 4
    settings = {name: json.loads((path / "run.json").read_text()) for name, path in runs.items()}
    one, other = settings["roipool_max-0"], settings["roialign-0"]
    assert set(differences(other, one)) == {f"network.{change}" for change in POOL}
    assert list(differences(one, settings["roipool_max-1"])) == ["training.seed was 0, is 1"]


def test_what_is_finished_is_not_run_again(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Job] = []
    monkeypatch.setattr(ablation_run, "run_job", ran.append)
    before = json.loads((finished / "tiny" / "table.json").read_text())
    ablation_run.run("tiny", finished)
    assert json.loads((finished / "tiny" / "table.json").read_text()) == before
    assert not ran
    # One seed of the two is a table, too.
    assert ablation_run.run("tiny", finished, seeds=1)["rows"][0]["half_range"] == [None] * 3
    ablation_run.run("tiny", finished)


def test_an_unfinished_run_goes_on_from_its_checkpoint(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minimaskrcnn.engine import train

    real, steps = train.training_step, []

    def interrupted(*arguments: Any, **options: Any) -> dict[str, torch.Tensor]:
        step = arguments[4]
        if step == 2 and len(steps) == 2:
            raise KeyboardInterrupt
        steps.append(step)
        return real(*arguments, **options)

    monkeypatch.setattr(train, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ablation_run.run("tiny", tmp_path, seeds=1)
    steps.append(-1)
    report = ablation_run.run("tiny", tmp_path, seeds=1)
    assert steps == [0, 1, -1, 2, 0, 1, 2]
    assert [row["runs"][0]["resumed"] for row in report["rows"]] == [True, False]
    for name in ("roipool_max-0", "roialign-0"):
        weights, whole = (
            load_file(out / "tiny" / "runs" / name / "last.safetensors") for out in (tmp_path, finished)
        )
        assert all(torch.equal(weights[key], whole[key]) for key in whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": replace(TINY.training, steps=4)}, "training.steps was 3, is 4"),
        ({"training": replace(TINY.training, lr=2e-3)}, "training.lr was 0.001, is 0.002"),
        ({"val_scenes": 3}, "scenes.val was 2, is 3"),
        (
            {"network": lambda n: replace(tiny_config(n), num_classes=n + 1)},
            "network.num_classes was 9, is 10",
        ),
    ],
)
def test_a_folder_of_other_settings_is_refused(
    finished: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    monkeypatch.setitem(TABLES, "tiny", replace(TINY, **change))
    with pytest.raises(ValueError, match=rf"roipool_max-0 was made with other settings \({message}\).*--out"):
        ablation_run.run("tiny", finished)
    # How often it saves is no setting.
    monkeypatch.setitem(TABLES, "tiny", replace(TINY, training=replace(TINY.training, checkpoint_every=7)))
    ablation_run.run("tiny", finished)


def test_processes_train_as_this_one_does(finished: Path, tmp_path: Path) -> None:
    ablation_run.run("tiny", tmp_path, seeds=1, jobs=2)
    for name in ("roipool_max-0", "roialign-0"):
        folder = tmp_path / "tiny" / "runs" / name
        assert losses(folder) == pytest.approx(losses(finished / "tiny" / "runs" / name), rel=1e-2)
        assert json.loads((folder / "metrics.json").read_text())["threads"] == max(
            1, ablation_run.cores() // 2
        )
        assert (folder / "log.txt").is_file()


def test_a_process_that_fails_says_where(tmp_path: Path) -> None:
    jobs = ablation_run.plan(TINY, tmp_path, steps=None, seeds=1, jobs=2)
    for picture in (tmp_path / "tiny" / "toybox" / "train").iterdir():
        picture.write_bytes(b"no picture")
    with pytest.raises(ChildProcessError, match=r"-0 ended with exit code 1: .*\.jpg.*log\.txt"):
        run_jobs(jobs, 2)


@pytest.mark.parametrize("killed", [False, True])
def test_whatever_ends_the_parent_or_a_process_ends_them_all(tmp_path: Path, killed: bool) -> None:
    endless = replace(TINY, training=replace(TINY.training, steps=100_000))
    jobs = ablation_run.plan(endless, tmp_path, steps=None, seeds=1, jobs=2)

    def interrupt() -> None:
        while not all((job.folder / "metrics.jsonl").is_file() for job in jobs):
            time.sleep(0.05)
        victim = multiprocessing.active_children()[0].pid if killed else os.getpid()
        os.kill(victim, signal.SIGKILL if killed else signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises((ChildProcessError, KeyboardInterrupt)) as ended:
        run_jobs(jobs, 2)
    if killed:
        assert re.match(r"ro.*-0 ended with exit code -9: .*log\.txt", str(ended.value))
    assert killed == (ended.type is ChildProcessError)
    assert not multiprocessing.active_children() and not any(job.finished for job in jobs)


def test_the_command_line(finished: Path, tmp_path: Path) -> None:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.main(["ablate", "tiny", "--seeds", "1", "--out", str(finished)]) == 0
    assert "| RoIPool, max |" in out.getvalue() and "figure.png" in out.getvalue()
    with contextlib.redirect_stderr(err):
        assert cli.main(["ablate", "tiny", "--steps", "2", "--seeds", "1", "--out", str(finished)]) == 2
        with pytest.raises(SystemExit):
            cli.main(["ablate", "3"])
    refused, unknown = err.getvalue().splitlines()
    assert "training.steps was 3, is 2" in refused and "'2c'" in unknown
    ablation_run.run("tiny", finished)


# ---- report


REPORT = {
    "table": "2d", "title": "A title", "note": "A note.", "paper_network": "ResNet-50-C5", "steps": 5,
    "seeds": [0, 1], "training": {"batch_size": 8}, "scenes": {"train": 1000, "val": 20}, "command": "the command",
    "columns": [["segm", "AP"], ["bbox", "AP"], ["bbox", "AP75"]],
    "rows": [
        {"name": "a", "paper": [30.3, None, 1.0], "values": [[0.25, 0.5, 0.1], [0.26, 0.5, 0.1]],
         "mean": [0.255, 0.5, 0.1], "half_range": [0.005, 0.0, 0.0]},
        {"name": "longer", "paper": [31.0, 5.0, 2.0], "values": [[None, 0.25, 0.2], [None, 0.75, 0.2]],
         "mean": [None, 0.5, 0.2], "half_range": [None, 0.25, 0.0]},
    ],
}  # fmt: skip


def test_the_table_by_hand() -> None:
    title, _, heads, _, one, other, _, *remarks = markdown(REPORT).splitlines()
    assert title == "# Table 2d: A title"

    def cells(line: str) -> list[str]:
        return [cell.strip() for cell in line.strip("|").split("|")]

    assert cells(heads) == [
        "row", "mask AP", "box AP", "box AP75", "paper mask AP", "paper box AP", "paper box AP75",
    ]  # fmt: skip
    assert cells(one) == ["a", "25.5 ±0.5", "50.0 ±0.0", "10.0 ±0.0", "30.3", "–", "1.0"]
    assert cells(other) == ["longer", "–", "50.0 ±25.0", "20.0 ±0.0", "31.0", "5.0", "2.0"]
    text = " ".join(remarks)
    assert "2 seeds (±: half of the range) of 5 steps of 8 generated scenes (40 seen, 1,000 different" in text
    assert "trained jointly here" in text and "the RPN separately" in text
    assert "A note." in text and "`the command`" in text
    single = {**REPORT, "seeds": [0]}
    assert "1 seed of" in markdown(single)


def test_mean_and_spread() -> None:
    assert mean([0.2, 0.5, 0.2]) == pytest.approx(0.3) and mean([0.2, None]) is None
    assert half_range([0.2, 0.5, 0.3]) == pytest.approx(0.15)
    assert half_range([0.2]) is None and half_range([None, None]) is None
    assert (ours_text(0.2, None), ours_text(0.2, 0.01), ours_text(None, None)) == ("20.0", "20.0 ±1.0", "–")


def test_which_columns_are_drawn() -> None:
    assert drawn_columns(TABLES["2c"].columns) == [0, 1, 2]
    assert drawn_columns(TABLES["2d"].columns) == [0, 3]
    assert drawn_columns(TABLES["5"].columns) == [0, 1, 2]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The figure of `REPORT`."""
    figure = need("matplotlib.figure")
    kept: list[Any] = []
    save = figure.Figure.savefig
    monkeypatch.setattr(
        figure.Figure, "savefig", lambda self, *a, **k: (kept.append(self), save(self, *a, **k))
    )
    save_figure(REPORT, tmp_path / "figure.png")
    return kept[0]


def test_the_figure_has_a_dot_a_seed_and_the_papers_numbers(drawn: Any) -> None:
    ours, paper_panel = drawn.axes

    def dots(axis: Any) -> set[float]:
        marked = [line for line in axis.lines if line.get_marker() not in ("None", None, "")]
        return {round(float(x), 6) for line in marked for x in line.get_xdata()}

    # The mask's AP and the box's; the AP75 has its place in the table.
    assert dots(ours) == {25.0, 26.0, 50.0, 75.0} and dots(paper_panel) == {30.3, 31.0, 5.0}
    assert [text.get_text() for text in ours.texts] == ["25.5", "50.0", "50.0"]
    assert [label.get_text() for label in ours.get_yticklabels()] == ["a", "longer"]
    (legend,) = drawn.legends
    assert [text.get_text() for text in legend.texts] == ["mask AP", "box AP"]
    markers = {line.get_marker() for line in paper_panel.lines if line.get_marker() not in ("None", None, "")}
    assert len(markers) == 2
    assert min(text.get_fontsize() for text in [*ours.texts, *ours.get_yticklabels()]) >= 11


def test_without_matplotlib_there_is_a_table_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ablation_run.write_report(REPORT, tmp_path)
    assert "No figure: the figure needs matplotlib: pip install" in capsys.readouterr().out
    assert (tmp_path / "table.md").is_file() and not (tmp_path / "figure.png").exists()


def test_with_a_broken_matplotlib_there_is_a_table_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(report: dict[str, Any], path: Path) -> None:
        raise ImportError("libfreetype is broken")

    monkeypatch.setattr(ablation_run, "save_figure", broken)
    ablation_run.write_report(REPORT, tmp_path)
    assert "No figure: libfreetype is broken" in capsys.readouterr().out
    assert (tmp_path / "table.md").is_file()


def test_the_resnext_row_is_four_times_as_wide_within():
    """As the paper's ResNeXt-101 32×8d beside ResNet-101: 256 channels in the first 3×3 convolution instead of 64."""
    change = {row.name: row.change for row in TABLES["2a"].rows}["ResNeXt-50-FPN"]
    config = change(TABLES["2a"].network(9))
    conv = MaskRCNN(config).resnet.stages[0][0].conv2
    assert (conv.in_channels, conv.groups) == (4 * config.resnet.width, 8)
