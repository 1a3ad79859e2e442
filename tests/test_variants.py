"""The paper's variants: each field changes what it says and nothing else, and each network trains and detects."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from models import random_image, random_target, tiny_c4, tiny_config, with_keypoints

from minimaskrcnn import mask_rcnn, presets
from minimaskrcnn.box_head import Res5BoxHeadConfig
from minimaskrcnn.mask_head import MLPMaskHeadConfig, SigmoidMasks, SoftmaxMasks
from minimaskrcnn.mask_rcnn import MaskRCNN, MaskRCNNConfig
from minimaskrcnn.ops import crop
from minimaskrcnn.padded import Rows, rows_to_compute
from minimaskrcnn.pooler import PoolerConfig, RoIPoolConfig, RoIWarpConfig
from minimaskrcnn.presets import PRESETS
from minimaskrcnn.resnet import ResNetConfig

SIZES = ((50, 64), (64, 41))
Change = Callable[[MaskRCNNConfig], MaskRCNNConfig]


def of(part: str, **fields) -> Change:
    """The change of some fields of one part."""
    return lambda config: replace(config, **{part: replace(getattr(config, part), **fields)})


def pooled_by(kind: type[PoolerConfig], **fields) -> Change:
    """The change of the pooler, levels as they are."""

    def change(config: MaskRCNNConfig) -> MaskRCNNConfig:
        size, level = config.pooler.canonical_size, config.pooler.canonical_level
        return replace(config, pooler=kind(canonical_size=size, canonical_level=level, **fields))

    return change


def mlp(**fields) -> Change:
    """The change of the mask branch."""
    return lambda config: replace(
        config, mask_head=MLPMaskHeadConfig(pooled_size=config.mask_head.pooled_size, **fields)
    )


def base() -> MaskRCNNConfig:
    return with_keypoints(tiny_config())


def deep() -> MaskRCNNConfig:
    """With bottlenecks and four stages."""
    config = base()
    resnet = ResNetConfig(depth=50, width=8, norm="group", frozen_stages=0)
    sizes = (*config.anchors.sizes, (64.0,))
    return replace(config, resnet=resnet, anchors=replace(config.anchors, sizes=sizes))


# The change, the network that it is made in, and the parameters that may differ in name or shape.
CHANGES: dict[str, tuple[Change, Callable[[], MaskRCNNConfig], tuple[str, ...]]] = {
    "roi_pool": (pooled_by(RoIPoolConfig), base, ()),
    "roi_warp": (pooled_by(RoIWarpConfig), base, ()),
    "roi_warp max": (pooled_by(RoIWarpConfig, mode="max"), base, ()),
    "roi_align max": (of("pooler", mode="max"), base, ()),
    "half a cell": (of("pooler", aligned=False), base, ()),
    "adaptive sampling": (of("pooler", sampling_ratio=0), base, ()),
    "softmax": (of("mask_head", activation=SoftmaxMasks()), base, ()),
    "agnostic": (of("mask_head", activation=SigmoidMasks(class_agnostic=True)), base, ("mask_head.predictor.",)),
    "agnostic softmax": (
        of("mask_head", activation=SoftmaxMasks(class_agnostic=True)),
        base,
        ("mask_head.predictor.",),
    ),
    "mlp": (mlp(hidden=24), base, ("mask_head.",)),
    "binary targets": (of("mask_head", binary_targets=True), base, ()),
    "exact paste": (of("mask_head", exact_paste=True), base, ()),
    "no masks": (lambda config: replace(config, mask_head=None), base, ("mask_head.",)),
    "no keypoints": (lambda config: replace(config, keypoint_head=None), base, ("keypoint_head.",)),
    "keypoint score": (of("keypoint_head", score="softmax"), base, ()),
    "keypoint divisor": (of("keypoint_head", loss_divisor="nominal"), base, ()),
    "pixel centres": (of("keypoint_head", pixel_centres=True), base, ()),
    # More than there are, or both divisors are the same.
    "rpn divisor": (
        of("rpn", loss_divisor="nominal"),
        lambda: of("rpn", anchors_per_image=4000)(base()),
        (),
    ),
    "plain L1": (of("rpn", smooth_l1_beta=0.0), base, ()),
    "end to end": (of("rpn", end_to_end=True), base, ()),
    "bgr": (of("transform", bgr=True, scale=255.0), base, ()),
    "stride on 1x1": (of("resnet", stride_on_1x1=True), deep, ()),
    "dilated c5": (
        lambda config: replace(
            of("resnet", dilated_c5=True)(config), fpn=None, anchors=tiny_c4(config).anchors
        ),
        lambda: replace(deep(), fpn=None, anchors=tiny_c4(deep()).anchors),
        (),
    ),
    "resnext": (of("resnet", groups=8, group_width=16), deep, ("resnet.stages.",)),
    "norm": (of("resnet", norm="batch"), deep, ("resnet.",)),
    "no pyramid": (tiny_c4, base, ("fpn.", "rpn.", "box_head.", "mask_head.", "keypoint_head.convs.0.")),
    "res5 strides": (
        of("box_head", stride=2, pooled_size=8),
        lambda: of("box_head", pooled_size=4)(tiny_c4(base())),
        (),
    ),
}


def make(config: MaskRCNNConfig) -> MaskRCNN:
    """Random weights with spread logits, so that there are detections."""
    torch.manual_seed(0)
    model = MaskRCNN(config)
    with torch.no_grad():
        model.rpn.objectness.weight.mul_(50)
        model.box_head.classifier.weight.mul_(10)
    return model


def images() -> list[torch.Tensor]:
    return [random_image(*size, seed) for seed, size in enumerate(SIZES)]


def targets(counts: tuple[int, ...] = (3, 2)) -> list:
    return [random_target(*size, count, seed) for seed, (size, count) in enumerate(zip(SIZES, counts))]


def losses_of(model: MaskRCNN, what: list) -> dict[str, torch.Tensor]:
    return model(images(), what, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CHANGES)
def test_a_field_changes_its_own_parameters_alone(name):
    change, start, may_differ = CHANGES[name]
    with torch.device("meta"):
        before, after = (
            {key: value.shape for key, value in MaskRCNN(config).state_dict().items()}
            for config in (start(), change(start()))
        )
    differ = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert all(key.startswith(may_differ) for key in differ) if may_differ else not differ
    # And where parameters of its own are announced, some do change.
    assert bool(differ) == bool(may_differ)


@pytest.mark.parametrize("name", CHANGES)
def test_every_variant_learns_and_detects(name):
    change, start, _ = CHANGES[name]
    model = make(change(start()))
    losses = losses_of(model, targets())
    assert all(loss.isfinite() for loss in losses.values())
    assert ("loss_mask" in losses) == (model.mask_head is not None)
    assert ("loss_keypoint" in losses) == (model.keypoint_head is not None)
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    with torch.no_grad():
        for image, found in zip(images(), model(images())):
            count = len(found["boxes"])
            assert count > 0 and found["boxes"].isfinite().all()
            if model.mask_head is not None:
                assert found["masks"].shape == (count, 1, *image.shape[1:])
                assert found["masks"].min() >= 0 and found["masks"].max() <= 1
            if model.keypoint_head is not None:
                assert found["keypoints"].shape == (count, 17, 3) and found["keypoints_scores"].shape == (
                    count,
                    17,
                )


@pytest.mark.parametrize("name", CHANGES)
def test_every_field_changes_what_is_computed(name):
    change, start, may_differ = CHANGES[name]
    if may_differ:
        pytest.skip("other parameters: nothing to compare")
    before, after = make(start()), make(change(start()))
    after.load_state_dict(before.state_dict())
    one, other = losses_of(before, targets()), losses_of(after, targets())
    same = all(torch.equal(one[key], other[key]) for key in one)
    gradients = []
    for model, losses in ((before, one), (after, other)):
        model.zero_grad()
        sum(losses.values()).backward()
        gradients.append(model.rpn.deltas.weight.grad)
    same = same and torch.equal(*gradients)
    with torch.no_grad():
        found, expected = after.eval()(images()), before.eval()(images())
    same = same and all(torch.equal(a[key], b[key]) for a, b in zip(found, expected) for key in b)
    assert not same


# Objects of each picture.
EMPTY = {"no object": (0, 0), "first empty": (0, 2), "last empty": (3, 0)}


def run_all_rows(monkeypatch) -> None:
    """What a GPU does: heads run on every row, and a mask that is not there is NaN instead of an error."""

    def every_row(valid: torch.Tensor, *, everywhere: bool = False) -> Rows:
        return rows_to_compute(valid if everywhere else torch.ones_like(valid))

    monkeypatch.setattr(mask_rcnn, "rows_to_compute", every_row)
    monkeypatch.setattr(crop, "check_index", lambda index, count: None)


@pytest.mark.parametrize(
    "start", [base, lambda: tiny_c4(base()), lambda: mlp()(base())]
)
@pytest.mark.parametrize("end_to_end", [False, True])
@pytest.mark.parametrize("device", ["cpu", "as on a gpu"])
@pytest.mark.parametrize("case", [*EMPTY, "no visible keypoint", "no positive RoI"])
def test_empty_cases_give_finite_losses_and_zero_gradients(start, end_to_end, device, case, monkeypatch):
    if device != "cpu":
        run_all_rows(monkeypatch)
    config = of("rpn", end_to_end=end_to_end)(start())
    what = targets(EMPTY.get(case, (3, 2)))
    if case == "no visible keypoint":
        for target in what:
            target["keypoints"][..., 2] = 0
    if case == "no positive RoI":
        # Nothing overlaps an object by more than all of it.
        config = of("box_head", positive_iou=1.1)(config)
    model = make(config)
    losses = losses_of(model, what)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    without = {"no visible keypoint": ["keypoint"], "first empty": [], "last empty": []}
    without = without.get(case, ["mask", "keypoint"])
    for head in without:
        assert losses[f"loss_{head}"] == 0
        assert not any(p.grad.any() for p in getattr(model, f"{head}_head").parameters())


def test_a_gpus_rows_do_not_enter_batch_norm(monkeypatch):
    """C4 from scratch has batch norm in its head: padding is left out of its statistics on every device."""
    config = replace(base(), resnet=replace(base().resnet, norm="batch"))
    losses = []
    for as_on_a_gpu in (False, True):
        if as_on_a_gpu:
            run_all_rows(monkeypatch)
        # More places than there are RoIs.
        model = make(of("box_head", rois_per_image=200)(tiny_c4(config))).train()
        losses.append({name: loss.item() for name, loss in losses_of(model, targets()).items()})
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: replace(c, box_head=Res5BoxHeadConfig()), "needs resnet.stages=3 and fpn=None"),
        (lambda c: of("resnet", stages=4)(tiny_c4(c)), "needs resnet.stages=3 and fpn=None"),
        (of("resnet", stages=4, dilated_c5=True), "dilated_c5 needs fpn=None"),
        (of("resnet", dilated_c5=True), "dilated_c5 is of the fourth stage: there are 3"),
    ],
)
def test_what_does_not_go_together_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        MaskRCNN(change(tiny_config()))


def test_softmax_masks_compete_and_sigmoid_masks_do_not():
    for activation, total in ((SoftmaxMasks(), True), (SigmoidMasks(), False)):
        model = make(of("mask_head", activation=activation)(tiny_config()))
        losses_of(model, targets())["loss_mask"].backward()
        moved = model.mask_head.predictor.bias.grad != 0
        present = {int(label) for target in targets() for label in target["labels"]}
        assert moved.all() if total else set(moved.nonzero()[:, 0].tolist()) <= present


def test_gradients_through_the_rois_are_those_of_finite_differences():
    """Of the heads' losses in the coordinates, for fixed samples: what `end_to_end` adds."""
    torch.set_default_dtype(torch.float64)
    try:
        model = make(of("rpn", end_to_end=True)(tiny_config()))
        batch = [image.double() for image in images()]
        losses = model(batch, targets(), generator=torch.Generator().manual_seed(0))
        heads = losses["loss_classifier"] + losses["loss_box_reg"] + losses["loss_mask"]
        (grad,) = torch.autograd.grad(heads, model.rpn.deltas.bias)
        assert grad.abs().max() > 1e-6

        def value(step: torch.Tensor) -> float:
            with torch.no_grad():
                model.rpn.deltas.bias.add_(step)
                moved = model(batch, targets(), generator=torch.Generator().manual_seed(0))
                model.rpn.deltas.bias.sub_(step)
            return float(moved["loss_classifier"] + moved["loss_box_reg"] + moved["loss_mask"])

        for coordinate in range(len(grad)):
            step = torch.zeros_like(grad)
            # So small that no sample, match or cell changes.
            step[coordinate] = 1e-8
            slope = (value(step) - value(-step)) / 2e-8
            assert slope == pytest.approx(float(grad[coordinate]), rel=2e-4, abs=2e-6)
    finally:
        torch.set_default_dtype(torch.float32)


