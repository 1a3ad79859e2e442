"""The whole network on a tiny configuration: what goes in, what comes out, and what must not matter."""

import copy
from dataclasses import replace

import pytest
import torch
from models import random_image, random_target, tiny_config, tiny_model

from minimaskrcnn.data.transforms import resize_image
from minimaskrcnn.mask_rcnn import MaskRCNN
from minimaskrcnn.ops import box_iou, paste_masks

# All padded to 64 × 64, the second enlarged.
SIZES = ((48, 64), (30, 20), (64, 40))
RPN_LOSSES = {"loss_objectness", "loss_rpn_box_reg"}
BOX_LOSSES = RPN_LOSSES | {"loss_classifier", "loss_box_reg"}


def images(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [random_image(h, w, seed, dtype) for seed, (h, w) in enumerate(SIZES)]


def targets(dtype: torch.dtype = torch.float32, counts: tuple[int, ...] = (3, 0, 2)) -> list:
    return [random_target(h, w, n, seed, dtype=dtype) for seed, ((h, w), n) in enumerate(zip(SIZES, counts))]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("training", [True, False])
def test_targets_decide_and_not_the_training_flag(training):
    model = tiny_model().train(training)
    losses = model(images(), targets())
    assert set(losses) == BOX_LOSSES | {"loss_mask"}
    assert all(value.dim() == 0 and value.isfinite() and value > 0 for value in losses.values())
    found = model(images())
    assert [set(detection) for detection in found] == [{"boxes", "labels", "scores", "masks"}] * 3
    assert model.training == training


@torch.no_grad()
def test_detections_are_in_the_callers_pixels():
    model = tiny_model().eval()
    for (height, width), found in zip(SIZES, model(images())):
        count = len(found["boxes"])
        assert 5 <= count <= 20
        assert found["masks"].shape == (count, 1, height, width) and found["masks"].dtype == torch.float32
        assert found["masks"].min() >= 0 and found["masks"].max() <= 1
        x1, y1, x2, y2 = found["boxes"].unbind(1)
        assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 > x1).all() and (y2 > y1).all()
        # Ratios of sizes are rounded to float32.
        assert x2.max() <= width * (1 + 1e-6) and y2.max() <= height * (1 + 1e-6)
        assert (found["scores"][:-1] >= found["scores"][1:]).all() and found["scores"].min() > 0.05
        assert found["labels"].min() >= 1 and found["labels"].max() <= 8


@torch.no_grad()
def test_boxes_scale_with_the_picture():
    model = tiny_model().double().eval()
    (small,) = model([images(torch.float64)[1]])
    # The model enlarges 30 × 20 to 64 × 42 itself.
    (large,) = model([resize_image(images(torch.float64)[1], (64, 42))])
    scale = torch.tensor([42 / 20, 64 / 30] * 2, dtype=torch.float64)
    assert (small["boxes"] * scale - large["boxes"]).abs().max() < 1e-4 and len(small["boxes"]) >= 5
    assert torch.equal(small["labels"], large["labels"])


@torch.no_grad()
def test_pasting_is_only_the_last_step():
    model = tiny_model().eval()
    for size, pasted, plain in zip(SIZES, model(images()), model(images(), paste=False)):
        assert set(plain) == {"boxes", "labels", "scores", "mask_probs"}
        assert plain["mask_probs"].shape == (len(plain["boxes"]), 12, 12)
        for name in ("boxes", "labels", "scores"):
            assert torch.equal(pasted[name], plain[name])
        masks = paste_masks(plain["mask_probs"], plain["boxes"], size, threshold=None)
        assert torch.equal(pasted["masks"][:, 0], masks) and masks.any()


@pytest.mark.parametrize("norm", ["group", "frozen_batch", "batch"])
@torch.no_grad()
def test_a_batch_of_mixed_sizes_is_each_picture_alone(norm):
    model = tiny_model(norm=norm).double().eval()
    together = model(images(torch.float64))
    for image, found in zip(images(torch.float64), together):
        (alone,) = model([image])
        assert torch.equal(alone["labels"], found["labels"]) and len(alone["labels"]) >= 5
        for name in ("boxes", "scores", "masks"):
            assert (alone[name] - found[name]).abs().max() < 1e-9, name


def test_losses_of_a_batch_weigh_pictures_by_their_samples():
    # One object each and negatives enough: every picture has 16 RoIs, so classification is a plain mean.
    model = tiny_model().double()
    chosen = [0, 2]
    pictures = [images(torch.float64)[i] for i in chosen]
    objects = [targets(torch.float64, (1, 1, 1))[i] for i in chosen]
    config = replace(model.config, box_head=replace(model.config.box_head, rois_per_image=10**4))
    config = replace(config, rpn=replace(config.rpn, anchors_per_image=10**5))
    everything = MaskRCNN(config).double()
    everything.load_state_dict(model.state_dict())
    # With room for all of them no chance is left, and sums over pictures add up.
    together = everything(pictures, objects)
    singles = [everything([image], [target]) for image, target in zip(pictures, objects)]
    for name in ("loss_objectness", "loss_classifier", "loss_mask"):
        low, high = sorted(single[name].item() for single in singles)
        assert low - 1e-9 <= together[name].item() <= high + 1e-9


