"""Presets: their names, their sizes beside the published ones, and that a file can carry every one of them."""

import pytest
import torch

import minimaskrcnn
from minimaskrcnn import presets
from minimaskrcnn.config_json import config_from_json, config_to_json
from minimaskrcnn.presets import PRESETS


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_is_a_model_a_configuration_and_a_recipe(name):
    make = getattr(minimaskrcnn, name)
    assert make is PRESETS[name] is getattr(presets, name) and make.config.__name__ == name
    with torch.device("meta"):
        assert (
            make(7).config == make(num_classes=7).config == make.config(7) and make.config(7).num_classes == 7
        )
        assert make().config == make.config()


def test_every_preset_is_public():
    assert set(PRESETS) == {name for name in minimaskrcnn.__all__ if "rcnn_" in name}


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_configuration_survives_json(name):
    config = PRESETS[name].config(5)
    again = config_from_json(config_to_json(config))
    assert again == config and hash(again) == hash(config)


@pytest.mark.parametrize(
    ("name", "parameters"),
    # torchvision's published `num_params` of the first two: the same layers, norms not counted as they are frozen.
    [("maskrcnn_resnet50_fpn", 44_401_393), ("fasterrcnn_resnet50_fpn", 41_755_286)],
)
def test_published_sizes(name, parameters):
    with torch.device("meta"):
        model = getattr(minimaskrcnn, name)()
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_what_sets_each_apart():
    base = presets.maskrcnn_resnet50_fpn.config()
    assert base == minimaskrcnn.MaskRCNNConfig() and base.num_classes == 91
    assert presets.maskrcnn_resnet101_fpn.config().resnet.depth == 101
    assert presets.fasterrcnn_resnet50_fpn.config().mask_head is None
    light = presets.maskrcnn_resnet18_fpn.config().resnet
    assert (light.depth, light.norm, light.frozen_stages) == (18, "batch", 0)


def test_the_toy_is_small_and_starts_from_scratch():
    config = presets.maskrcnn_toy.config()
    with torch.device("meta"):
        model = minimaskrcnn.maskrcnn_toy()
    assert sum(p.numel() for p in model.parameters()) < 3_000_000
    assert config.resnet.frozen_stages == 0 and config.resnet.norm in ("batch", "group")
    assert len(model.fpn.strides) == len(config.anchors.sizes)
    # Pictures are padded to whole cells of the coarsest level.
    assert config.transform.size_divisor % max(model.fpn.strides) == 0
