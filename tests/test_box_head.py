"""The box head beside plain loops: sampling, losses, and what remains of its predictions as detections."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minimaskrcnn.box_head import (
    FCBoxHead,
    FCBoxHeadConfig,
    RoIs,
    box_losses,
    candidates,
    detect,
    sample_rois,
)
from minimaskrcnn.boxes import decode_deltas, encode_deltas
from minimaskrcnn.data.targets import GroundTruth
from minimaskrcnn.ops import box_iou, reference
from minimaskrcnn.padded import Rows, rows_to_compute
from minimaskrcnn.rpn import Proposals

CLASSES = 4
CONFIG = FCBoxHeadConfig(
    pooled_size=2, hidden=8, rois_per_image=8, positive_fraction=0.25, detections_per_image=6
)


def random_boxes(generator: torch.Generator, *shape: int) -> torch.Tensor:
    corner = 40 * torch.rand(*shape, 2, generator=generator, dtype=torch.float64)
    size = 5 + 15 * torch.rand(*shape, 2, generator=generator, dtype=torch.float64)
    return torch.cat([corner, corner + size], -1)


def random_truth(generator: torch.Generator, counts: tuple[int, ...]) -> GroundTruth:
    most = max(1, *counts)
    count = torch.tensor(counts)
    valid = torch.arange(most) < count[:, None]
    labels = torch.randint(1, CLASSES, valid.shape, generator=generator) * valid
    boxes = random_boxes(generator, len(counts), most) * valid[..., None]
    return GroundTruth(boxes, labels, valid, None, count.cumsum(0) - count, None)


def near(truth: GroundTruth, generator: torch.Generator, number: int) -> Proposals:
    """Proposals around the objects, some far off, some not valid."""
    images, most = truth.valid.shape
    which = torch.randint(0, most, (images, number), generator=generator)
    shift = 4 * torch.randn(images, number, 1, generator=generator, dtype=torch.float64)
    boxes = truth.boxes[torch.arange(images)[:, None], which] + shift
    boxes = torch.where(
        (boxes[..., 2:] > boxes[..., :2]).all(-1)[..., None], boxes, boxes.new_tensor([0, 0, 5, 5])
    )
    return Proposals(boxes, torch.rand(images, number, generator=generator) < 0.8)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), counts=st.tuples(st.integers(0, 4), st.integers(0, 4)))
def test_sampled_rois(seed, counts):
    generator = torch.Generator().manual_seed(seed)
    truth = random_truth(generator, counts)
    proposals = near(truth, generator, 10)
    rois = sample_rois(proposals, truth, CONFIG, torch.Generator().manual_seed(seed))
    for image, count in enumerate(counts):
        objects = truth.boxes[image, :count]
        valid, labels = rois.valid[image], rois.labels[image]
        positive = valid & (labels > 0)
        # What may be sampled: valid proposals and the objects themselves.
        pool = torch.cat([proposals.boxes[image][proposals.valid[image]], objects])
        best = box_iou(objects, pool).amax(0) if count else torch.zeros(len(pool))
        expected = min(int((best >= 0.5).sum()), 2)
        assert positive.sum() == expected
        assert valid.sum() == expected + min(int((best < 0.5).sum()), 8 - expected)
        assert positive[: int(positive.sum())].all()
        for roi, g, label in zip(rois.boxes[image][valid], rois.gt_index[image][valid], labels[valid]):
            assert (pool == roi).all(1).any()
            overlap = box_iou(objects, roi[None])[:, 0] if count else torch.zeros(1)
            if label > 0:
                assert overlap[g] == overlap.max() >= 0.5 and label == truth.labels[image, g]
            else:
                assert overlap.max() < 0.5


def test_the_ground_truth_is_always_among_the_rois():
    generator = torch.Generator().manual_seed(0)
    truth = random_truth(generator, (1, 2))
    useless = Proposals(
        torch.tensor([500.0, 500.0, 510.0, 510.0]).double().expand(2, 20, 4), torch.ones(2, 20) > 0
    )
    rois = sample_rois(useless, truth, CONFIG, generator)
    for image, count in enumerate((1, 2)):
        positive = rois.labels[image] > 0
        assert positive.sum() == count
        found = sorted(rois.boxes[image][positive].tolist())
        assert found == sorted(truth.boxes[image, :count].tolist())
        assert rois.valid[image].sum() == 8


def test_iou_of_one_half_is_an_object():
    truth = GroundTruth(
        torch.tensor([[[0.0, 0.0, 10.0, 1.0]]]),
        torch.tensor([[3]]),
        torch.tensor([[True]]),
        None,
        torch.tensor([0]),
        None,
    )
    boxes = torch.tensor([[[0.0, 0.0, 5.0, 1.0], [0.0, 0.0, 4.9, 1.0]]])
    rois = sample_rois(
        Proposals(boxes, torch.ones(1, 2) > 0), truth, replace(CONFIG, positive_fraction=1.0), None
    )
    valid = rois.valid[0]
    labels = {tuple(b): int(label) for b, label in zip(rois.boxes[0][valid].tolist(), rois.labels[0][valid])}
    assert [labels[tuple(box)] for box in boxes[0].tolist()] == [3, 0]


def test_sampling_is_reproducible():
    generator = torch.Generator().manual_seed(1)
    truth = random_truth(generator, (3, 2))
    proposals = near(truth, generator, 30)
    first, again, other = (
        sample_rois(proposals, truth, CONFIG, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert all(torch.equal(a, b) for a, b in zip(vars(first).values(), vars(again).values()))
    assert not torch.equal(first.boxes, other.boxes)


def test_rois_carry_the_gradient_of_their_proposals():
    generator = torch.Generator().manual_seed(1)
    truth = random_truth(generator, (3, 2))
    corner = 20 * torch.rand(2, 30, 2, generator=generator, dtype=torch.float64)
    boxes = torch.cat([corner, corner + 15], dim=-1).requires_grad_()
    rois = sample_rois(Proposals(boxes, torch.ones(2, 30) > 0), truth, CONFIG, generator)
    rois.boxes.sum().backward()
    # All four coordinates of each sampled proposal, once; a ground truth among the samples has no gradient.
    sampled = (rois.boxes[:, :, None] == boxes[:, None]).all(-1).any(1)
    assert rois.valid.all() and sampled.any(1).all()
    assert torch.equal(boxes.grad, sampled[..., None].double().expand_as(boxes))


def losses_by_loops(logits, deltas, rois, truth, rows, config) -> tuple[float, float]:
    classifier, box, number = 0.0, 0.0, 0
    for row, (image, column) in enumerate(zip(rows.image.tolist(), rows.column.tolist())):
        if not rois.valid[image, column]:
            continue
        number += 1
        label = int(rois.labels[image, column])
        exponents = [math.exp(value) for value in logits[row].tolist()]
        classifier -= math.log(exponents[label] / sum(exponents))
        if label > 0:
            gt = truth.boxes[image, rois.gt_index[image, column]]
            target = encode_deltas(gt[None], rois.boxes[image, column][None], config.delta_weights)[0]
            for difference in (deltas[row, label] - target).abs().tolist():
                beta = config.smooth_l1_beta
                box += difference**2 / (2 * beta) if difference < beta else difference - beta / 2
    return classifier / number, box / number


def sampled(seed: int, counts: tuple[int, ...] = (3, 2), proposals: int = 4):
    """Few enough proposals that some columns are padding."""
    generator = torch.Generator().manual_seed(seed)
    truth = random_truth(generator, counts)
    return truth, sample_rois(near(truth, generator, proposals), truth, CONFIG, generator), generator


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_losses_are_what_loops_say(seed):
    truth, rois, generator = sampled(seed)
    rows = rows_to_compute(rois.valid)
    logits = torch.randn(len(rows.image), CLASSES, generator=generator, dtype=torch.float64)
    deltas = torch.randn(len(rows.image), CLASSES, 4, generator=generator, dtype=torch.float64)
    losses = box_losses(logits, deltas, rois, truth, rows, CONFIG)
    classifier, box = losses_by_loops(logits, deltas, rois, truth, rows, CONFIG)
    assert losses["loss_classifier"].mean.item() == pytest.approx(classifier, abs=1e-9)
    assert losses["loss_box_reg"].mean.item() == pytest.approx(box, abs=1e-9)


def all_rows(valid: torch.Tensor) -> Rows:
    """The rows that a GPU computes: padding as well."""
    return rows_to_compute(torch.ones_like(valid))


def test_padding_changes_neither_losses_nor_gradients():
    truth, rois, generator = sampled(3, counts=(3, 1), proposals=3)
    assert not rois.valid.all() and rois.valid.any(1).all()
    everything = all_rows(rois.valid)
    logits = torch.randn(
        len(everything.image), CLASSES, generator=generator, dtype=torch.float64
    ).requires_grad_()
    deltas = torch.randn(
        len(everything.image), CLASSES, 4, generator=generator, dtype=torch.float64
    ).requires_grad_()
    kept = rois.valid.flatten()
    losses = box_losses(logits, deltas, rois, truth, everything, CONFIG)
    fewer = box_losses(logits[kept], deltas[kept], rois, truth, rows_to_compute(rois.valid), CONFIG)
    for name, value in losses.items():
        assert value.mean.item() == pytest.approx(fewer[name].mean.item(), abs=1e-12), name
    sum(loss.mean for loss in losses.values()).backward()
    assert logits.grad[~kept].abs().max() == 0 and deltas.grad.isfinite().all()


def test_only_the_ground_truth_classs_deltas_of_objects_learn():
    truth, rois, generator = sampled(5)
    rows = rows_to_compute(rois.valid)
    labels = rows.of(rois.labels)
    assert (labels > 0).any() and (labels == 0).any()
    deltas = torch.randn(len(labels), CLASSES, 4, generator=generator, dtype=torch.float64).requires_grad_()
    logits = torch.zeros(len(labels), CLASSES, dtype=torch.float64)
    box_losses(logits, deltas, rois, truth, rows, CONFIG)["loss_box_reg"].mean.backward()
    learns = deltas.grad.abs().sum(-1) > 0
    expected = torch.nn.functional.one_hot(labels, CLASSES).bool() & (labels > 0)[:, None]
    assert torch.equal(learns, expected)


def test_losses_without_any_object():
    truth, rois, _ = sampled(0, counts=(0, 0))
    rows = rows_to_compute(rois.valid)
    logits = torch.zeros(len(rows.image), CLASSES, dtype=torch.float64, requires_grad=True)
    deltas = torch.ones(len(rows.image), CLASSES, 4, dtype=torch.float64, requires_grad=True)
    losses = box_losses(logits, deltas, rois, truth, rows, CONFIG)
    assert (
        losses["loss_classifier"].mean.item() == pytest.approx(math.log(CLASSES)) and losses["loss_box_reg"].sum == 0
    )
    sum(loss.mean for loss in losses.values()).backward()
    assert logits.grad.any() and not deltas.grad.any()


def test_losses_of_no_roi_at_all_are_zero():
    zeros = torch.zeros(1, 2, dtype=torch.int64)
    nothing = RoIs(torch.zeros(1, 2, 4), zeros, zeros, zeros > 0, zeros > 0)
    truth, _, _ = sampled(0, counts=(0, 0))
    logits, deltas = (
        torch.zeros(0, CLASSES, requires_grad=True),
        torch.zeros(0, CLASSES, 4, requires_grad=True),
    )
    losses = box_losses(logits, deltas, nothing, truth, rows_to_compute(nothing.valid), CONFIG)
    assert [loss.mean.item() for loss in losses.values()] == [0, 0]
    sum(loss.mean for loss in losses.values()).backward()


def detections_by_loops(logits, deltas, boxes, valid, size, config) -> list[tuple[float, int, list[float]]]:
    """(score, label, box), best first."""
    kept = []
    for label in range(1, logits.shape[1]):
        class_boxes, scores = [], []
        for k in range(len(boxes)):
            score = logits[k].softmax(0)[label].item()
            if not valid[k] or score <= config.score_threshold:
                continue
            x1, y1, x2, y2 = decode_deltas(deltas[k, label][None], boxes[k][None], config.delta_weights)[
                0
            ].tolist()
            x1, x2 = (min(max(x, 0.0), size[1]) for x in (x1, x2))
            y1, y2 = (min(max(y, 0.0), size[0]) for y in (y1, y2))
            if x2 - x1 >= config.min_size and y2 - y1 >= config.min_size:
                class_boxes.append([x1, y1, x2, y2])
                scores.append(score)
        class_boxes = torch.tensor(class_boxes, dtype=torch.float64).view(-1, 4)
        order = reference.nms(class_boxes, torch.tensor(scores, dtype=torch.float64), config.nms_iou)
        kept += [(scores[k], label, class_boxes[k].tolist()) for k in order]
    return sorted(kept, key=lambda row: -row[0])[: config.detections_per_image]


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), threshold=st.sampled_from([0.0, 0.05, 0.3]))
def test_detections_are_what_loops_say(seed, threshold):
    generator = torch.Generator().manual_seed(seed)
    boxes, sizes = random_boxes(generator, 2, 9), [(30, 50), (50, 30)]
    proposals = Proposals(boxes, torch.rand(2, 9, generator=generator) < 0.8)
    logits = 2 * torch.randn(2, 9, CLASSES, generator=generator, dtype=torch.float64)
    deltas = torch.randn(2, 9, CLASSES, 4, generator=generator, dtype=torch.float64)
    config = replace(CONFIG, score_threshold=threshold, min_size=1.0)
    found = detect(logits, deltas, proposals, sizes, config)
    for image, size in enumerate(sizes):
        expected = detections_by_loops(
            logits[image], deltas[image], boxes[image], proposals.valid[image], size, config
        )
        valid = found.valid[image]
        assert valid[: len(expected)].all() and not valid[len(expected) :].any()
        assert found.labels[image][valid].tolist() == [label for _, label, _ in expected]
        for (score, _, box), s, b in zip(expected, found.scores[image][valid], found.boxes[image][valid]):
            assert s.item() == pytest.approx(score, abs=1e-12) and b.tolist() == pytest.approx(box, abs=1e-9)


def test_scores_must_exceed_the_threshold_and_nms_keeps_classes_apart():
    box = torch.tensor([[[0.0, 0.0, 10.0, 10.0]] * 3]).double()
    # Of both classes 0.3 in the first, 0.25 in the second, and 0.31 of the first class only in the third.
    probs = torch.tensor([[[0.4, 0.3, 0.3], [0.5, 0.25, 0.25], [0.59, 0.31, 0.1]]]).double()
    config = replace(CONFIG, score_threshold=0.25)
    proposals = Proposals(box, torch.ones(1, 3) > 0)
    found = detect(probs.log(), torch.zeros(1, 3, 3, 4).double(), proposals, [(20, 20)], config)
    assert found.labels[found.valid].tolist() == [1, 2]
    assert found.scores[found.valid].tolist() == pytest.approx([0.31, 0.3])


def test_a_score_at_the_threshold_is_no_candidate():
    # Both pictures get as many columns as the first needs; the second's 0.25 is in the last of its.
    scores = torch.tensor([[[0.2, 0.4, 0.4]], [[0.45, 0.3, 0.25]]])
    best, _, valid = candidates(scores, torch.ones(2, 1) > 0, replace(CONFIG, score_threshold=0.25))
    assert best[1].tolist() == pytest.approx([0.3, 0.25]) and valid.tolist() == [[True, True], [True, False]]


def test_nothing_above_the_threshold():
    boxes = random_boxes(torch.Generator().manual_seed(0), 2, 5)
    logits = torch.tensor([50.0, 0.0, 0.0, 0.0]).double().expand(2, 5, 4)
    found = detect(
        logits,
        torch.zeros(2, 5, 4, 4).double(),
        Proposals(boxes, torch.ones(2, 5) > 0),
        [(50, 50)] * 2,
        CONFIG,
    )
    assert not found.valid.any() and found.boxes.shape[0] == 2 and found.boxes.shape[2] == 4


def test_no_valid_proposal():
    boxes = random_boxes(torch.Generator().manual_seed(0), 1, 5)
    found = detect(
        torch.zeros(1, 5, 3),
        torch.zeros(1, 5, 3, 4),
        Proposals(boxes, torch.zeros(1, 5) > 0),
        [(50, 50)],
        CONFIG,
    )
    assert not found.valid.any()


@given(
    seed=st.integers(0, 10**6), classes=st.integers(2, 40), threshold=st.sampled_from([0.05, 0.1, 0.4, 0.9])
)
def test_no_more_candidates_can_pass_than_a_gpu_makes_room_for(seed, classes, threshold):
    logits = 3 * torch.randn(2, 7, classes, generator=torch.Generator().manual_seed(seed))
    scores, valid = logits.softmax(-1), torch.ones(2, 7) > 0
    config = replace(CONFIG, score_threshold=threshold)
    with torch.device("meta"):
        room = candidates(torch.empty(2, 7, classes), torch.empty(2, 7, dtype=torch.bool), config)[0].shape[1]
    best, index, passing = candidates(scores, valid, config)
    assert best.shape[1] == passing.sum(1).max() <= room <= 7 * (classes - 1)
    for image in range(2):
        row, label = index[image] // (classes - 1), index[image] % (classes - 1) + 1
        assert torch.equal(scores[image, row, label], best[image])


@torch.no_grad()
def test_heads_outputs():
    torch.manual_seed(0)
    head = FCBoxHead(3, CLASSES, CONFIG)
    pooled = torch.rand(5, 3, 2, 2)
    logits, deltas = head(pooled)
    assert logits.shape == (5, 4) and deltas.shape == (5, 4, 4)
    # Deltas are ordered class first, as in torchvision's weights.
    head.deltas.weight.zero_()
    head.deltas.bias.copy_(torch.arange(16.0))
    assert head(pooled)[1][0].tolist() == torch.arange(16.0).view(4, 4).tolist()
    assert head(pooled[:0])[0].shape == (0, 4)
    head.bfloat16()
    assert [value.dtype for value in head(pooled.bfloat16())] == [torch.float32] * 2


def test_defaults_are_the_papers():
    config = FCBoxHeadConfig()
    assert (config.pooled_size, config.hidden, config.rois_per_image) == (7, 1024, 512)
    assert (config.positive_fraction, config.positive_iou) == (0.25, 0.5)
    assert (config.score_threshold, config.nms_iou, config.detections_per_image) == (0.05, 0.5, 100)


@pytest.mark.unhooked
def test_box_head_compiles_into_one_graph():
    head = FCBoxHead(3, CLASSES, CONFIG)
    pooled = torch.rand(5, 3, 2, 2)
    # "eager" runs the captured graph as it is: what is asked here is that there is one.
    compiled = torch.compile(head, fullgraph=True, backend="eager")
    for found, expected in zip(compiled(pooled), head(pooled)):
        assert torch.allclose(found, expected)
