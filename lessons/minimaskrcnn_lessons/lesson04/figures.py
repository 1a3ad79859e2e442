"""Lesson 04's figures; each returns a Figure, most of them with its alternative text."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from minimaskrcnn.matching import Matches
from minimaskrcnn_lessons.exercise import Drawing
from minimaskrcnn_lessons.lesson04.scenes import Prediction, found, nearest_object
from minimaskrcnn_lessons.style import BLUE, GREEN, GREY, INK, ORANGE, PINK, RED, SKY, WIDTH

COLOURS = (BLUE, RED, GREEN, PINK, ORANGE, SKY)


def _picture(axis: Axes, prediction: Prediction, fade: float = 0.45) -> None:
    """The resized picture as the network sees it, without padding and paled, so that lines stand out."""
    height, width = prediction.batch.image_sizes[0]
    image = prediction.batch.tensor[0, :, :height, :width] * 0.25 + 0.5
    pale = 1 - fade * (1 - image.clamp(0, 1).permute(1, 2, 0).numpy())
    axis.imshow(pale, extent=(0, width, height, 0), interpolation="bilinear")
    axis.set_xlim(0, width)
    axis.set_ylim(height, 0)
    axis.set_xticks([])
    axis.set_yticks([])


def _box(axis: Axes, box: Sequence[float], colour: str, **look: float | str) -> None:
    x1, y1, x2, y2 = (float(value) for value in box)
    axis.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, **look))


def _proposals(axis: Axes, boxes: Tensor, gt_boxes: Tensor) -> list[int]:
    """Draw the boxes in the colour of the object that each is on; how many are on each object."""
    on = nearest_object(boxes, gt_boxes).tolist()
    for box, g in zip(boxes, on):
        _box(axis, box, GREY if g < 0 else COLOURS[g % len(COLOURS)], lw=1, alpha=0.65)
    counts = [on.count(g) for g in range(len(gt_boxes))]
    for g, (box, count) in enumerate(zip(gt_boxes.tolist(), counts)):
        middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        look = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": COLOURS[g % len(COLOURS)]}
        axis.text(*middle, str(count), ha="center", va="center", fontsize=13, weight="bold", bbox=look)
    return counts


def crowding(prediction: Prediction, before: Tensor, after: Tensor) -> Drawing:
    """The best proposals without and with NMS, how many are on each object, and how many objects are found."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 4.6))
    gt_boxes = prediction.truth.boxes[0][prediction.truth.valid[0]]
    told = []
    for axis, boxes, title in zip(axes, (before, after), ("without NMS", "after NMS at 0.7")):
        _picture(axis, prediction)
        counts, reached = _proposals(axis, boxes, gt_boxes), found(boxes, gt_boxes)
        for box in gt_boxes:
            if not found(boxes, box[None]):
                _box(axis, box, INK, lw=2.5, ls="--")
        axis.set_title(f"{title}: {reached} of {len(gt_boxes)} objects found")
        told.append(f"{title} {counts} of them, {reached} objects found by IoU 0.5")
    figure.suptitle(f"The {len(before)} best proposals; numbers: how many lie on each object", fontsize=12)
    alt = f"One scene twice with its {len(before)} best proposals. On its {len(gt_boxes)} objects lie"
    return figure, f"{alt} {'; '.join(told)}."


def objectness(prediction: Prediction) -> Drawing:
    """The probability of the best anchor of each cell, level by level."""
    levels = prediction.output.logits[0].split([len(a) for a in prediction.output.anchors])
    figure, axes = plt.subplots(1, len(levels) + 1, figsize=(WIDTH, 2.9))
    height, width = prediction.batch.tensor.shape[-2:]
    _picture(axes[0], prediction, fade=0.9)
    axes[0].set_title("picture")
    highest = []
    for axis, logits, (rows, columns) in zip(axes[1:], levels, prediction.grids):
        best = logits.sigmoid().view(rows, columns, -1).amax(dim=-1)
        shown = axis.imshow(best.numpy(), vmin=0, vmax=1, extent=(0, width, height, 0))
        axis.set_title(f"stride {height // rows}: {rows} × {columns}")
        axis.set_xticks([])
        axis.set_yticks([])
        highest.append(f"stride {height // rows} {int((best > 0.5).sum())} of {rows * columns}")
    figure.colorbar(shown, ax=axes[1:], label="objectness", shrink=0.75, pad=0.02)
    alt = "A scene beside three maps of objectness. Cells above 0.5"
    return figure, f"{alt}: {', '.join(highest)}; they lie on objects."


