"""The command line: one line and exit code 2 for whatever is wrong, and what each command leaves behind."""

import ast
import contextlib
import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from models import tiny_config, tiny_model, write_scenes
from PIL import Image
from safetensors.torch import save_file

from minimaskrcnn import cli, commands, demo
from minimaskrcnn.data import commands as data_commands
from minimaskrcnn.data.toybox import ToyboxConfig
from minimaskrcnn.engine.evaluate import METRICS
from minimaskrcnn.engine.recipes import Preset
from minimaskrcnn.engine.train import TrainConfig
from minimaskrcnn.mask_rcnn import MaskRCNN
from minimaskrcnn.presets import PRESETS, as_detectron2
from minimaskrcnn.weights import CategoryName, load_weights, read_safetensors, save_weights

TINY = TrainConfig(
    steps=2,
    batch_size=2,
    optimizer="adamw",
    lr=1e-3,
    schedule="cosine",
    warmup_steps=1,
    log_every=1,
    eval_every=0,
)


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def call(*arguments: object) -> Outcome:
    """The command line in this process; a traceback fails the test."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as exit:
            code = exit.code
    return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """A preset 'tiny', and a toybox of six scenes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", Preset(tiny_config, TINY))
        patch.setattr(commands, "DEMO_TRAIN", 4)
        patch.setattr(commands, "DEMO_VAL", 2)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """data/ in COCO's layout, a trained run/ on it, and files that are something else."""
    place = tmp_path_factory.mktemp("cli")
    write_scenes(place / "data", train=4, val=2)
    outcome = call(
        "train", "--data", place / "data", "--preset", "tiny", "--out", place / "run", "--device", "cpu"
    )
    assert outcome.code == 0, outcome
    (place / "stdout").write_text(outcome.out)
    (place / "text.txt").write_text("no picture, no JSON, no weights")
    (place / "text.pth").write_text("no picture, no JSON, no weights")
    (place / "text.safetensors").write_text("no picture, no JSON, no weights")
    (place / "list.json").write_text("[1, 2]")
    (place / "broken.json").write_text('{"images": [')
    (place / "no_categories.json").write_text('{"images": [], "annotations": []}')
    empty = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    (place / "empty.json").write_text(json.dumps(empty))
    missing = {**empty, "images": [{"id": 1, "file_name": "gone.jpg", "height": 9, "width": 9}]}
    (place / "missing.json").write_text(json.dumps(missing))
    other = {**empty, "categories": [{"id": 777, "name": "unicorn"}]}
    (place / "unicorns.json").write_text(json.dumps(other))
    save_file({"weight": torch.zeros(2)}, place / "foreign.safetensors")
    model = tiny_model(3)
    model.mask_head = None
    save_weights(place / "damaged.safetensors", model, preset="tiny", categories=[])
    for folder in ("a", "b"):
        (place / folder).mkdir()
        Image.new("RGB", (40, 30), (90, 120, 30)).save(place / folder / "same.png")
    return place


