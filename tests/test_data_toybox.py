"""The toybox: its frozen distribution, its people, and that scenes are functions of the seed alone."""

import numpy as np
import pytest

from minimaskrcnn.data.toybox import CATEGORIES, Scene, SceneObject, ToyboxConfig, make_scene
from minimaskrcnn.data.toybox.coco_masks import bounding_box

CONFIG = ToyboxConfig()
PERSON = 1


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(CONFIG, 2017, index) for index in range(200)]


@pytest.fixture(scope="module")
def things(scenes: list[Scene]) -> list[SceneObject]:
    """Every object that is no crowd."""
    return [thing for scene in scenes for thing in scene.objects if not thing.iscrowd]


@pytest.fixture(scope="module")
def people(things: list[SceneObject]) -> list[SceneObject]:
    """Every person with keypoints."""
    return [thing for thing in things if thing.keypoints.any()]


# ---- the frozen distribution


def test_every_class_has_its_share(things: list[SceneObject]) -> None:
    ids = [category["id"] for category in CATEGORIES]
    shares = [np.mean([thing.category_id == category_id for thing in things]) for category_id in ids]
    assert len(ids) >= 6 and sum(shares) == pytest.approx(1)
    assert min(shares) >= 0.08


def test_a_third_of_the_objects_are_partly_hidden(things: list[SceneObject]) -> None:
    hidden = np.array([1 - thing.mask.sum() / thing.whole.sum() for thing in things])
    assert np.array([thing.hidden for thing in things]) == pytest.approx(hidden)
    assert np.mean(hidden >= 0.05) >= 0.30
    assert hidden.max() <= 0.6


def test_sizes_spread_over_the_three_bands(things: list[SceneObject]) -> None:
    shares = np.array([thing.mask.mean() for thing in things])
    bands = np.searchsorted([32**2 / (640 * 480), 96**2 / (640 * 480)], shares)
    assert (np.bincount(bands, minlength=3) / len(shares)).min() >= 0.20


def test_pictures_hold_what_they_should(scenes: list[Scene]) -> None:
    counts = np.array([sum(not thing.iscrowd for thing in scene.objects) for scene in scenes])
    crowds = np.mean([any(thing.iscrowd for thing in scene.objects) for scene in scenes])
    filled = counts[counts > 0]
    assert filled.min() >= 2 and filled.max() <= 8 and 4.5 <= filled.mean() <= 5.5
    assert 0.01 <= np.mean(counts == 0) <= 0.06 and 0.03 <= crowds <= 0.10
    sides = {side for scene in scenes for side in scene.image.shape[:2]}
    assert sides == {144, 160, 176, 192}


def test_every_object_can_be_recognised(scenes: list[Scene]) -> None:
    for scene in scenes:
        side = scene.image[..., 0].size ** 0.5
        for thing in scene.objects:
            rows, columns = np.nonzero(thing.mask)
            assert max(np.ptp(rows), np.ptp(columns)) + 1 >= 0.05 * side  # 8 pixels of 160
            assert thing.mask.sum() >= max(0.0013 * side**2, 0.4 * thing.whole.sum())


def test_masks_are_what_later_objects_leave(scenes: list[Scene]) -> None:
    for scene in scenes[:100]:
        covered = np.zeros(scene.image.shape[:2], bool)
        for thing in reversed(scene.objects):
            assert np.array_equal(thing.mask, thing.whole & ~covered)
            covered |= thing.whole


def test_some_objects_are_cut_by_the_border(things: list[SceneObject]) -> None:
    cut = [np.concatenate([t.whole[0], t.whole[-1], t.whole[:, 0], t.whole[:, -1]]).any() for t in things]
    assert 0.07 <= np.mean(cut) <= 0.22


# ---- overlap within a class


def test_the_frozen_distribution_draws_what_it_always_drew() -> None:
    """One more random number anywhere would change every class and place after it."""
    found = [
        [(thing.category_id, [int(side) for side in bounding_box(thing.mask)]) for thing in scene.objects]
        for scene in (make_scene(ToyboxConfig(), 2017, index) for index in range(2))
    ]
    assert found == [
        [
            (9, [79, 50, 51, 60]), (15, [64, 69, 28, 37]), (7, [56, 44, 36, 37]), (10, [41, 78, 23, 24]),
            (21, [53, 66, 19, 16]),
        ],
        [
            (9, [68, 41, 59, 62]), (10, [80, 11, 54, 46]), (3, [52, 118, 31, 29]), (21, [114, 38, 14, 11]),
            (4, [76, 120, 12, 10]), (1, [111, 43, 12, 24]), (21, [39, 42, 11, 11]),
        ],
    ]  # fmt: skip


def pairs(share: float) -> list[Scene]:
    """Scenes of two objects, of which the second is first tried where it overlaps the first."""
    config = ToyboxConfig(
        objects=(2, 2), crowd_share=0, empty_share=0, attach_share=1, same_class_share=share,
        bands=((0.03, 0.1),), band_shares=(1.0,),
    )  # fmt: skip
    scenes = [make_scene(config, 3, index) for index in range(60)]
    return [scene for scene in scenes if len(scene.objects) == 2]


