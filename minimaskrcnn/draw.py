"""Pictures of what was found, of what should be found, and of how training went.

Pillow draws everything but the curve, for which `plot_history` imports matplotlib.  An instance has one colour, of a
palette that colour-blind readers can tell apart (Okabe and Ito 2008), chosen so that objects that touch differ.  Masks
are tinted and end in a crisp line; a name and score stand on the box's own colour, moved where they would cover
another label.  Small pictures are enlarged until text is legible.

Left out: panoptic colours, video, fonts other than Pillow's own.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

from minimaskrcnn.data.transforms import Sample
from minimaskrcnn.ops.paste import paste_masks

PALETTE = (  # Okabe and Ito's, without black; ordered so that neighbours in the list differ most
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (213, 94, 0),  # vermilion
    (0, 158, 115),  # bluish green
    (204, 121, 167),  # reddish purple
    (240, 228, 66),  # yellow
    (0, 114, 178),  # blue
)
SKELETON = (  # COCO's, as pairs of keypoints counted from 0
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8)),
    *((7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
LEGIBLE = 480  # pixels of the longer side below which a picture is enlarged by a whole factor
TINT = 0.4  # opacity of a mask

Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]  # x1, y1, x2, y2


class Instance(NamedTuple):
    """One object to draw, in the pixels of the drawing."""

    box: tuple[float, float, float, float]
    text: str
    mask: Image.Image | None  # "L", of the drawing's size
    keypoints: list[tuple[float, float, float]]  # x, y, v


def draw_detections(
    image: Float[Tensor, "3 h w"], detection: Mapping[str, Any], names: Mapping[int, str], score_threshold: float = 0.5
) -> Image.Image:
    """`image` (0..1) with the detections that score at least `score_threshold`.

    `detection` has boxes, labels, scores and perhaps masks `[n, 1, h, w]`, mask_probs `[n, m, m]` (which are
    pasted here) or keypoints `[n, 17, 3]`.  A label without a name is shown as its number.
    """
    kept = (detection["scores"] >= score_threshold).nonzero()[:, 0].cpu()
    chosen = {key: value.detach().cpu()[kept] for key, value in detection.items() if isinstance(value, Tensor)}
    scores = chosen["scores"].tolist()
    texts = [f"{names.get(k, str(k))} {score:.2f}" for k, score in zip(chosen["labels"].tolist(), scores)]
    return _draw(image, chosen, texts)


def draw_targets(sample: Sample, names: Mapping[int, str]) -> Image.Image:
    """A sample's picture with what the annotations say is in it; hidden keypoints are hollow."""
    image, target = sample
    return _draw(image, target, [names.get(label, str(label)) for label in target["labels"].tolist()])


def draw_grid(
    images: Sequence[Image.Image], columns: int, width: int = 1920, margin: int = 12, colour: str = "white"
) -> Image.Image:
    """A contact sheet `width` pixels wide: rows of `columns` pictures of equal height, margins around each.

    ValueError without pictures or columns.
    """
    if not images or columns < 1:
        raise ValueError(f"cannot arrange {len(images)} pictures in {columns} columns")
    columns = min(columns, len(images))
    rows = [list(images[start : start + columns]) for start in range(0, len(images), columns)]
    free = width - margin * (columns + 1)
    aspects = [[image.width / image.height for image in row] for row in rows]
    # An incomplete last row gets the height that it would have if filled up with pictures of the average shape.
    typical = sum(map(sum, aspects)) / len(images)
    heights = [round(free / (sum(row) + typical * (columns - len(row)))) for row in aspects]
    sheet = Image.new("RGB", (width, sum(heights) + margin * (len(rows) + 1)), colour)
    y = margin
    for row, shape, height in zip(rows, aspects, heights):
        x = float(margin)
        for image, aspect in zip(row, shape):
            left, right = round(x), round(x + height * aspect)
            sheet.paste(image.convert("RGB").resize((right - left, height), Image.Resampling.LANCZOS), (left, y))
            x += height * aspect + margin
        y += height + margin
    return sheet


def _draw(image: Float[Tensor, "3 h w"], objects: Mapping[str, Any], texts: list[str]) -> Image.Image:
    height, width = image.shape[-2:]
    scale = max(1, math.ceil(LEGIBLE / max(height, width)))
    pixels = (image.detach().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels).resize((width * scale, height * scale), Image.Resampling.BICUBIC)
    instances = [_instance(objects, index, text, picture.size, scale) for index, text in enumerate(texts)]
    colours = _choose_colours([instance.box for instance in instances])
    line = max(2, round(max(picture.size) / 400))
    by_size = sorted(range(len(instances)), key=lambda index: -_area(instances[index].box))
    for index in by_size:  # small objects lie on large ones
        _paint_mask(picture, instances[index].mask, colours[index], line)
    draw = ImageDraw.Draw(picture)
    for index in by_size:
        _paint_box(draw, instances[index].box, colours[index], line)
    for index in by_size:
        _paint_keypoints(draw, instances[index].keypoints, colours[index], line)
    _paint_labels(draw, instances, colours, picture.size)
    return picture


def _instance(
    objects: Mapping[str, Any], index: int, text: str, size: tuple[int, int], scale: int
) -> Instance:
    x1, y1, x2, y2 = (scale * value for value in objects["boxes"][index].tolist())
    points = [] if "keypoints" not in objects else objects["keypoints"][index].tolist()
    # a keypoint is a pixel's index: half a pixel further lies its centre
    keypoints = [((x + 0.5) * scale, (y + 0.5) * scale, v) for x, y, v in points if v > 0]
    return Instance((x1, y1, x2, y2), text, _mask(objects, index, size), keypoints)


def _mask(objects: Mapping[str, Any], index: int, size: tuple[int, int]) -> Image.Image | None:
    """The mask as an antialiased picture of `size` (width, height): decided at twice the size, then halved."""
    double = (2 * size[0], 2 * size[1])
    if "mask_probs" in objects:
        probs, boxes = objects["mask_probs"][index, None].float(), objects["boxes"][index, None].float()
        