DATA = "--data {p}/data --preset tiny --out {p}/o --device cpu"
ANY = "--out {p}/o --preset tiny --device cpu --images {p}/data/train --annotations"
BAD = {
    "": "COMMAND",
    "fly": "invalid choice: 'fly'",
    "train": "--out",
    "train --out {p}/o": "give a folder in COCO's layout",
    "train --out {p}/o --data {p}/data --images {p}/data/train": "not both",
    "train --out {p}/o --images {p}/data/train": "give a folder in COCO's layout",
    "train --out {p}/o --annotations {p}/empty.json": "give a folder in COCO's layout",
    "train --out {p}/o --data {p}/nowhere": "no such file",
    "train --out {p}/o --data {p}/data --split test": "instances_test.json: no such file",
    "train --out {p}/o --data {p}/data --val-split test": "instances_test.json: no such file",
    "train --out {p}/o --data {p}/data --preset resnet": "no preset 'resnet'; there are maskrcnn_resnet50_fpn",
    "train --out {p}/text.txt --data {p}/data --preset tiny --device cpu": "text.txt",
    f"train {DATA} --steps -1": "invalid positive whole number value: '-1'",
    f"train {DATA} --steps 0": "invalid positive whole number value: '0'",
    f"train {DATA} --steps many": "invalid positive whole number value: 'many'",
    f"train {DATA} --batch-size 0": "--batch-size",
    f"train {DATA} --lr 0": "invalid positive number value: '0'",
    f"train {DATA} --lr nan": "invalid positive number value: 'nan'",
    f"train {DATA} --lr inf": "invalid positive number value: 'inf'",
    f"train {DATA} --seed -1": "--seed",
    f"train {DATA} --seed 4294967296": "whole number under 2**32",
    f"train {DATA} --workers -1": "invalid whole number value: '-1'",
    f"train {DATA} --eval-every -5": "--eval-every",
    f"train {DATA} --limit 0": "--limit",
    f"train {DATA} --optimizer adam": "invalid choice: 'adam'",
    f"train {DATA} --optimizer sgd": "--optimizer sgd needs --lr",
    f"train {DATA} --precision half": "invalid choice: 'half'",
    f"train {DATA} --hidden 512": "unrecognized arguments: --hidden 512",
    f"train {DATA} --device nonsense": "--device nonsense",
    f"train {DATA} --device meta": "--device meta",
    f"train {DATA} --device cuda:99": "--device cuda:99",
    f"train {DATA} --weights {{p}}/nothing.pth": "nothing.pth: no such weights file",
    f"train {DATA} --weights {{p}}/text.pth": "text.pth: neither",
    f"train {DATA} --weights {{p}}/text.safetensors": "text.safetensors: not a readable safetensors file",
    f"train {DATA} --weights {{p}}/foreign.safetensors": "not a weights file of minimaskrcnn",
    "train --data {p}/data --preset tiny --device cpu --out {p}/run --resume --steps 9": "steps was 2, is 9",
    "train --data {p}/data --split val --preset tiny --device cpu --out {p}/run --resume": "pictures was 4, is 2",
    "train --data {p}/data --preset maskrcnn_resnet18_fpn --device cpu --out {p}/run --resume": "--weights that",
    f"train {ANY} {{p}}/nothing.json": "nothing.json: no such annotation file",
    f"train {ANY} {{p}}/broken.json": "broken.json: not JSON",
    f"train {ANY} {{p}}/list.json": "list.json: expected an object",
    f"train {ANY} {{p}}/no_categories.json": "'categories' must be a list",
    f"train {ANY} {{p}}/empty.json": "empty.json: no images",
    f"train {ANY} {{p}}/missing.json": "gone.jpg: no such picture",
    f"train {ANY} {{p}}/missing.json --val-images {{p}}/data/val": "--val-images and --val-annotations go together",
    "train --out {p}/o --images {p}/nowhere --annotations {p}/empty.json": "nowhere: no such folder of pictures",
    "evaluate --data {p}/data --out {p}/o": "--weights",
    "evaluate --data {p}/data --out {p}/o --weights {p}/nothing.safetensors": "no such weights file",
    "evaluate --data {p}/data --out {p}/o --weights {p}/damaged.safetensors": "damaged.safetensors: not the weights",
    "evaluate --out {p}/o --weights {p}/run/last.safetensors --device cpu": "give a folder in COCO's layout",
    "evaluate --out {p}/o --weights {p}/run/last.safetensors --device cpu --images {p}/data/val "
    "--annotations {p}/unicorns.json": "no category id in common",
    "predict --weights {p}/run/last.safetensors --out {p}/o": "IMAGE",
    "predict {p}/a/same.png --out {p}/o": "--weights",
    "predict {p}/nothing.jpg --weights {p}/run/last.safetensors --out {p}/o --device cpu": "no such picture",
    "predict {p}/text.txt --weights {p}/run/last.safetensors --out {p}/o --device cpu": "text.txt: cannot identify",
    "predict {p}/data --weights {p}/run/last.safetensors --out {p}/o --device cpu": "data",
    "predict {p}/a/same.png --weights {p}/text.pth --out {p}/o": "text.pth: neither",
    "predict {p}/a/same.png --weights {p}/run/last.safetensors --out {p}/o --threshold 2": "number from 0 to 1",
    "predict {p}/a/same.png {p}/b/same.png --weights {p}/run/last.safetensors --out {p}/o": "replace another file",
    "predict {p}/a/same.png --weights {p}/run/last.safetensors --out {p}/a": "replace another file",
    "data": "KIND",
    "data zoo": "invalid choice: 'zoo'",
    "data toybox": "--out",
    "data toybox --out {p}/data --train 2 --val 1": "holds files but no toybox.json",
    "data toybox --out {p}/o --train 0": "--train",
    "demo --steps 0": "--steps",
}


