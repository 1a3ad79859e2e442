"""Recipes: what changes with the batch size, and what starting from scratch changes."""

from dataclasses import replace

import pytest
from models import tiny_config

from minimaskrcnn.demo import quick_toy
from minimaskrcnn.engine.recipes import PAPER, TOY, for_processes, from_scratch, with_batch_size
from minimaskrcnn.engine.train import TrainConfig
from minimaskrcnn.presets import PRESETS


def test_sgd_scales_linearly_and_sees_as_many_pictures():
    # Goyal et al.: one GPU of 2 pictures takes an eighth of the paper's rate for eight times as many steps.
    found = with_batch_size(PAPER, 2)
    assert (found.lr, found.batch_size) == (pytest.approx(0.0025), 2)
    assert (found.steps, found.warmup_steps) == (1_280_000, 8000)
    assert found.steps * 2 == PAPER.steps * 16
    assert replace(found, lr=PAPER.lr, batch_size=16, steps=160_000, warmup_steps=1000) == PAPER


def test_adamw_scales_with_the_square_root():
    config = TrainConfig(optimizer="adamw", lr=0.002, batch_size=16, steps=600, warmup_steps=50)
    found = with_batch_size(config, 4)
    assert (found.lr, found.steps, found.warmup_steps) == (pytest.approx(0.001), 2400, 200)
    assert with_batch_size(config, 64).lr == pytest.approx(0.004)


def test_the_same_batch_size_is_the_same_recipe():
    assert with_batch_size(PAPER, 16) == PAPER and with_batch_size(TOY, TOY.batch_size) == TOY


def test_a_huge_batch_still_takes_a_step():
    assert with_batch_size(TrainConfig(steps=2, batch_size=1), 1000).steps == 1


def test_from_scratch_freezes_nothing():
    config = PRESETS["maskrcnn_resnet50_fpn"].config(5)
    found = from_scratch(config)
    assert (found.resnet.norm, found.resnet.frozen_stages) == ("batch", 0)
    assert replace(found, resnet=config.resnet) == config
    # A norm that has no frozen statistics stays what it is.
    assert from_scratch(tiny_config()) == tiny_config()


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_recipe_is_whole(name):
    config, training, processes, _ = PRESETS[name]
    assert config(3).num_classes == 3 and training.batch_size % processes == 0
    assert training.steps > training.warmup_steps >= 0 and training.lr > 0 and training.batch_size > 0


def test_the_papers_batch_is_two_pictures_a_process():
    recipe = PRESETS["maskrcnn_resnet50_fpn"]
    assert for_processes(recipe, 8) == recipe.training == TrainConfig()
    alone = for_processes(recipe, 1)
    assert (alone.batch_size, alone.lr, alone.steps) == (2, 0.0025, 1_280_000)
    assert for_processes(recipe, 16).batch_size == 32
    # ResNeXt has one, the toys are for one process.
    assert for_processes(PRESETS["maskrcnn_resnext101_fpn"], 2).batch_size == 2
    toy = PRESETS["maskrcnn_toy"]
    assert for_processes(toy, 1) == toy.training


def test_the_quick_demo_is_the_demo_on_smaller_pictures_and_for_fewer_steps():
    quick, toy = quick_toy, PRESETS["maskrcnn_toy"]
    small, usual = quick.config(9), toy.config(9)
    assert replace(small, transform=usual.transform) == usual
    # A size above training's at test time.
    assert quick.training.augment.min_sizes < small.transform.min_sizes < usual.transform.min_sizes
    same = {"steps": toy.training.steps, "warmup_steps": 50, "augment": toy.training.augment}
    assert replace(quick.training, **same) == toy.training
    assert quick.training.steps * quick.training.batch_size < 0.3 * toy.training.steps * toy.training.batch_size


def test_the_papers_schedules():
    mask, people = (PRESETS[f"{kind}rcnn_resnet50_fpn"].training for kind in ("mask", "keypoint"))
    assert (mask.steps, mask.lr, mask.batch_size) == (160_000, 0.02, 16)
    assert [round(part * mask.steps) for part in mask.milestones] == [120_000]
    assert [round(part * people.steps) for part in people.milestones] == [60_000, 80_000]
    assert people.steps == 90_000 and people.augment.min_sizes == (640, 672, 704, 736, 768, 800)
    resnext = PRESETS["maskrcnn_resnext101_fpn"].training
    assert (resnext.steps, resnext.lr, resnext.batch_size) == (160_000, 0.01, 8)
