"""A trained model in three lines: from a path, a Pillow picture or an array, named things and a drawing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from models import random_image, tiny_config, with_keypoints
from PIL import Image

import minimaskrcnn
from minimaskrcnn.mask_rcnn import MaskRCNN
from minimaskrcnn.ops import paste_masks
from minimaskrcnn.predictor import Predictor, to_tensor
from minimaskrcnn.weights import CategoryName, save_weights

TOYBOX = Path(__file__).parents[1] / "lessons" / "models" / "toybox.safetensors"


@pytest.fixture
def pixels() -> np.ndarray:
    return (random_image(60, 80) * 255).round().byte().permute(1, 2, 0).numpy()


def test_three_lines(pixels, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(pixels).save("street.png")
    predictor = minimaskrcnn.load(TOYBOX)
    found = predictor.find("street.png", threshold=0.05)
    found.draw().save("drawn.png")

    with torch.no_grad():
        (expected,) = predictor.model([to_tensor(pixels)])
    assert len(found) == len(expected["labels"]) > 0
    for thing, label, score, box, mask in zip(
        found, expected["labels"], expected["scores"], expected["boxes"], expected["masks"]
    ):
        assert thing.name == predictor.names[int(label)] and thing.name.isalpha()
        assert thing.score == float(score) and thing.box == tuple(box.tolist())
        assert thing.mask.shape == (60, 80) and (thing.mask == (mask[0] > 0.5).numpy()).mean() > 0.99
        assert thing.keypoints is None
    with Image.open("drawn.png") as drawn:
        assert drawn.width >= 80


def test_a_picture_is_a_path_an_image_or_an_array(pixels, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    expected = to_tensor(pixels)
    assert expected.shape == (3, 60, 80) and expected.dtype == torch.float32 and expected.max() <= 1
    assert expected[0, 2, 5].item() == pytest.approx(pixels[2, 5, 0] / 255)
    for picture in (path, str(path), Image.fromarray(pixels), pixels[::-1][::-1]):
        assert torch.equal(to_tensor(picture), expected)
    # Grey becomes colour, and a camera held sideways is turned.
    grey = Image.fromarray(pixels[..., 0])
    assert torch.equal(to_tensor(grey)[0], to_tensor(grey)[2])
    turned = Image.fromarray(pixels)
    turned.getexif()[0x0112] = 6
    assert torch.equal(to_tensor(turned), to_tensor(np.rot90(pixels, -1)))


def test_the_threshold_and_the_names(pixels):
    torch.manual_seed(0)
    model = MaskRCNN(with_keypoints(tiny_config(3)))
    predictor = Predictor(model, {1: "cup"})
    everything = predictor.find(pixels, threshold=0.0)
    middle = sorted(thing.score for thing in everything)[len(everything) // 2]
    some = predictor.find(pixels, threshold=middle)
    assert [t.score for t in some] == [t.score for t in everything if t.score >= middle] and len(some) > 0
    assert {t.name for t in everything} <= {"cup", "2"} and everything[0].keypoints.shape == (17, 3)
    assert len(predictor.find(pixels, threshold=1.1)) == 0 and predictor.find(pixels, 1.1).draw().width >= 80
    masks = everything.detection["mask_probs"]
    assert torch.equal(
        torch.from_numpy(everything[0].mask),
        paste_masks(masks[:1], everything.detection["boxes"][:1], (60, 80))[0],
    )


def test_what_is_no_model_or_no_picture(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        minimaskrcnn.load(tmp_path / "none.safetensors")
    predictor = Predictor(MaskRCNN(tiny_config()), {})
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        predictor.find(tmp_path / "none.png")
    with pytest.raises(ValueError, match=r"expected uint8 \[height, width, 3\], got uint8 \[3, 8, 8\]"):
        predictor.find(np.zeros((3, 8, 8), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"got float64 \[8, 8, 3\]"):
        predictor.find(np.zeros((8, 8, 3)))


@pytest.mark.unhooked
def test_what_is_no_kind_of_picture():
    with pytest.raises(TypeError, match="expected a path, a Pillow picture or an array, got bytes"):
        to_tensor(b"")


def test_a_saved_model_has_its_names(pixels, tmp_path):
    path = tmp_path / "last.safetensors"
    save_weights(path, MaskRCNN(tiny_config(3)), preset="tiny", categories=[CategoryName(1, 7, "cup")])
    assert minimaskrcnn.load(str(path), device="cpu").names == {1: "cup"}