def labels(prediction: Prediction, matches: Matches) -> Drawing:
    """Positive and ignored anchors of one picture, and its objects."""
    anchors = torch.cat(prediction.output.anchors)
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 4.2))
    gt_boxes = prediction.truth.boxes[0][prediction.truth.valid[0]]
    counts = []
    for axis, label, colour, name in zip(axes, (1, -1), (GREEN, ORANGE), ("positive", "ignored")):
        _picture(axis, prediction)
        chosen = anchors[matches.label[0] == label]
        for box in chosen:
            _box(axis, box, colour, lw=1, alpha=0.7)
        for box in gt_boxes:
            _box(axis, box, INK, lw=2, ls="--")
        axis.set_title(f"{len(chosen)} {name}")
        counts.append(len(chosen))
    alt = f"A scene twice. Left: {counts[0]} positive anchors tightly around the {len(gt_boxes)} dashed objects; "
    return figure, f"{alt}right: {counts[1]} ignored anchors, looser around the same objects."


def rounds(hits: Tensor, states: list[Tensor]) -> Drawing:
    """A hit matrix, and which boxes count as kept after each round."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.9))
    count = len(hits)
    edges = (-0.5, count - 0.5, count - 0.5, -0.5)
    left.imshow(hits.numpy(), cmap="Greys", vmax=1.6, extent=edges)
    left.set_title("row i hits column j")
    left.set_xlabel("box j, best first")
    left.set_ylabel("box i")
    table = torch.stack(states).numpy()
    right.imshow(table, cmap="Blues", vmax=1.6, aspect="auto")
    changed = np.argwhere(table[1:] != table[:-1])
    for row, column in changed:
        right.text(column, row + 1, "×", ha="center", va="center", color=RED, fontsize=13, weight="bold")
    right.set_yticks(range(len(states)), ["start", *(f"round {k}" for k in range(1, len(states)))])
    right.set_xlabel("box j (dark: kept; ×: changed)")
    right.set_title(f"settled after {len(states) - 2} rounds")
    for axis in (left, right):
        axis.set_xticks(range(0, count, 2))
    left.set_yticks(range(0, count, 2))
    changes = (table[1:] != table[:-1]).sum(axis=1).tolist()
    return figure, (
        f"Left: a matrix of {count} boxes above its diagonal, {int(hits.sum())} dark entries where a better box hits "
        f"a worse one. Right: who is kept after each round; {changes} boxes change in them."
    )


def bits(words: list[int], kept: int, count: int) -> Drawing:
    """Words of a bit mask as rows of squares, with the kept word under them."""
    rows = [[word >> j & 1 for j in range(count)] for word in [*words, kept]]
    figure, axis = plt.subplots(figsize=(WIDTH, 4.2))
    axis.imshow(np.array(rows), cmap="Greys", vmax=1.6, aspect="equal")
    axis.set_xticks(range(0, count, 4))
    axis.set_yticks([*range(0, count, 4), count], [*(f"word {i}" for i in range(0, count, 4)), "kept"])
    axis.axhline(count - 0.5, color=BLUE, lw=2)
    axis.set_xlabel("bit j")
    axis.set_title("One word a box: bit j says that it hits box j")
    alive = bin(kept).count("1")
    alt = f"{count} rows of {count} squares, dark where a bit is set, all above the diagonal"
    return figure, f"{alt}; below them one row: {alive} boxes are kept."


def recall(ks: list[int], curves: dict[str, list[float]]) -> Drawing:
    """Share of the objects that the k best proposals reach."""
    figure, axis = plt.subplots(figsize=(WIDTH, 3.8))
    looks = ((RED, "--", "s"), (BLUE, "-", "o"), (GREEN, ":", "^"))
    for (name, values), (colour, dash, marker) in zip(curves.items(), looks):
        axis.plot(ks, values, color=colour, ls=dash, marker=marker, lw=2.5, label=name)
    axis.set_xscale("log")
    axis.set_xticks(ks, [str(k) for k in ks])
    axis.minorticks_off()
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("proposals passed on, the best first")
    axis.set_ylabel("objects with a proposal\nof IoU ≥ 0.5")
    axis.legend(loc="lower right")
    axis.set_title("NMS spends the same number of proposals on more objects")
    middle = len(ks) // 2
    texts = [
        f"{name} {values[0]:.2f}, {values[middle]:.2f}, {values[-1]:.2f}" for name, values in curves.items()
    ]
    return (
        figure,
        f"Recall of objects by the best {ks[0]}, {ks[middle]} and {ks[-1]} proposals: {'; '.join(texts)}.",
    )
