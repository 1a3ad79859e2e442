"""Training: the schedule by hand, one step by hand, and a run that goes on as if it had not been cut off."""

import copy
import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from models import random_image, random_target, tiny_model, write_scenes

from minimaskrcnn.data.coco import CocoDataset, open_coco
from minimaskrcnn.data.loader import generator_for
from minimaskrcnn.data.transforms import AugmentConfig
from minimaskrcnn.engine.progress import Progress
from minimaskrcnn.engine.step import NotFinite
from minimaskrcnn.engine.train import (
    Log,
    TrainConfig,
    learning_rate,
    make_optimizer,
    train_model,
    training_step,
)
from minimaskrcnn.weights import load_weights, read_safetensors

SHORT = TrainConfig(
    steps=4,
    batch_size=2,
    lr=0.01,
    warmup_steps=2,
    log_every=1,
    eval_every=0,
    checkpoint_every=2,
    clip_norm=5.0,
)
METRICS = {"bbox": {"AP": 0.1}, "segm": {"AP": 0.2}}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> CocoDataset:
    return open_coco(write_scenes(tmp_path_factory.mktemp("scenes"), train=5, val=1), "train")


def run(model, dataset, folder: Path, config: TrainConfig, **options):
    return train_model(model, dataset, folder, config, preset="tiny", **options)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def step_of(path: Path) -> int:
    return int(read_safetensors(path)[1]["step"])


def test_the_papers_schedule():
    config = TrainConfig()
    assert (config.steps, config.batch_size, config.optimizer) == (160_000, 16, "sgd")
    assert (config.momentum, config.weight_decay) == (0.9, 1e-4)
    rates = {0: 2e-5, 499: 0.01, 999: 0.02, 1000: 0.02, 119_999: 0.02, 120_000: 0.002, 159_999: 0.002}
    for step, rate in rates.items():
        assert learning_rate(step, config) == pytest.approx(rate), step


def test_two_milestones_and_no_warm_up():
    config = TrainConfig(steps=8, lr=1.0, warmup_steps=0, milestones=(0.5, 0.75))
    rates = [learning_rate(step, config) for step in range(8)]
    assert rates == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_by_hand():
    config = TrainConfig(steps=110, lr=2.0, schedule="cosine", warmup_steps=10)
    rates = {0: 0.2, 4: 1.0, 9: 2.0, 10: 2.0, 35: 1 + math.cos(math.pi / 4), 60: 1.0, 110: 0.0}
    for step, rate in rates.items():
        assert learning_rate(step, config) == pytest.approx(rate, abs=1e-12), step


def test_warm_up_begins_with_a_thousandth_at_least():
    assert learning_rate(0, TrainConfig(lr=1.0, warmup_steps=10_000)) == pytest.approx(1e-3)


def test_optimizers_hold_what_trains():
    model = tiny_model()
    model.fpn.requires_grad_(False)
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    sgd = make_optimizer(model, TrainConfig(lr=0.5, momentum=0.8, weight_decay=0.25))
    adamw = make_optimizer(model, TrainConfig(optimizer="adamw", lr=0.5, weight_decay=0.25))
    assert isinstance(sgd, torch.optim.SGD) and isinstance(adamw, torch.optim.AdamW)
    for optimizer in (sgd, adamw):
        (group,) = optimizer.param_groups
        assert {id(p) for p in group["params"]} == trained
        assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)
    assert sgd.param_groups[0]["momentum"] == 0.8
    muon = make_optimizer(model, TrainConfig(optimizer="muon", lr=0.5, weight_decay=0.25))
    matrices, vectors = ({id(p) for p in group["params"]} for group in muon.param_groups)
    assert matrices | vectors == trained and not matrices & vectors
    assert matrices == {id(p) for p in model.parameters() if p.requires_grad and p.ndim in (2, 4)}
    assert all((group["lr"], group["weight_decay"]) == (0.5, 0.25) for group in muon.param_groups)


def batch():
    targets = [{**random_target(48, 64, 2, seed), "image_id": 40 + seed} for seed in (0, 1)]
    return [random_image(48, 64, 0), random_image(48, 64, 1)], targets


