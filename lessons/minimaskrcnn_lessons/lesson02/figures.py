"""The figures of lesson 02."""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from minimaskrcnn.anchors import AnchorConfig, cell_anchors
from minimaskrcnn.ops import box_iou
from minimaskrcnn_lessons.lesson02.drawings import rectangle
from minimaskrcnn_lessons.lesson02.scenes import Picture
from minimaskrcnn_lessons.style import BLUE, GREEN, GREY, INK, ORANGE, RED, SKY, WIDTH

LABEL = {"fc": "white", "ec": "none", "pad": 1.5}


def badly_covered(picture: Picture, anchors: Tensor) -> Figure:
    """A scene; each object with the anchor that fits it best, and the IoU of the two."""
    best = box_iou(picture.boxes, anchors).max(dim=1)
    height, width = picture.image.shape[:2]
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 3.5))
    for axes in panels:
        axes.imshow(picture.image, extent=(0, width, height, 0))
        axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    taken: list[tuple[float, float]] = []
    for box, iou, index in zip(picture.boxes.tolist(), best.values.tolist(), best.indices.tolist()):
        good = iou >= 0.6
        for axes in panels:
            rectangle(axes, box, ec="white", lw=3.5)
            rectangle(axes, box, ec=BLUE, lw=1.8)
        rectangle(panels[1], anchors[index], ec="white", lw=4)
        rectangle(panels[1], anchors[index], ec=GREEN if good else RED, lw=2, ls="-" if good else "--")
        x, y = _free_place(box, taken, width, height)
        panels[1].text(
            x, y, f"{iou:.2f}", color="#00664B" if good else "#8A3300", bbox=LABEL, weight="bold", zorder=9
        )
    panels[0].set_title("the objects (blue)")
    panels[1].set_title("best anchors: IoU ≥ 0.6 (green), less (dashed)")
    return figure


def _free_place(
    box: Sequence[float], taken: list[tuple[float, float]], width: int, height: int
) -> tuple[float, float]:
    """Where the number of a box is far from the others: inside a large box, beside a small one."""
    x1, y1, x2, y2 = box
    middle = (y1 + y2) / 2 + 7
    places = [(x2 + 4, middle), (x1 - 38, middle), (x1, y1 - 4), (x1, y2 + 18)]
    if min(x2 - x1, y2 - y1) > 40:
        places = [(x, y) for y in (y1 + 18, y2 - 5) for x in (x1 + 4, x2 - 36)]
    within = [(x, y) for x, y in places if 2 <= x <= width - 34 and 14 <= y <= height - 3]
    free = [(x, y) for x, y in within if all(abs(x - u) > 44 or abs(y - v) > 30 for u, v in taken)]
    taken.append((free or within or [(max(x1, 2), max(y1, 14))])[0])
    return taken[-1]


