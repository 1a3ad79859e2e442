"""detectron2's checkpoints: every name, each reordering by numbers, and what is refused, without detectron2."""

import math
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from minimaskrcnn.anchors import cell_anchors
from minimaskrcnn.keypoint_head import KeypointHead, KeypointHeadConfig
from minimaskrcnn.mask_rcnn import MaskRCNN
from minimaskrcnn.presets import (
    fasterrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet101_fpn,
)
from minimaskrcnn.weights_detectron2 import (
    Detectron2Network,
    describe_detectron2,
    detectron2_arrays,
    from_detectron2,
    read_detectron2,
)

KINDS = ("weight", "bias", "running_mean", "running_var")
Names = Iterator[tuple[str, str, tuple[int, ...]]]


def norm_names(theirs: str, ours: str, channels: int) -> Names:
    yield from ((f"{theirs}.{kind}", f"{ours}.{kind}", (channels,)) for kind in KINDS)


def layer_names(theirs: str, ours: str, *shape: int, out: int | None = None) -> Names:
    yield f"{theirs}.weight", f"{ours}.weight", shape
    yield f"{theirs}.bias", f"{ours}.bias", (shape[0] if out is None else out,)


def stage_names(
    theirs: str, ours: str, stage: int, blocks: int, width: int, groups: int, per_group: int
) -> Names:
    """One stage of a bottleneck ResNet: 0 for C2."""
    inner, out = groups * per_group * 2**stage, 4 * width * 2**stage
    for block in range(blocks):
        into = (width if stage == 0 else out // 2) if block == 0 else out
        shapes = ((inner, into, 1, 1), (inner, inner // groups, 3, 3), (out, inner, 1, 1))
        for i, shape in enumerate(shapes, start=1):
            yield f"{theirs}.{block}.conv{i}.weight", f"{ours}.{block}.conv{i}.weight", shape
            yield from norm_names(f"{theirs}.{block}.conv{i}.norm", f"{ours}.{block}.norm{i}", shape[0])
        if block == 0:
            yield f"{theirs}.0.shortcut.weight", f"{ours}.0.shortcut.0.weight", (out, into, 1, 1)
            yield from norm_names(f"{theirs}.0.shortcut.norm", f"{ours}.0.shortcut.1", out)


def network_names(
    kind: str,
    *,
    depth: int = 50,
    classes: int = 3,
    masks: bool = True,
    keypoints: bool = False,
    width: int = 2,
    channels: int = 5,
    hidden: int = 7,
    groups: int = 1,
    per_group: int | None = None,
) -> Names:
    """(detectron2's name, ours, detectron2's shape) of every parameter; `classes` without the background."""
    body = "backbone.bottom_up" if kind == "fpn" else "backbone"
    yield f"{body}.stem.conv1.weight", "resnet.stem.0.weight", (width, 3, 7, 7)
    yield from norm_names(f"{body}.stem.conv1.norm", "resnet.stem.1", width)
    for stage, blocks in enumerate((3, 4, 6 if depth == 50 else 23, 3)):
        in_head = kind == "c4" and stage == 3
        theirs = "roi_heads.res5" if in_head else f"{body}.res{stage + 2}"
        ours = "box_head.res5" if in_head else f"resnet.stages.{stage}"
        yield from stage_names(theirs, ours, stage, blocks, width, groups, per_group or width // groups)
    if kind == "fpn":
        for level in range(4):
            lateral = (channels, 4 * width * 2**level, 1, 1)
            yield from layer_names(f"backbone.fpn_lateral{level + 2}", f"fpn.lateral.{level}", *lateral)
            smooth = (channels, channels, 3, 3)
            yield from layer_names(f"backbone.fpn_output{level + 2}", f"fpn.smooth.{level}", *smooth)
    features = {"fpn": channels, "c4": 16 * width, "dc5": 32 * width}[kind]
    yield from head_names(kind, features, classes, masks, keypoints, channels, hidden, 32 * width)


def head_names(
    kind: str,
    features: int,
    classes: int,
    masks: bool,
    keypoints: bool,
    channels: int,
    hidden: int,
    res5: int,
) -> Names:
    rpn, anchors = "proposal_generator.rpn_head", 3 if kind == "fpn" else 15
    yield from layer_names(f"{rpn}.conv", "rpn.conv", features, features, 3, 3)
    yield from layer_names(f"{rpn}.objectness_logits", "rpn.objectness", anchors, features, 1, 1)
    yield from layer_names(f"{rpn}.anchor_deltas", "rpn.deltas", 4 * anchors, features, 1, 1)
    if kind != "c4":
        yield from layer_names("roi_heads.box_head.fc1", "box_head.fc1", hidden, 49 * features)
        yield from layer_names("roi_heads.box_head.fc2", "box_head.fc2", hidden, hidden)
    last = res5 if kind == "c4" else hidden
    yield from layer_names("roi_heads.box_predictor.cls_score", "box_head.classifier", classes + 1, last)
    yield from layer_names("roi_heads.box_predictor.bbox_pred", "box_head.deltas", 4 * classes, last)
    into = res5 if kind == "c4" else features
    if masks and kind != "c4":
        for i in range(4):
            yield from layer_names(
                f"roi_heads.mask_head.mask_fcn{i + 1}",
                f"mask_head.convs.{i}",
                channels,
                into if i == 0 else channels,
                3,
                3,
            )
        into = channels
    if masks:
        deconv = (into, channels, 2, 2)
        yield from layer_names("roi_heads.mask_head.deconv", "mask_head.deconv", *deconv, out=channels)
        yield from layer_names(
            "roi_heads.mask_head.predictor", "mask_head.predictor", classes, channels, 1, 1
        )
    if keypoints:
        for i in range(8):
            conv = (channels, features if i == 0 else channels, 3, 3)
            yield from layer_names(
                f"roi_heads.keypoint_head.conv_fcn{i + 1}", f"keypoint_head.convs.{i}", *conv
            )
        yield from layer_names(
            "roi_heads.keypoint_head.score_lowres", "keypoint_head.deconv", channels, 17, 4, 4, out=17
        )


def checkpoint(kind: str = "fpn", *, seed: int = 0, **sizes: object) -> dict[str, np.ndarray]:
    """Random arrays under detectron2's names, and the buffers that come with them."""
    random = np.random.default_rng(seed)
    arrays = {
        name: random.normal(size=shape).astype(np.float32) for name, _, shape in network_names(kind, **sizes)
    }
    buffers = {f"proposal_generator.anchor_generator.cell_anchors.{i}": np.zeros((3, 4)) for i in range(5)}
    buffers |= {"pixel_mean": np.zeros((3, 1, 1)), "pixel_std": np.ones((3, 1, 1))}
    body = "backbone.bottom_up" if kind == "fpn" else "backbone"
    return {**buffers, **arrays, f"{body}.stem.conv1.norm.num_batches_tracked": np.array(5)}


NETWORKS = [
    ("fpn", {}, Detectron2Network("fpn", 50, 1, 2, 4, True, False)),
    ("fpn", {"depth": 101, "classes": 80}, Detectron2Network("fpn", 101, 1, 2, 81, True, False)),
    ("fpn", {"masks": False}, Detectron2Network("fpn", 50, 1, 2, 4, False, False)),
    (
        "fpn",
        {"depth": 101, "groups": 4, "per_group": 2, "width": 4},
        Detectron2Network("fpn", 101, 4, 2, 4, True, False),
    ),
    (
        "fpn",
        {"classes": 1, "masks": False, "keypoints": True},
        Detectron2Network("fpn", 50, 1, 2, 2, False, True),
    ),
    ("fpn", {"classes": 1, "keypoints": True}, Detectron2Network("fpn", 50, 1, 2, 2, True, True)),
    ("c4", {}, Detectron2Network("c4", 50, 1, 2, 4, True, False)),
    ("c4", {"depth": 101, "masks": False}, Detectron2Network("c4", 101, 1, 2, 4, False, False)),
    ("dc5", {"classes": 1203}, Detectron2Network("dc5", 50, 1, 2, 1204, True, False)),
    ("dc5", {"depth": 101, "masks": False}, Detectron2Network("dc5", 101, 1, 2, 4, False, False)),
]
REORDERED = ("rpn.objectness", "rpn.deltas", "box_head.classifier", "box_head.deltas", "mask_head.predictor")


@pytest.mark.parametrize(("kind", "sizes", "expected"), NETWORKS)
def test_every_name_is_one_of_ours(kind, sizes, expected):
    names = {theirs: ours for theirs, ours, _ in network_names(kind, **sizes)}
    assert len(set(names.values())) == len(names)
    model = checkpoint(kind, **sizes)
    assert describe_detectron2(model) == expected
    found = from_detectron2(model)
    assert set(found) == set(names.values())
    for theirs, ours in names.items():
        if not ours.startswith(REORDERED):
            assert torch.equal(found[ours], torch.from_numpy(model[theirs])), ours


@pytest.mark.parametrize("kind", ["fpn", "c4"])
def test_the_order_of_a_file_says_nothing(kind):
    model = checkpoint(kind)
    backwards = dict(reversed(model.items()))
    assert describe_detectron2(backwards) == describe_detectron2(model)


def shapes(state_dict: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state_dict.items()}


@pytest.mark.parametrize(
    ("make", "sizes"),
    [
        (maskrcnn_resnet50_fpn.config, {}),
        (maskrcnn_resnet101_fpn.config, {"depth": 101}),
        (fasterrcnn_resnet50_fpn.config, {"masks": False}),
    ],
)
def test_names_and_shapes_are_those_of_the_network(make, sizes):
    full = {"width": 64, "channels": 256, "hidden": 1024, "classes": 80, **sizes}
    theirs = {name: torch.empty(shape, device="meta") for name, _, shape in network_names("fpn", **full)}
    with torch.device("meta"):
        network = MaskRCNN(make(81))
    assert shapes(from_detectron2(theirs)) == shapes(network.state_dict())


def test_a_checkpoint_loads_into_the_network():
    config = maskrcnn_resnet50_fpn.config(4)
    small = replace(
        config,
        resnet=replace(config.resnet, width=2),
        fpn=replace(config.fpn, channels=5),
        box_head=replace(config.box_head, hidden=7),
        mask_head=replace(config.mask_head, channels=5),
    )
    model, theirs = MaskRCNN(small), checkpoint()
    model.load_state_dict(from_detectron2(theirs))
    kernel = model.state_dict()["resnet.stages.2.5.conv2.weight"]
    assert np.array_equal(kernel.numpy(), theirs["backbone.bottom_up.res4.5.conv2.weight"])


def test_a_keypoint_heads_names_and_shapes():
    theirs = checkpoint("fpn", classes=1, masks=False, keypoints=True)
    head = KeypointHead(5, KeypointHeadConfig(channels=5))
    found = {
        n.removeprefix("keypoint_head."): v for n, v in from_detectron2(theirs).items() if "keypoint" in n
    }
    assert shapes(found) == shapes(head.state_dict())


def test_the_background_comes_first():
    model = checkpoint(classes=2, hidden=1)
    predictor = "roi_heads.box_predictor."
    model[predictor + "cls_score.weight"] = np.array([[1.0], [2.0], [9.0]], dtype=np.float32)
    model[predictor + "cls_score.bias"] = np.array([10.0, 20.0, 90.0], dtype=np.float32)
    model[predictor + "bbox_pred.weight"] = np.arange(1.0, 9.0, dtype=np.float32)[:, None]
    model[predictor + "bbox_pred.bias"] = np.arange(11.0, 19.0, dtype=np.float32)
    found = from_detectron2(model)
    assert found["box_head.classifier.weight"].tolist() == [[9], [1], [2]]
    assert found["box_head.classifier.bias"].tolist() == [90, 10, 20]
    assert found["box_head.deltas.weight"].flatten().tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert found["box_head.deltas.bias"].tolist() == [0, 0, 0, 0, 11, 12, 13, 14, 15, 16, 17, 18]


def test_masks_get_a_background():
    model = checkpoint(classes=2, channels=2)
    model["roi_heads.mask_head.predictor.weight"] = np.arange(1.0, 5.0, dtype=np.float32).reshape(2, 2, 1, 1)
    model["roi_heads.mask_head.predictor.bias"] = np.array([5.0, 6.0], dtype=np.float32)
    found = from_detectron2(model)
    assert found["mask_head.predictor.weight"].shape == (3, 2, 1, 1)
    assert found["mask_head.predictor.weight"].flatten().tolist() == [0, 0, 1, 2, 3, 4]
    assert found["mask_head.predictor.bias"].tolist() == [0, 5, 6]


SIZES, RATIOS = (32.0, 64.0, 128.0, 256.0, 512.0), (0.5, 1.0, 2.0)


@pytest.mark.parametrize("kind", ["c4", "dc5"])
def test_anchors_are_ordered_by_ratio_and_then_size(kind):
    model = checkpoint(kind)
    # Row a of theirs is number a: size a // 3, ratio a % 3.
    model["proposal_generator.rpn_head.objectness_logits.bias"] = np.arange(15, dtype=np.float32)
    model["proposal_generator.rpn_head.anchor_deltas.bias"] = np.arange(60, dtype=np.float32)
    found = from_detectron2(model)
    by_hand = [0, 3, 6, 9, 12, 1, 4, 7, 10, 13, 2, 5, 8, 11, 14]
    assert found["rpn.objectness.bias"].tolist() == by_hand
    assert found["rpn.deltas.bias"].tolist() == [4 * a + i for a in by_hand for i in range(4)]
    for name, theirs, each in (("objectness", "objectness_logits", 1), ("deltas", "anchor_deltas", 4)):
        rows = model[f"proposal_generator.rpn_head.{theirs}.weight"]
        expected = np.concatenate([rows[each * a : each * (a + 1)] for a in by_hand])
        assert np.array_equal(found[f"rpn.{name}.weight"].numpy(), expected)


def test_a_row_predicts_for_the_same_anchor():
    model = checkpoint("c4")
    model["proposal_generator.rpn_head.objectness_logits.bias"] = np.arange(15, dtype=np.float32)
    order = from_detectron2(model)["rpn.objectness.bias"].long()
    theirs = []
    for size in SIZES:
        for ratio in RATIOS:
            width = math.sqrt(size * size / ratio)
            theirs.append([-width / 2, -width * ratio / 2, width / 2, width * ratio / 2])
    torch.testing.assert_close(torch.tensor(theirs).double()[order], cell_anchors(SIZES, RATIOS, False))


def test_one_size_a_level_needs_no_other_order():
    model = checkpoint("fpn")
    found = from_detectron2(model)
    for name, theirs in (("objectness", "objectness_logits"), ("deltas", "anchor_deltas")):
        for part in ("weight", "bias"):
            expected = model[f"proposal_generator.rpn_head.{theirs}.{part}"]
            assert np.array_equal(found[f"rpn.{name}.{part}"].numpy(), expected)


@given(st.integers(1, 12), st.integers(0, 10**6))
def test_heads_predict_the_same_for_each_class(classes, seed):
    model = checkpoint(classes=classes, seed=seed)
    found, hidden = from_detectron2(model), torch.randn(6, 7)
    theirs = {name: torch.from_numpy(value) for name, value in model.items()}
    predictor = "roi_heads.box_predictor."
    logits = F.linear(hidden, theirs[predictor + "cls_score.weight"], theirs[predictor + "cls_score.bias"])
    boxes = F.linear(hidden, theirs[predictor + "bbox_pred.weight"], theirs[predictor + "bbox_pred.bias"])
    our_logits = F.linear(hidden, found["box_head.classifier.weight"], found["box_head.classifier.bias"])
    our_boxes = F.linear(hidden, found["box_head.deltas.weight"], found["box_head.deltas.bias"])
    torch.testing.assert_close(our_logits[:, 1:], logits[:, :classes])
    torch.testing.assert_close(our_logits[:, 0], logits[:, classes])
    torch.testing.assert_close(our_boxes.view(6, -1, 4)[:, 1:], boxes.view(6, classes, 4))


def test_tensors_are_read_as_arrays_are():
    model = checkpoint()
    tensors = {name: nn.Parameter(torch.from_numpy(value), False) for name, value in model.items()}
    expected = from_detectron2(model)
    found = from_detectron2(tensors)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert type(value) is Tensor and torch.equal(value, expected[name])


def test_arrays_of_either_byte_order_become_our_own(tmp_path):
    model = checkpoint()
    path = tmp_path / "model.pkl"
    path.write_bytes(
        pickle.dumps({"model": {n: v.astype(v.dtype.newbyteorder(">")) for n, v in model.items()}}, 3)
    )
    found, expected = from_detectron2(read_detectron2(path)), from_detectron2(model)
    for name, value in found.items():
        assert torch.equal(value, expected[name])
        # Torch knows no tensor that is read-only.
        value.add_(1)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_file_of_the_zoo(tmp_path, protocol):
    path, model = tmp_path / "model_final_f10217.pkl", checkpoint()
    content = {"model": model, "__author__": "Detectron2 Model Zoo", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, protocol))
    found = read_detectron2(path)
    assert list(found) == list(model) and all(np.array_equal(found[name], model[name]) for name in model)
    assert detectron2_arrays({"model": model, "iteration": 9}, path) is model


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"blobs": {"conv1_w": np.zeros(1)}}, "Caffe2's Detectron"),
        ([1], "expected a dict with arrays under 'model'"),
        ({"weights": {}}, "expected a dict with arrays under 'model'"),
        ({"model": {}}, "expected a dict with arrays under 'model'"),
        ({"model": [np.zeros(1)]}, "expected a dict with arrays under 'model'"),
        ({"model": {"a": np.zeros(1), "b": 1.0}}, "got 'b': float"),
        ({"model": {3: np.zeros(1)}}, "got 3: _Array"),
    ],
)
def test_files_without_a_model(tmp_path, content, message):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        read_detectron2(path)
    assert str(path) in str(error.value)


