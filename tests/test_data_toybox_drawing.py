"""What the toybox is drawn with: distances, people, colours, and the way from a mask to COCO's segmentation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco_mask

from minimaskrcnn.data.keypoints import KEYPOINT_NAMES
from minimaskrcnn.data.toybox.backdrop import (
    BACKDROP_PAIRS,
    HAIR_COLOURS,
    OBJECT_COLOURS,
    SKIN_COLOURS,
    backdrop,
    oklab,
    standing_out,
)
from minimaskrcnn.data.toybox.coco_masks import bounding_box, segmentation, signed_area, trace_borders
from minimaskrcnn.data.toybox.layout import Layer, ToyboxConfig, centred, recognisable, visible_masks
from minimaskrcnn.data.toybox.people import draw_person, dress
from minimaskrcnn.data.toybox.poses import draw_pose
from minimaskrcnn.data.toybox.scenes import paint
from minimaskrcnn.data.toybox.shapes import FIGURES, Brush, draw_figure

# pycocotools 2.0.11 decodes through an __array__ that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
MASKS = arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))).filter(np.any)
CONFIG = ToyboxConfig()
BRUSH = Brush(light=(0.6, 0.8), blur=2.0)


def decode(code: list | dict, mask: np.ndarray) -> np.ndarray:
    if isinstance(code, list):
        code = coco_mask.merge(coco_mask.frPyObjects(code, *mask.shape))
    elif isinstance(code["counts"], list):
        code = coco_mask.frPyObjects(code, *mask.shape)
    return coco_mask.decode(code).astype(bool)


# ---- masks to segmentations


@given(mask=MASKS, polygons=st.booleans(), compressed=st.booleans())
def test_every_form_decodes_to_the_mask(mask: np.ndarray, polygons: bool, compressed: bool) -> None:
    code = segmentation(mask, polygons=polygons, compressed=compressed)
    assert np.array_equal(decode(code, mask), mask)
    hole = any(signed_area(loop) < 0 for loop in trace_borders(mask))
    assert isinstance(code, list) == (polygons and not hole)
    if isinstance(code, dict):
        assert isinstance(code["counts"], str) == compressed and code["size"] == list(mask.shape)


@given(mask=MASKS)
def test_borders_enclose_the_mask(mask: np.ndarray) -> None:
    """Areas add up to the pixels, and along each border steps alternate between horizontal and vertical."""
    loops = trace_borders(mask)
    assert sum(signed_area(loop) for loop in loops) == mask.sum()
    for loop in loops:
        corners = np.array(loop).reshape(-1, 2)
        steps = np.roll(corners, -1, axis=0) - corners
        assert ((steps != 0).sum(axis=1) == 1).all()
        assert ((steps[:, 0] != 0) != (np.roll(steps[:, 0], -1) != 0)).all()


def test_parts_are_joined_at_corners_and_holes_found() -> None:
    diagonal = np.array([[1, 0], [0, 1]], bool)
    assert len(trace_borders(diagonal)) == 1 and len(trace_borders(diagonal[::-1])) == 1
    assert trace_borders(np.ones((2, 3), bool)) == [[0, 0, 3, 0, 3, 2, 0, 2]]
    frame = np.ones((3, 3), bool)
    frame[1, 1] = False
    assert [signed_area(loop) for loop in trace_borders(frame)] == [9, -1]
    assert segmentation(frame, polygons=True, compressed=False) == {"size": [3, 3], "counts": [0, 4, 1, 4]}


@given(mask=MASKS)
def test_bounding_box_is_cocos(mask: np.ndarray) -> None:
    assert (
        bounding_box(mask) == coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask, np.uint8))).tolist()
    )


def test_an_empty_mask_has_no_segmentation() -> None:
    with pytest.raises(ValueError, match=r"empty mask of shape \(4, 5\)"):
        segmentation(np.zeros((4, 5), bool), polygons=True, compressed=True)


# ---- figures


@pytest.mark.parametrize("name", FIGURES)
def test_unit_areas_and_distances(name: str) -> None:
    """The stated area is the integral, and the distance grows by one per unit where it is smooth."""
    distance, area = FIGURES[name]
    cell = 2.8 / 557
    v, u = (np.mgrid[0:557, 0:557].astype(np.float32) + 0.5) * np.float32(cell) - np.float32(1.4)
    d = distance(u, v)
    assert np.count_nonzero(d < 0) * cell**2 == pytest.approx(area, rel=0.005)
    slope = np.hypot(*np.gradient(d)) / cell
    assert np.mean(np.abs(slope - 1) < 0.01) > 0.97


@pytest.mark.parametrize("name", FIGURES)
def test_figures_have_the_area_asked_for(name: str) -> None:
    colour = OBJECT_COLOURS[0]
    for seed, area in enumerate((60.0, 400.0, 3000.0)):
        sprite = draw_figure(np.random.default_rng(seed), name, area, colour, BRUSH)
        assert sprite.alpha.sum() == pytest.approx(area, rel=0.06)
        assert np.count_nonzero(sprite.alpha >= 0.5) == pytest.approx(area, rel=0.12)
        edge = np.concatenate(
            [sprite.shadow[0], sprite.shadow[-1], sprite.shadow[:, 0], sprite.shadow[:, -1]]
        )
        assert edge.max() == 0, "the window holds the whole shadow"
        assert (sprite.rgb <= sprite.alpha[..., None] + 1e-5).all() and sprite.rgb.min() >= 0


def test_a_ring_has_a_hole() -> None:
    sprite = draw_figure(np.random.default_rng(0), "ring", 80.0, OBJECT_COLOURS[0], BRUSH)
    assert isinstance(segmentation(sprite.alpha >= 0.5, polygons=True, compressed=True), dict)


def test_later_layers_are_painted_over_earlier_ones() -> None:
    """Three discs, the last one cut by the border: colours agree with the visible masks, and so do shadows."""
    layers, size, colours = [], (60, 80), OBJECT_COLOURS[[2, 7, 9]]
    for k, (y, x) in enumerate(((30.0, 30.0), (30.0, 42.0), (2.0, 77.0))):
        brush = Brush(light=(0.0, 1.0), blur=1.0)
        sprite = draw_figure(np.random.default_rng(8), "disc", 600.0, colours[k], brush)
        placed = centred(sprite, y, x)
        whole = placed.mask(*size)
        layers.append(Layer(category_id=3, sprites=(placed,), whole=whole, iscrowd=False))
    picture = paint(np.ones((*size, 3), np.float32), layers, (3, 0))
    masks = visible_masks(layers)
    assert masks[0].sum() < 500 < masks[1].sum() and 150 < masks[2].sum() < 400
    distances = np.stack([np.abs(picture / 255 - colour).sum(axis=2) for colour in colours])
    for k, mask in enumerate(masks):
        assert np.mean(distances[:, mask].argmin(axis=0) == k) > 0.95
    column = picture[:, 28, 0].astype(int)
    bottom = int(np.flatnonzero(masks[0][:, 28])[-1])
    assert column[bottom + 2] < 220 and column[bottom + 7] == 255 == column[:12].min(), (
        "light falls downwards"
    )


def test_what_is_cut_hidden_or_tiny_is_not_recognisable() -> None:
    def disc(area: float, y: float, x: float) -> Layer:
        sprite = draw_figure(np.random.default_rng(3), "disc", area, OBJECT_COLOURS[0], BRUSH)
        placed = centred(sprite, y, x)
        return Layer(category_id=3, sprites=(placed,), whole=placed.mask(160, 160), iscrowd=False)

    lower = disc(1200.0, 60.0, 60.0)
    assert recognisable(CONFIG, [lower])
    assert recognisable(CONFIG, [disc(1200.0, 80.0, 5.0)])
    assert not recognisable(CONFIG, [disc(1200.0, 80.0, 1.0)])
    assert recognisable(CONFIG, [disc(70.0, 60.0, 60.0)]) and not recognisable(
        CONFIG, [disc(32.0, 60.0, 60.0)]
    )
    assert recognisable(CONFIG, [lower, disc(900.0, 60.0, 78.0)])
    assert not recognisable(CONFIG, [lower, disc(900.0, 60.0, 66.0)])


# ---- people


@pytest.mark.parametrize("seed", range(60))
def test_a_pose_is_a_body(seed: int) -> None:
    """Bones keep their lengths, and left, down and ahead keep their hand: nobody is mirrored."""
    pose = draw_pose(np.random.default_rng(seed))
    names = {name: pose.joints[k] for k, name in enumerate(KEYPOINT_NAMES)}
    assert np.linalg.norm(pose.gaze) == pytest.approx(1)
    for side in ("left", "right"):
        for a, b, length in (
            ("shoulder", "elbow", 0.15), ("elbow", "wrist", 0.145), ("hip", "knee", 0.2), ("knee", "ankle", 0.205),
        ):  # fmt: skip
            assert np.linalg.norm(names[f"{side}_{a}"] - names[f"{side}_{b}"]) == pytest.approx(length)
    down = names["left_hip"] + names["right_hip"] - names["left_shoulder"] - names["right_shoulder"]
    assert down[1] > 0.9 * np.linalg.norm(down), "upright"
    for pair in ("eye", "ear", "shoulder", "hip"):
        leftwards = names[f"left_{pair}"] - names[f"right_{pair}"]
        assert np.dot(np.cross(leftwards, down), pose.gaze) > 0
    assert np.dot(names["nose"] - pose.head, pose.gaze) > 0


def test_joints_lie_on_the_body_and_faces_are_hidden_from_behind() -> None:
    seen = np.zeros((2, 17))  # visible joints of people who face the viewer, and of those who turn their back
    views, profiles = np.zeros(2), 0
    for seed in range(150):
        outfit = dress(np.random.default_rng(seed), SKIN_COLOURS[0], HAIR_COLOURS[0], OBJECT_COLOURS)
        pose = draw_pose(np.random.default_rng(seed))  # the first thing that draw_person draws
        sprite = draw_person(np.random.default_rng(seed), 900.0, outfit, BRUSH)
        assert sprite.keypoints is not None
        x, y, v = sprite.keypoints.T
        assert (sprite.alpha[y, x] >= 0.5).all() and set(v.tolist()) <= {1, 2}
        depth = pose.joints[:, 2]
        for a, b in ((5, 6), (6, 5), (1, 2), (2, 1)):
            if depth[a] - depth[b] > (0.2 if a > 2 else 0.078):
                assert v[b] == 1, "in profile the far shoulder and the far eye are hidden"
                profiles += 1
        if abs(pose.gaze[2]) > 0.6:
            view = int(pose.gaze[2] < 0)
            views[view] += 1
            seen[view] += v == 2
    front, back = seen / views[:, None]
    assert views.min() > 20 and profiles > 20
    assert front[:3].min() > 0.9 and back[:3].max() == 0
    assert front[9:13].max() < 0.99, "a hand hides a hip now and then, or is hidden itself"
    assert front[5:].min() > 0.5 and back[[5, 6, 15, 16]].min() > 0.8


def test_people_have_about_the_area_asked_for() -> None:
    areas = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        outfit = dress(rng, SKIN_COLOURS[1], HAIR_COLOURS[1], OBJECT_COLOURS)
        sprite = draw_person(rng, 2000.0, outfit, BRUSH)
        areas.append(float(sprite.alpha.sum()))
        edge = np.concatenate(
            [sprite.shadow[0], sprite.shadow[-1], sprite.shadow[:, 0], sprite.shadow[:, -1]]
        )
        assert edge.max() < 0.02
    assert np.mean(areas) == pytest.approx(2000, rel=0.05)
    assert min(areas) > 1200 and max(areas) < 3000


# ---- colours


def test_oklab_of_known_colours() -> None:
    colours = np.array([[1, 1, 1], [0, 0, 0], [1, 0, 0]], np.float32)
    expected = [[1, 0, 0], [0, 0, 0], [0.628, 0.225, 0.126]]
    np.testing.assert_allclose(oklab(colours), expected, atol=1e-3)


@pytest.mark.parametrize("pair", BACKDROP_PAIRS, ids=range(len(BACKDROP_PAIRS)))
def test_objects_stand_out_from_every_backdrop(pair: np.ndarray) -> None:
    chosen = standing_out(OBJECT_COLOURS, pair, 0.2)
    assert len(chosen) >= 6
    assert np.linalg.norm(oklab(chosen)[:, None] - oklab(pair)[None], axis=2).min() >= 0.2
    assert len(standing_out(SKIN_COLOURS, pair, 0.12)) >= 3
    assert len(standing_out(pair, pair, 0.2)) == 1, "the best half where none is far enough"
    for seed in range(6):
        picture = backdrop(np.random.default_rng(seed), 48, 64, pair)
        assert picture.shape == (48, 64, 3) and picture.dtype == np.float32
        assert (
            np.linalg.norm(oklab(picture.reshape(-1, 3).clip(0, 1)) - oklab(pair).mean(0), axis=1).max()
            < 0.19
        )
