"""Colours and backdrops of the toybox: one palette, and textures that stay behind the objects.

A backdrop is two neighbouring colours mixed by a texture in 0..1 (gradient, value noise, stripes, checks, dots
or hills).  Colours are float32 RGB in 0..1; `oklab` measures how different two of them look (about 0.02 is just
visible), so that an object always stands out from both colours behind it.  Axes: h, w is the picture.
Oklab: Ottosson, "A perceptual color space for image processing", 2020.
"""

import numpy as np
from jaxtyping import Float32
from PIL import Image

from minimaskrcnn.data.toybox.shapes import norm

Array = np.ndarray


def colours(hexadecimal: str) -> Float32[Array, "n 3"]:
    """`'ff8000 0080ff'` -> `[n, 3]` in 0..1."""
    rows = [tuple(bytes.fromhex(word)) for word in hexadecimal.split()]
    return np.array(rows, np.float32) / 255


OBJECT_COLOURS = colours(
    "e4572e f3a712 f7d354 76b041 2a9d8f 17bebb 3d8bd4 28518f 8358a8 d1478c f29ca3 f4efe3 2f3350 9c4a2f"
)
SKIN_COLOURS = colours("fbdcc4 f2c29b dca072 b9794c 8a5433 5f3a26")
HAIR_COLOURS = colours("2b2118 4a2f1d 7a4a25 b5803c e0b95b a3401f 8d8d92")
BACKDROP_PAIRS = colours(
    "f3e7d3 e8d5b7  dfe9ee c9d9e2  d9e4d0 c5d5ba  f6e0d8 ecccc2  e3def0 d0c8e4  f5efe4 e6ddcc  cfe7e4 b5d8d4 "
    "28385a 1f2c49  1f4e53 183e45  44355f 37294f  5b4033 4b3329  40587a 344a69  77917d 66806d  3d4a34 2f3b28 "
    "fbe7a8 f3d88a  b9cbe8 a3b9dd"
).reshape(-1, 2, 3)


def oklab(rgb: Float32[Array, "n 3"]) -> Float32[Array, "n 3"]:
    """sRGB in 0..1 to Oklab (lightness, green-red, blue-yellow)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    cones = linear @ np.array(
        [
            [0.4122215, 0.2119035, 0.0883025],
            [0.5363325, 0.6806995, 0.2817188],
            [0.0514460, 0.1073970, 0.6299787],
        ]
    )
    to_lab = np.array(
        [
            [0.2104543, 1.9779985, 0.0259040],
            [0.7936178, -2.4285922, 0.7827718],
            [-0.0040720, 0.4505937, -0.8086758],
        ]
    )
    return (np.cbrt(cones) @ to_lab).astype(np.float32)


def standing_out(candidates: Float32[Array, "n 3"], behind: Float32[Array, "m 3"], least: float) -> Array:
    """The candidates `[k, 3]` that differ by `least` from every colour behind; the most different half if none."""
    gap = np.linalg.norm(oklab(candidates)[:, None] - oklab(behind)[None], axis=2).min(axis=1)
    far = candidates[gap >= least]
    return far if len(far) else candidates[np.argsort(-gap)[: (len(candidates) + 1) // 2]]


def value_noise(rng: np.random.Generator, height: int, width: int, cells: float) -> Float32[Array, "h w"]:
    """Smooth noise in about 0..1: random values on a grid of `cells` along the longer side, interpolated."""
    step = max(height, width) / cells
    grid = rng.random((int(height / step) + 3, int(width / step) + 3), np.float32)
    smooth = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(smooth)


def texture(rng: np.random.Generator, height: int, width: int) -> Float32[Array, "h w"]:
    """The share of the second backdrop colour at each pixel."""
    side = (height * width) ** 0.5
    turn = rng.uniform(0, np.pi)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    along = (x - width / 2) * np.float32(np.cos(turn)) + (y - height / 2) * np.float32(np.sin(turn))
    across = (y - height / 2) * np.float32(np.cos(turn)) - (x - width / 2) * np.float32(np.sin(turn))
    period = side * rng.uniform(0.08, 0.22)
    kind = rng.choice(["gradient", "noise", "stripes", "checks", "dots", "hills"])
    if kind == "stripes":
        return np.clip(0.5 + np.sin(along * (2 * np.pi / period)) * period / 6, 0, 1)
    if kind == "checks":
        waves = np.sin(along * (np.pi / period)) * np.sin(across * (np.pi / period))
        return np.clip(0.5 + waves * period / 3, 0, 1)
    if kind == "dots":
        apart = norm(along / period % 1 - 0.5, across / period % 1 - 0.5)
        return np.clip(0.5 - (apart - 0.22) * period, 0, 1)
    if kind == "hills":
        ridge = np.sin(x / side * rng.uniform(3, 7) + rng.uniform(0, 6.3)) * side * 0.06
        bands = (y + ridge + np.sin(x / side * 11) * side * 0.02) / (side * 0.27)
        return (np.floor(bands) + np.clip((bands % 1) * side * 0.27, 0, 1)) / 4
    if kind == "noise":
        return 0.6 * value_noise(rng, height, width, 5) + 0.4 * value_noise(rng, height, width, 17)
    return along / side + 0.5


def backdrop(rng: np.random.Generator, height: int, width: int, pair: Float32[Array, "2 3"]) -> Array:
    """The picture `[h, w, 3]` behind everything: a texture, soft light from one side, and faint grain."""
    share = texture(rng, height, width) * np.float32(1.3)
    light = (value_noise(rng, height, width, 2) - np.float32(0.5)) * np.float32(0.10)
    grain = rng.standard_normal((height, width), np.float32) * np.float32(0.006)
    return pair[0] + (pair[1] - pair[0]) * share[..., None] + (light + grain)[..., None]