def test_no_such_file_and_no_pickle(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_detectron2(tmp_path / "absent.pkl")
    path = Path(tmp_path / "torch.pkl")
    torch.save({"model": {}}, path)
    with pytest.raises(ValueError, match="a zip archive"):
        read_detectron2(path)


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("head.cls_subnet.0.weight", "RetinaNet"),
        ("head.bbox_pred.bias", "RetinaNet"),
        ("backbone.top_block.p6.weight", "RetinaNet"),
        ("roi_heads.box_head.0.fc1.weight", "Cascade R-CNN"),
        ("roi_heads.box_predictor.2.cls_score.weight", "Cascade R-CNN"),
        ("backbone.bottom_up.res3.0.conv2_offset.weight", "deformable convolution"),
        ("sem_seg_head.p2.0.weight", "a semantic or panoptic head"),
        ("roi_heads.mask_coarse_head.fc1.weight", "PointRend"),
        ("roi_heads.mask_head.point_head.fc1.weight", "PointRend"),
        ("roi_heads.densepose_head.body_conv_fcn1.weight", "DensePose"),
        ("backbone.fpn_lateral2.norm.weight", "a norm in the pyramid or the heads"),
        ("roi_heads.mask_head.mask_fcn1.norm.weight", "a norm in the pyramid or the heads"),
        ("roi_heads.box_head.conv1.norm.weight", "a norm in the pyramid or the heads"),
        ("roi_heads.box_head.conv1.weight", "a box head with convolutions"),
        ("stem.conv1.weight", "a backbone alone"),
        ("res2.0.conv1.weight", "a backbone alone"),
        ("res2_0_branch2a_w", "Caffe2's Detectron"),
    ],
)
def test_other_networks_are_refused_by_name(name, network):
    for read in (describe_detectron2, from_detectron2):
        with pytest.raises(ValueError, match=f"'{name}' is a parameter of {network}, which is not supported"):
            # The unknown name before it has no such reason, and is not what is said.
            read({"what.is.this": np.zeros(1), **checkpoint(), name: np.zeros(1)})


