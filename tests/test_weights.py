"""Weights: our files there and back, what is refused, and torchvision's names without torchvision."""

import json
import pickle
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from models import tiny_config, tiny_model
from safetensors.torch import save_file
from torch import Tensor, nn

from minimaskrcnn import presets, weights
from minimaskrcnn.config_json import config_from_json, config_to_json
from minimaskrcnn.data.coco_names import COCO_NAMES
from minimaskrcnn.mask_rcnn import MaskRCNN, MaskRCNNConfig
from minimaskrcnn.presets import PRESETS, fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn
from minimaskrcnn.weights import (
    CategoryName,
    from_torchvision,
    load_any,
    load_model,
    load_weights,
    read_any,
    save_weights,
    torchvision_coco_v1,
)

CATEGORIES = [CategoryName(1, 3, "disc"), CategoryName(2, 44, "Bär")]


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "model.safetensors"
    save_weights(path, tiny_model(3), preset="tiny", categories=CATEGORIES)
    return path


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_there_and_back(saved):
    file = load_weights(saved)
    assert equal(file.state_dict, tiny_model(3).state_dict())
    assert (file.config, file.preset, file.categories) == (tiny_model(3).config, "tiny", CATEGORIES)
    model, again = load_model(saved)
    assert not model.training and model.config == tiny_model(3).config and again.preset == "tiny"
    image = torch.rand(3, 40, 50)
    with torch.no_grad():
        assert equal(model([image])[0], tiny_model(3).eval()([image])[0])
    assert equal(read_any(saved).state_dict, file.state_dict)
    assert load_any(saved)[1] == CATEGORIES
    assert [path.name for path in saved.parent.iterdir()] == ["model.safetensors"]


def test_training_state_rides_along_unseen(tmp_path):
    model, path = tiny_model(3), tmp_path / "last.safetensors"
    save_weights(
        path,
        model,
        preset="tiny",
        categories=[],
        training={"0/step": torch.ones(())},
        training_metadata={"step": "7"},
    )
    assert equal(load_weights(path).state_dict, model.state_dict())
    assert weights.read_safetensors(path)[1]["step"] == "7"


def test_memory_formats_are_saved_as_values(tmp_path):
    model, path = tiny_model(3).to(memory_format=torch.channels_last), tmp_path / "x.safetensors"
    save_weights(path, model, preset="tiny", categories=[])
    assert equal(load_weights(path).state_dict, tiny_model(3).state_dict())


def test_a_file_is_replaced_whole(saved):
    save_weights(saved, tiny_model(4), preset="other", categories=[])
    assert load_weights(saved).preset == "other" and len(list(saved.parent.iterdir())) == 1


def test_configurations_without_masks_and_with_other_numbers():
    config = replace(tiny_config(5), mask_head=None)
    assert config_from_json(config_to_json(config)) == config
    with pytest.raises(ValueError, match="ResNetConfig has no field breadth"):
        config_from_json(json.dumps({"resnet": {"breadth": 3}}))
    # A file written before a field existed gets its default.
    assert config_from_json("{}") == MaskRCNNConfig()


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert text and "\n" not in text
    return text


def test_damaged_and_foreign_files(saved, tmp_path):
    whole = saved.read_bytes()
    for name, content in {
        "empty": b"",
        "text": b"hello world",
        "head": whole[:100],
        "cut": whole[:-5],
        "picture": b"\x89PNG\r\n\x1a\n" + bytes(60),
    }.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(ValueError) as error:
            load_weights(path)
        assert str(path) in one_line(error) and "safetensors" in str(error.value)
    path = tmp_path / "foreign.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file({"weight": torch.zeros(2)}, path, metadata)
        with pytest.raises(ValueError, match="not a weights file of minimaskrcnn") as error:
            load_any(path)
        assert str(path) in one_line(error)


def test_tensors_that_are_not_the_configurations(tmp_path):
    path = tmp_path / "model.safetensors"
    model = tiny_model(3)
    for damage, message in (
        (lambda m: setattr(m, "mask_head", None), "mask_head"),
        (lambda m: setattr(m.box_head, "fc1", nn.Linear(2, 2)), "box_head.fc1.bias"),
        (lambda m: setattr(m, "extra", nn.Linear(2, 2)), "extra.bias"),
    ):
        damaged = tiny_model(3)
        damage(damaged)
        damaged.config = model.config
        save_weights(path, damaged, preset="tiny", categories=[])
        with pytest.raises(ValueError, match=message) as error:
            load_any(path)
        assert str(path) in one_line(error)