def misfits(anchor: float, cases: Sequence[tuple[str, tuple[float, float, float, float]]]) -> Figure:
    """A square anchor and, panel by panel, an object that it fits badly; each with the IoU."""
    half = anchor / 2
    own = torch.tensor([[-half, -half, half, half]])
    figure, panels = plt.subplots(1, len(cases), figsize=(WIDTH, 3.3), sharex=True, sharey=True)
    for axes, (title, box) in zip(panels, cases):
        rectangle(axes, box, ec=BLUE, fc="#0072B230", fill=True, label="object")
        rectangle(axes, own[0], ec=ORANGE, ls="--", lw=2.5, label="anchor")
        iou = box_iou(torch.tensor([box]), own).item()
        axes.set(title=f"{title}\nIoU {iou:.3f}", xlim=(-anchor, anchor), ylim=(anchor, -anchor), xlabel="x")
        axes.set_aspect("equal")
    panels[0].set_ylabel("y")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def drift(levels: Sequence[tuple[str, Tensor, Tensor]]) -> Figure:
    """How far above its exact place each row of anchors lies: (name, exact, as stepped), `[rows]` of centres."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.4))
    for (name, exact, stepped), (colour, mark) in zip(levels, ((GREY, "s-"), (RED, "o--"))):
        axes.plot(exact, exact - stepped, mark, color=colour, label=name, ms=6)
        if (exact - stepped)[-1]:
            text = f"{(exact - stepped)[-1]:.0f} pixels"
            axes.annotate(
                text, (exact[-1], (exact - stepped)[-1]), (-12, -3), textcoords="offset points", ha="right"
            )
    axes.set(xlabel="exact centre y of the row, pixels", ylabel="anchors lie higher by, pixels")
    axes.set_title("An 800-row picture: the anchors of P6 drift from their cells")
    axes.legend(loc="upper left")
    return figure


def best_possible(config: AnchorConfig, strides: Sequence[int], sides: Tensor, off: float) -> Tensor:
    """`[h, w]`: the best IoU of an object of each height and width with any shape of the pyramid.

    `off` is the distance of the centres in strides of the anchor's own level, in x and in y: 0 is the luckiest place,
    0.5 the unluckiest.
    """
    height, width = torch.meshgrid(sides, sides, indexing="ij")
    objects = torch.stack([-width, -height, width, height], dim=-1).reshape(-1, 4) / 2
    best = torch.zeros(len(objects), dtype=objects.dtype)
    for sizes, stride in zip(config.sizes, strides):
        base = cell_anchors(sizes, config.aspect_ratios, config.round_corners).to(objects)
        best = torch.maximum(best, box_iou(objects, base + off * stride).amax(dim=1))
    return best.reshape(len(sides), len(sides))


def coverage(maps: Sequence[tuple[str, Tensor]], sides: Tensor, objects: Tensor | None = None) -> Figure:
    """Heat maps of the best IoU over an object's width and height, with the lines of 0.5 and 0.7."""
    figure, panels = plt.subplots(1, len(maps), figsize=(WIDTH, 4.2), sharex=True, sharey=True)
    for axes, (title, best) in zip(panels, maps):
        image = axes.pcolormesh(sides, sides, best, vmin=0, vmax=1, cmap="cividis", rasterized=True)
        lines = {"linewidths": [1.4, 2.0], "linestyles": [":", "-"]}
        axes.contour(sides, sides, best, levels=[0.5, 0.7], colors="white", **lines)
        axes.set(xscale="log", yscale="log", title=title, xlabel="object's width, pixels")
        ticks = [t for t in (8, 16, 32, 64, 128, 256, 512) if sides[0] <= t <= sides[-1]]
        axes.set_xticks(ticks, [str(t) for t in ticks], minor=False)
        axes.set_yticks(ticks, [str(t) for t in ticks], minor=False)
        axes.minorticks_off()
        axes.set_aspect("equal")
        if objects is not None:
            wh = objects[:, 2:] - objects[:, :2]
            axes.plot(wh[:, 0], wh[:, 1], "o", ms=3.5, mfc="white", mec=INK, mew=0.8)
    panels[0].set_ylabel("object's height, pixels")
    bar = figure.colorbar(image, ax=panels, shrink=0.8, label="best IoU")
    bar.ax.axhline(0.5, color="white", ls=":", lw=1.5)
    bar.ax.axhline(0.7, color="white", lw=2)
    return figure


def recall(curves: Sequence[tuple[str, Tensor]]) -> Figure:
    """For each set of anchors the share of objects whose best IoU reaches a threshold; `[G]` of best IoUs each."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.8))
    thresholds = torch.linspace(0.2, 1, 161)
    styles = ((GREY, ":"), (BLUE, "-"), (GREEN, "-."), (RED, "--"))
    for (name, best), (colour, dash) in zip(curves, styles):
        share = (best[None] >= thresholds[:, None]).float().mean(1)
        axes.plot(thresholds, share, color=colour, ls=dash, lw=2.2, label=name)
    for threshold in (0.5, 0.7):
        axes.axvline(threshold, color=SKY, lw=1)
    axes.set(xlabel="IoU threshold", ylabel="share of objects reached", ylim=(0, 1.02), xlim=(0.2, 1))
    axes.set_title("Further sizes reach these objects; further ratios do not")
    axes.legend(loc="lower left", title="anchors", alignment="left")
    return figure


def explorer_still(
    rows: int, columns: int, stride: int, box: Sequence[float], anchors: Tensor, iou: Tensor
) -> Figure:
    """The explorer's start: cells, centres as large as their best IoU, the object and its best anchor."""
    figure, axes = plt.subplots(figsize=(WIDTH, 5.0))
    _cells(axes, rows, columns, stride)
    per_cell = iou.reshape(rows, columns, -1).amax(-1)
    for i in range(rows):
        for j in range(columns):
            value = per_cell[i, j].item()
            axes.plot(
                j * stride,
                i * stride,
                "o",
                ms=2 + 12 * math.sqrt(value),
                mfc=plt.cm.cividis(value),
                mec=INK,
                mew=0.6,
            )
    rectangle(axes, box, ec=BLUE, fc="#0072B225", fill=True, lw=2.5, label="the object")
    rectangle(
        axes,
        anchors[int(iou.argmax())],
        ec=RED,
        ls="--",
        lw=2.5,
        label=f"its best anchor, IoU {iou.max():.3f}",
    )
    axes.set(
        xlim=(-6, columns * stride + 2), ylim=(rows * stride + 2, -6), xlabel="x, pixels", ylabel="y, pixels"
    )
    axes.set_aspect("equal")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=2)
    return figure


def _cells(axes: Axes, rows: int, columns: int, stride: int) -> None:
    for i in range(rows + 1):
        axes.plot([0, columns * stride], [i * stride] * 2, color="#BBBBBB", lw=0.8)
    for j in range(columns + 1):
        axes.plot([j * stride] * 2, [0, rows * stride], color="#BBBBBB", lw=0.8)