@pytest.mark.parametrize(
    "name",
    [
        "what.is.this",
        "backbone.res6.0.conv1.weight",
        "backbone.bottom_up.res2.0.conv4.weight",
        "backbone.bottom_up.res2.0.conv1.bias",
        "backbone.fpn_lateral6.weight",
        "proposal_generator.rpn_head.conv.weight.more",
        "roi_heads.box_head.fc3.weight",
        "roi_heads.mask_head.mask_fcn.weight",
        "module.pixel_mean",
    ],
)
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match=f"'{name}' is no parameter of detectron2's"):
        from_detectron2({**checkpoint(), name: np.zeros(1)})


def test_two_backbones():
    with pytest.raises(ValueError, match="two backbones"):
        from_detectron2({**checkpoint("dc5"), "backbone.bottom_up.stem.conv1.weight": np.zeros((2, 3, 7, 7))})


def without(model: dict[str, np.ndarray], *parts: str) -> dict[str, np.ndarray]:
    return {name: value for name, value in model.items() if not any(part in name for part in parts)}


def with_rows(name: str, rows: int, **sizes: object) -> dict[str, np.ndarray]:
    model = checkpoint(**sizes)
    return {**model, name: np.zeros((rows, *model[name].shape[1:]), dtype=np.float32)}