def test_no_gradient_runs_through_the_rois_by_default():
    model = make(tiny_config())
    losses = losses_of(model, targets())
    heads = losses["loss_classifier"] + losses["loss_box_reg"] + losses["loss_mask"]
    assert torch.autograd.grad(heads, model.rpn.deltas.bias, allow_unused=True, retain_graph=True) == (None,)


def light(config: MaskRCNNConfig) -> MaskRCNNConfig:
    """A preset's own structure at a small width, for small pictures."""
    resnet = replace(config.resnet, width=8, group_width=max(8, config.resnet.group_width))
    keypoints = config.keypoint_head and replace(config.keypoint_head, channels=16)
    return replace(
        config,
        transform=replace(config.transform, min_sizes=(96,), max_size=128),
        resnet=resnet,
        fpn=config.fpn and replace(config.fpn, channels=16),
        box_head=replace(config.box_head, **({"hidden": 32} if config.fpn else {})),
        mask_head=config.mask_head and replace(config.mask_head, channels=16),
        keypoint_head=keypoints,
    )


@pytest.mark.parametrize("style", ["torchvision", "detectron2"])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_each_preset_trains_a_step_and_detects(name, style):
    config = light(PRESETS[name].config(5))
    model = make(presets.as_detectron2(config) if style == "detectron2" else config)
    what = [random_target(*size, 2, seed, num_classes=5) for seed, size in enumerate(SIZES)]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-4)
    losses = losses_of(model.train(), what)
    sum(losses.values()).backward()
    optimizer.step()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        found = model.eval()([random_image(37, 90, 3), random_image(120, 64, 4)])
    assert len(found) == 2 and all(one["boxes"].isfinite().all() for one in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_each_preset_at_full_size(name):
    torch.manual_seed(0)
    model = MaskRCNN(PRESETS[name].config(5)).train()
    what = [random_target(*size, 2, seed, num_classes=5) for seed, size in enumerate(SIZES)]
    losses = losses_of(model, what)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    with torch.no_grad():
        found = model.eval()([random_image(60, 80, 3), random_image(90, 64, 4)])
    assert all(one["boxes"].isfinite().all() for one in found)


def test_the_mask_branches_of_table_2e_have_the_papers_sizes():
    with torch.device("meta"):
        for layers in (2, 3):
            config = MLPMaskHeadConfig(hidden_layers=layers)
            head = MaskRCNN(replace(presets.maskrcnn_resnet50_fpn.config(81), mask_head=config)).mask_head
            shapes = [tuple(p.shape) for name, p in head.named_parameters() if name.endswith("weight")]
            hidden = [(1024, 256 * 14 * 14), *[(1024, 1024)] * (layers - 1)]
            assert shapes == [(81 * 28 * 28, 1024), *hidden] or shapes == [*hidden, (81 * 28 * 28, 1024)]