KINDS = ("weight", "bias", "running_mean", "running_var")


def resnet50_names(prefix: str) -> Iterator[tuple[str, str]]:
    """(torchvision's name, ours) of every tensor of its ResNet-50."""
    yield f"{prefix}conv1.weight", "resnet.stem.0.weight"
    yield from ((f"{prefix}bn1.{kind}", f"resnet.stem.1.{kind}") for kind in KINDS)
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            theirs, ours = f"{prefix}layer{stage}.{block}", f"resnet.stages.{stage - 1}.{block}"
            for i in (1, 2, 3):
                yield f"{theirs}.conv{i}.weight", f"{ours}.conv{i}.weight"
                yield from ((f"{theirs}.bn{i}.{kind}", f"{ours}.norm{i}.{kind}") for kind in KINDS)
            if block == 0:
                yield f"{theirs}.downsample.0.weight", f"{ours}.shortcut.0.weight"
                yield from ((f"{theirs}.downsample.1.{kind}", f"{ours}.shortcut.1.{kind}") for kind in KINDS)


def detector_names(*, masks: bool, old: bool) -> Iterator[tuple[str, str]]:
    """(torchvision's name, ours) of every tensor of its detectors; `old` as before its version 0.12."""
    yield from resnet50_names("backbone.body.")
    pairs = []
    for level in range(4):
        inner = "" if old else ".0"
        pairs.append((f"backbone.fpn.inner_blocks.{level}{inner}", f"fpn.lateral.{level}"))
        pairs.append((f"backbone.fpn.layer_blocks.{level}{inner}", f"fpn.smooth.{level}"))
        if masks:
            theirs = f"mask_fcn{level + 1}" if old else f"{level}.0"
            pairs.append((f"roi_heads.mask_head.{theirs}", f"mask_head.convs.{level}"))
    pairs += [
        ("rpn.head.conv" if old else "rpn.head.conv.0.0", "rpn.conv"),
        ("rpn.head.cls_logits", "rpn.objectness"),
        ("rpn.head.bbox_pred", "rpn.deltas"),
        ("roi_heads.box_head.fc6", "box_head.fc1"),
        ("roi_heads.box_head.fc7", "box_head.fc2"),
        ("roi_heads.box_predictor.cls_score", "box_head.classifier"),
        ("roi_heads.box_predictor.bbox_pred", "box_head.deltas"),
    ]
    if masks:
        pairs.append(("roi_heads.mask_predictor.conv5_mask", "mask_head.deconv"))
        pairs.append(("roi_heads.mask_predictor.mask_fcn_logits", "mask_head.predictor"))
    for theirs, ours in pairs:
        yield from ((f"{theirs}.{kind}", f"{ours}.{kind}") for kind in ("weight", "bias"))


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("old", [True, False])
def test_every_name_of_torchvisions_detectors_is_one_of_ours(masks, old):
    names = dict(detector_names(masks=masks, old=old))
    theirs = {name: torch.tensor(float(i)) for i, name in enumerate(names)}
    found = from_torchvision(theirs)
    assert found == {ours: theirs[name] for name, ours in names.items()}
    config = maskrcnn_resnet50_fpn.config() if masks else fasterrcnn_resnet50_fpn.config()
    with torch.device("meta"):
        assert set(found) == set(MaskRCNN(config).state_dict())


