"""Whole models beside torchvision's, with the same random weights: the same detections, the same losses.

float64, where rounding cannot reorder near-ties, end to end; float32 stage by stage, each fed the peer's input.
The peer is calibrated first (norm statistics measured, predictors scaled to logits of standard deviation 3), or
the comparison would be one of empty lists.
"""

import functools
from dataclasses import replace

import parity
import pytest
import torch

from minimaskrcnn.data.transforms import TransformConfig, preprocess
from minimaskrcnn.mask_rcnn import MaskRCNN
from minimaskrcnn.presets import (
    fasterrcnn_resnet50_fpn,
    keypointrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn,
)
from minimaskrcnn.rpn import propose
from minimaskrcnn.weights import from_torchvision, torchvision_coco_v1

CLASSES = 11
# The first is padded to 800 rows, of which P6 has 13: torchvision's anchors step by 61 pixels there, not 64.
SIZES = ((790, 150), (620, 170))


@pytest.fixture(scope="module")
def torchvision():
    return parity.torchvision()


@functools.cache
def make_peer(torchvision, kind: str, dtype: torch.dtype, eps: float = 0.0):
    """torchvision's model with random weights that detect plenty."""
    torch.manual_seed(3)
    detection = torchvision.models.detection
    backbone = detection.backbone_utils.resnet_fpn_backbone(
        backbone_name="resnet50",
        weights=None,
        norm_layer=torchvision.ops.FrozenBatchNorm2d,
        trainable_layers=5,
    )
    options = {"num_classes": CLASSES, "min_size": 800, "max_size": 800}
    if kind == "keypoint":
        # Eight layers as published, but narrow: in float64 those of 512 channels take minutes.
        head, predictor = (
            detection.keypoint_rcnn.KeypointRCNNHeads,
            detection.keypoint_rcnn.KeypointRCNNPredictor,
        )
        options |= {"keypoint_head": head(256, (32,) * 8), "keypoint_predictor": predictor(32, 17)}
    make = {"mask": detection.MaskRCNN, "faster": detection.FasterRCNN, "keypoint": detection.KeypointRCNN}[
        kind
    ]
    peer = make(backbone, **options).to(dtype).eval()
    for module in peer.modules():
        if isinstance(module, torchvision.ops.FrozenBatchNorm2d):
            module.eps = eps
    calibrate(peer, torchvision.ops.FrozenBatchNorm2d)
    return peer


@torch.no_grad()
def calibrate(peer, norm: type) -> None:
    """Norm statistics measured on a picture, layer by layer; predictors scaled to useful logits."""

    def measure(module, inputs):
        module.running_mean.copy_(inputs[0].mean(dim=(0, 2, 3)))
        module.running_var.copy_(inputs[0].var(dim=(0, 2, 3)))
        # Branches of a block add up; a gain under 1 keeps sixteen blocks in range.
        module.weight.fill_(0.7)

    def scale_to(std: float):
        """Outputs of mean 0 and this standard deviation in each channel, so that every class has its chance.

        Measured at the first call, on the finest level of those that share the RPN's head.
        """
        done = []

        def hook(module, inputs, output):
            if done:
                return None
            done.append(module)
            dims = (0, 2, 3) if output.dim() == 4 else (0,)
            deviation = output.std(dim=dims)
            gain = std / deviation
            module.weight.mul_(gain.reshape(-1, *[1] * (module.weight.dim() - 1)))
            module.bias.copy_((module.bias - output.mean(dim=dims)) * gain)
            return module._conv_forward(inputs[0], module.weight, module.bias) if output.dim() == 4 else None

        return hook

    hooks = [m.register_forward_pre_hook(measure) for m in peer.modules() if isinstance(m, norm)]
    heads = peer.roi_heads
    predictors = [peer.rpn.head.cls_logits, heads.box_predictor.cls_score]
    predictors += [heads.mask_predictor.mask_fcn_logits] if heads.has_mask() else []
    hooks += [predictor.register_forward_hook(scale_to(3.0)) for predictor in predictors]
    shifts = [peer.rpn.head.bbox_pred, heads.box_predictor.bbox_pred]
    hooks += [predictor.register_forward_hook(scale_to(0.3)) for predictor in shifts]
    peer(make_images(next(peer.parameters()).dtype))
    for hook in hooks:
        hook.remove()