def test_pictures_without_objects():
    model = tiny_model()
    losses = model(images(), targets(counts=(0, 0, 0)))
    assert losses["loss_box_reg"] == 0 and losses["loss_mask"] == 0 and losses["loss_rpn_box_reg"] == 0
    assert losses["loss_objectness"] > 0 and losses["loss_classifier"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert not model.mask_head.predictor.weight.grad.any()


@torch.no_grad()
def test_nothing_found():
    model = tiny_model().eval()
    model.box_head.classifier.bias[0] = 1e4
    for size, found in zip(SIZES, model(images())):
        assert [len(found[name]) for name in ("boxes", "labels", "scores", "masks")] == [0] * 4
        assert found["masks"].shape == (0, 1, *size) and found["labels"].dtype == torch.int64
    assert [found["mask_probs"].shape for found in model(images(), paste=False)] == [(0, 12, 12)] * 3


def test_faster_rcnn_has_no_masks():
    model = tiny_model(masks=False)
    boxes_only = [{"boxes": t["boxes"], "labels": t["labels"]} for t in targets()]
    assert set(model(images(), boxes_only)) == BOX_LOSSES
    assert set(model(images(), targets())) == BOX_LOSSES
    with torch.no_grad():
        assert set(model.eval()(images())[0]) == {"boxes", "labels", "scores"}
    assert not any("mask" in name for name in model.state_dict())


def test_the_mask_branch_does_not_change_boxes():
    with_masks, without = tiny_model(), tiny_model(masks=False)
    without.load_state_dict(
        {k: v for k, v in with_masks.state_dict().items() if not k.startswith("mask_head.")}
    )
    with torch.no_grad():
        for a, b in zip(with_masks.eval()(images()), without.eval()(images())):
            assert torch.equal(a["boxes"], b["boxes"]) and torch.equal(a["scores"], b["scores"])


def test_inputs_are_left_as_they_were():
    model, pictures, objects = tiny_model(), images(), targets()
    pictures_before, objects_before = copy.deepcopy(pictures), copy.deepcopy(objects)
    sum(model(pictures, objects).values()).backward()
    with torch.no_grad():
        model(pictures)
    assert all(torch.equal(a, b) for a, b in zip(pictures, pictures_before))
    for target, before in zip(objects, objects_before):
        assert target.keys() == before.keys() and all(torch.equal(target[k], before[k]) for k in target)


def test_a_generator_makes_losses_reproducible():
    model = tiny_model()
    # Few samples of many, so that other draws give other losses.
    first, again = (model(images(), targets(), generator=generator()) for _ in range(2))
    other = model(images(), targets(), generator=torch.Generator().manual_seed(1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(first[name] != other[name] for name in RPN_LOSSES)


def test_losses_depend_on_the_targets_pixels_only_through_the_resized_picture():
    """The same scene at twice the size, with its objects: resized, the same batch."""
    model = tiny_model().double()
    image, target = random_image(32, 32, 0, torch.float64), random_target(32, 32, 2, dtype=torch.float64)
    large = image.repeat_interleave(2, 1).repeat_interleave(2, 2)
    large_target = {
        "boxes": target["boxes"] * 2,
        "labels": target["labels"],
        "masks": target["masks"].repeat_interleave(2, 1).repeat_interleave(2, 2),
    }
    config = replace(model.config, transform=replace(model.config.transform, mean=(0.0,) * 3))
    blank = MaskRCNN(config).double()
    small = blank([torch.zeros_like(image)], [target], generator=generator())
    big = blank([torch.zeros_like(large)], [large_target], generator=generator())
    for name, value in small.items():
        assert value.item() == pytest.approx(big[name].item(), abs=1e-9), name


def test_min_size_of_a_target_is_the_size_it_is_seen_at():
    model = tiny_model().double()
    config = replace(model.config, transform=replace(model.config.transform, min_sizes=(32,)))
    smaller = MaskRCNN(config).double()
    smaller.load_state_dict(model.state_dict())
    image, target = random_image(40, 40, 0, torch.float64), random_target(40, 40, 2, dtype=torch.float64)
    drawn = model([image], [{**target, "min_size": 32}], generator=generator())
    fixed = smaller([image], [target], generator=generator())
    plain = model([image], [target], generator=generator())
    assert all(torch.equal(drawn[name], fixed[name]) for name in fixed)
    assert any(drawn[name] != plain[name] for name in plain)


def test_bfloat16_autocast_step_is_finite():
    model = tiny_model().train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(images(), targets(), generator=generator())
        with torch.no_grad():
            found = model(images())
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    exact = model(images(), targets(), generator=generator())
    for name in ("loss_objectness", "loss_mask"):
        assert losses[name].item() == pytest.approx(exact[name].item(), rel=0.1)
    assert all(f["boxes"].dtype == torch.float32 and f["boxes"].isfinite().all() for f in found)


def test_float64_targets_train_a_float32_model():
    objects = [{**target, "boxes": target["boxes"].double()} for target in targets()]
    losses = tiny_model()(images(), objects, generator=generator())
    expected = tiny_model()(images(), targets(), generator=generator())
    sum(losses.values()).backward()
    assert all(
        value.item() == pytest.approx(expected[name].item(), rel=1e-3) for name, value in losses.items()
    )


def two_scenes() -> tuple[list[torch.Tensor], list]:
    """Two triangles each, in the colour of their class; a triangle's mask is not its box."""
    scenes = [[(8, 10, 32, 30, 1), (40, 36, 60, 60, 2)], [(20, 6, 50, 26, 3), (6, 34, 26, 60, 1)]]
    pictures, objects = [torch.zeros(3, 64, 64) for _ in scenes], []
    for picture, scene in zip(pictures, scenes):
        masks = torch.zeros(len(scene), 64, 64, dtype=torch.bool)
        for mask, (x1, y1, x2, y2, label) in zip(masks, scene):
            for y in range(y1, y2):
                mask[y, x1 : x1 + round((x2 - x1) * (y - y1 + 1) / (y2 - y1))] = True
            picture[label - 1][mask] = 1.0
        boxes = torch.tensor([row[:4] for row in scene], dtype=torch.float32)
        objects.append({"boxes": boxes, "labels": torch.tensor([row[4] for row in scene]), "masks": masks})
    return pictures, objects


def mask_iou(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a & b).sum() / (a | b).sum()).item()


def test_it_memorises_two_scenes():
    torch.manual_seed(0)
    config = tiny_config(4)
    model = MaskRCNN(replace(config, box_head=replace(config.box_head, rois_per_image=32)))
    pictures, objects = two_scenes()
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3, weight_decay=0.0)
    history = []
    for step in range(45):
        losses = model(pictures, objects, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss = sum(losses.values())
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.35 * history[0]
    with torch.no_grad():
        for found, target in zip(model.eval()(pictures), objects):
            overlap = box_iou(target["boxes"], found["boxes"])
            for row, (label, mask) in enumerate(zip(target["labels"], target["masks"])):
                best = torch.where(found["labels"] == label, overlap[row], 0).argmax()
                assert overlap[row, best] > 0.6
                # Boxes of these triangles filled would have a mask IoU of 0.5 at most.
                assert mask_iou(found["masks"][best, 0] > 0.5, mask) > 0.55


@pytest.mark.unhooked
def test_malformed_targets():
    model, pictures = tiny_model(), images()[:1]
    good = random_target(*SIZES[0], 2)
    bad = [
        ({**good, "labels": torch.tensor([9, 1])}, "labels must lie in 1..8, got \\[\\[9, 1\\]\\]"),
        ({**good, "labels": torch.tensor([0, 1])}, "labels must lie in 1..8, got \\[\\[0, 1\\]\\]"),
        ({**good, "labels": torch.tensor([-1, 1])}, "labels must lie in 1..8"),
        ({"boxes": good["boxes"], "labels": good["labels"]}, "targets\\[0\\] has no 'masks'"),
        ({**good, "masks": good["masks"][:, :-1]}, "masks must be bool \\[2, 48, 64\\]"),
        ({**good, "boxes": good["boxes"][:, [2, 1, 0, 3]]}, "box 0 needs finite x1 < x2"),
        ({**good, "boxes": good["boxes"] * torch.nan}, "box 0 needs finite"),
        ({"labels": good["labels"], "masks": good["masks"]}, "no 'boxes'"),
    ]
    for target, message in bad:
        with pytest.raises(ValueError, match=message):
            model(pictures, [target])
    with pytest.raises(ValueError, match="1 targets for 2 pictures"):
        model(pictures * 2, [good])
    with pytest.raises(ValueError):
        model(pictures, [])


@pytest.mark.unhooked
def test_malformed_images_and_configurations():
    model = tiny_model().eval()
    with pytest.raises(ValueError, match="at least one picture"):
        model([])
    with pytest.raises(ValueError, match=r"must be \[3, h, w\], got \[1, 8, 8\]"):
        model([torch.zeros(1, 8, 8)])
    with pytest.raises(TypeError, match="uint8"):
        model([torch.zeros(3, 8, 8, dtype=torch.uint8)])
    with pytest.raises(ValueError, match="at least 2, got 1"):
        MaskRCNN(tiny_config(1))
    levels = replace(tiny_config(), anchors=replace(tiny_config().anchors, sizes=((8.0,), (16.0,))))
    with pytest.raises(ValueError, match="3 feature maps, 3 strides and 2 levels"):
        MaskRCNN(levels)([torch.zeros(3, 8, 8)])


@pytest.mark.unhooked
def test_pyramid_and_proposal_head_compile_into_one_graph():
    model = tiny_model().eval()

    def head(maps: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        output = model.rpn(model.fpn(maps), model.fpn.strides, (64, 64))
        return output.logits, output.deltas

    with torch.no_grad():
        maps = model.resnet(torch.rand(1, 3, 64, 64))
        # "eager" runs the captured graph as it is: what is asked here is that there is one.
        for found, expected in zip(torch.compile(head, fullgraph=True, backend="eager")(maps), head(maps)):
            assert torch.allclose(found, expected, atol=1e-5)
