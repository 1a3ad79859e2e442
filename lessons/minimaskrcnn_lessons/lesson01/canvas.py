"""A plane of pixels to draw boxes and masks on: pixel i covers [i, i + 1), y grows downwards."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle

from minimaskrcnn_lessons.style import GREY, INK

PAPER = "#DCE9F3"  # a pixel of the mask; text on it is legible
WHITE_BOX = {"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.9}


def plane(
    axes: Axes, size: tuple[float, float], title: str = "", *, step: int = 1, margin: float = 0.25
) -> None:
    """Set the axes up as a picture of (height, width) pixels, with grid lines every `step` of them."""
    height, width = size
    axes.set_xlim(-margin, width + margin)
    axes.set_ylim(height + margin, -margin)
    axes.set_aspect("equal")
    axes.set_xticks(np.arange(0, width + 1, step))
    axes.set_yticks(np.arange(0, height + 1, step))
    axes.grid(color="#C8C8C8", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.set_title(title)
    for side in axes.spines.values():
        side.set_visible(False)


def outline(
    axes: Axes, box: Sequence[float], colour: str, *, dash: str = "-", width: float = 2.5, fill: float = 0.0
) -> None:
    """Draw one (x1, y1, x2, y2), with its inside tinted by `fill`."""
    x1, y1, x2, y2 = (float(v) for v in box)
    if fill:
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, facecolor=colour, alpha=fill, zorder=1))
    frame = {"fill": False, "edgecolor": colour, "linestyle": dash, "linewidth": width, "zorder": 3}
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **frame))


def note(axes: Axes, x: float, y: float, text: str, **style: object) -> None:
    """Text that stays legible on lines and pixels."""
    how = {"ha": "center", "va": "center", "color": INK, "zorder": 5, "bbox": WHITE_BOX} | style
    axes.text(x, y, text, **how)


def bitmap(axes: Axes, mask: np.ndarray, title: str = "", *, numbers: bool = False) -> None:
    """Draw a small mask, its pixels written as 0 and 1 where asked for."""
    height, width = mask.shape
    extent = (0, width, height, 0)
    axes.imshow(mask, cmap=ListedColormap(["white", PAPER]), vmin=0, vmax=1, extent=extent, zorder=0)
    plane(axes, mask.shape, title)
    if numbers:
        for y, x in np.ndindex(mask.shape):
            colour = INK if mask[y, x] else GREY
            axes.text(x + 0.5, y + 0.5, str(int(mask[y, x])), ha="center", va="center", color=colour)


def numbered_runs(axes: Axes, mask: np.ndarray, title: str = "") -> None:
    """A small mask with each pixel's place in COCO's order, down the columns."""
    bitmap(axes, mask, title)
    height = mask.shape[0]
    for y, x in np.ndindex(mask.shape):
        axes.text(x + 0.42, y + 0.5, str(x * height + y), ha="center", va="center", color=INK)
    for x in range(mask.shape[1]):
        axes.annotate(
            "", (x + 0.88, height - 0.15), (x + 0.88, 0.15), arrowprops={"arrowstyle": "->", "color": GREY}
        )
