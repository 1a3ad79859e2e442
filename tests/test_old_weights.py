"""Weights files of version 0.1.0: each still loads, and finds what it found then.

`data/weights/NAME.safetensors` are tiny networks with random weights in half precision, one for each part that can
stand in another's place, written before these parts had classes of their own.  `NAME.npz` holds what each found in
the picture below, computed in float32 and in float64 (of masks every third cell of every third row).  The toybox's
network is the lessons'.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from models import random_image

from minimaskrcnn.weights import load_model, save_weights

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "data" / "weights"
NAMES = sorted(path.stem for path in FOLDER.glob("*.npz"))
# The toybox's network finds little in blobs of colour: another size and seed.
PICTURES = {"toybox": (200, 260, 0)}
TOLERANCES = {torch.float32: {"boxes": 0.01, "keypoints": 0.01}, torch.float64: {}}
OTHERS = {torch.float32: 1e-4, torch.float64: 1e-8}


def file_of(name: str) -> Path:
    folder = ROOT / "lessons" / "models" if name == "toybox" else FOLDER
    return folder / f"{name}.safetensors"


def test_there_is_a_file_of_each_part():
    assert {"c4", "mlp", "softmax", "roi_pool", "roi_warp", "keypoints", "toybox"} <= set(NAMES)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_it_finds_what_it_found(name, dtype):
    model, _ = load_model(file_of(name))
    check(model, name, dtype)


@pytest.mark.parametrize("name", NAMES)
def test_written_anew_it_finds_the_same(name, tmp_path):
    model, file = load_model(file_of(name))
    path = tmp_path / "anew.safetensors"
    save_weights(path, model, preset=file.preset, categories=file.categories)
    again, anew = load_model(path)
    assert (anew.config, anew.preset, anew.categories) == (file.config, file.preset, file.categories)
    check(again, name, torch.float64)


def check(model: torch.nn.Module, name: str, dtype: torch.dtype) -> None:
    height, width, seed = PICTURES.get(name, (80, 112, 3))
    image = random_image(height, width, seed, torch.float64).to(dtype)
    with torch.no_grad():
        (found,) = model.to(dtype)([image], paste=False)
    prefix = f"{str(dtype).removeprefix('torch.')}/"
    with np.load(FOLDER / f"{name}.npz") as file:
        expected = {key.removeprefix(prefix): file[key] for key in file if key.startswith(prefix)}
    assert found.keys() == expected.keys() and len(expected["labels"]) >= 6
    assert found["labels"].tolist() == expected["labels"].tolist()
    for key, value in expected.items():
        ours = found[key].numpy()
        ours = ours[:, ::3, ::3] if key == "mask_probs" else ours
        assert np.abs(ours - value).max() <= TOLERANCES[dtype].get(key, OTHERS[dtype]), key
