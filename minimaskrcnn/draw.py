"""Pictures of what was found, of what should be found, and of how training went.

Pillow draws everything but the curve, for which `plot_history` imports matplotlib.  An instance has one
colour, of a palette that colour-blind readers can tell apart (Okabe and Ito 2008), chosen so that objects
that touch differ.  Masks are tinted and end in a crisp line; a name and score stand on the box's own
colour, moved where they would cover another label.  Small pictures are enlarged until text is legible.

Left out: panoptic colours, video, fonts other than Pillow's own.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

from minimaskrcnn.data.keypoints import SKELETON
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
LEGIBLE = 480  # pixels: pictures with a shorter longer side are enlarged by a whole factor
TINT = 0.4  # opacity of a mask
NEAR = 30  # pixels: boxes that are closer get different colours
CROWDED = 20  # instances from which on labels are smaller

Colour = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]  # x1, y1, x2, y2, whole numbers for a label


class Instance(NamedTuple):
    """One object to draw, in the pixels of the drawing."""

    box: Rectangle
    text: str
    mask: Image.Image | None  # "L", cut out of the drawing
    corner: tuple[int, int]  # x, y of the cut-out's top left pixel
    keypoints: list[tuple[float, float, float]]  # x, y, v


def draw_detections(
    image: Float[Tensor, "3 h w"],
    detection: Mapping[str, Any],
    names: Mapping[int, str],
    score_threshold: float = 0.5,
) -> Image.Image:
    """`image` (0..1) with the detections that score at least `score_threshold`.

    `detection` has boxes, labels, scores and perhaps masks `[n, 1, h, w]`, mask_probs `[n, m, m]` (which are
    pasted here) or keypoints `[n, 17, 3]`.  A label without a name is shown as its number.
    """
    kept = (detection["scores"] >= score_threshold).nonzero()[:, 0].cpu()
    chosen = {
        key: value.detach().cpu()[kept] for key, value in detection.items() if isinstance(value, Tensor)
    }
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
    # An incomplete last row gets the height that it would have if filled up with pictures of the average shape.
    typical = _aspects(images) / len(images)
    heights = [round(free / (_aspects(row) + typical * (columns - len(row)))) for row in rows]
    sheet = Image.new("RGB", (width, sum(heights) + margin * (len(rows) + 1)), colour)
    y = margin
    for row, height in zip(rows, heights):
        x = float(margin)
        for image in row:
            right = x + height * (image.width / image.height)
            size = (round(right) - round(x), height)
            sheet.paste(image.convert("RGB").resize(size, Image.Resampling.LANCZOS), (round(x), y))
            x = right + margin
        y += height + margin
    return sheet


def _aspects(images: Sequence[Image.Image]) -> float:
    """Width over height, summed."""
    return sum(image.width / image.height for image in images)


def _draw(image: Float[Tensor, "3 h w"], objects: Mapping[str, Any], texts: list[str]) -> Image.Image:
    height, width = image.shape[-2:]
    scale = max(1, math.ceil(LEGIBLE / max(height, width)))
    pixels = (image.detach().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels).resize((width * scale, height * scale), Image.Resampling.BICUBIC)
    instances = [_instance(objects, index, text, scale) for index, text in enumerate(texts)]
    colours = _choose_colours([instance.box for instance in instances])
    line = max(2, round(max(picture.size) / 400))
    by_size = sorted(range(len(instances)), key=lambda index: -_area(instances[index].box))
    for paint in (_paint_mask, _paint_box, _paint_keypoints):
        for index in by_size:  # small objects lie on large ones
            paint(picture, instances[index], colours[index], line)
    _paint_labels(picture, instances, colours)
    return picture


def _instance(objects: Mapping[str, Any], index: int, text: str, scale: int) -> Instance:
    x1, y1, x2, y2 = (scale * value for value in objects["boxes"][index].tolist())
    points = [] if "keypoints" not in objects else objects["keypoints"][index].tolist()
    # a keypoint is the index of a pixel, whose centre is half a pixel further
    keypoints = [((x + 0.5) * scale, (y + 0.5) * scale, v) for x, y, v in points]
    mask = None
    corner = (0, 0)
    if "mask_probs" in objects:
        mask, corner = _pasted_mask(objects["mask_probs"][index], (x1, y1, x2, y2))
    elif "masks" in objects:
        mask, corner = _enlarged_mask(objects["masks"][index], scale)
    return Instance((x1, y1, x2, y2), text, mask, corner, keypoints)


def _pasted_mask(probs: Float[Tensor, "m m"], box: Rectangle) -> tuple[Image.Image, tuple[int, int]]:
    """A head's mask around its box: cut at one half on twice as many pixels, then averaged, for a smooth rim."""
    x = math.floor(box[0]) - 2
    y = math.floor(box[1]) - 2
    width = math.ceil(box[2]) + 2 - x
    height = math.ceil(box[3]) + 2 - y
    place = 2 * (probs.new_tensor([box]).float() - probs.new_tensor([x, y, x, y]).float())
    inside = paste_masks(probs[None].float(), place, (2 * height, 2 * width))[0].numpy()
    return Image.fromarray(inside).convert("L").resize((width, height), Image.Resampling.BOX), (x, y)


