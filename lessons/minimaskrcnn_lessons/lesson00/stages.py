"""Lesson 00's pictures of the stages: what flows between the parts of the network."""

import torch
from matplotlib.figure import Figure
from torch import Tensor

from minimaskrcnn.data.transforms import Batch
from minimaskrcnn.ops import fpn_levels
from minimaskrcnn.postprocess import Detection
from minimaskrcnn.rpn import RPNOutput
from minimaskrcnn_lessons.lesson00.figures import Names, box, contrast, panels, picture, tint
from minimaskrcnn_lessons.style import BLUE, GREEN, INK, ORANGE, RED


def preprocessed(image: Tensor, batch: Batch) -> Figure:
    """The picture, and the first channel of the batch's tensor with its padding."""
    figure, (left, right) = panels(1, 2, height=3.7)
    height, width = image.shape[-2:]
    picture(left, image, f"As given: {height} × {width},\nvalues 0 to 1")
    tensor = batch.tensor[0, 0].detach()
    (rows, columns), (h, w) = tensor.shape, batch.image_sizes[0]
    shown = right.imshow(tensor, cmap="gray", extent=(0, columns, rows, 0))
    box(right, (0.5, 0.5, w - 0.5, h - 0.5), ORANGE, linewidth=2, linestyle="--")
    right.set(title=f"Red: resized to {h} × {w},\npadded to {rows} × {columns}", xticks=[], yticks=[])
    figure.colorbar(shown, ax=right, shrink=0.8)
    return figure


def pyramid(levels: list[Tensor], strides: tuple[int, ...]) -> Figure:
    """How much the features of each level differ from their neighbours'."""
    figure, axes = panels(1, len(levels), height=2.7)
    for number, (axis, level, stride) in enumerate(zip(axes, levels, strides), 2):
        _, channels, height, width = level.shape
        axis.imshow(contrast(level[0]))
        axis.set(title=f"P{number}: stride {stride}", xticks=[], yticks=[])
        axis.set_xlabel(f"{channels} × {height} × {width}")
    return figure


def objectness(output: RPNOutput, levels: list[Tensor], strides: tuple[int, ...]) -> Figure:
    """The best score of the anchors of each cell, level by level."""
    figure, axes = panels(1, len(levels), height=2.9)
    counts = [len(anchors) for anchors in output.anchors]
    scores = output.logits[0].detach().sigmoid().split(counts)
    for number, (axis, level, of_level) in enumerate(zip(axes, levels, scores), 2):
        height, width = level.shape[-2:]
        best = of_level.view(height, width, -1).amax(-1)
        shown = axis.imshow(best, vmin=0, vmax=1)
        axis.set(title=f"P{number}: {len(of_level)} anchors", xticks=[], yticks=[])
    figure.colorbar(shown, ax=axes, location="bottom", aspect=40, label="best objectness of the cell")
    return figure


def before_and_after(image: Tensor, before: Tensor, after: Tensor, shown: int = 60) -> Figure:
    """The best boxes before NMS and the best after it."""
    figure, axes = panels(1, 2, height=3.9)
    for axis, boxes, name in zip(axes, (before, after), ("before NMS", "after NMS")):
        picture(axis, image, f"Best {shown} of {len(boxes)}, {name}")
        for corners in boxes[:shown].tolist():
            box(axis, corners, "black", linewidth=1.6, alpha=0.5)
            box(axis, corners, "white", linewidth=0.8)
    return figure


def one_proposal(
    image: Tensor, proposal: Tensor, moved: Tensor, pooled: Tensor, scores: Tensor, names: Names
) -> Figure:
    """A proposal and where its deltas move it, its pooled features, and the scores of the classes."""
    figure, (left, middle, right) = panels(1, 3, height=3.2, width_ratios=(1.15, 0.9, 1))
    picture(left, image, "One proposal, moved")
    box(left, proposal.tolist(), "white", linewidth=2.5, linestyle="--")
    box(left, moved.tolist(), RED, linewidth=2.5)
    left.set_xlabel("dashed: proposal; solid: moved")
    middle.imshow(pooled.detach().abs().mean(0))
    middle.set(title=f"Its {pooled.shape[-2]}×{pooled.shape[-1]} features", xticks=[], yticks=[])
    middle.set_xlabel(f"mean of {len(pooled)} channels")
    texts = ["background", *(names[label] for label in range(1, len(scores)))]
    best = int(scores.argmax())
    for place, score in enumerate(scores.tolist()):
        right.barh(
            place, score, color=RED if place == best else BLUE, edgecolor=INK, hatch="//" * (place == best)
        )
        if score >= 0.01:
            right.text(score + 0.03, place, f"{score:.2f}", va="center")
    right.set_yticks(range(len(texts)), texts)
    right.invert_yaxis()
    right.set(xlim=(0, 1.3), xticks=[0, 0.5, 1], title="Scores: sum 1")
    return figure


def levels_of(
    boxes: Tensor, strides: tuple[int, ...], canonical_size: float, canonical_level: int
) -> list[int]:
    """How many boxes are read from each level."""
    levels = fpn_levels(boxes, strides, canonical_size, canonical_level)
    return torch.bincount(levels, minlength=len(strides)).tolist()


def masks(image: Tensor, detection: Detection, probs: Tensor, names: Names, shown: int = 5) -> Figure:
    """The head's masks of the best detections, and the same masks pasted, cut out around their boxes."""
    shown = min(shown, len(probs))
    figure, axes = panels(2, shown, height=3.9, squeeze=False)
    for column in range(shown):
        name, score = names[int(detection["labels"][column])], float(detection["scores"][column])
        axes[0, column].imshow(probs[column].detach(), vmin=0, vmax=1)
        axes[0, column].set(title=f"{name} {score:.2f}", xticks=[], yticks=[])
        axis, corners = axes[1, column], detection["boxes"][column].tolist()
        inside = detection["masks"][column, 0].detach() > 0.5
        picture(axis, image)
        axis.imshow(tint(inside), extent=(0, inside.shape[1], inside.shape[0], 0))
        box(axis, corners, GREEN, linewidth=2)
        half = 0.62 * max(corners[2] - corners[0], corners[3] - corners[1])
        x, y = (corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2
        axis.set(xlim=(x - half, x + half), ylim=(y + half, y - half), xlabel=f"{int(inside.sum())} pixels")
    axes[0, 0].set_ylabel(f"{probs.shape[-1]}×{probs.shape[-1]}")
    axes[1, 0].set_ylabel("pasted")
    return figure
