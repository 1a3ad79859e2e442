"""Drawing: what is in the picture, where, and that nothing else is touched."""

import json
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optional import need
from PIL import Image

from minimaskrcnn import draw
from minimaskrcnn.data.transforms import Sample

NAMES = {1: "disc", 2: "square"}
GREY = torch.full((3, 480, 640), 0.5)
boxes = st.tuples(st.floats(0, 90), st.floats(0, 90), st.floats(1, 60), st.floats(1, 60)).map(
    lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
)


def detection(*rectangles: tuple[int, int, int, int], scores=None, image_size=(480, 640), **more) -> dict:
    masks = torch.zeros(len(rectangles), 1, *image_size)
    for mask, (x1, y1, x2, y2) in zip(masks, rectangles):
        mask[0, y1:y2, x1:x2] = 1
    return {
        "boxes": torch.tensor(rectangles, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.ones(len(rectangles), dtype=torch.int64),
        "scores": torch.tensor(scores if scores else [0.9] * len(rectangles)),
        "masks": masks,
        **more,
    }


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def tinted(colour: tuple[int, int, int], ground: float | np.ndarray = 128) -> np.ndarray:
    return np.array(colour) * draw.TINT + ground * (1 - draw.TINT)


def test_nothing_found_leaves_the_picture_as_it_is():
    image = torch.rand(3, 480, 500)
    picture = pixels(draw.draw_detections(image, detection(image_size=(480, 500)), NAMES))
    np.testing.assert_allclose(picture, (image * 255).permute(1, 2, 0).numpy(), atol=0.51)


def test_a_mask_is_tinted_with_a_rim_and_only_there():
    picture = pixels(draw.draw_detections(GREY, detection((200, 100, 400, 300)), NAMES))
    colour = draw.PALETTE[0]
    np.testing.assert_allclose(picture[200, 300], tinted(colour), atol=2)
    for y, x in ((101, 300), (298, 300), (200, 201), (200, 398)):  # beside the box's own line
        np.testing.assert_allclose(picture[y, x], colour, atol=2)
    outside = np.ones((480, 640), bool)
    outside[60:302, 198:402] = False  # the label stands on top
    assert (picture[outside] == 128).all()


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_small_objects_lie_on_large_ones(order):
    rectangles = [(100, 100, 500, 400), (250, 200, 350, 300)]
    picture = pixels(draw.draw_detections(GREY, detection(*(rectangles[k] for k in order)), NAMES))
    large, small = (draw.PALETTE[order.index(k)] for k in (0, 1))
    np.testing.assert_allclose(picture[280, 300], tinted(small, tinted(large)), atol=2)


def test_low_scores_and_unknown_labels():
    found = detection(
        (50, 100, 150, 200), (300, 100, 400, 200), scores=[0.5, 0.49], labels=torch.tensor([7, 1])
    )
    picture = pixels(draw.draw_detections(GREY, found, NAMES))
    assert (picture[:, 250:] == 128).all() and (picture[150, 100] != 128).any()
    assert (pixels(draw.draw_detections(GREY, found, NAMES, score_threshold=0.4))[150, 350] != 128).any()


def test_masks_of_the_head_are_pasted_like_masks_of_the_picture():
    rectangle = (120, 80, 400, 360)
    y, x = np.indices((28, 28))
    disc = torch.tensor((y - 13.5) ** 2 + (x - 13.5) ** 2 < 120).float()
    y, x = np.indices((480, 640))
    whole = torch.tensor((y + 0.5 - 220) ** 2 + (x + 0.5 - 260) ** 2 < 1200 * 10)[None, None].float()
    found = detection(rectangle)
    by_head = {key: value for key, value in found.items() if key != "masks"} | {"mask_probs": disc[None]}
    a = pixels(draw.draw_detections(GREY, by_head, NAMES))
    b = pixels(draw.draw_detections(GREY, found | {"masks": whole}, NAMES))
    for y, x in (
        (220, 260),
        (150, 260),
        (290, 260),
        (220, 180),
        (220, 340),
        (90, 130),
        (350, 390),
        (90, 390),
    ):
        np.testing.assert_allclose(a[y, x], b[y, x], atol=2)
    assert (np.abs(a - b).max(axis=2) > 2).mean() < 0.03  # the rims


def test_small_pictures_are_enlarged_with_everything_in_them():
    found = detection((20, 40, 100, 120), image_size=(160, 120), keypoints=torch.zeros(1, 17, 3))
    found["keypoints"][0, 0] = torch.tensor([59, 99, 2])
    picture = draw.draw_detections(torch.full((3, 160, 120), 0.5), found, NAMES)
    assert picture.size == (360, 480)
    for y, x in ((150, 80), (345, 285)):
        np.testing.assert_allclose(pixels(picture)[y, x], tinted(draw.PALETTE[0]), atol=2)
    assert (pixels(picture)[360 + 9 :, :] == 128).all()
    np.testing.assert_array_equal(pixels(picture)[298, 178], [255, 255, 255])


def test_keypoints_and_bones():
    keypoints = torch.zeros(1, 17, 3)
    keypoints[0, 5] = torch.tensor([100, 300, 2])  # the shoulders, which a bone joins
    keypoints[0, 6] = torch.tensor([200, 300, 1])
    keypoints[0, 9] = torch.tensor([300, 300, 2])  # a wrist, whose elbow is not labelled
    keypoints[0, 10] = torch.tensor([400, 300, 0])
    found = detection((50, 100, 150, 200), keypoints=keypoints)
    picture = pixels(draw.draw_detections(GREY, found, NAMES))
    colour = draw.PALETTE[0]
    np.testing.assert_array_equal(picture[300, 100], [255, 255, 255])
    np.testing.assert_array_equal(picture[300, 200], colour)
    np.testing.assert_array_equal(picture[300, 150], colour)
    np.testing.assert_array_equal(picture[300, 300], [255, 255, 255])
    assert (picture[300, 250] == 128).all() and (picture[300, 400] == 128).all()


def test_the_skeleton_is_cocos(coco_real):
    content = json.loads((coco_real / "annotations" / "person_keypoints_val2017.json").read_text())
    assert [list(bone) for bone in draw.SKELETON] == [
        [a - 1, b - 1] for a, b in content["categories"][0]["skeleton"]
    ]


def test_targets_are_drawn_from_a_sample():
    found = detection((200, 100, 400, 300))
    target = {"boxes": found["boxes"], "labels": found["labels"], "masks": found["masks"][:, 0].bool()}
    picture = pixels(draw.draw_targets(Sample(GREY, target), NAMES))
    with_score = pixels(draw.draw_detections(GREY, found, NAMES))
    np.testing.assert_array_equal(picture[101:], with_score[101:])
    assert (picture[:100] != 128).sum() < (with_score[:100] != 128).sum()  # no score in the label


def test_masks_at_the_border_and_empty_ones():
    found = detection((0, 0, 640, 480), (600, 400, 640, 480), (10, 10, 30, 30))
    found["masks"][2] = 0
    picture = pixels(draw.draw_detections(GREY, found, NAMES))
    np.testing.assert_allclose(picture[300, 300], tinted(draw.PALETTE[0]), atol=2)
    without = {key: value for key, value in found.items() if key != "masks"}
    assert (pixels(draw.draw_detections(GREY, without, NAMES))[300, 300] == 128).all()


def test_arguments_stay_as_they_were():
    found = detection((200, 100, 400, 300))
    before = {key: value.clone() for key, value in found.items()}
    image = GREY.clone()
    draw.draw_detections(image, found, NAMES)
    assert torch.equal(image, GREY) and all(torch.equal(before[key], found[key]) for key in before)


# --- labels and colours


@given(st.lists(boxes, min_size=1, max_size=12), st.integers(5, 60), st.integers(5, 15))
def test_labels_stay_in_the_picture(many, width, height):
    placed = []
    for box in many:
        x1, y1, x2, y2 = draw._place_label(box, (width, height), placed, (150, 150))
        assert min(x1, y1) >= 0 and x2 <= 150 and y2 <= 150 and (x2 - x1, y2 - y1) == (width, height)
        placed.append((x1, y1, x2, y2))


def test_labels_avoid_each_other():
    placed = []
    for _ in range(8):  # eight instances in the very same place
        placed.append(draw._place_label((40, 40, 100, 100), (50, 12), placed, (150, 150)))
    assert placed[0] == (40, 28, 90, 40)  # the first on top of its box
    for index, place in enumerate(placed):
        assert not any(draw._overlap(place, other) for other in placed[:index])


@given(st.lists(boxes, max_size=20))
def test_instances_differ_in_colour_where_they_meet(many):
    colours = draw._choose_colours(many)
    for index, (x1, y1, x2, y2) in enumerate(many):
        around = (x1 - draw.NEAR, y1 - draw.NEAR, x2 + draw.NEAR, y2 + draw.NEAR)
        near = [other for other in range(index) if draw._overlap(around, many[other])]
        if len(near) < len(draw.PALETTE):
            assert colours[index] not in [colours[other] for other in near]


def test_distant_instances_may_share_a_colour():
    line = [(200.0 * k, 0.0, 200.0 * k + 10, 10.0) for k in range(20)]
    colours = draw._choose_colours(line)
    assert colours[: len(draw.PALETTE)] == list(draw.PALETTE)
    assert all(a != b for a, b in pairwise(colours))


def test_text_has_the_contrast_that_wcag_asks_for():
    def luminance(colour) -> float:
        parts = np.array(colour) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for colour in draw.PALETTE:
        low, high = sorted((luminance(colour), luminance(draw._ink(colour))))
        assert (high + 0.05) / (low + 0.05) >= 4.5


# --- contact sheet and curve


def test_a_grid_has_margins_and_keeps_shapes():
    red, blue = Image.new("RGB", (100, 50), "red"), Image.new("L", (50, 50), 0)
    sheet = draw.draw_grid([red, blue, red], columns=2, width=330, margin=10)
    # free width 300 is shared 2 : 1, so the row is 100 high; the last row is filled up with the mean aspect 5/3
    second = round(300 / (2 + 5 / 3))
    assert sheet.size == (330, 100 + second + 30)
    found = pixels(sheet)
    assert (found[10:110, 10:210] == [255, 0, 0]).all() and (found[10:110, 220:320] == 0).all()
    assert (found[120 : 120 + second, 10 : 10 + 2 * second] == [255, 0, 0]).all()
    white = (found == 255).all(axis=2)
    assert white[:10].all() and white[:, :10].all() and white[:, 210:220].all() and white[110:120].all()
    assert white[:, 320:].all() and white[120 + second :].all()


def test_a_grid_of_few_and_of_none():
    picture = Image.new("RGB", (30, 30), "red")
    assert draw.draw_grid([picture], columns=4, width=54).size == (54, 54)
    for images, columns in (([], 2), ([picture], 0)):
        with pytest.raises(ValueError, match=f"arrange {len(images)} pictures in {columns} columns"):
            draw.draw_grid(images, columns)


HISTORY = [
    {"step": 10, "loss": 2.0, "loss_mask": 1.0, "lr": 0.1},
    {"step": 20, "loss": 1.0, "loss_mask": 0.5, "loss_keypoint": 0.1, "lr": 0.1},
    {"step": 20, "eval": {"bbox": {"AP": 0.25}, "segm": {"AP": 0.125}}},
]


@pytest.mark.parametrize("lines", [HISTORY, HISTORY[:2], HISTORY[2:]])
def test_the_curve_is_a_picture(tmp_path, lines):
    need("matplotlib")
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw.plot_history(tmp_path / "metrics.jsonl", tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as picture:
        shown = {tuple(colour) for _, colour in picture.convert("RGB").getcolors(10**6)}
    total, box = (0, 0, 0), draw.PALETTE[6]
    assert (total in shown) and ((box in shown) == any("eval" in line for line in lines))


def test_a_history_without_steps(tmp_path):
    need("matplotlib")
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"metrics\.jsonl: no line with a loss"):
        draw.plot_history(tmp_path / "metrics.jsonl", tmp_path / "curve.png")


def test_without_matplotlib_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'minimaskrcnn\[plot\]'"):
        draw.plot_history(tmp_path / "metrics.jsonl", tmp_path / "curve.png")
