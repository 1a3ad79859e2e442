"""Test-time augmentation: one view is the model itself, a mirrored picture gives mirrored results, views add up."""

from dataclasses import replace

import pytest
import torch
from models import random_image, tiny_config, tiny_model, with_keypoints

from minimaskrcnn.data.transforms import FLIPPED_KEYPOINT, Batch
from minimaskrcnn.keypoint_head import keypoint_targets
from minimaskrcnn.mask_rcnn import MaskRCNN
from minimaskrcnn.views import View, ViewsConfig, _into_view, detect_in_views, mirror

PLAIN = ViewsConfig(scales=(1.0,), flip=False)


def model_with_keypoints(seed: int = 0, *, pixel_centres: bool = False) -> MaskRCNN:
    torch.manual_seed(seed)
    config = with_keypoints(tiny_config())
    head = replace(config.keypoint_head, pixel_centres=pixel_centres)
    model = MaskRCNN(replace(config, keypoint_head=head)).double().eval()
    with torch.no_grad():
        model.rpn.objectness.weight.mul_(50)
        model.rpn.deltas.weight.mul_(10)
        model.box_head.classifier.weight.mul_(10)
    return model


@pytest.mark.parametrize("paste", [True, False])
def test_one_plain_view_is_the_model(paste):
    # A size that the model does not change: keypoints are decoded in the picture's pixels here.
    model, image = model_with_keypoints(), random_image(48, 64, dtype=torch.float64)
    with torch.no_grad():
        (expected,) = model([image], paste=paste)
    found = detect_in_views(model, image, PLAIN, paste=paste)
    assert found.keys() == expected.keys() and len(found["boxes"]) > 3
    for name, value in expected.items():
        # A second NMS of what has passed one changes nothing.
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-9)


def test_a_mirrored_picture_gives_mirrored_results():
    """With flip=True both have the same two views, in other order."""
    # Joints at pixels' centres mirror as boxes do, so that both views read the same RoIs.
    model, image = model_with_keypoints(1, pixel_centres=True), random_image(50, 64, 3, dtype=torch.float64)
    config = ViewsConfig(scales=(1.0, 0.75))
    found, other = (detect_in_views(model, picture, config) for picture in (image, image.flip(-1)))
    assert len(found["boxes"]) > 3
    assert torch.equal(found["labels"], other["labels"])
    torch.testing.assert_close(found["scores"], other["scores"])
    torch.testing.assert_close(mirror(found["boxes"], 64), other["boxes"])
    torch.testing.assert_close(found["masks"].flip(-1), other["masks"], atol=0.51, rtol=0)
    # Joint by joint; a tie of two pixels may be broken from either side.
    x, y = found["keypoints"][:, list(FLIPPED_KEYPOINT), :2].unbind(-1)
    near = ((63 - x) - other["keypoints"][..., 0]).abs() < 1.1
    near &= (y - other["keypoints"][..., 1]).abs() < 1.1
    assert near.double().mean() > 0.95


def test_masks_are_averaged_over_views():
    model, image = tiny_model(seed=2).double().eval(), random_image(48, 64, 5, dtype=torch.float64)
    config = ViewsConfig(scales=(1.0,), flip=True)
    found = detect_in_views(model, image, config, paste=False)
    with torch.no_grad():
        plain = detect_in_views(model, image, PLAIN, paste=False)
        flipped = detect_in_views(model, image.flip(-1), PLAIN, paste=False)
    # Each merged box is one of the two views' boxes, best first.
    both = torch.cat([plain["boxes"], mirror(flipped["boxes"], 64)])
    distance = (found["boxes"][:, None] - both[None]).abs().amax(2).min(1).values
    assert distance.max() < 1e-9
    assert (found["scores"].diff() <= 0).all()
    # An average of two probabilities that differ lies strictly between them.
    first = (plain["boxes"] - found["boxes"][0]).abs().amax(1)
    if first.min() < 1e-9:
        mine = plain["mask_probs"][first.argmin()]
        assert not torch.allclose(found["mask_probs"][0], mine)
        assert ((2 * found["mask_probs"][0] - mine) > 0).all()
        assert ((2 * found["mask_probs"][0] - mine) < 1).all()


def test_a_picture_without_detections():
    model = tiny_model()
    model = MaskRCNN(
        replace(model.config, box_head=replace(model.config.box_head, score_threshold=1.0))
    ).eval()
    found = detect_in_views(model, random_image(40, 50), ViewsConfig(scales=(1.0, 0.5)))
    assert len(found["boxes"]) == 0 and found["masks"].shape == (0, 1, 40, 50)


@pytest.mark.parametrize("scales", [(), (0.0,), (1.0, -1.0)])
def test_scales_must_be_positive(scales):
    with pytest.raises(ValueError, match="expected at least one, all above 0"):
        detect_in_views(tiny_model(), random_image(40, 50), ViewsConfig(scales=scales))


@pytest.mark.parametrize("pixel_centres", [False, True])
def test_a_mirrored_joint_lies_in_the_mirrored_cell(pixel_centres):
    """What training aims at in a mirrored picture is the mirror image of what it aims at in the plain one."""
    height, width, cells = 40, 60, 56
    box = torch.tensor([[10.37, 4.0, 41.77, 30.0]])
    view = View(Batch(torch.zeros(1, 3, height, width), [(height, width)], [(height, width)]), [], True)
    there = _into_view(box, view, (height, width), indices=not pixel_centres)
    for x in range(12, 41):
        index = torch.tensor([[[float(x), 9.0, 2.0]]])
        mirrored = torch.tensor([[[width - 1.0 - x, 9.0, 2.0]]])
        shift = torch.tensor([0.5, 0.5, 0.0]) * pixel_centres
        plain, _ = keypoint_targets(index + shift, box, cells)
        seen, _ = keypoint_targets(mirrored + shift, there, cells)
        assert seen.item() % cells == cells - 1 - plain.item() % cells, x
