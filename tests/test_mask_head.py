"""The mask head: its loss by hand, whose masks learn, and the sizes of its output."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minimaskrcnn.mask_head import (
    FCNMaskHead,
    FCNMaskHeadConfig,
    MLPMaskHead,
    MLPMaskHeadConfig,
    SigmoidMasks,
    SoftmaxMasks,
    mask_loss,
    mask_targets,
)

CONFIG = FCNMaskHeadConfig(pooled_size=3, channels=8, convs=2)


def random_case(seed: int, rois: int = 4, classes: int = 3, size: int = 4):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rois, classes, size, size, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (rois,), generator=generator)
    targets = torch.rand(rois, size, size, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), labels, targets, torch.rand(rois, generator=generator) < 0.6


def loss_by_loops(logits, labels, targets, positive) -> float:
    total, pixels = 0.0, 0
    for row in range(len(labels)):
        for value, target in zip(
            logits[row, labels[row]].flatten().tolist(), targets[row].flatten().tolist()
        ):
            if positive[row]:
                probability = 1 / (1 + math.exp(-value))
                total -= target * math.log(probability) + (1 - target) * math.log(1 - probability)
                pixels += 1
    return total / max(pixels, 1)


@given(st.integers(0, 10**6))
def test_loss_is_the_average_over_pixels_of_positive_rois(seed):
    case = random_case(seed)
    assert mask_loss(*case, SigmoidMasks()).mean.item() == pytest.approx(loss_by_loops(*case), abs=1e-9)


def test_loss_by_hand():
    logits = torch.tensor([[[[9.0]], [[0.0]]], [[[math.log(3)]], [[9.0]]]], dtype=torch.float64)
    # Probability 1/2 of a target of 1, and 3/4 of a target of 0.
    loss = mask_loss(
        logits,
        torch.tensor([1, 0]),
        torch.tensor([[[1.0]], [[0.0]]]).double(),
        torch.ones(2) > 0,
        SigmoidMasks(),
    )
    assert loss.mean.item() == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_classes_do_not_compete():
    logits, labels, targets, _ = random_case(1)
    positive = torch.tensor([True, True, False, True])
    mask_loss(logits, labels, targets, positive, SigmoidMasks()).mean.backward()
    for row in range(4):
        for label in range(3):
            learns = bool(positive[row]) and label == labels[row]
            # Not merely small: no other class's mask is in the loss at all.
            assert (logits.grad[row, label] != 0).all() if learns else not logits.grad[row, label].any()


@pytest.mark.parametrize("rois", [0, 3])
def test_without_positives_the_loss_is_zero_and_has_a_graph(rois):
    logits, labels, targets, _ = random_case(0, rois)
    loss = mask_loss(logits, labels, targets, torch.zeros(rois) > 0, SigmoidMasks())
    assert loss.count == 0 and loss.mean == 0 and loss.mean.requires_grad
    loss.mean.backward()
    assert not logits.grad.any()


def test_garbage_of_padding_reaches_nothing():
    logits, labels, targets, _ = random_case(0, 2)
    targets[1] = torch.nan
    positive = torch.tensor([True, False])
    loss = mask_loss(logits, labels, targets, positive, SigmoidMasks())
    alone = mask_loss(logits[:1], labels[:1], targets[:1], positive[:1], SigmoidMasks())
    assert loss.mean.item() == pytest.approx(alone.mean.item())


def test_each_rois_own_class_is_shown():
    logits, _, _, _ = random_case(2)
    labels = torch.tensor([2, 0, 1, 1])
    found = SigmoidMasks().probs(logits, labels)
    for row, label in enumerate(labels.tolist()):
        assert torch.equal(found[row], logits[row, label].sigmoid())


@pytest.mark.parametrize("convs", [0, 1, 4])
@pytest.mark.parametrize("rois", [0, 2])
def test_masks_are_twice_the_pooled_size(convs, rois):
    head = FCNMaskHead(5, 3, FCNMaskHeadConfig(pooled_size=3, channels=8, convs=convs))
    assert head(torch.rand(rois, 5, 3, 3)).shape == (rois, 3, 6, 6)
    assert len(head.convs) == convs


@torch.no_grad()
def test_deconvolution_puts_four_pixels_in_each_cell():
    head = FCNMaskHead(1, 1, FCNMaskHeadConfig(pooled_size=2, channels=1, convs=0))
    head.deconv.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2))
    head.predictor.weight.fill_(1)
    found = head(torch.tensor([[[[1.0, 10.0], [100.0, 0.0]]]]))
    assert found[0, 0].tolist() == [[1, 2, 10, 20], [3, 4, 30, 40], [100, 200, 0, 0], [300, 400, 0, 0]]


@torch.no_grad()
def test_logits_are_never_half():
    head = FCNMaskHead(5, 3, CONFIG).bfloat16()
    assert head(torch.rand(2, 5, 3, 3).bfloat16()).dtype == torch.float32


def test_defaults_are_the_papers():
    assert FCNMaskHeadConfig() == FCNMaskHeadConfig(pooled_size=14, channels=256, convs=4, norm="none")


@pytest.mark.unhooked
def test_mask_head_compiles_into_one_graph():
    head, pooled = FCNMaskHead(5, 3, CONFIG), torch.rand(2, 5, 3, 3)
    compiled = torch.compile(head, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(pooled), head(pooled))


@given(st.integers(0, 10**6), st.booleans())
def test_softmax_loss_is_the_multinomial_of_class_and_background(seed, agnostic):
    logits, labels, targets, positive = random_case(seed)
    config = SoftmaxMasks(class_agnostic=agnostic)
    total, pixels = 0.0, 0
    for row in positive.nonzero()[:, 0].tolist():
        channel = 1 if agnostic else int(labels[row])
        for y in range(4):
            for x in range(4):
                values = logits[row, :, y, x].tolist()
                log_sum = math.log(sum(math.exp(v) for v in values))
                share = targets[row, y, x].item()
                total -= share * (values[channel] - log_sum) + (1 - share) * (values[0] - log_sum)
                pixels += 1
    found = mask_loss(logits, labels, targets, positive, config)
    assert found.mean.item() == pytest.approx(total / max(pixels, 1), abs=1e-9)


def test_softmax_by_hand():
    # Odds of 3 to 1 to 1 in favour of class 1: probability 3/5.
    logits = torch.tensor([[[[0.0]], [[math.log(3)]], [[0.0]]]], dtype=torch.float64)
    labels, target = torch.tensor([1]), torch.ones(1, 1, 1, dtype=torch.float64)
    config = SoftmaxMasks()
    assert config.probs(logits, labels).item() == pytest.approx(0.6)
    assert mask_loss(logits, labels, target, torch.ones(1) > 0, config).mean.item() == pytest.approx(
        math.log(5 / 3)
    )
    # And of background: 1/5.
    found = mask_loss(logits, labels, 0 * target, torch.ones(1) > 0, config).mean.item()
    assert found == pytest.approx(math.log(5))


def test_an_agnostic_mask_is_the_same_for_every_class():
    logits, labels, targets, positive = random_case(3)
    config = SigmoidMasks(class_agnostic=True)
    probs = config.probs(logits[:, :1], labels)
    assert torch.equal(probs, logits[:, 0].sigmoid())
    loss = mask_loss(logits[:, :1], labels, targets, positive, config)
    assert loss.mean == mask_loss(logits[:, :1], 0 * labels, targets, positive, SigmoidMasks()).mean
    two = SoftmaxMasks(class_agnostic=True)
    assert torch.allclose(two.probs(logits[:, :2], labels), (logits[:, 1] - logits[:, 0]).sigmoid())


def test_binary_targets_are_the_aligned_crop_at_least_half():
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, :, :3] = True
    box, index = torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.tensor([0])
    targets = mask_targets(masks, index, box, 4, FCNMaskHeadConfig(binary_targets=True))
    # Bins of two columns: all, half (of columns 2 and 3), none, none.
    assert targets[0, 0].tolist() == [1, 1, 0, 0]
    shares = mask_targets(masks, index, box, 4, FCNMaskHeadConfig())
    assert not ((shares == 0) | (shares == 1)).all()


def test_targets_of_boxes_with_a_gradient_are_the_same_and_carry_it():
    masks = torch.rand(2, 12, 12, generator=torch.Generator().manual_seed(0)) > 0.5
    boxes = torch.tensor([[1.2, 2.3, 9.4, 8.1], [3.1, 0.2, 7.7, 11.3]], dtype=torch.float64)
    index = torch.tensor([1, 0])
    plain = mask_targets(masks, index, boxes, 3, FCNMaskHeadConfig())
    moving = mask_targets(masks, index, boxes.requires_grad_(), 3, FCNMaskHeadConfig())
    assert torch.allclose(plain, moving) and not plain.requires_grad
    moving.sum().backward()
    assert boxes.grad.any()


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_mlp_has_its_layers_and_makes_square_masks(layers):
    config = MLPMaskHeadConfig(pooled_size=3, hidden=7, hidden_layers=layers)
    head = config.build(5, 3, 4)
    assert isinstance(head, MLPMaskHead)
    assert len(head.hidden) == layers and head(torch.rand(2, 5, 3, 3)).shape == (2, 4, 6, 6)
    # In rows: the last hidden unit's weight to class 1, row 2, column 3 is one number.
    with torch.no_grad():
        head.predictor.weight.zero_()
        head.predictor.bias.copy_(torch.arange(4 * 36.0))
    assert head(torch.rand(1, 5, 3, 3))[0, 1, 2, 3] == 36 + 2 * 6 + 3