@pytest.mark.parametrize("command", BAD)
def test_bad_usage_is_one_line_and_exit_code_2(place, command):
    pictures = {path: path.read_bytes() for path in (place / "a").iterdir()}
    outcome = call(*command.format(p=place).split())
    assert outcome.code == 2, outcome
    assert outcome.err.endswith("\n") and outcome.err.count("\n") == 1, outcome.err
    assert outcome.err.startswith("minimaskrcnn") and BAD[command] in outcome.err, outcome.err
    assert "Traceback" not in outcome.out
    assert {path: path.read_bytes() for path in (place / "a").iterdir()} == pictures
    shutil.rmtree(place / "o", ignore_errors=True)


@pytest.mark.parametrize(
    "arguments", [(), ("train",), ("evaluate",), ("predict",), ("data", "toybox"), ("demo",)]
)
def test_help(arguments):
    outcome = call(*arguments, "--help")
    assert outcome.code == 0 and "usage: minimaskrcnn" in outcome.out and not outcome.err


def test_interruption_is_no_traceback(monkeypatch, tmp_path):
    def interrupted(out: Path, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(data_commands, "make_toybox", interrupted)
    outcome = call("data", "toybox", "--out", tmp_path)
    assert outcome == Outcome(130, "", "minimaskrcnn data: interrupted\n")


def test_the_module_is_the_command_line():
    done = subprocess.run(
        [sys.executable, "-m", "minimaskrcnn", "fly"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("minimaskrcnn: ")


def width(path: Path) -> int:
    with Image.open(path) as picture:
        return picture.width


def check_metrics(path: Path) -> dict:
    metrics = json.loads(path.read_text())
    assert set(metrics) == {"bbox", "segm"}
    for values in metrics.values():
        assert tuple(values) == METRICS
        assert all(value == -1 or 0 <= value <= 1 for value in values.values())
    return metrics


def test_train_leaves_weights_metrics_and_a_curve(place):
    run = place / "run"
    names = {path.name for path in run.iterdir()}
    assert {"last.safetensors", "best.safetensors", "metrics.jsonl", "metrics.json"} <= names
    assert not any(name.endswith(".tmp") for name in names)
    metrics = check_metrics(run / "metrics.json")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 2] and lines[-1]["eval"] == metrics
    file = load_weights(run / "last.safetensors")
    assert file.preset == "tiny" and file.categories[1] == CategoryName(2, 3, "disc")
    assert file.config.num_classes == 9
    out = (place / "stdout").read_text()
    assert "Training tiny on 4 pictures of 8 categories for 2 steps of 2, adamw" in out
    assert str(run / "metrics.json") in out
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        assert "No curve: " in out
    else:
        assert width(run / "curve.png") > 100


def test_training_keeps_the_semantics_of_the_weights_it_starts_from(place, tmp_path):
    config = as_detectron2(tiny_config(5))
    weights, out = tmp_path / "last.safetensors", tmp_path / "run"
    save_weights(weights, MaskRCNN(config), preset="tiny", categories=[])
    arguments = ("--data", place / "data", "--preset", "tiny", "--steps", 1, "--device", "cpu")
    refused = call("train", *arguments, "--weights", weights, "--out", tmp_path)
    assert refused.code == 2 and "would replace it; name another --out" in refused.err and weights.exists()
    outcome = call("train", *arguments, "--weights", weights, "--out", out)
    assert outcome.code == 0 and "start afresh: box_head.classifier, " in outcome.out, outcome
    trained = load_weights(out / "last.safetensors").config
    assert trained == replace(config, num_classes=trained.num_classes) and trained.num_classes != 5


def test_evaluate_gives_the_numbers_of_training(place, tmp_path):
    weights = place / "run" / "last.safetensors"
    outcome = call(
        "evaluate", "--data", place / "data", "--weights", weights, "--out", tmp_path, "--device", "cpu"
    )
    assert outcome.code == 0 and not outcome.err
    again = check_metrics(tmp_path / "metrics.json")
    for kind, values in check_metrics(place / "run" / "metrics.json").items():
        # Another batch size than in training.
        assert again[kind] == pytest.approx(values, abs=1e-3)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results and {row["image_id"] for row in results} <= {1, 2}
    assert all({"bbox", "segmentation", "score", "category_id"} < row.keys() for row in results)
    assert "AP50" in outcome.out and str(tmp_path / "metrics.json") in outcome.out


def test_evaluate_any_folder_and_file_and_only_some_pictures(place, tmp_path):
    shutil.copy(place / "data" / "annotations" / "instances_train.json", tmp_path / "mine.json")
    outcome = call(
        "evaluate", "--images", place / "data" / "train", "--annotations", tmp_path / "mine.json", "--limit", 1,
        "--weights", place / "run" / "last.safetensors", "--out", tmp_path, "--device", "cpu",
    )  # fmt: skip
    assert outcome.code == 0
    assert {row["image_id"] for row in json.loads((tmp_path / "results.json").read_text())} == {1}


def test_predict_draws_and_writes_results(place, tmp_path):
    pictures = sorted((place / "data" / "val").iterdir())
    weights = place / "run" / "last.safetensors"
    outcome = call(
        "predict", *pictures, "--weights", weights, "--out", tmp_path, "--threshold", 0.1, "--device", "cpu"
    )
    assert outcome.code == 0 and not outcome.err
    results = json.loads((tmp_path / "results.json").read_text())
    # COCO's file names are ids.
    assert {row["image_id"] for row in results} == {1, 2}
    assert {row["file_name"] for row in results} == {path.name for path in pictures}
    assert {row["category_id"] for row in results} <= {1, 3, 4, 7, 9, 10, 15, 21}
    for path, line in zip(pictures, outcome.out.splitlines()):
        drawn = tmp_path / f"{path.stem}.png"
        assert width(drawn) >= width(path) and str(drawn) in line
        shown = sum(row["score"] >= 0.1 and row["file_name"] == path.name for row in results)
        assert f"{shown} objects from score 0.1 on" in line
    assert {path.name for path in tmp_path.iterdir()} == {
        "results.json",
        *(f"{p.stem}.png" for p in pictures),
    }


def test_predict_numbers_pictures_that_have_names(place, tmp_path):
    for i, name in enumerate(("cat.png", "7.png")):
        pixels = np.full((30, 40, 3), 60 * i, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    outcome = call(
        "predict", tmp_path / "cat.png", tmp_path / "7.png", "--weights", place / "run" / "last.safetensors",
        "--out", tmp_path / "out", "--device", "cpu",
    )  # fmt: skip
    assert outcome.code == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {(row["file_name"], row["image_id"]) for row in results} == {("cat.png", 1), ("7.png", 2)}


@pytest.mark.parametrize("error", [ImportError("libfreetype is broken"), ModuleNotFoundError("no matplotlib")])
def test_training_ends_without_a_curve_where_matplotlib_is_absent_or_broken(place, tmp_path, monkeypatch, error):
    def broken(metrics: Path, out: Path) -> None:
        raise error

    monkeypatch.setattr(commands, "plot_history", broken)
    arguments = ("--data", place / "data", "--preset", "tiny", "--out", tmp_path, "--device", "cpu", "--steps", 1)
    outcome = call("train", *arguments)
    assert outcome.code == 0 and outcome.out.endswith(f"No curve: {error}\n"), outcome
    check_metrics(tmp_path / "metrics.json")


def test_resume_goes_on(place, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    before = (run / "last.safetensors").read_bytes()
    outcome = call(
        "train", "--data", place / "data", "--preset", "tiny", "--out", run, "--device", "cpu", "--resume"
    )
    # The run is complete: nothing is trained, and its metrics are the same again.
    assert f"Goes on from {run / 'last.safetensors'} after 2 steps" in outcome.out.splitlines()
    assert outcome.code == 0 and (run / "last.safetensors").read_bytes() == before
    assert check_metrics(run / "metrics.json") == check_metrics(place / "run" / "metrics.json")


def test_weights_with_another_number_of_classes(place, tmp_path):
    save_weights(tmp_path / "coco.safetensors", tiny_model(5, seed=3), preset="tiny", categories=[])
    common = ("train", "--data", place / "data", "--preset", "tiny", "--device", "cpu", "--steps", 1)
    outcome = call(*common, "--weights", tmp_path / "coco.safetensors", "--out", tmp_path / "run")
    assert outcome.code == 0
    assert "start afresh: box_head.classifier, box_head.deltas, mask_head.predictor." in outcome.out
    outcome = call(*common, "--weights", place / "run" / "last.safetensors", "--out", tmp_path / "again")
    assert outcome.code == 0 and "start afresh: nothing." in outcome.out
    # A run that goes on does not start from them again.
    again = (*common, "--weights", place / "run" / "last.safetensors", "--out", tmp_path / "again", "--resume")
    outcome = call(*again)
    assert outcome.code == 0 and "Goes on from" in outcome.out and "Started from" not in outcome.out


def test_flags_reach_the_run(place, tmp_path):
    outcome = call(
        "train", "--data", place / "data", "--split", "val", "--val-split", "train", "--preset", "tiny",
        "--out", tmp_path, "--device", "cpu", "--steps", 3, "--batch-size", 1, "--lr", 0.5, "--optimizer", "sgd",
        "--schedule", "step", "--precision", "bfloat16", "--seed", 7, "--eval-every", 2, "--limit", 1,
    )  # fmt: skip
    assert outcome.code == 0, outcome
    assert "on 1 pictures of 8 categories for 3 steps of 1, sgd, learning rate 0.5" in outcome.out
    settings = json.loads(read_safetensors(tmp_path / "last.safetensors")[1]["settings"])
    expected = {"steps": 3, "batch_size": 1, "lr": 0.5, "optimizer": "sgd", "schedule": "step", "seed": 7}
    assert expected.items() <= settings.items() and settings["precision"] == "bfloat16"
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "eval" in line] == [2, 3]


def test_batch_size_rescales_the_recipe_unless_told_otherwise(place, monkeypatch):
    seen = []
    monkeypatch.setattr(commands, "train_model", lambda *a, **k: seen.append(a[3]) or {})
    monkeypatch.setattr(commands, "finish_training", lambda *a: None)
    monkeypatch.setitem(
        PRESETS, "tiny", Preset(tiny_config, replace(TINY, steps=100, batch_size=16, warmup_steps=50))
    )
    common = ("train", "--data", place / "data", "--preset", "tiny", "--out", place / "o", "--device", "cpu")
    for more in ((), ("--batch-size", 4), ("--batch-size", 4, "--steps", 30, "--lr", 0.25)):
        assert call(*common, *more).code == 0
    plain, scaled, told = seen
    assert (plain.steps, plain.lr, plain.warmup_steps) == (100, 1e-3, 10)
    assert (scaled.steps, scaled.lr, scaled.warmup_steps) == (400, 5e-4, 40)
    assert (told.steps, told.lr, told.warmup_steps) == (30, 0.25, 3)


def test_data_toybox(tmp_path):
    outcome = call("data", "toybox", "--out", tmp_path / "toys", "--train", 2, "--val", 1, "--seed", 3)
    assert outcome.code == 0 and str(tmp_path / "toys") in outcome.out
    assert len(list((tmp_path / "toys" / "train").iterdir())) == 2
    for split, count in (("train", 2), ("val", 1)):
        content = json.loads((tmp_path / "toys" / "annotations" / f"instances_{split}.json").read_text())
        assert len(content["images"]) == count and len(content["categories"]) == 8


def test_the_demos_flags_and_its_folders(monkeypatch):
    seen = []
    monkeypatch.setattr(demo, "run_demo", lambda out, **options: seen.append((out, options)))
    assert [call("demo", *flags).code for flags in ((), ("--quick",), ("--out", "o", "--steps", 3))] == [0] * 3
    assert call("demo", "--quick", "--out", "o", "--seed", 4).code == 0
    assert seen == [
        (Path("runs/demo"), {"quick": False, "steps": None, "seed": 0}),
        (Path("runs/demo-quick"), {"quick": True, "steps": None, "seed": 0}),
        (Path("o"), {"quick": False, "steps": 3, "seed": 0}),
        (Path("o"), {"quick": True, "steps": None, "seed": 4}),
    ]


def test_training_on_the_toybox_by_name(tmp_path):
    arguments = ("--data", "toybox", "--preset", "tiny", "--out", tmp_path, "--device", "cpu", "--steps", 1)
    outcome = call("train", *arguments)
    assert outcome.code == 0 and "on 4 pictures" in outcome.out
    assert (tmp_path / "toybox" / "toybox.json").is_file()
    check_metrics(tmp_path / "metrics.json")


def test_a_recipe_with_scenes_of_its_own_is_evaluated_on_the_usual_ones(tmp_path, monkeypatch):
    crowded = ToyboxConfig(objects=(9, 9), person_share=1.0)
    monkeypatch.setitem(PRESETS, "tiny", Preset(tiny_config, TINY, toybox=crowded))
    arguments = ("--data", "toybox", "--preset", "tiny", "--out", tmp_path, "--device", "cpu", "--steps", 1)
    assert call("train", *arguments).code == 0
    own = json.loads((tmp_path / "toybox_tiny" / "toybox.json").read_text())
    assert own["train_config"]["objects"] == [9, 9] and own["config"]["objects"] == [2, 8]
    weights = tmp_path / "last.safetensors"
    outcome = call("evaluate", "--data", "toybox", "--weights", weights, "--out", tmp_path, "--device", "cpu")
    assert outcome.code == 0 and (tmp_path / "toybox_tiny" / "toybox.json").is_file()
    held_out = [tmp_path / name / "annotations" / "instances_val.json" for name in ("toybox", "toybox_tiny")]
    assert held_out[0].read_bytes() == held_out[1].read_bytes()


def test_parsed_options_stay_as_they_are_and_in_the_command_line():
    for path in sorted(Path(cli.__file__).parent.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert path.name == "cli.py" or "Namespace" not in text, path
        for node in ast.walk(ast.parse(text)):
            # A load of an attribute reads it; a store or a deletion would change what was parsed.
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "options":
                assert isinstance(node.ctx, ast.Load), f"{path}:{node.lineno}"
