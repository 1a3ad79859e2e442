"""The demo: what it says and leaves behind, and that it goes on where it was, bit by bit."""

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models import tiny_config, tiny_model
from PIL import Image

from minimaskrcnn import cli, commands, demo
from minimaskrcnn.data.coco import open_coco
from minimaskrcnn.engine import train
from minimaskrcnn.engine.recipes import Preset, cpu_precision
from minimaskrcnn.engine.settings import TrainConfig
from minimaskrcnn.presets import PRESETS
from minimaskrcnn.weights import read_safetensors

TINY = TrainConfig(
    steps=5, batch_size=2, optimizer="adamw", lr=1e-3, schedule="cosine", warmup_steps=1, log_every=1,
    eval_every=0,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """A tiny recipe, six scenes (five for the quick demo), a checkpoint after every second step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "maskrcnn_toy", Preset(tiny_config, TINY))
        patch.setattr(demo, "quick_toy", Preset(tiny_config, replace(TINY, steps=3)))
        patch.setattr(demo, "CHECKPOINT_EVERY", 2)
        patch.setattr(commands, "DEMO_TRAIN", 4)
        patch.setattr(commands, "QUICK_TRAIN", 3)
        patch.setattr(commands, "DEMO_VAL", 2)
        yield


def call(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a demo in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(["demo", *(str(argument) for argument in arguments)])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A finished demo, and what it printed as `stdout`."""
    out = tmp_path_factory.mktemp("demo") / "whole"
    code, text, errors = call("--out", out)
    assert code == 0 and not errors, errors
    (out / "stdout").write_text(text)
    return out


def bits(out: Path) -> dict[str, torch.Tensor]:
    return read_safetensors(out / "last.safetensors")[0]


def assert_same(one: Path, other: Path) -> None:
    a, b = bits(one), bits(other)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    for name in ("metrics.jsonl", "metrics.json", "predictions.png"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_from_end_to_end(whole):
    metrics = json.loads((whole / "metrics.json").read_text())
    assert set(metrics) == {"bbox", "segm"}
    assert all(value == -1 or 0 <= value <= 1 for values in metrics.values() for value in values.values())
    assert len(list((whole / "pictures").iterdir())) == 2
    with Image.open(whole / "predictions.png") as picture:
        assert picture.width > 100


def test_it_says_precision_scenes_and_minutes_before_it_trains(whole):
    lines = (whole / "stdout").read_text().splitlines()
    assert lines[0] == demo.PRECISIONS[cpu_precision()]
    assert lines[1] == f"Writing 4 + 2 scenes in {whole / 'toybox'} ..."
    assert lines[2].startswith("Training maskrcnn_toy (0.2 M parameters) for 5 steps of 2 scenes in ")
    assert lines[3].startswith("About 0.") and " minutes from here: 5 steps of 0." in lines[3]
    assert lines[4].startswith("Trained in 0.") and lines[5] == "Evaluating on 2 held-out scenes ..."
    assert lines[-1].startswith(f"Pictures of what it found: {whole / 'pictures'}")


@pytest.mark.parametrize("native", [True, False])
def test_the_precision_is_the_processors(whole, native, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    seen = []
    scenes = open_coco(whole / "toybox", "val")
    monkeypatch.setattr(demo, "_scenes", lambda out, quick: (scenes, scenes))
    monkeypatch.setattr(demo, "_train", lambda model, dataset, out, config, *counts: seen.append(config.precision))
    monkeypatch.setattr(demo, "_show", lambda *arguments: None)
    code, text, _ = call("--out", tmp_path)
    precision = "bfloat16" if native else "float32"
    assert code == 0 and seen == [precision] and text == demo.PRECISIONS[precision] + "\n"


def test_the_estimate_counts_the_steps_that_are_left_and_the_evaluation(whole, monkeypatch):
    dataset = open_coco(whole / "toybox", "train")
    monkeypatch.setattr(demo, "seconds_per_step", lambda *a: 3.0 / demo.SLOWER_LATER)
    # (100 + 40 / 2) steps of 3 seconds.
    assert demo._estimate(tiny_model(), dataset, TINY, 100, 40) == (
        "About 6.0 minutes from here: 100 steps of 3.00 s, then the evaluation."
    )


@pytest.mark.parametrize("interrupted_step", [1, 3])
def test_an_interrupted_demo_goes_on_bit_by_bit(whole, tmp_path, monkeypatch, interrupted_step):
    step_of = train.training_step

    def interrupt(*arguments, **options):
        if arguments[4] == interrupted_step:
            raise KeyboardInterrupt
        return step_of(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(train, "training_step", interrupt)
        code, _, errors = call("--out", tmp_path)
    saved = interrupted_step // 2 * 2
    last = tmp_path / "last.safetensors"
    if saved:
        expected = f"The same command goes on from {last}, after {saved} of 5 steps."
    else:
        expected = "The same command begins again: there is no checkpoint yet."
    assert code == 130
    assert errors.split("\n")[-3:] == [expected, "minimaskrcnn demo: interrupted", ""]
    scenes = {path: path.stat().st_mtime_ns for path in (tmp_path / "toybox").rglob("*")}
    code, text, _ = call("--out", tmp_path)
    assert code == 0
    assert scenes == {path: path.stat().st_mtime_ns for path in (tmp_path / "toybox").rglob("*")}
    assert f"Reading 4 + 2 scenes in {tmp_path / 'toybox'} ..." in text
    assert (f"Goes on from {last} after {saved} steps" in text) == bool(saved)
    assert f"from here: {5 - saved} steps of" in text
    assert_same(tmp_path, whole)


def test_a_finished_demo_is_drawn_again_from_its_weights(whole, tmp_path):
    before = (whole / "last.safetensors").read_bytes()
    drawn = (whole / "predictions.png").read_bytes()
    found = (whole / "metrics.json").read_bytes()
    (whole / "predictions.png").unlink()
    (whole / "metrics.json").unlink()
    code, text, _ = call("--out", whole)
    assert code == 0 and (whole / "last.safetensors").read_bytes() == before
    assert (whole / "predictions.png").read_bytes() == drawn
    assert (whole / "metrics.json").read_bytes() == found
    assert f"To train anew, delete {whole / 'last.safetensors'}." in text
    assert "minutes from here" not in text and "Trained in" not in text


@pytest.mark.parametrize("flags", [("--steps", 9), ("--seed", 1), ("--quick",)])
def test_other_settings_are_one_sentence_and_touch_nothing(whole, flags):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    code, _, errors = call("--out", whole, *flags)
    changed = {"--steps": "steps was 5, is 9", "--seed": "seed was 0, is 1", "--quick": "steps was 5, is 3"}
    last = whole / "last.safetensors"
    assert code == 2 and errors == (
        f"minimaskrcnn demo: {last}: made with other settings: {changed[flags[0]]}; "
        "name another --out, or delete that file to begin anew\n"
    )
    assert before == {path: path.stat().st_mtime_ns for path in whole.rglob("*")}


def test_a_file_that_is_no_checkpoint_is_one_sentence(tmp_path):
    (tmp_path / "last.safetensors").write_text("something else")
    code, _, errors = call("--out", tmp_path)
    assert code == 2 and errors.count("\n") == 1 and "name another --out, or delete that file" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["last.safetensors"]


def test_the_quick_demo_trains_on_the_first_scenes_in_a_folder_of_their_own(whole, tmp_path):
    code, text, _ = call("--quick", "--out", tmp_path)
    assert code == 0 and "for 3 steps of 2 scenes" in text
    assert not (tmp_path / "toybox").exists()
    for split, count in (("train", 3), ("val", 2)):
        few, all_of_them = (folder / split for folder in (tmp_path / "toybox_quick", whole / "toybox"))
        names = sorted(path.name for path in few.iterdir())
        assert len(names) == count and names == sorted(path.name for path in all_of_them.iterdir())[:count]
        assert all((few / name).read_bytes() == (all_of_them / name).read_bytes() for name in names)
