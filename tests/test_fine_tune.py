"""Fine-tuning: what is taken over, and the semantics that come with it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models import tiny_c4, tiny_config, tiny_model

from minimaskrcnn import presets
from minimaskrcnn.box_head import Res5BoxHeadConfig
from minimaskrcnn.fine_tune import load_matching, starting_config
from minimaskrcnn.mask_rcnn import MaskRCNN
from minimaskrcnn.presets import as_detectron2
from minimaskrcnn.weights import AnyWeights, read_any, save_weights
from minimaskrcnn.weights_detectron2 import Detectron2Network


def test_what_starts_afresh():
    old, new = tiny_model(9, seed=1), tiny_model(4, seed=2)
    fresh = load_matching(new, old.state_dict())
    heads = ("box_head.classifier", "box_head.deltas", "mask_head.predictor")
    assert fresh == sorted(f"{head}.{kind}" for head in heads for kind in ("weight", "bias"))
    untouched = tiny_model(4, seed=2).state_dict()
    for name, value in new.state_dict().items():
        assert torch.equal(value, untouched[name] if name in fresh else old.state_dict()[name]), name
    assert load_matching(tiny_model(9, seed=3), old.state_dict()) == []


def test_counters_do_not_count():
    model = tiny_model(4, norm="batch")
    pretrained = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert load_matching(model, pretrained) == []
    # A frozen norm has none.
    assert load_matching(tiny_model(4, norm="frozen_batch"), model.state_dict()) == []


def test_what_fits_nowhere_is_refused():
    with pytest.raises(ValueError, match="no tensor of these weights fits"):
        load_matching(tiny_model(), {"conv1.weight": torch.zeros(3)})


def with_resnet(**fields) -> MaskRCNN:
    config = tiny_config()
    return MaskRCNN(replace(config, resnet=replace(config.resnet, **fields)))


def test_half_a_backbone_is_refused():
    """Deeper, or wider: either would leave parts of the backbone at random, or of the file unread."""
    deep = with_resnet(depth=34).state_dict()
    with pytest.raises(ValueError, match=r"another backbone: \d+ .* the first 'resnet\.stages\.0\.2\.conv1"):
        load_matching(tiny_model(), deep)
    wide = with_resnet(width=32).state_dict()
    with pytest.raises(ValueError, match="another backbone"):
        load_matching(tiny_model(), wide)
    # Its heads alone may be others.
    heads = {name: value for name, value in deep.items() if not name.startswith("resnet.")}
    assert all(name.startswith("resnet.") for name in load_matching(tiny_model(), heads))


def test_a_backbones_fifth_stage_is_c4s_head():
    config = tiny_config()
    whole = MaskRCNN(replace(config, resnet=replace(config.resnet, stages=4), fpn=None, anchors=presets.ONE_MAP))
    backbone = {name: value for name, value in whole.state_dict().items() if name.startswith("resnet.")}
    assert any(name.startswith("resnet.stages.3.") for name in backbone)
    model = MaskRCNN(tiny_c4(config))
    fresh = load_matching(model, backbone)
    assert not any(name.startswith(("resnet.", "box_head.res5.")) for name in fresh)
    for name, value in model.box_head.res5.state_dict().items():
        assert torch.equal(value, backbone[f"resnet.stages.3.{name}"]), name
    # And back: C4's head is the fifth stage of a backbone that has one.
    for value in whole.parameters():
        torch.nn.init.zeros_(value)
    assert not any(name.startswith("resnet.") for name in load_matching(whole, model.state_dict()))
    assert torch.equal(whole.resnet.stages[3][0].conv1.weight, model.box_head.res5[0].conv1.weight)


def saved(folder: Path, model: MaskRCNN, preset: str) -> AnyWeights:
    save_weights(folder / "x.safetensors", model, preset=preset, categories=[])
    return read_any(folder / "x.safetensors")


def test_a_file_of_ours_brings_its_configuration(tmp_path):
    config = as_detectron2(tiny_config(9))
    given = saved(tmp_path, MaskRCNN(config), "tiny")
    assert starting_config(tiny_config(4), "tiny", given) == replace(config, num_classes=4)
    # Another preset takes the pixels and the semantics, and keeps its own heads.
    other = replace(tiny_config(4), mask_head=None)
    assert starting_config(other, "other", given) == as_detectron2(other)


def test_the_norms_eps_goes_with_the_weights(tmp_path):
    published = with_resnet(norm_eps=0.0)
    found = starting_config(tiny_config(), "other", saved(tmp_path, published, "tiny"))
    assert found == replace(tiny_config(), resnet=replace(tiny_config().resnet, norm_eps=0.0))


def test_torchvisions_detectors_have_its_published_eps_and_its_resnets_their_own():
    config = presets.maskrcnn_resnet50_fpn.config(5)
    detector = AnyWeights({"box_head.classifier.weight": torch.zeros(91, 2)}, None)
    assert starting_config(config, "maskrcnn_resnet50_fpn", detector).resnet.norm_eps == 0.0
    backbone = AnyWeights({"resnet.stem.0.weight": torch.zeros(1)}, None)
    assert starting_config(config, "maskrcnn_resnet50_fpn", backbone) == config


@pytest.mark.parametrize("kind, dilated", [("dc5", True), ("c4", False)])
def test_detectron2s_semantics(kind, dilated):
    network = Detectron2Network(kind, 50, 1, 64, 81, has_masks=True, has_keypoints=False)
    for config in (presets.maskrcnn_resnet50_c5.config(5), presets.maskrcnn_resnet50_c4.config(5)):
        if isinstance(config.box_head, Res5BoxHeadConfig) == (kind == "c4"):
            found = starting_config(config, "any", AnyWeights({}, network))
            expected = as_detectron2(config)
            assert found == replace(expected, resnet=replace(expected.resnet, dilated_c5=dilated))
            assert found.resnet.strides[-1] == 16 and found.transform.bgr