RPN, BOXES = "proposal_generator.rpn_head", "roi_heads.box_predictor.bbox_pred.weight"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (without(checkpoint(), "proposal_generator"), "no region proposal network"),
        (without(checkpoint(), "roi_heads"), "no box head"),
        (without(checkpoint(), "bbox_pred"), "no box head"),
        (without(checkpoint(), "running_"), "group norm is not supported"),
        (without(checkpoint(), "conv3"), r"\[3, 4, 6, 3\] of 2 layers"),
        (without(checkpoint(), "res4.5"), r"\[3, 4, 5, 3\] of 3 layers"),
        (without(checkpoint("dc5"), "res5"), r"\[3, 4, 6, 0\] of 3 layers"),
        (without(checkpoint(), "res2.0.conv2.weight"), r"expected the blocks of ResNet-50 or 101"),
        (with_rows(BOXES, 4), "class-agnostic boxes"),
        (with_rows(BOXES, 8), "expected 12 rows for boxes of 3 classes, got 8"),
        (with_rows(BOXES, 16), "expected 12 rows for boxes of 3 classes, got 16"),
        (with_rows(BOXES, 15), "rotated boxes"),
        (with_rows(f"{RPN}.anchor_deltas.weight", 15), "rotated boxes"),
        (with_rows(f"{RPN}.anchor_deltas.weight", 11), "got 11 deltas and 3 anchors"),
        (with_rows(f"{RPN}.objectness_logits.weight", 4), "got 12 deltas and 4 anchors"),
        (
            {
                **with_rows(f"{RPN}.objectness_logits.weight", 4),
                f"{RPN}.anchor_deltas.weight": np.zeros((16, 1)),
            },
            "16 deltas",
        ),
        (without(checkpoint(), "anchor_deltas"), "got 0 deltas"),
        (with_rows("roi_heads.mask_head.predictor.weight", 1), "class-agnostic masks"),
        (
            with_rows("roi_heads.mask_head.predictor.weight", 4),
            "expected 3 rows for masks of 3 classes, got 4",
        ),
    ],
)
def test_networks_that_are_not_supported(model, message):
    for read in (describe_detectron2, from_detectron2):
        with pytest.raises(ValueError, match=message) as error:
            read(model)
        assert "\n" not in str(error.value)


def test_one_classs_rows_are_not_class_agnostic():
    found = from_detectron2(checkpoint(classes=1))
    assert found["box_head.deltas.weight"].shape[0] == 8 and found["mask_head.predictor.weight"].shape[0] == 2