def _enlarged_mask(mask: Tensor, scale: int) -> tuple[Image.Image | None, tuple[int, int]]:
    """The part of a mask `[h, w]` or `[1, h, w]`, boolean or 0..1, that is not empty, smoothed as above."""
    levels = Image.fromarray((mask.numpy().reshape(mask.shape[-2:]) * 255).astype("uint8"))
    region = levels.getbbox()
    if region is None:
        return None, (0, 0)
    x = region[0] - 1
    y = region[1] - 1
    width = region[2] - region[0] + 2
    height = region[3] - region[1] + 2
    levels = levels.crop((x, y, x + width, y + height))
    large = levels.resize((2 * scale * width, 2 * scale * height), Image.Resampling.BICUBIC)
    if scale > 1:  # 0.6 of a pixel rounds the steps off and still keeps lines of one pixel
        large = large.filter(ImageFilter.GaussianBlur(0.6 * 2 * scale))
    inside = large.point(lambda v: 255 * (v > 127))
    return inside.resize((scale * width, scale * height), Image.Resampling.BOX), (scale * x, scale * y)


def _choose_colours(boxes: list[Rectangle]) -> list[Colour]:
    """For each box the first colour, in turn, that no earlier box close by has; else the rarest there."""
    chosen: list[int] = []
    for index, (x1, y1, x2, y2) in enumerate(boxes):
        around = (x1 - NEAR, y1 - NEAR, x2 + NEAR, y2 + NEAR)
        near = [chosen[other] for other in range(index) if _overlap(around, boxes[other]) > 0]
        turn = [(index + k) % len(PALETTE) for k in range(len(PALETTE))]
        chosen.append(min(turn, key=near.count))
    return [PALETTE[colour] for colour in chosen]