def test_a_resnets_classifier_and_counters_are_left_out():
    names = dict(resnet50_names(""))
    theirs = {name: torch.tensor(float(i)) for i, name in enumerate(names)}
    more = {
        f"{stem}.num_batches_tracked": torch.tensor(1)
        for stem in ("bn1", "layer1.0.bn1", "layer2.0.downsample.1")
    }
    classifier = {"fc.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}
    assert from_torchvision(theirs | more | classifier) == {
        ours: theirs[name] for name, ours in names.items()
    }


@pytest.mark.parametrize(
    "name",
    [
        "features.0.weight",
        "roi_heads.keypoint_head.conv_fcn1.weight",
        "roi_heads.box_head.0.0.weight",
        "head.fc.bias",
    ],
)
def test_other_networks_are_refused_by_name(name):
    detector = {"backbone.body.conv1.weight": torch.zeros(1)} if name.startswith("roi") else {}
    with pytest.raises(ValueError, match=f"'{name}' is no parameter"):
        from_torchvision({**detector, name: torch.zeros(1)})


@pytest.fixture
def narrow(monkeypatch) -> None:
    """torchvision's files are of its ResNet-50; here with 8 channels for 64."""

    def shrink(make):
        def config(classes: int = 91) -> MaskRCNNConfig:
            full = make(classes)
            return replace(
                full,
                resnet=replace(full.resnet, width=8),
                fpn=full.fpn and replace(full.fpn, channels=8),
                box_head=replace(full.box_head, **({"hidden": 8} if full.fpn else {})),
                mask_head=full.mask_head and replace(full.mask_head, channels=8),
            )

        return config

    for kind in ("maskrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_c4"):
        preset = getattr(weights, kind)
        monkeypatch.setattr(weights, kind, preset._replace(config=shrink(preset.config)))


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("classes", [91, 4])
def test_a_pth_file_becomes_a_model(narrow, tmp_path, masks, classes):
    make = weights.maskrcnn_resnet50_fpn.config if masks else weights.fasterrcnn_resnet50_fpn.config
    source = MaskRCNN(make(classes)).state_dict()
    path = tmp_path / "theirs.pth"
    torch.save({theirs: source[ours] for theirs, ours in detector_names(masks=masks, old=False)}, path)
    model, categories = load_any(path)
    assert equal(model.state_dict(), source) and not model.training
    assert (model.mask_head is not None) == masks and model.config.resnet.norm_eps == 0.0
    if classes == 91:
        # torchvision's labels are COCO's ids, which have gaps.
        assert len(categories) == 80 and categories[-1] == CategoryName(90, 90, "toothbrush")
        assert {c.label: c.name for c in categories} == dict(COCO_NAMES)
    else:
        assert categories == [CategoryName(label, label, str(label)) for label in (1, 2, 3)]


def test_a_pth_file_of_another_detector(narrow, tmp_path):
    path = tmp_path / "deeper.pth"
    source = MaskRCNN(weights.maskrcnn_resnet50_fpn.config(4)).state_dict()
    theirs = {name: source[ours] for name, ours in detector_names(masks=True, old=False)}
    torch.save({**theirs, "backbone.body.layer3.22.conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"resnet\.stages\.2\.22\.conv1\.weight") as error:
        load_any(path)
    assert str(path) in one_line(error)
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="a backbone alone"):
        load_any(path)


class Payload:
    """What a malicious pickle does: it writes a file when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.target,))


def test_no_pickle_is_executed(tmp_path):
    path, target = tmp_path / "evil.pth", tmp_path / "written"
    for write in (
        lambda: torch.save({"conv1.weight": Payload(target)}, path),
        lambda: path.write_bytes(pickle.dumps({"conv1.weight": Payload(target)}, protocol=2)),
    ):
        write()
        with pytest.raises(ValueError, match=r"neither \.safetensors nor a plain state dict") as error:
            read_any(path)
        assert str(path) in one_line(error) and not target.exists()
    # The same bytes do act where pickle is trusted, so this file is a fair trial.
    pickle.loads(path.read_bytes())
    assert target.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello world",
        b"}",
        b"PK\x03\x04cut short",
        b"(lp0\n.",
        b"\x89PNG\r\n\x1a\n" + bytes(60),
        b"JAB\x01",
    ],
)
def test_files_that_are_no_state_dict(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_any(path)
    assert str(path) in one_line(error)


@pytest.mark.parametrize("content", [[1], {"a": 1.0}, torch.zeros(2), {1: torch.zeros(1)}])
def test_objects_that_are_no_state_dict(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match="expected a dict of tensors") as error:
        read_any(path)
    assert str(path) in one_line(error)


@pytest.mark.parametrize("name", ["absent.safetensors", "absent.pth"])
def test_no_such_file(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="no such weights file"):
        load_any(tmp_path / name)


def test_coco_v1_changes_the_eps_only():
    config = maskrcnn_resnet50_fpn.config()
    assert torchvision_coco_v1(config) == replace(config, resnet=replace(config.resnet, norm_eps=0.0))


# detectron2's names of a network without its body: enough to see where each number goes.
def detectron2_file(path: Path, config: MaskRCNNConfig) -> dict[str, Tensor]:
    """A zoo-like file of `config`'s network: random numbers under detectron2's names; returns our weights."""
    source = MaskRCNN(config).state_dict()
    theirs = {}
    for name, value in source.items():
        if name.endswith("num_batches_tracked"):
            continue
        rows = value.numpy()
        if name.startswith("box_head.classifier."):
            rows = np.roll(rows, -1, axis=0)
        elif name.startswith("box_head.deltas."):
            source[name][:4], rows = 0, rows[4:]
        elif name.startswith("mask_head.predictor."):
            source[name][0], rows = 0, rows[1:]
        elif name.startswith(("rpn.objectness.", "rpn.deltas.")) and config.fpn is None:
            each = 4 if "deltas" in name else 1
            rows = rows.reshape(3, 5, each, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)
        theirs[detectron2_name(name, config.fpn is not None)] = rows
    path.write_bytes(pickle.dumps({"model": theirs, "__author__": "Detectron2 Model Zoo"}, protocol=4))
    return source


def detectron2_name(name: str, pyramid: bool) -> str:
    body = "backbone.bottom_up." if pyramid else "backbone."
    for pattern, theirs in (
        (r"^resnet\.stem\.0\.", body + "stem.conv1."),
        (r"^resnet\.stem\.1\.", body + "stem.conv1.norm."),
        (r"^resnet\.stages\.(\d)\.", lambda m: f"{body}res{int(m[1]) + 2}."),
        (r"^box_head\.res5\.", "roi_heads.res5."),
        (r"\.norm(\d)\.", r".conv\1.norm."),
        (r"\.shortcut\.0\.", ".shortcut."),
        (r"\.shortcut\.1\.", ".shortcut.norm."),
        (r"^fpn\.lateral\.(\d)\.", lambda m: f"backbone.fpn_lateral{int(m[1]) + 2}."),
        (r"^fpn\.smooth\.(\d)\.", lambda m: f"backbone.fpn_output{int(m[1]) + 2}."),
        (r"^rpn\.conv\.", "proposal_generator.rpn_head.conv."),
        (r"^rpn\.objectness\.", "proposal_generator.rpn_head.objectness_logits."),
        (r"^rpn\.deltas\.", "proposal_generator.rpn_head.anchor_deltas."),
        (r"^box_head\.fc", "roi_heads.box_head.fc"),
        (r"^box_head\.classifier\.", "roi_heads.box_predictor.cls_score."),
        (r"^box_head\.deltas\.", "roi_heads.box_predictor.bbox_pred."),
        (r"^mask_head\.convs\.(\d)\.", lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}."),
        (r"^mask_head\.", "roi_heads.mask_head."),
        (r"^keypoint_head\.convs\.(\d)\.", lambda m: f"roi_heads.keypoint_head.conv_fcn{int(m[1]) + 1}."),
        (r"^keypoint_head\.deconv\.", "roi_heads.keypoint_head.score_lowres."),
    ):
        name = re.sub(pattern, theirs, name)
    return name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "classes", "depth", "groups"),
    [
        ("maskrcnn_resnet50_c4", 81, 50, 1),
        ("maskrcnn_resnet50_fpn", 81, 50, 1),
        ("maskrcnn_resnet101_fpn", 81, 101, 1),
        ("maskrcnn_resnext101_fpn", 81, 101, 32),
        ("keypointrcnn_resnet50_fpn", 2, 50, 1),
        ("fasterrcnn_resnet50_fpn", 81, 50, 1),
    ],
)
def test_a_zoo_file_becomes_a_model_with_detectron2s_semantics(tmp_path, preset, classes, depth, groups):
    config = PRESETS[preset].config(classes)
    path = tmp_path / "model_final.pkl"
    source = detectron2_file(path, config)
    model, categories = load_any(path)
    assert equal(model.state_dict(), source) and not model.training
    assert model.config == presets.as_detectron2(config)
    assert (model.config.resnet.depth, model.config.resnet.groups) == (depth, groups)
    assert model.config.resnet.stride_on_1x1 == (groups == 1)
    names = [(c.label, c.category_id, c.name) for c in categories]
    assert names[0] == (1, 1, "person") and len(names) == classes - 1
    if classes == 81:
        assert names[-1] == (80, 90, "toothbrush")


def test_a_zoo_file_of_a_narrow_network(narrow, tmp_path):
    path = tmp_path / "model_final.pkl"
    source = detectron2_file(path, weights.maskrcnn_resnet50_c4.config(4))
    read = read_any(path)
    assert equal(read.state_dict, source) and read.detectron2.kind == "c4"
    # What detectron2 itself saves while it trains.
    torch.save({"model": {k: torch.from_numpy(v) for k, v in zoo_arrays(path).items()}}, tmp_path / "x.pth")
    assert equal(read_any(tmp_path / "x.pth").state_dict, source)
    path.write_bytes(pickle.dumps({"model": {"head.cls_subnet.0.weight": np.zeros(1)}}))
    with pytest.raises(ValueError) as error:
        read_any(path)
    assert str(path) in one_line(error)


def zoo_arrays(path: Path) -> dict[str, np.ndarray]:
    return pickle.loads(path.read_bytes())["model"]