def test_one_step_by_hand():
    config = replace(SHORT, momentum=0.0, weight_decay=0.0, clip_norm=None, seed=3)
    model, twin = tiny_model(), tiny_model()
    losses = training_step(model, make_optimizer(model, config), *batch(), 1, config)
    # Pictures 40 and 41 at step 1 of seed 3.
    expected = twin(*batch(), generator=[generator_for(3, 1, 40), generator_for(3, 1, 41)])
    sum(expected.values()).backward()
    assert losses["loss"].item() == pytest.approx(sum(value.item() for value in expected.values()), rel=1e-6)
    assert {name: value.item() for name, value in losses.items() if name != "loss"} == {
        name: value.item() for name, value in expected.items()
    }
    for (name, new), old in zip(model.named_parameters(), twin.parameters()):
        assert torch.allclose(new, old - learning_rate(1, config) * old.grad, rtol=1e-5, atol=1e-7), name


def test_the_whole_gradient_is_clipped():
    config = replace(SHORT, momentum=0.0, weight_decay=0.0, clip_norm=0.25, warmup_steps=0)
    model, before = tiny_model(), tiny_model()
    training_step(model, make_optimizer(model, config), *batch(), 0, config)
    moves = [(new - old).norm() for new, old in zip(model.parameters(), before.parameters())]
    assert torch.stack(moves).norm().item() == pytest.approx(0.25 * config.lr, rel=1e-3)


def test_complaint_07_bfloat16_precision_is_finite_and_close():
    """Of the complaints in `test_complaints.py`, number 7: no bfloat16."""
    config = replace(SHORT, precision="bfloat16")
    model = tiny_model()
    half = training_step(model, make_optimizer(model, config), *batch(), 0, config)
    model = tiny_model()
    full = training_step(model, make_optimizer(model, SHORT), *batch(), 0, SHORT)
    assert half["loss"] != full["loss"] and half["loss"].item() == pytest.approx(full["loss"].item(), rel=0.2)
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_a_loss_that_is_not_finite_names_step_parts_and_pictures():
    model = tiny_model()
    with torch.no_grad():
        model.box_head.classifier.bias[1] = torch.nan
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        NotFinite, match=r"step 7: the loss is not finite: .*loss_classifier nan.*; images \[40, 41\]$"
    ):
        training_step(model, make_optimizer(model, SHORT), *batch(), 7, SHORT)
    assert all(
        torch.equal(v, before[k]) for k, v in model.state_dict().items() if k != "box_head.classifier.bias"
    )


def test_a_gradient_that_is_not_finite_names_its_parameter_and_changes_nothing(tmp_path):
    model = tiny_model()
    model.mask_head.predictor.weight.register_hook(lambda grad: grad * torch.nan)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(NotFinite, match=r"step 3: the gradient of mask_head\.predictor\.weight") as error:
        training_step(model, make_optimizer(model, SHORT), *batch(), 3, SHORT, failed=tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    # The batch is kept for inspection, as it was.
    path = tmp_path / "failed-step-3.safetensors"
    assert str(path) in str(error.value)
    tensors, metadata = read_safetensors(path)
    images, targets = batch()
    assert json.loads(metadata["image_ids"]) == [40, 41]
    assert torch.equal(tensors["1/image"], images[1]) and torch.equal(tensors["0/masks"], targets[0]["masks"])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_parts_of_a_batch_add_up_to_their_mean(accumulate):
    config = replace(SHORT, momentum=0.0, weight_decay=0.0, clip_norm=None, accumulate=accumulate)
    model, twin = tiny_model(), tiny_model()
    images, targets = batch()
    losses = training_step(model, make_optimizer(model, config), images, targets, 1, config)
    parts = [([0, 1],)] if accumulate == 1 else [([0],), ([1],)]
    total = 0
    for (rows,) in parts:
        given = [targets[i] for i in rows]
        found = twin([images[i] for i in rows], given, generator=[generator_for(0, 1, 40 + i) for i in rows])
        total = total + sum(found.values()) / accumulate
    total.backward()
    assert losses["loss"].item() == pytest.approx(total.item(), rel=1e-6)
    for (name, new), old in zip(model.named_parameters(), twin.parameters()):
        assert torch.allclose(new, old - learning_rate(1, config) * old.grad, rtol=1e-5, atol=1e-7), name


def test_complaint_01_training_is_deterministic_under_torchs_flag():
    """Of the complaints in `test_complaints.py`, number 1: training that is not reproducible."""
    torch.use_deterministic_algorithms(True)
    try:
        runs = []
        for _ in range(2):
            model = tiny_model()
            training_step(model, make_optimizer(model, SHORT), *batch(), 0, SHORT)
            runs.append(model.state_dict())
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())