def _paint_mask(picture: Image.Image, instance: Instance, colour: Colour, line: int) -> None:
    """Tint the mask, and draw its rim inside, with a thin dark edge outside that shows on any ground."""
    if instance.mask is None:
        return
    mask = instance.mask.crop((-line, -line, instance.mask.width + line, instance.mask.height + line))
    corner = (instance.corner[0] - line, instance.corner[1] - line)
    rim = ImageChops.subtract(mask, mask.filter(ImageFilter.MinFilter(2 * line + 1)))
    edge = ImageChops.subtract(mask.filter(ImageFilter.MaxFilter(3)), mask)
    for paint, strength in (
        ((0, 0, 0), edge.point(lambda v: v // 2)),
        (colour, mask.point(lambda v: v * TINT)),
    ):
        picture.paste(paint, corner, strength)
    picture.paste(colour, corner, rim)


def _paint_box(picture: Image.Image, instance: Instance, colour: Colour, line: int) -> None:
    corners = [round(value) for value in instance.box]
    ImageDraw.Draw(picture).rectangle(corners, outline=colour, width=max(1, line // 2))


def _paint_keypoints(picture: Image.Image, instance: Instance, colour: Colour, line: int) -> None:
    """Bones between labelled keypoints, in the instance's colour on black; hidden keypoints are hollow."""
    draw = ImageDraw.Draw(picture)
    points = instance.keypoints
    line = max(1, min(line, round(math.sqrt(_area(instance.box)) / 50)))  # finer on a small person
    bones = [(points[a][:2], points[b][:2]) for a, b in SKELETON if points and points[a][2] and points[b][2]]
    for paint, width in (((0, 0, 0), line + 3), (colour, line + 1)):
        for bone in bones:
            draw.line(bone, fill=paint, width=width)
    for x, y, v in points:
        if v > 0:
            dot = (x - line - 0.5, y - line - 0.5, x + line + 0.5, y + line + 0.5)
            draw.ellipse(dot, fill="white" if v > 1 else colour, outline="black")


def _paint_labels(picture: Image.Image, instances: list[Instance], colours: list[Colour]) -> None:
    draw = ImageDraw.Draw(picture)
    share = 40 if len(instances) < CROWDED else 55
    font = ImageFont.load_default(max(11, round(max(picture.size) / share)))
    placed: list[Rectangle] = []
    for instance, colour in zip(instances, colours):
        left, top, right, bottom = font.getbbox(instance.text)
        pad = max(2, (bottom - top) // 5)
        ascent, descent = font.getmetrics()
        extent = (round(right - left) + 2 * pad, ascent + descent)
        place = _place_label(instance.box, extent, placed, picture.size)
        placed.append(place)
        draw.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=colour)
        draw.text((place[0] + pad - left, place[1]), instance.text, fill=_ink(colour), font=font)


def _place_label(
    box: Rectangle, extent: tuple[int, int], placed: list[Rectangle], size: tuple[int, int]
) -> Rectangle:
    """Where a label of `extent` (width, height) covers the least of the others: on a corner of its box, if it can."""
    x1, y1, x2, y2 = (round(value) for value in box)
    width, height = extent
    rows = [y1 - height, y1, y2, y2 - height, *range(y1 + height, y2 - height, height)]
    rows += [y for k in range(1, 4) for y in (y1 - height - k * height, y2 + k * height)]
    candidates = []
    for y in rows:
        for x in (x1, x2 - width, (x1 + x2 - width) // 2):
            x = max(0, min(x, size[0] - width))
            y = max(0, min(y, size[1] - height))
            candidates.append((x, y, x + width, y + height))
    return min(candidates, key=lambda place: sum(_overlap(place, other) for other in placed))


def _ink(colour: Colour) -> Colour:
    """Black or white, whichever stands out more (relative luminance of WCAG 2)."""
    linear = [((c / 255 + 0.055) / 1.055) ** 2.4 if c > 10 else c / 255 / 12.92 for c in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else (255, 255, 255)


def _overlap(a: Rectangle, b: Rectangle) -> float:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _area(box: Rectangle) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def plot_history(metrics: Path, out: Path) -> None:
    """Losses and AP by step, from a run's `metrics.jsonl`, as a picture file.

    Lines are `{"step": 10, "loss": 1.2, "loss_mask": 0.7, ...}` and `{"step": 500, "eval": {"bbox": {"AP": 0.3}}}`.
    ValueError where the file has no step; ModuleNotFoundError, with the remedy, without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the curve needs matplotlib: pip install 'minimaskrcnn[plot]'") from error
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    losses = [line for line in lines if "loss" in line]
    scores = [line for line in lines if "eval" in line]
    if not losses and not scores:
        raise ValueError(f"{metrics}: no line with a loss or an evaluation")
    figure = Figure(figsize=(11, 4), layout="constrained")
    axes = figure.subplots(1, 2 if scores else 1, squeeze=False)[0]
    _plot_losses(axes[0], losses)
    if scores:
        _plot_scores(axes[1], scores)
    for axis in axes:
        axis.set_xlabel("step")
        axis.set_xlim(left=0)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=120)


def _plot_losses(axis: Any, lines: list[dict[str, Any]]) -> None:
    steps = [line["step"] for line in lines]
    parts = sorted({key for line in lines for key in line if key.startswith("loss_")})
    for part, colour in zip(parts, PALETTE * len(parts)):
        values = [line.get(part, math.nan) for line in lines]
        name = part.removeprefix("loss_")
        axis.plot(steps, values, color=[c / 255 for c in colour], linewidth=1.2, label=name)
    axis.plot(steps, [line["loss"] for line in lines], color="black", linewidth=1.8, label="total")
    axis.set_ylim(bottom=0)
    axis.set_title("Loss", loc="left")
    axis.legend(frameon=False, ncols=2, fontsize=9)


def _plot_scores(axis: Any, lines: list[dict[str, Any]]) -> None:
    kinds = {"bbox": "box AP", "segm": "mask AP", "keypoints": "keypoint AP"}
    for (kind, name), colour in zip(kinds.items(), (PALETTE[6], PALETTE[2], PALETTE[3])):
        points = [(line["step"], line["eval"][kind]["AP"]) for line in lines if kind in line["eval"]]
        if points:
            label = f"{name}, {points[-1][1]:.3f} at the end"
            steps, values = zip(*points)
            rgb = [c / 255 for c in colour]
            axis.plot(steps, values, color=rgb, linewidth=1.8, marker="o", markersize=4, label=label)
    axis.set_ylim(0, 1)
    axis.set_title("AP, averaged over IoU 0.50 to 0.95", loc="left")
    axis.legend(frameon=False, fontsize=9)