def test_objects_take_the_class_of_the_one_that_they_overlap() -> None:
    same = {}
    for share in (0.0, 0.5, 1.0):
        classes = [[thing.category_id for thing in scene.objects] for scene in pairs(share)]
        assert len(classes) > 50 and len({first for first, _ in classes}) >= 6
        same[share] = np.mean([first == second for first, second in classes])
    # By chance one pair in eight is of one class.
    assert same[0.0] < 0.3 and 0.4 < same[0.5] < 0.75 and same[1.0] == 1


def test_they_do_overlap_it() -> None:
    assert np.mean([scene.objects[0].hidden > 0 for scene in pairs(1.0)]) > 0.6


def test_they_overlap_the_very_object_whose_class_they_take() -> None:
    config = ToyboxConfig(
        objects=(3, 3), crowd_share=0, empty_share=0, attach_share=1, same_class_share=0.5, max_hidden=0.3,
        bands=((0.02, 0.04),), band_shares=(1.0,),
    )  # fmt: skip
    with_own = with_other = 0
    for scene in (make_scene(config, 3, index) for index in range(200)):
        classes = [thing.category_id for thing in scene.objects]
        if len(classes) == 3 and classes[0] != classes[1] and classes[2] in classes[:2]:
            own = classes.index(classes[2])
            third = scene.objects[2].whole
            with_own += (third & scene.objects[own].whole).any()
            with_other += (third & scene.objects[1 - own].whole).any()
    assert with_own > 20 and with_own > 1.6 * with_other


# ---- people


def test_flags_say_what_is_visible(people: list[SceneObject]) -> None:
    assert len(people) > 100
    for person in people:
        x, y, v = person.keypoints.T
        labelled = v > 0
        assert not person.keypoints[~labelled].any()
        assert person.whole[y[labelled], x[labelled]].all()
        assert person.mask[y[v == 2], x[v == 2]].all()
        assert (v[labelled & ~person.mask[y, x]] == 1).all()
    flags = np.bincount(np.concatenate([person.keypoints[:, 2] for person in people]), minlength=3)
    assert (flags / flags.sum() > [0.01, 0.1, 0.5]).all()


def test_an_absent_joint_belongs_to_a_person_cut_by_the_border(people: list[SceneObject]) -> None:
    absent = [person for person in people if (person.keypoints[:, 2] == 0).any()]
    assert absent
    for person in absent:
        whole = person.whole
        assert whole[0].any() or whole[-1].any() or whole[:, 0].any() or whole[:, -1].any()


def test_left_and_right_are_the_persons_own(people: list[SceneObject]) -> None:
    """Both eyes visible: a face, and left is at the larger x.  Nose and eyes behind the own head: a back."""
    facing = turned = 0
    for person in people:
        x, y, v = person.keypoints.T
        wide = np.hypot(x[5] - x[6], y[5] - y[6]) > 0.15 * np.ptp(np.nonzero(person.whole)[0])
        if (v[:7] > 0).all() and wide:
            face, back = (v[1:3] == 2).all(), (v[:3] == 1).all() and person.mask[y[:3], x[:3]].all()
            facing, turned = facing + bool(face), turned + bool(back)
            assert not face or x[5] > x[6]
            assert not back or x[5] < x[6]
    assert facing > 20 and turned > 5


def test_only_people_of_some_size_have_keypoints(things: list[SceneObject]) -> None:
    for thing in things:
        large = thing.mask.sum() >= thing.mask.size / 300
        assert thing.keypoints.shape == (17, 3)
        assert bool(thing.keypoints.any()) == (thing.category_id == PERSON and large)


# ---- functions of the seed alone


def test_a_scene_depends_on_its_arguments_alone() -> None:
    forwards = [make_scene(CONFIG, 9, index) for index in range(6)]
    backwards = [make_scene(CONFIG, 9, index) for index in reversed(range(6))][::-1]
    for one, other in zip(forwards, backwards):
        assert np.array_equal(one.image, other.image)
        assert [t.segmentation for t in one.objects] == [t.segmentation for t in other.objects]
    other_seed = make_scene(CONFIG, 10, 0)
    assert other_seed.image.tobytes() not in {scene.image.tobytes() for scene in forwards}
    assert len({scene.image.tobytes() for scene in forwards}) == 6


def test_a_picture_for_a_cover() -> None:
    config = ToyboxConfig(min_size=(480, 640), max_size=(480, 640), objects=(6, 10))
    scene = next(scene for k in range(9) if (scene := make_scene(config, 0, k)).objects)
    assert scene.image.shape == (480, 640, 3) and len(scene.objects) >= 5


@pytest.mark.parametrize(
    "change",
    [
        {"min_size": (200, 200)}, {"size_step": 0}, {"objects": (0, 3)}, {"objects": (5, 4)},
        {"band_shares": (0.5, 0.5)}, {"band_shares": (0.5, 0.5, 0.5)},
        {"same_class_share": 1.5}, {"same_class_share": -0.1},
    ],
)  # fmt: skip
def test_impossible_distributions_are_refused(change: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"got|range"):
        ToyboxConfig(**change)