def make_images(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    # Blobs rather than white noise, so that features differ from place to place.
    return [
        torch.nn.functional.interpolate(
            torch.rand(1, 3, h // 16, w // 16, generator=generator, dtype=dtype), size=(h, w), mode="bicubic"
        )[0].clamp(0, 1)
        for h, w in SIZES
    ]


def make_targets(dtype: torch.dtype) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    targets = []
    for h, w in SIZES:
        corner = torch.rand(7, 2, generator=generator, dtype=dtype) * torch.tensor([w, h]) * 0.6
        size = (0.05 + torch.rand(7, 2, generator=generator, dtype=dtype) * 0.35) * torch.tensor([w, h])
        boxes = torch.cat([corner, corner + size], dim=1)
        masks = torch.zeros(7, h, w, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.long().tolist()):
            mask[y1:y2, x1 : (x1 + x2) // 2 + 1] = 1
        labels = torch.randint(1, CLASSES, (7,), generator=generator)
        place = boxes[:, None, :2] + torch.rand(7, 17, 2, generator=generator, dtype=dtype) * size[:, None]
        seen = torch.randint(0, 3, (7, 17, 1), generator=generator).to(dtype)
        # The peer insists on float32.
        keypoints = torch.cat([place, seen], dim=2).float()
        targets.append({"boxes": boxes, "labels": labels, "masks": masks, "keypoints": keypoints})
    return targets


def make_ours(peer, kind: str, dtype: torch.dtype) -> MaskRCNN:
    make_config = {
        "mask": maskrcnn_resnet50_fpn.config,
        "faster": fasterrcnn_resnet50_fpn.config,
        "keypoint": keypointrcnn_resnet50_fpn.config,
    }[kind]
    config = torchvision_coco_v1(make_config(CLASSES))
    if kind == "keypoint":
        config = replace(config, keypoint_head=replace(config.keypoint_head, channels=32))
    config = replace(config, transform=TransformConfig(min_sizes=(800,), max_size=800))
    ours = MaskRCNN(config).to(dtype).eval()
    ours.load_state_dict(from_torchvision(peer.state_dict()))
    return ours


@pytest.mark.parametrize("kind", ["mask", "faster", "keypoint"])
@torch.no_grad()
def test_detections_are_torchvisions_in_float64(torchvision, kind):
    peer = make_peer(torchvision, kind, torch.float64).eval()
    ours = make_ours(peer, kind, torch.float64)
    images = make_images(torch.float64)
    for found, expected in zip(ours(images), peer(images)):
        assert len(expected["boxes"]) >= 50 and len(expected["labels"].unique()) >= 4
        assert torch.equal(found["labels"], expected["labels"])
        assert found.keys() == expected.keys()
        for name in found.keys() - {"labels"}:
            assert found[name].shape == expected[name].shape, name
            # torchvision decodes keypoints into float32 tensors: half of the last place of 1000 pixels is 3e-5.
            tolerance = 1e-4 if name.startswith("keypoints") else 1e-8
            assert (found[name] - expected[name]).abs().max() <= tolerance, name
        if kind == "keypoint":
            # Joints all over their boxes, not in a corner of each.
            assert expected["keypoints"][:, :, :2].std(dim=0).min() > 5
        if kind == "mask":
            assert 0.001 < (expected["masks"] > 0.5).double().mean() < 0.9


@pytest.mark.parametrize("kind", ["mask", "faster", "keypoint"])
def test_losses_are_torchvisions_in_float64(torchvision, kind, monkeypatch):
    peer = make_peer(torchvision, kind, torch.float64).eval()
    ours = make_ours(peer, kind, torch.float64)
    images, targets = make_images(torch.float64), make_targets(torch.float64)
    # Identical samples on both sides: the first ones.  The peer's objectness labels are float32, its loss with them.
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    monkeypatch.setattr(
        "torch.nn.functional.binary_cross_entropy_with_logits",
        lambda logits, labels, **options: entropy(logits, labels.to(logits.dtype), **options),
    )
    monkeypatch.setattr(torch, "randperm", lambda n, **_: torch.arange(n))
    monkeypatch.setattr("minimaskrcnn.rpn.sampling_keys", first_ones)
    monkeypatch.setattr("minimaskrcnn.box_head.sampling_keys", first_ones)
    peer.zero_grad()
    expected = peer.train()(images, [dict(target) for target in targets])
    losses = ours.train()(images, [{**target, "masks": target["masks"].bool()} for target in targets])
    assert set(losses) == set(expected)
    for name, value in expected.items():
        assert value > 1e-3, name
        assert abs(losses[name] - value) <= 1e-8, name

    sum(expected.values()).backward()
    sum(losses.values()).backward()
    peers = from_torchvision({name: p.grad for name, p in peer.named_parameters()})
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            assert torch.allclose(
                parameter.grad, peers[name], rtol=0, atol=1e-8 * peers[name].abs().max().clamp(1)
            ), name


def first_ones(shape, device, generator):
    return -torch.arange(shape[1], dtype=torch.float64, device=device).expand(shape)


@torch.no_grad()
def test_stages_are_torchvisions_in_float32(torchvision):
    """Each stage fed the peer's input; 1e-4 of the output's largest magnitude or of 1."""
    peer = make_peer(torchvision, "mask", torch.float32).eval()
    ours = make_ours(peer, "mask", torch.float32)
    images = make_images(torch.float32)
    batch, _ = peer.transform(images)
    mine = preprocess(images, ours.config.transform)
    assert_close(mine.tensor, batch.tensors)
    assert mine.image_sizes == [tuple(size) for size in batch.image_sizes]

    body = list(peer.backbone.body(batch.tensors).values())
    for c, expected in zip(ours.resnet(batch.tensors), body):
        assert_close(c, expected)
    pyramid = list(peer.backbone(batch.tensors).values())
    for p, expected in zip(ours.fpn(body), pyramid):
        assert_close(p, expected)

    logits, deltas = peer.rpn.head(pyramid)
    anchors = peer.rpn.anchor_generator(batch, pyramid)[0]
    output = ours.rpn(pyramid, ours.fpn.strides, tuple(batch.tensors.shape[-2:]))
    assert torch.equal(torch.cat(output.anchors), anchors)
    assert_close(output.logits, torch.cat([x.permute(0, 2, 3, 1).flatten(1) for x in logits], dim=1))
    assert_close(
        output.deltas, torch.cat([x.permute(0, 2, 3, 1).reshape(len(x), -1, 4) for x in deltas], dim=1)
    )

    heads = peer.roi_heads
    boxes = [
        torch.rand(20, 2).mul(150).repeat(1, 2) + torch.tensor([0, 0, 40.0, 90.0]) * (i + 1) for i in range(2)
    ]
    levels = dict(zip(["0", "1", "2", "3", "pool"], pyramid))
    rois, index = torch.cat(boxes), torch.arange(2).repeat_interleave(20)
    pooled = heads.box_roi_pool(levels, boxes, batch.image_sizes)
    assert_close(ours.pooler(pyramid, rois, index, 7), pooled)
    expected_logits, expected_deltas = heads.box_predictor(heads.box_head(pooled))
    found_logits, found_deltas = ours.box_head(pooled)
    assert_close(found_logits, expected_logits)
    assert_close(found_deltas.flatten(1), expected_deltas)
    pooled = heads.mask_roi_pool(levels, boxes, batch.image_sizes)
    assert_close(ours.mask_head(pooled), heads.mask_predictor(heads.mask_head(pooled)))


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max().clamp(min=1)


@torch.no_grad()
def test_proposals_are_torchvisions_in_float64(torchvision):
    peer = make_peer(torchvision, "faster", torch.float64).eval()
    ours = make_ours(peer, "faster", torch.float64)
    batch, _ = peer.transform(make_images(torch.float64))
    levels = peer.backbone(batch.tensors)
    expected, _ = peer.rpn(batch, levels)
    output = ours.rpn(list(levels.values()), ours.fpn.strides, tuple(batch.tensors.shape[-2:]))
    found = propose(output, batch.image_sizes, ours.config.rpn, training=False)
    for image, boxes in enumerate(expected):
        mine = found.boxes[image][found.valid[image]]
        assert mine.shape == boxes.shape and (mine - boxes).abs().max() <= 1e-8


def test_the_published_keypoint_model_has_our_names_and_shapes(torchvision):
    with torch.device("meta"):
        peer = torchvision.models.detection.keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None)
        ours = MaskRCNN(keypointrcnn_resnet50_fpn.config())
    renamed = {name: value.shape for name, value in from_torchvision(peer.state_dict()).items()}
    assert renamed == {name: value.shape for name, value in ours.state_dict().items()}


def test_old_key_names_give_the_same_weights(torchvision):
    peer = make_peer(torchvision, "mask", torch.float32).eval()
    new = peer.state_dict()
    old = {old_name(name): value for name, value in new.items()}
    assert sum(name not in new for name in old) >= 24
    mine, expected = from_torchvision(old), from_torchvision(new)
    assert mine.keys() == expected.keys()
    assert all(torch.equal(mine[name], expected[name]) for name in expected)


def old_name(name: str) -> str:
    """torchvision's names before version 0.12."""
    name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
    for level in range(4):
        name = name.replace(f"inner_blocks.{level}.0.", f"inner_blocks.{level}.")
        name = name.replace(f"layer_blocks.{level}.0.", f"layer_blocks.{level}.")
        name = name.replace(f"roi_heads.mask_head.{level}.0.", f"roi_heads.mask_head.mask_fcn{level + 1}.")
    return name


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnext101_32x8d"])
@torch.no_grad()
def test_backbones_are_torchvisions(torchvision, name):
    from minimaskrcnn.resnet import ResNet, ResNetConfig

    torch.manual_seed(0)
    peer = torchvision.models.get_model(name, weights=None).double().eval()
    config = ResNetConfig(depth=int(name.partition("_")[0][-3:].strip("etx")), norm="batch", frozen_stages=0)
    if "_" in name:
        config = replace(config, groups=32, group_width=8)
    ours = ResNet(config).double().eval()
    weights = {k.removeprefix("resnet."): v for k, v in from_torchvision(peer.state_dict()).items()}
    missing, unexpected = ours.load_state_dict(weights, strict=False)
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)
    x = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    stem = peer.maxpool(peer.relu(peer.bn1(peer.conv1(x))))
    c2 = peer.layer1(stem)
    c5 = peer.layer4(peer.layer3(peer.layer2(c2)))
    found = ours(x)
    assert (found[0] - c2).abs().max() <= 1e-10 * c2.abs().max()
    assert (found[3] - c5).abs().max() <= 1e-10 * c5.abs().max()
