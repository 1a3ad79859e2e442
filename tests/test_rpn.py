"""The region proposal network beside plain loops: order of the outputs, proposals, losses."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_matching import match_by_loops
from torch import nn

from minimaskrcnn.anchors import AnchorConfig
from minimaskrcnn.boxes import RPN_WEIGHTS, decode_deltas, encode_deltas
from minimaskrcnn.data.targets import GroundTruth
from minimaskrcnn.losses import full_precision
from minimaskrcnn.matching import sampling_keys
from minimaskrcnn.ops import reference
from minimaskrcnn.rpn import RPN, RPNConfig, RPNOutput, propose, rpn_losses

CONFIG = RPNConfig(
    anchors_per_image=8, pre_nms_train=9, pre_nms_test=7, post_nms_train=8, post_nms_test=5, nms_iou=0.5
)


def random_output(seed: int, images: int = 2, levels: tuple[int, ...] = (14, 6)) -> RPNOutput:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    corners = [40 * torch.rand(count, 2, generator=generator, dtype=torch.float64) for count in levels]
    anchors = [
        torch.cat([c, c + 5 + 20 * torch.rand(c.shape, generator=generator, dtype=torch.float64)], 1)
        for c in corners
    ]
    return RPNOutput(anchors, normal(images, sum(levels)), 0.3 * normal(images, sum(levels), 4))


def truth_of(boxes: list[list[list[float]]]) -> GroundTruth:
    """Padded ground truth of the given boxes of each image."""
    most = max(1, *(len(image) for image in boxes))
    padded = torch.tensor([image + [[0.0] * 4] * (most - len(image)) for image in boxes], dtype=torch.float64)
    counts = torch.tensor([len(image) for image in boxes])
    valid = torch.arange(most) < counts[:, None]
    return GroundTruth(padded, valid.long(), valid, None, counts.cumsum(0) - counts, None)


def proposals_by_loops(output, image, size, pre_nms, limit, config) -> torch.Tensor:
    found, start = [], 0
    for anchors in output.anchors:
        logits = output.logits[image, start : start + len(anchors)]
        deltas = output.deltas[image, start : start + len(anchors)]
        start += len(anchors)
        best = sorted(range(len(anchors)), key=lambda a: -logits[a].item())[:pre_nms]
        boxes, scores = [], []
        for a in best:
            x1, y1, x2, y2 = decode_deltas(deltas[a][None], anchors[a][None], RPN_WEIGHTS)[0].tolist()
            x1, x2 = (min(max(x, 0.0), size[1]) for x in (x1, x2))
            y1, y2 = (min(max(y, 0.0), size[0]) for y in (y1, y2))
            if x2 - x1 >= config.min_size and y2 - y1 >= config.min_size:
                boxes.append([x1, y1, x2, y2])
                scores.append(1 / (1 + math.exp(-logits[a].item())))
        boxes = torch.tensor(boxes, dtype=torch.float64).view(-1, 4)
        scores = torch.tensor(scores, dtype=torch.float64)
        found += [(scores[k].item(), boxes[k]) for k in reference.nms(boxes, scores, config.nms_iou)]
    found.sort(key=lambda pair: -pair[0])
    return torch.stack([box for _, box in found[:limit]]) if found else torch.zeros(0, 4, dtype=torch.float64)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), training=st.booleans())
def test_proposals_are_what_loops_say(seed, training):
    output, sizes = random_output(seed), [(30, 50), (45, 25)]
    found = propose(output, sizes, CONFIG, training=training)
    pre_nms, limit = (9, 8) if training else (7, 5)
    assert found.boxes.shape == (2, limit, 4)
    for image, size in enumerate(sizes):
        expected = proposals_by_loops(output, image, size, pre_nms, limit, CONFIG)
        assert found.valid[image].tolist() == [k < len(expected) for k in range(limit)]
        assert torch.allclose(found.boxes[image][found.valid[image]], expected, rtol=0, atol=1e-10)


def one_image(boxes: list[list[list[float]]], logits: list[float]) -> RPNOutput:
    """Anchors at each level, left where they are."""
    levels = [torch.tensor(level, dtype=torch.float64) for level in boxes]
    return RPNOutput(
        levels,
        torch.tensor([logits], dtype=torch.float64),
        torch.zeros(1, len(logits), 4, dtype=torch.float64),
    )


def test_levels_do_not_thin_each_other():
    box = [2.0, 2.0, 12.0, 12.0]
    same = propose(one_image([[box, box]], [1.0, 2.0]), [(20, 20)], CONFIG, training=False)
    other = propose(one_image([[box], [box]], [1.0, 2.0]), [(20, 20)], CONFIG, training=False)
    assert same.valid.sum() == 1 and other.valid.sum() == 2


def test_proposals_are_clipped_and_what_lies_outside_is_dropped():
    boxes = [[-5.0, -5.0, 8.0, 9.0], [30.0, 2.0, 40.0, 12.0], [10.0, 5.0, 50.0, 60.0]]
    found = propose(one_image([boxes], [3.0, 2.0, 1.0]), [(40, 20)], CONFIG, training=False)
    assert found.boxes[found.valid].tolist() == [[0, 0, 8, 9], [10, 5, 20, 40]]


def test_narrow_proposals_are_dropped():
    boxes = [[0.0, 0.0, 0.5, 9.0], [0.0, 10.0, 0.4, 19.0]]
    config = replace(CONFIG, min_size=0.5)
    found = propose(one_image([boxes], [1.0, 2.0]), [(40, 40)], config, training=False)
    assert found.boxes[found.valid].tolist() == [boxes[0]]


def test_all_proposals_dropped():
    found = propose(one_image([[[50.0, 50.0, 60.0, 60.0]]], [1.0]), [(40, 40)], CONFIG, training=True)
    assert not found.valid.any() and found.boxes.isfinite().all()


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_a_batch_of_different_sizes_is_each_picture_alone(seed):
    output, sizes = random_output(seed, images=3), [(30, 50), (50, 30), (12, 12)]
    together = propose(output, sizes, CONFIG, training=True)
    for image, size in enumerate(sizes):
        alone = RPNOutput(output.anchors, output.logits[image, None], output.deltas[image, None])
        single = propose(alone, [size], CONFIG, training=True)
        assert torch.equal(single.valid[0], together.valid[image])
        assert torch.equal(single.boxes[0][single.valid[0]], together.boxes[image][together.valid[image]])


def test_no_gradient_runs_through_proposals():
    output = random_output(0)
    output.deltas.requires_grad_()
    output.logits.requires_grad_()
    assert not propose(output, [(30, 50), (45, 25)], CONFIG, training=True).boxes.requires_grad


def losses_by_loops(output, truth, config, keys) -> tuple[float, float]:
    anchors, objectness, box, number = torch.cat(output.anchors), 0.0, 0.0, 0
    for image in range(len(output.logits)):
        gt = truth.boxes[image].tolist()
        count = len(anchors)
        thresholds = (config.positive_iou, config.negative_iou, True)
        arguments = (gt, truth.valid[image].tolist(), anchors.tolist(), [True] * count)
        _, label = match_by_loops(*arguments, *thresholds)
        by_key = sorted(range(count), key=lambda a: -keys[image, a])
        positives = [a for a in by_key if label[a] == 1]
        positives = positives[: int(config.anchors_per_image * config.positive_fraction)]
        negatives = [a for a in by_key if label[a] == 0][: config.anchors_per_image - len(positives)]
        number += len(positives) + len(negatives)
        for a in positives + negatives:
            probability = 1 / (1 + math.exp(-output.logits[image, a].item()))
            objectness -= math.log(probability if a in positives else 1 - probability)
        for a in positives:
            overlaps = reference.box_iou(truth.boxes[image], anchors[a][None])[:, 0]
            g = max((g for g in range(len(gt)) if truth.valid[image, g]), key=lambda g: overlaps[g])
            target = encode_deltas(truth.boxes[image, g][None], anchors[a][None], RPN_WEIGHTS)[0]
            for difference in (output.deltas[image, a] - target).abs().tolist():
                beta = config.smooth_l1_beta
                box += difference**2 / (2 * beta) if difference < beta else difference - beta / 2
    return objectness / number, box / number


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_losses_are_what_loops_say(seed):
    output = random_output(seed)
    # Objects near anchors, the second picture with fewer of them than the first.
    anchors = torch.cat(output.anchors)
    truth = truth_of([(anchors[[0, 5, 15]] + 2).tolist(), (anchors[[9]] * 1.1 + 1).tolist()])
    losses = rpn_losses(output, truth, CONFIG, torch.Generator().manual_seed(seed))
    keys = sampling_keys((2, len(anchors)), torch.device("cpu"), torch.Generator().manual_seed(seed))
    objectness, box = losses_by_loops(output, truth, CONFIG, keys)
    assert box > 0
    assert losses["loss_objectness"].mean.item() == pytest.approx(objectness, abs=1e-9)
    assert losses["loss_rpn_box_reg"].mean.item() == pytest.approx(box, abs=1e-9)


def test_losses_are_divided_by_all_sampled_anchors_of_the_batch():
    output = RPNOutput(
        [torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]])],
        torch.zeros(2, 2),
        torch.zeros(2, 2, 4),
    )
    # One positive and one negative in the first picture, two negatives in the second; all at probability 1/2.
    # The positive's object is 10 pixels to the right: dx of 1 in smooth L1 is 1 - β / 2.
    config = replace(CONFIG, positive_iou=0.3, negative_iou=0.3)
    losses = rpn_losses(output, truth_of([[[5.0, 0.0, 15.0, 10.0]], []]), config, None)
    assert losses["loss_objectness"].mean.item() == pytest.approx(math.log(2), abs=1e-6)
    assert losses["loss_rpn_box_reg"].mean.item() == pytest.approx((0.5 - 1 / 18) / 4, abs=1e-6)


def test_pictures_without_objects_teach_background_only():
    output = random_output(0)
    output.logits.requires_grad_()
    output.deltas.requires_grad_()
    losses = rpn_losses(output, truth_of([[], []]), CONFIG, torch.Generator().manual_seed(0))
    assert losses["loss_rpn_box_reg"].sum == 0 and losses["loss_objectness"].sum > 0
    sum(loss.mean for loss in losses.values()).backward()
    assert (output.logits.grad != 0).sum() == 16 and (output.logits.grad >= 0).all()
    assert output.deltas.grad is not None and not output.deltas.grad.any()


def test_only_positives_learn_boxes():
    output = random_output(3)
    output.deltas.requires_grad_()
    truth = truth_of([torch.cat(output.anchors)[[4]].add(1).tolist(), []])
    rpn_losses(output, truth, CONFIG, None)["loss_rpn_box_reg"].mean.backward()
    touched = output.deltas.grad.abs().sum(-1) > 0
    assert touched[0, 4] and not touched[1].any() and touched.sum() <= 4


def test_head_orders_its_outputs_as_the_anchors():
    rpn = RPN(1, AnchorConfig(sizes=((8.0,), (16.0,)), stride_from_grid=False), CONFIG)
    nn.init.dirac_(rpn.conv.weight)
    with torch.no_grad():
        # Anchor k of a cell: logit (k + 1) · feature; its delta j: (10 k + j) · feature.
        rpn.objectness.weight.copy_(torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1))
        order = torch.tensor([10.0 * k + j for k in range(3) for j in range(4)])
        rpn.deltas.weight.copy_(order.view(12, 1, 1, 1))
        features = [1 + torch.arange(12.0).view(2, 1, 2, 3), 100 + torch.arange(2.0).view(2, 1, 1, 1)]
        output = rpn(features, (4, 8), (8, 12))
    assert [level.shape for level in output.anchors] == [(18, 4), (3, 4)]
    for image in range(2):
        row = 0
        for feature in features:
            for value in feature[image, 0].flatten().tolist():
                for k in range(3):
                    assert output.logits[image, row].item() == (k + 1) * value
                    expected = [(10 * k + j) * value for j in range(4)]
                    assert output.deltas[image, row].tolist() == pytest.approx(expected)
                    row += 1
        assert row == output.logits.shape[1]


def test_head_starts_small_and_shares_its_weights_among_levels():
    rpn = RPN(16, AnchorConfig(), RPNConfig())
    assert sorted(name for name, _ in rpn.named_parameters()) == [
        f"{layer}.{kind}" for layer in ("conv", "deltas", "objectness") for kind in ("bias", "weight")
    ]
    assert all(abs(p.std() - 0.01) < 3e-3 for name, p in rpn.named_parameters() if name.endswith("weight"))


@torch.no_grad()
def test_boxes_and_losses_are_never_half():
    rpn = RPN(8, AnchorConfig(sizes=((8.0,),)), CONFIG).bfloat16()
    output = rpn([torch.rand(1, 8, 3, 3).bfloat16()], (8,), (24, 24))
    assert {output.logits.dtype, output.deltas.dtype, output.anchors[0].dtype} == {torch.float32}
    for dtype, expected in ((torch.float16, torch.float32), (torch.float64, torch.float64)):
        assert full_precision(torch.zeros(1, dtype=dtype)).dtype == expected


def test_defaults_are_the_papers():
    config = RPNConfig()
    assert (config.positive_iou, config.negative_iou, config.nms_iou) == (0.7, 0.3, 0.7)
    assert (config.anchors_per_image, config.positive_fraction) == (256, 0.5)
