"""The modules of torchvision's names: what they print, what they compute, and a detector of torchvision with them."""

import copy
import inspect
import math

import pytest
import torch
from parity import assert_close, torchvision
from torch import Tensor

from minimaskrcnn import ops

MODULES = [
    ("RoIAlign", {"output_size": (3, 2), "spatial_scale": 0.5, "sampling_ratio": 2}),
    ("RoIAlign", {"output_size": 3, "spatial_scale": 0.25, "sampling_ratio": -1, "aligned": True}),
    ("RoIPool", {"output_size": (3, 2), "spatial_scale": 0.5}),
    ("RoIPool", {"output_size": 4, "spatial_scale": 1.0}),
]


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def some_boxes(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Boxes of all sizes in a picture."""
    random = torch.Generator().manual_seed(seed)
    size = torch.tensor([width, height])
    sides = size * 2 ** (-6 * torch.rand(count, 2, generator=random, dtype=torch.float64))
    corner = (size - sides) * torch.rand(count, 2, generator=random, dtype=torch.float64)
    return torch.cat([corner, corner + sides], 1)


@pytest.mark.parametrize("name", ["RoIAlign", "RoIPool", "MultiScaleRoIAlign"])
def test_the_constructors_arguments_are_torchvisions(name):
    def parameters(module) -> list[tuple]:
        found = inspect.signature(getattr(module, name)).parameters.values()
        return [(p.name, p.kind, p.default) for p in found]

    assert parameters(ops) == parameters(torchvision().ops)


@pytest.mark.parametrize(("name", "arguments"), MODULES)
def test_parity_of_the_poolings_of_one_map(name, arguments):
    ours = getattr(ops, name)(**arguments)
    theirs = getattr(torchvision().ops, name)(**arguments)
    assert repr(ours) == repr(theirs)
    features = seeded(2, 3, 20, 24)
    lists = [some_boxes(5, 40, 48, seed=0), some_boxes(4, 40, 48, seed=1)]
    rows = torch.cat([torch.cat([torch.full((len(b), 1), float(i)), b], 1) for i, b in enumerate(lists)])
    expected = theirs(features, rows)
    assert_close(ours(features, rows), expected)
    assert_close(ours(features, lists), expected)


SIZES = [(256, 320), (250, 300)]
# The maps' divisors of 256 × 320, the order in which they are asked for, and what else is given.
PYRAMIDS = {
    "four levels": ([4, 8, 16, 32], {}),
    "one level": ([16], {}),
    "other canonical numbers": ([4, 8, 16], {"canonical_scale": 100, "canonical_level": 3}),
    "a level is skipped": ([4, 16], {}),
    "two levels are skipped": ([4, 32], {}),
}


@pytest.mark.parametrize(("divisors", "rule"), PYRAMIDS.values(), ids=PYRAMIDS.keys())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_parity_of_multiscale(divisors, rule, dtype):
    names = [f"p{divisor}" for divisor in divisors]
    maps = {name: seeded(2, 3, 256 // d, 320 // d, seed=d, dtype=dtype) for name, d in zip(names, divisors)}
    maps["pool"] = seeded(2, 3, 4, 5, dtype=dtype)
    boxes = [some_boxes(60, *size, seed=i).to(dtype) for i, size in enumerate(SIZES)]
    # Sides that stand on the border of two levels.
    boxes[0][:3, 2:] = boxes[0][:3, :2] + torch.tensor([56.0, 112, 224])[:, None]
    given = (names[::-1], (4, 3), 2)
    ours = ops.MultiScaleRoIAlign(*given, **rule)
    theirs = torchvision().ops.MultiScaleRoIAlign(*given, **rule)
    assert repr(ours) == repr(theirs)
    expected = theirs(maps, boxes, SIZES)
    assert_close(ours(maps, boxes, SIZES), expected)
    assert ours.scales == theirs.scales
    # What was guessed at the first call stays, whatever the next images.
    assert_close(ours(maps, boxes, [(2000, 2000)]), expected)
    none = [torch.zeros(0, 4, dtype=dtype)] * 2
    assert ours(maps, none, SIZES).shape == theirs(maps, none, SIZES).shape == (0, 3, 4, 3)


def test_scales_are_guessed_as_torchvision_guesses_them():
    for height in (1, 3, 7, 11, 40, 45, 46, 63, 64, 90, 91, 200):
        maps = {"0": torch.zeros(1, 1, height, 50)}
        peer = torchvision().ops.MultiScaleRoIAlign(["0"], 1, 1)
        ours = ops.MultiScaleRoIAlign(["0"], 1, 1)
        for module in (peer, ours):
            module(maps, [torch.zeros(1, 4)], [(200, 301), (256, 20)])
        assert ours.scales == peer.scales


def test_maps_of_two_dtypes_give_the_firsts():
    # Under autocast layers may differ in what they return.
    maps = {"0": seeded(1, 2, 16, 16, dtype=torch.float32), "1": seeded(1, 2, 8, 8)}
    boxes = [some_boxes(9, 64, 64).float()]
    out = ops.MultiScaleRoIAlign(["0", "1"], 2, 2, canonical_scale=32)(maps, boxes, [(64, 64)])
    assert out.dtype == torch.float32
    same = {name: feature.float() for name, feature in maps.items()}
    assert_close(
        out, ops.MultiScaleRoIAlign(["0", "1"], 2, 2, canonical_scale=32)(same, boxes, [(64, 64)])
    )


def test_errors_of_multiscale():
    maps = {"fine": torch.zeros(1, 1, 16, 16), "coarse": torch.zeros(1, 1, 8, 8)}
    boxes = [torch.zeros(1, 4)]
    with pytest.raises(ValueError, match="0 maps, 1 images: expected at least one of each"):
        ops.MultiScaleRoIAlign(["other"], 2, 2)(maps, boxes, [(64, 64)])
    with pytest.raises(ValueError, match="2 maps, 0 images"):
        ops.MultiScaleRoIAlign(["fine", "coarse"], 2, 2)(maps, boxes, [])
    reverse = dict(reversed(maps.items()))
    with pytest.raises(ValueError, match=r"scales \[0.125, 0.25\]: expected the finest first"):
        ops.MultiScaleRoIAlign(["fine", "coarse"], 2, 2)(reverse, boxes, [(64, 64)])


@pytest.mark.unhooked
def test_multiscale_compiles_into_one_graph():
    maps = {"0": seeded(1, 2, 16, 16, dtype=torch.float32), "1": seeded(1, 2, 8, 8, dtype=torch.float32)}
    boxes = [some_boxes(5, 64, 64).float()]
    module = ops.MultiScaleRoIAlign(["0", "1"], 2, 2)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")(maps, boxes, [(64, 64)])
    assert_close(compiled, module(maps, boxes, [(64, 64)]))


def detector(dtype: torch.dtype) -> torch.nn.Module:
    """torchvision's Mask R-CNN for small pictures, with random weights that find some objects."""
    torch.manual_seed(0)
    small = {"num_classes": 5, "min_size": 128, "max_size": 160, "box_score_thresh": 0.1}
    few = {"rpn_post_nms_top_n_test": 200, "box_detections_per_img": 30}
    build = torchvision().models.detection.maskrcnn_resnet50_fpn
    model = build(weights=None, weights_backbone=None, **small, **few)
    # Random predictors give five equal scores: louder ones differ.
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    torch.nn.init.normal_(model.roi_heads.mask_predictor.mask_fcn_logits.weight, std=0.1)
    # Deltas of a few pixels, and proposals of many sizes.
    torch.nn.init.normal_(model.rpn.head.bbox_pred.weight, std=0.02)
    return model.eval().to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@torch.no_grad()
def test_a_detector_of_torchvision_gives_the_same_detections(dtype):
    theirs = detector(dtype)
    changed = copy.deepcopy(theirs)
    for name in ("box_roi_pool", "mask_roi_pool"):
        peer = getattr(changed.roi_heads, name)
        pool = ops.MultiScaleRoIAlign(peer.featmap_names, peer.output_size, peer.sampling_ratio)
        setattr(changed.roi_heads, name, pool)
    random = torch.Generator().manual_seed(1)
    images = [torch.rand(3, *size, generator=random).to(dtype) for size in ((120, 160), (150, 150))]
    tolerance = {"rtol": 1e-8, "atol": 1e-8} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-3}
    for ours, expected in zip(changed(images), theirs(images), strict=True):
        assert len(expected["boxes"]) == 30 and len(expected["labels"].unique()) >= 2
        sides = (expected["boxes"][:, 2:] - expected["boxes"][:, :2]).amax(1)
        assert sides.max() / sides.min() > math.e
        assert torch.equal(ours["labels"], expected["labels"])
        for key in ("boxes", "scores", "masks"):
            torch.testing.assert_close(ours[key], expected[key], **tolerance)
