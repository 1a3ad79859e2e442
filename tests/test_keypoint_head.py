"""The keypoint head: targets at the edges of a box, its loss by hand, what learns, and torchvision's numbers."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from parity import assert_close, torchvision
from torch import Tensor

from minimaskrcnn.keypoint_head import KeypointHead, KeypointHeadConfig, keypoint_loss, keypoint_targets
from minimaskrcnn.ops import reference_keypoints as reference

CONFIG = KeypointHeadConfig(num_keypoints=5, pooled_size=3, channels=8, convs=2)


def random_case(seed: int, rois: int = 4, keypoints: int = 3, size: int = 6) -> SimpleNamespace:
    """Keypoints in, on the edge of and beside their boxes, of every visibility; coordinates on quarter pixels."""
    random = torch.Generator().manual_seed(seed)
    corner = torch.randint(-40, 40, (rois, 2), generator=random) / 4
    boxes = torch.cat([corner, corner + torch.randint(1, 80, (rois, 2), generator=random) / 4], 1).double()
    place = torch.randint(-1, 10, (rois, keypoints, 2), generator=random).double() / 8
    points = boxes[:, None, :2] + place * (boxes[:, None, 2:] - boxes[:, None, :2])
    flags = torch.randint(0, 3, (rois, keypoints, 1), generator=random).double()
    logits = 2 * torch.randn(rois, keypoints, size, size, generator=random, dtype=torch.float64)
    return SimpleNamespace(
        logits=logits.requires_grad_(),
        keypoints=torch.cat([points, flags], 2),
        boxes=boxes,
        positive=torch.rand(rois, generator=random) < 0.7,
    )


def loss_of(case: SimpleNamespace, divisor: float | None = None) -> Tensor:
    loss = keypoint_loss(case.logits, case.keypoints, case.boxes, case.positive)
    return loss.mean if divisor is None else loss.sum / divisor


# Box 10..18 × 20..24 in a map of 4: cells are two pixels wide and one high.
BOX = torch.tensor([[10.0, 20.0, 18.0, 24.0]])


@pytest.mark.parametrize(
    ("x", "y", "v", "cell"),
    [
        (10.0, 20.0, 2.0, 0),  # the upper left corner
        (13.0, 22.5, 2.0, 2 * 4 + 1),
        (13.0, 22.5, 1.0, 2 * 4 + 1),  # hidden keypoints are labelled, too
        (13.0, 22.5, 0.0, None),
        (12.0, 21.0, 2.0, 1 * 4 + 1),  # on a line between cells: the cell after it
        (18.0, 21.5, 2.0, 1 * 4 + 3),  # on the right edge
        (11.0, 24.0, 2.0, 3 * 4 + 0),  # on the lower edge
        (18.0, 24.0, 2.0, 15),
        (9.99, 22.0, 2.0, None),
        (18.01, 22.0, 2.0, None),
        (12.0, 19.99, 2.0, None),
        (12.0, 24.01, 2.0, None),
        (18.0, 25.0, 2.0, None),  # on one edge, beyond the other
        (math.nan, 22.0, 2.0, None),
        (math.inf, 22.0, 2.0, None),
    ],
)
def test_targets_at_the_edges_of_a_box(x, y, v, cell):
    found, counts = keypoint_targets(torch.tensor([[[x, y, v]]]), BOX, 4)
    assert counts.item() == (cell is not None)
    assert found.item() == (cell or 0)


@given(st.integers(0, 10**6), st.integers(1, 56))
def test_targets_are_their_definition(seed, size):
    case = random_case(seed)
    found, counts = keypoint_targets(case.keypoints, case.boxes, size)
    expected, expected_counts = reference.keypoint_targets(case.keypoints, case.boxes, size)
    assert torch.equal(counts, expected_counts)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "box", [(3.0, 4.0, 3.0, 9.0), (3.0, 4.0, 8.0, 4.0), (3.0, 4.0, 3.0, 4.0), (8.0, 9.0, 3.0, 4.0)]
)
def test_a_degenerate_box_has_no_targets(box):
    corners = [[x, y, 2.0] for x in (box[0], box[2], 5.0) for y in (box[1], box[3], 6.0)]
    found, counts = keypoint_targets(torch.tensor([corners]), torch.tensor([box]), 56)
    assert not counts.any() and not found.any()


@given(st.integers(0, 10**6), st.sampled_from([None, 0.5, 34.0]))
def test_loss_is_its_definition(seed, divisor):
    case = random_case(seed)
    expected = reference.keypoint_loss(case.logits, case.keypoints, case.boxes, case.positive, divisor)
    assert loss_of(case, divisor).item() == pytest.approx(expected, abs=1e-9)


def test_loss_by_hand():
    # Two cells a side.  The first roi's keypoints: in the last cell with share 3/6, not labelled, in the first cell
    # with share 1/4.  The second roi is negative.
    logits = torch.zeros(2, 3, 2, 2, dtype=torch.float64)
    logits[0, 0, 1, 1] = math.log(3)
    logits[0, 1, 0, 0] = logits[1] = 7.0
    keypoints = torch.tensor([[7.0, 9.0, 2.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]).double().expand(2, 3, 3)
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).double().expand(2, 4)
    positive = torch.tensor([True, False])
    loss = keypoint_loss(logits, keypoints, boxes, positive)
    assert loss.mean.item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert loss.count == 2
    nominal = loss.sum / 6
    assert nominal.item() == pytest.approx((math.log(2) + math.log(4)) / 6)


def test_only_visible_keypoints_of_positive_rois_learn():
    case = random_case(3, rois=8)
    loss_of(case).backward()
    learns = keypoint_targets(case.keypoints, case.boxes, 6)[1] & case.positive[:, None]
    assert 0 < learns.sum() < learns.numel() and not case.positive.all()
    # Every cell of the map: cells compete.
    assert torch.equal((case.logits.grad != 0).all((2, 3)), learns)
    assert torch.equal((case.logits.grad != 0).any(3).any(2), learns)


@pytest.mark.parametrize("rois", [0, 3])
@pytest.mark.parametrize("why", ["negative", "not labelled", "outside", "degenerate"])
def test_without_a_visible_keypoint_the_loss_is_zero_and_reaches_every_parameter(rois, why):
    head = KeypointHead(4, CONFIG)
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0]]).repeat(rois, 1)
    keypoints = torch.tensor([3.0, 3.0, 2.0]).repeat(rois, 5, 1)
    if why == "not labelled":
        keypoints[..., 2] = 0
    elif why == "outside":
        keypoints[..., 0] = 100
    elif why == "degenerate":
        boxes[:, 2] = 0
    positive = torch.full((rois,), why != "negative")
    logits = head(torch.rand(rois, 4, 3, 3))
    logits.retain_grad()
    loss = keypoint_loss(logits, keypoints, boxes, positive)
    assert loss.sum == 0 and loss.count == 0
    loss.mean.backward()
    for gradient in [logits.grad, *(parameter.grad for parameter in head.parameters())]:
        assert gradient is not None and torch.equal(gradient, torch.zeros_like(gradient))


def test_garbage_of_padding_reaches_nothing():
    case = random_case(1, rois=3)
    case.positive[:] = torch.tensor([True, True, False])
    case.keypoints[2], case.boxes[2] = torch.nan, torch.nan
    loss = loss_of(case)
    few = (case.logits[:2], case.keypoints[:2], case.boxes[:2], case.positive[:2])
    assert loss > 0 and loss.item() == pytest.approx(keypoint_loss(*few).mean.item())
    loss.backward()
    assert case.logits.grad.isfinite().all() and not case.logits.grad[2].any()


@given(st.integers(0, 10**6))
def test_the_order_of_rois_does_not_matter(seed):
    case = random_case(seed, rois=5)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    permuted = keypoint_loss(
        case.logits[order], case.keypoints[order], case.boxes[order], case.positive[order]
    )
    assert permuted.mean.item() == pytest.approx(loss_of(case).item())


@pytest.mark.parametrize("convs", [0, 1, 3])
@pytest.mark.parametrize("rois", [0, 2])
def test_heat_maps_are_four_times_the_pooled_size(convs, rois):
    config = KeypointHeadConfig(num_keypoints=5, pooled_size=3, channels=8, convs=convs, norm="group")
    head = KeypointHead(6, config)
    assert head(torch.rand(rois, 6, 3, 3)).shape == (rois, 5, 12, 12)
    assert len(head.convs) == len(head.norms) == convs and config.heatmap_size == 12


@torch.no_grad()
def test_deconvolution_and_upsampling_by_hand():
    head = KeypointHead(1, KeypointHeadConfig(num_keypoints=1, pooled_size=1, channels=1, convs=0))
    head.deconv.weight.copy_(torch.arange(16.0).view(1, 1, 4, 4))
    # Padding by 1 cuts the kernel's border off.  5, 6 above 9, 10 are left; each grows to two cells a side, whose
    # centres lie a quarter of a cell beside its own.
    found = head(torch.ones(1, 1, 1, 1))
    assert found[0, 0, 0].tolist() == [5.0, 5.25, 5.75, 6.0]
    assert found[0, 0, :, 0].tolist() == [5.0, 6.0, 8.0, 9.0]


def test_norms_stand_between_convolution_and_relu():
    head = KeypointHead(
        2, KeypointHeadConfig(num_keypoints=1, pooled_size=3, channels=8, convs=1, norm="group")
    )
    torch.nn.init.zeros_(head.norms[0].weight)
    torch.nn.init.constant_(head.norms[0].bias, -1.0)
    torch.nn.init.constant_(head.deconv.bias, 5.0)
    # All channels are -1 before the ReLU, so only the deconvolution's bias is left.
    assert torch.equal(head(torch.rand(1, 2, 3, 3)), torch.full((1, 1, 12, 12), 5.0))


def test_names_of_the_parameters():
    names = set(KeypointHead(4, CONFIG).state_dict())
    layers = {"convs.0", "convs.1", "deconv"}
    assert names == {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}


def test_initial_weights_keep_the_size_of_gradients():
    torch.manual_seed(0)
    head = KeypointHead(64, KeypointHeadConfig(channels=64, convs=2))
    for layer, fan_out in ((head.convs[1], 64 * 9), (head.deconv, 64 * 16)):
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
        assert not layer.bias.any()


@torch.no_grad()
def test_logits_are_never_half():
    head = KeypointHead(4, CONFIG).bfloat16()
    assert head(torch.rand(2, 4, 3, 3).bfloat16()).dtype == torch.float32


def test_defaults_are_the_papers():
    paper = KeypointHeadConfig(num_keypoints=17, pooled_size=14, channels=512, convs=8, norm="none")
    assert KeypointHeadConfig() == paper and paper.heatmap_size == 56
    assert (paper.loss_divisor, paper.score) == ("visible", "logit")


@pytest.mark.unhooked
def test_head_and_loss_compile_into_one_graph():
    # One graph also means that nothing in it waits for a number from the device.
    head, case = KeypointHead(4, CONFIG), random_case(0, rois=2, keypoints=5)

    def forward(pooled: Tensor) -> Tensor:
        return keypoint_loss(head(pooled), case.keypoints.float(), case.boxes.float(), case.positive).mean

    pooled = torch.rand(2, 4, 3, 3)
    compiled = torch.compile(forward, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(pooled), forward(pooled))


@given(st.integers(0, 10**6), st.sampled_from([1, 7, 56]))
def test_parity_of_targets_with_torchvision(seed, size):
    peer = torchvision().models.detection.roi_heads
    case = random_case(seed, rois=20, keypoints=6)
    for dtype in (torch.float32, torch.float64):
        keypoints, boxes = case.keypoints.to(dtype), case.boxes.to(dtype)
        expected, valid = peer.keypoints_to_heatmap(keypoints, boxes, size)
        found, counts = keypoint_targets(keypoints, boxes, size)
        assert torch.equal(counts, valid.bool())
        assert torch.equal(found, expected)


@given(st.integers(0, 10**6))
def test_parity_of_loss_with_torchvision(seed):
    peer = torchvision().models.detection.roi_heads
    case = random_case(seed, rois=9)
    case.positive[0] = True
    case.keypoints[0, 0, :2], case.keypoints[0, 0, 2] = case.boxes[0, 2:], 2
    rows = case.positive.nonzero()[:, 0]
    index = torch.arange(len(rows))
    expected = peer.keypointrcnn_loss(case.logits[rows], [case.boxes[rows]], [case.keypoints[rows]], [index])
    assert_close(loss_of(case), expected)


@torch.no_grad()
def test_parity_of_the_head_with_torchvision():
    peer = torchvision().models.detection.keypoint_rcnn
    head = KeypointHead(6, CONFIG).double()
    convs = peer.KeypointRCNNHeads(6, (8, 8)).double()
    predictor = peer.KeypointRCNNPredictor(8, 5).double()
    for ours, theirs in zip([*head.convs, head.deconv], [convs[0], convs[2], predictor.kps_score_lowres]):
        theirs.load_state_dict(ours.state_dict())
    pooled = torch.randn(3, 6, 3, 3, dtype=torch.float64)
    assert_close(head(pooled), predictor(convs(pooled)))
