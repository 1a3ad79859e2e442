"""Lesson 00's pictures of results: what was found, what was missed, what it depends on, what it costs."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from IPython.display import HTML, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from minimaskrcnn.data.transforms import Sample
from minimaskrcnn.postprocess import Detection
from minimaskrcnn_lessons.display import picture_html
from minimaskrcnn_lessons.lesson00.labels import draw_objects
from minimaskrcnn_lessons.style import BLUE, INK, ORANGE, RED, WIDTH

Names = Mapping[int, str]


def panels(rows: int, columns: int, *, height: float, **how: Any) -> tuple[Figure, Any]:
    """Axes side by side, with room for the titles above pictures that fill them."""
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, height), layout="constrained", **how)
    figure.get_layout_engine().set(h_pad=0.08)
    return figure, axes


def rgb(image: Tensor) -> Tensor:
    """A picture `[3, h, w]` as `imshow` takes it."""
    return image.detach().clamp(0, 1).permute(1, 2, 0)


def picture(axis: Axes, image: Tensor, title: str = "") -> None:
    """The picture with pixel i over [i, i + 1)."""
    height, width = image.shape[-2:]
    axis.imshow(rgb(image), extent=(0, width, height, 0))
    axis.set(title=title, xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    axis.spines[:].set_visible(False)


def box(axis: Axes, corners: Sequence[float], colour: str, **how: Any) -> None:
    """A box (x1, y1, x2, y2)."""
    x1, y1, x2, y2 = corners
    axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **{"fill": False, "edgecolor": colour} | how))


def contrast(level: Tensor) -> Tensor:
    """How far the features `[C, H, W]` of each cell are from the mean of its 3×3 neighbours: details, not offsets."""
    level = level.detach()[None]
    around = avg_pool2d(pad(level, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return (level - around)[0].norm(dim=0)


def _detected(
    axis: Axes, image: Tensor, detection: Detection, names: Names, threshold: float, title: str
) -> None:
    """The picture with the detections of at least that score, best first."""
    picture(axis, image, title)
    kept = detection["scores"] >= threshold
    boxes, masks = detection["boxes"][kept], detection["masks"][kept][:, 0]
    pairs = zip(detection["labels"][kept].tolist(), detection["scores"][kept].tolist())
    draw_objects(axis, boxes, masks, [f"{names[label]} {score:.2f}" for label, score in pairs])


def found(image: Tensor, detection: Detection, names: Names, threshold: float = 0.5) -> Figure:
    """The picture, and the picture with what scores at least the threshold."""
    figure, (left, right) = panels(1, 2, height=4.6)
    picture(left, image, "What the model is given")
    _detected(right, image, detection, names, threshold, f"What it finds, from score {threshold:g} on")
    return figure


def compared(sample: Sample, detection: Detection, names: Names, threshold: float = 0.5) -> Figure:
    """What is in the picture, and what was found there."""
    figure, (left, right) = panels(1, 2, height=4.0)
    target = sample.target
    picture(left, sample.image, "What is there")
    # Both pictures before any label: labels are placed for the layout.
    picture(right, sample.image, "What is found")
    draw_objects(
        left, target["boxes"], target["masks"], [names[label] for label in target["labels"].tolist()]
    )
    _detected(right, sample.image, detection, names, threshold, f"What is found, from {threshold:g} on")
    return figure


def threshold_slider(sample: Sample, detection: Detection, names: Names) -> None:
    """A slider of the score threshold, and below it the picture of `compared` for it.  Needs a kernel."""
    import ipywidgets

    slider = ipywidgets.FloatSlider(
        value=0.5, min=0.05, max=0.95, step=0.05, description="score ≥", continuous_update=False
    )
    area = ipywidgets.Output()

    def refresh(change: Any = None) -> None:
        count = int((detection["scores"] >= slider.value).sum())
        alt = (
            f"{len(sample.target['boxes'])} objects, and {count} detections from score {slider.value:.2f} on."
        )
        area.clear_output(wait=True)
        with area:
            display(HTML(picture_html(compared(sample, detection, names, round(slider.value, 2)), alt)))

    slider.observe(lambda change: refresh(), "value")
    display(ipywidgets.VBox([slider, area]))


def influence(image: Tensor, gradient: Tensor, size: tuple[int, int], corners: Tensor, name: str) -> Figure:
    """The size of a mask's gradient at every pixel, beside the picture with the mask's box.

    The gradient is that of the padded batch; `size` is the part of it that is picture.
    """
    strength = gradient.abs().sum(0)[: size[0], : size[1]]
    figure, (left, right) = panels(1, 2, height=3.7)
    picture(left, image, f"The first detection: {name}")
    box(left, corners.tolist(), RED, linewidth=2.5)
    height, width = image.shape[-2:]
    right.imshow(strength / strength.max(), cmap="magma", vmax=0.5, extent=(0, width, height, 0))
    box(right, corners.tolist(), "white", linewidth=1.5, linestyle="--")
    right.set(title="How much each pixel moves its mask", xticks=[], yticks=[])
    return figure


def costs(seconds: Mapping[str, float]) -> Figure:
    """Milliseconds of every stage as bars."""
    figure, axis = panels(1, 1, height=2.9)
    total = sum(seconds.values())
    for place, taken in enumerate(seconds.values()):
        axis.barh(place, 1e3 * taken, color=BLUE if place % 2 else ORANGE, edgecolor=INK)
        axis.text(1e3 * taken, place, f"  {1e3 * taken:.1f} ms, {100 * taken / total:.0f} %", va="center")
    axis.set_yticks(range(len(seconds)), list(seconds))
    axis.invert_yaxis()
    axis.set(xlabel="milliseconds, measured here", xlim=(0, 1.35e3 * max(seconds.values())))
    axis.set_title(f"One picture takes {1e3 * total:.0f} ms")
    return figure


def whole_road(
    image: Tensor, level: Tensor, proposals: Tensor, detection: Detection, probs: Tensor, names: Names
) -> Figure:
    """Picture, features, proposals, detections, head's mask, pasted mask: the whole network in one strip."""
    figure, axes = panels(2, 3, height=5.6)
    picture(axes[0, 0], image, "1  a picture")
    axes[0, 1].imshow(contrast(level))
    axes[0, 1].set(title="2  its features", xticks=[], yticks=[])
    picture(axes[0, 2], image, f"3  {len(proposals)} proposals")
    for corners in proposals[:40].tolist():
        box(axes[0, 2], corners, "white", linewidth=0.8)
    picture(axes[1, 0], image, "4  boxes of the detections")
    first = detection["boxes"][0].tolist()
    for corners, score in zip(detection["boxes"].tolist(), detection["scores"].tolist()):
        if score >= 0.5:
            box(axes[1, 0], corners, RED if corners == first else ORANGE, linewidth=2)
    axes[1, 1].imshow(probs.detach(), vmin=0, vmax=1)
    side = probs.shape[-1]
    axes[1, 1].set(title=f"5  {side}×{side} mask: {names[int(detection['labels'][0])]}", xticks=[], yticks=[])
    picture(axes[1, 2], image, "6  pasted")
    inside = detection["masks"][0, 0].detach() > 0.5
    axes[1, 2].imshow(tint(inside), extent=(0, inside.shape[1], inside.shape[0], 0))
    box(axes[1, 2], first, RED, linewidth=1.5)
    return figure


def tint(inside: Tensor) -> Tensor:
    """Vermilion where true, seven tenths opaque, transparent elsewhere."""
    colour = torch.tensor([213, 94, 0, 180]) / 255
    return inside[..., None] * colour