class Interrupted(Exception):
    pass


def interrupt(model) -> dict:
    raise Interrupted


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_complaint_15_a_resumed_run_is_the_uninterrupted_one_bit_by_bit(dataset, tmp_path, optimizer):
    """Of the complaints in `test_complaints.py`, number 15: resume that does not continue the same run."""
    config = replace(SHORT, optimizer=optimizer, augment=AugmentConfig(min_sizes=(40, 64)))
    whole = tiny_model(norm="batch")
    run(whole, dataset, tmp_path / "whole", config)
    # Cut off in the evaluation after step 3, with the last checkpoint after step 2.
    with pytest.raises(Interrupted):
        run(
            tiny_model(norm="batch"),
            dataset,
            tmp_path / "cut",
            replace(config, eval_every=3),
            evaluation=interrupt,
        )
    assert [line["step"] for line in lines(tmp_path / "cut")] == [1, 2, 3]
    assert step_of(tmp_path / "cut" / "last.safetensors") == 2
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    # Another beginning, which the checkpoint replaces, in another state of the global generator.
    resumed = tiny_model(norm="batch", seed=9)
    run(resumed, dataset, tmp_path / "cut", config, resume=True)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole") and len(lines(tmp_path / "whole")) == 4
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    a, b = (read_safetensors(tmp_path / folder / "last.safetensors")[0] for folder in ("whole", "cut"))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_begins_anew_without_resume(dataset, tmp_path):
    config = replace(SHORT, steps=1)
    run(tiny_model(), dataset, tmp_path, config, resume=True)
    run(tiny_model(), dataset, tmp_path, config)
    assert [line["step"] for line in lines(tmp_path)] == [1]


def test_other_seeds_give_other_runs(dataset, tmp_path):
    losses = []
    for seed in (0, 0, 1):
        run(tiny_model(), dataset, tmp_path, replace(SHORT, steps=1, seed=seed))
        losses.append(lines(tmp_path)[0]["loss"])
    assert losses[0] == losses[1] != losses[2]


def test_log_lines_and_returned_metrics(dataset, tmp_path):
    config = replace(SHORT, log_every=2, eval_every=3)
    assert run(tiny_model(), dataset, tmp_path, config, evaluation=lambda model: METRICS) == METRICS
    found = lines(tmp_path)
    assert [(line["step"], "eval" in line) for line in found] == [
        (2, False),
        (3, True),
        (4, False),
        (4, True),
    ]
    assert found[1]["eval"] == METRICS
    losses = {name for name in found[0] if name.startswith("loss")}
    parts = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"}
    assert losses == parts | {"loss"} and found[0]["lr"] == learning_rate(1, config)
    assert found[0]["loss"] == pytest.approx(sum(found[0][part] for part in parts), abs=1e-5)


def test_the_best_checkpoint_is_kept(dataset, tmp_path):
    scores = iter([0.1, 0.5, 0.3])

    def evaluation(model) -> dict:
        return {"bbox": {"AP": 0.9}, "segm": {"AP": next(scores)}}

    config = replace(SHORT, steps=3, eval_every=1)
    run(tiny_model(), dataset, tmp_path, config, evaluation=evaluation)
    assert step_of(tmp_path / "best.safetensors") == 2 and step_of(tmp_path / "last.safetensors") == 3
    assert load_weights(tmp_path / "best.safetensors").preset == "tiny"


def test_a_resumed_run_remembers_the_best(dataset, tmp_path):
    def scoring(*scores: float):
        values = iter(scores)
        return lambda model: {"bbox": {"AP": next(values)}}

    config = replace(SHORT, eval_every=2)
    # The first run ends with an error after its checkpoint of step 2.
    with pytest.raises(StopIteration):
        run(tiny_model(), dataset, tmp_path, config, evaluation=scoring(0.6))
    assert step_of(tmp_path / "best.safetensors") == 2
    run(tiny_model(), dataset, tmp_path, config, evaluation=scoring(0.4), resume=True)
    assert step_of(tmp_path / "best.safetensors") == 2 and step_of(tmp_path / "last.safetensors") == 4


def test_resuming_a_finished_run_evaluates_it(dataset, tmp_path):
    config = replace(SHORT, steps=1)
    run(tiny_model(), dataset, tmp_path, config)
    assert (
        run(tiny_model(), dataset, tmp_path, config, resume=True, evaluation=lambda model: METRICS) == METRICS
    )
    assert [(line["step"], "eval" in line) for line in lines(tmp_path)] == [(1, False), (1, True)]


def test_a_run_cut_off_before_its_evaluation_makes_up_for_it(dataset, tmp_path):
    config = replace(SHORT, eval_every=2)
    whole = run(tiny_model(), dataset, tmp_path / "whole", config, evaluation=lambda model: METRICS)
    calls = []

    def fails_once(model) -> dict:
        calls.append(len(calls))
        if len(calls) in (1, 3):
            raise Interrupted
        return METRICS

    # Once at step 2, once at the end; each time the checkpoint of that step is there.
    for _ in range(2):
        with pytest.raises(Interrupted):
            run(tiny_model(), dataset, tmp_path / "cut", config, resume=True, evaluation=fails_once)
    assert run(tiny_model(), dataset, tmp_path / "cut", config, resume=True, evaluation=fails_once) == whole
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    assert (
        step_of(tmp_path / "cut" / "best.safetensors")
        == step_of(tmp_path / "whole" / "best.safetensors")
        == 2
    )
    # What is known is not computed again.
    assert run(tiny_model(), dataset, tmp_path / "cut", config, resume=True, evaluation=interrupt) == whole


def test_a_run_with_other_settings_is_not_resumed(dataset, tmp_path):
    config = replace(SHORT, steps=1)
    run(tiny_model(), dataset, tmp_path, config)
    with pytest.raises(ValueError, match=r"other settings: lr was 0\.01, is 0\.5, steps was 1, is 2"):
        run(tiny_model(), dataset, tmp_path, replace(config, lr=0.5, steps=2), resume=True)
    # How often it reports is no such setting.
    quieter = replace(config, log_every=7, checkpoint_every=3, say_seconds=60)
    run(tiny_model(), dataset, tmp_path, quieter, resume=True)


def test_a_run_on_other_data_is_not_resumed(dataset, tmp_path):
    config = replace(SHORT, steps=1)
    run(tiny_model(), dataset, tmp_path, config)
    with pytest.raises(ValueError, match=r"data\.ids_and_annotations was .*, data\.pictures was 5, is 4$"):
        run(tiny_model(), dataset.first(4), tmp_path, config, resume=True)
    with pytest.raises(ValueError, match=r"settings: data\.ids_and_annotations was '\w+', is '\w+'$"):
        run(tiny_model(), dataset.subset([0, 1, 2, 4, 3]), tmp_path, config, resume=True)
    changed = copy.copy(dataset)
    changed.annotation_file = tmp_path / "other.json"
    changed.annotation_file.write_bytes(dataset.annotation_file.read_bytes() + b" ")
    with pytest.raises(ValueError, match=r"settings: data\.ids_and_annotations was '\w+', is '\w+'$"):
        run(tiny_model(), changed, tmp_path, config, resume=True)
    renamed = copy.copy(dataset)
    renamed.categories = [dataset.categories[0]._replace(name="bus"), *dataset.categories[1:]]
    with pytest.raises(ValueError, match=r"settings: data\.categories\.1 was '1 person', is '1 bus'$"):
        run(tiny_model(), renamed, tmp_path, config, resume=True)


def test_a_new_run_that_ends_early_does_not_go_on_as_the_old_one(dataset, tmp_path):
    run(tiny_model(), dataset, tmp_path, SHORT, evaluation=lambda model: METRICS)
    with pytest.raises(Interrupted):
        run(tiny_model(seed=5), dataset, tmp_path, replace(SHORT, eval_every=1), evaluation=interrupt)
    # Its first checkpoint would have come after step 2.
    assert not list(tmp_path.glob("*.safetensors"))
    run(tiny_model(seed=5), dataset, tmp_path, SHORT, resume=True)
    run(tiny_model(seed=5), dataset, tmp_path / "alone", SHORT)
    assert lines(tmp_path) == lines(tmp_path / "alone")


def test_a_new_run_that_cannot_begin_leaves_the_old_one(dataset, tmp_path):
    config = replace(SHORT, steps=1)
    run(tiny_model(), dataset, tmp_path, config)
    with pytest.raises(ValueError, match="0 samples"):
        run(tiny_model(), dataset.first(0), tmp_path, config)
    assert step_of(tmp_path / "last.safetensors") == 1 and len(lines(tmp_path)) == 1


def test_one_run_at_a_time_writes_into_a_folder(dataset, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    config = replace(SHORT, steps=1)
    run(tiny_model(), dataset, tmp_path, config)
    before = (tmp_path / "metrics.jsonl").read_text()
    with (tmp_path / ".lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process is training in it"):
            run(tiny_model(), dataset, tmp_path, config)
    assert (tmp_path / "metrics.jsonl").read_text() == before
    run(tiny_model(), dataset, tmp_path, config)


def test_it_says_where_it_goes_on(dataset, tmp_path, capsys, monkeypatch):
    config, last = replace(SHORT, steps=1), tmp_path / "last.safetensors"
    run(tiny_model(), dataset, tmp_path, config)
    assert "step 0" not in capsys.readouterr().out
    last.unlink()
    run(tiny_model(), dataset, tmp_path, config, resume=True)
    assert f"There is no {last}: starts at step 0" in capsys.readouterr().out.splitlines()
    run(tiny_model(), dataset, tmp_path, config, resume=True)
    assert capsys.readouterr().out.splitlines() == [f"Goes on from {last} after 1 steps"]
    monkeypatch.setattr("minimaskrcnn.engine.checkpoint.world_size", lambda: 4)
    last.unlink()
    run(tiny_model(), dataset, tmp_path, config)
    run(tiny_model(), dataset, tmp_path, config, resume=True)
    assert "Begun by 4 processes, now 1: losses keep their meaning" in capsys.readouterr().out


def test_without_a_terminal_it_says_how_far_it_is(dataset, tmp_path, capsys, monkeypatch):
    minutes = iter(range(0, 600, 25))
    monkeypatch.setattr("minimaskrcnn.engine.train.Progress", partial(Progress, clock=lambda: next(minutes)))
    run(tiny_model(), dataset, tmp_path, SHORT)
    # After 50 and 100 seconds.
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("step 2/4, 0.8 minutes left: loss ") and second.startswith("step 4/4, 0.0 minutes")
    values = lines(tmp_path)[1]
    names = ("objectness", "rpn_box_reg", "classifier", "box_reg", "mask")
    assert f"loss {values['loss']:.3f} (" in first
    assert all(f"{name} {values[f'loss_{name}']:.3f}" in first for name in names)
    run(tiny_model(), dataset, tmp_path, replace(SHORT, say_seconds=0))
    assert capsys.readouterr().err == ""


def test_only_the_first_rank_says_how_far_it_is(dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("minimaskrcnn.engine.train.rank", lambda: 1)
    run(tiny_model(), dataset, tmp_path, replace(SHORT, say_seconds=1e-9))
    assert capsys.readouterr() == ("", "")


def test_a_log_is_cut_by_replacing_it(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    log = Log(path, 0)
    for step in (1, 2):
        log.write(step=step)
    whole = path.read_bytes()

    def killed(temporary: Path, path: Path) -> None:
        raise Interrupted

    monkeypatch.setattr("minimaskrcnn.files.replace_durably", killed)
    with pytest.raises(Interrupted):
        Log(path, 1)
    assert path.read_bytes() == whole
    # Nothing to cut, nothing to write.
    Log(path, 2)


def test_log_cuts_what_follows_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = Log(path, 0)
    for step in (1, 2, 3):
        log.write(step=step, loss=step / 2)
    Log(path, 2).write(step=3, loss=7.0)
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == [0.5, 1.0, 7.0]
    Log(path, 0)
    assert path.read_text() == ""


def test_evaluation_leaves_the_model_training(dataset, tmp_path):
    model, seen = tiny_model(), []

    def evaluation(trained) -> dict:
        seen.append(trained.training)
        trained.eval()
        return METRICS

    run(model, dataset, tmp_path, replace(SHORT, steps=2, eval_every=1), evaluation=evaluation)
    assert seen == [True, True]


@pytest.mark.slow
def test_workers_change_nothing(dataset, tmp_path):
    for workers in (0, 1):
        run(tiny_model(), dataset, tmp_path / str(workers), SHORT, workers=workers)
    assert lines(tmp_path / "0") == lines(tmp_path / "1")
