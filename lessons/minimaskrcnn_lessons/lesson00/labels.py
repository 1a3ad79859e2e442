"""Objects drawn over a picture, with names in letters of the lessons' size, put where they hide the least."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox
from torch import Tensor

from minimaskrcnn.draw import PALETTE
from minimaskrcnn_lessons.style import INK

# So many objects, the best ones, are named: more names than that would hide the picture.
NAMED = 12
# A label's distance from its box, and the steps in which it looks for a place, in pixels of the figure.
GAP, STEP, STEPS = 4, 12, 8
# Costs of a pixel of another label, and of a pixel of distance, against one of an object.
LABEL, DISTANCE = 20.0, 2.0

Colour = tuple[float, ...]


def draw_objects(axis: Axes, boxes: Tensor, masks: Tensor, texts: Sequence[str]) -> None:
    """Tint each mask `[n, h, w]`, outline it, draw its box `[n, 4]`, and name the first ones.

    Labels are placed for where the figure's layout puts the axes now: draw everything else first.
    """
    colours = [tuple(part / 255 for part in PALETTE[index % len(PALETTE)]) for index in range(len(boxes))]
    masks = masks.detach().float()
    # Small objects lie on large ones.
    for index in sorted(range(len(boxes)), key=lambda index: -float(masks[index].sum())):
        _object(axis, boxes[index].tolist(), masks[index].numpy(), colours[index])
    height, width = masks.shape[-2:]
    axis.set(xlim=(0, width), ylim=(height, 0))
    axis.figure.draw_without_rendering()
    covered = (masks > 0.5).any(0).numpy()
    placed: list[Bbox] = []
    for box, text, colour in list(zip(boxes.tolist(), texts, colours))[:NAMED]:
        placed.append(_label(axis, _on_figure(axis, box), text, colour, covered, placed))


def _object(axis: Axes, box: Sequence[float], mask: np.ndarray, colour: Colour) -> None:
    x1, y1, x2, y2 = box
    axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.5))
    # contour warns of a mask without an edge.
    if mask.min() < 0.5 < mask.max():
        centres = np.arange(mask.shape[1]) + 0.5, np.arange(mask.shape[0]) + 0.5
        axis.contourf(*centres, mask, levels=[0.5, 2], colors=[colour], alpha=0.4)
        axis.contour(*centres, mask, levels=[0.5], colors=[colour], linewidths=1.5)


def _on_figure(axis: Axes, box: Sequence[float]) -> Bbox:
    """A box of the picture in pixels of the figure, where y grows upwards."""
    x1, y1, x2, y2 = box
    return Bbox(axis.transData.transform([(x1, y2), (x2, y1)]))


def _label(
    axis: Axes, box: Bbox, text: str, colour: Colour, covered: np.ndarray, placed: Sequence[Bbox]
) -> Bbox:
    """Write the text where it hides least, joined to its box by a line where it is not beside it; its place."""
    look = {"facecolor": "white", "edgecolor": colour, "linewidth": 2, "pad": 1.5}
    written = axis.text(0, 0, text, ha="left", va="bottom", color=INK, bbox=look, zorder=6)
    written.set_in_layout(False)
    size = written.get_window_extent()
    places = _places(axis.get_window_extent(), box, size.width, size.height)
    place = min(
        places, key=lambda place: _hidden(axis, place, covered, placed) + DISTANCE * _distance(place, box)
    )
    to_picture = axis.transData.inverted()
    written.set_position(tuple(to_picture.transform(place.p0)))
    if _distance(place, box) > 2 * GAP:
        middles = [(one.p0 + one.p1) / 2 for one in (place, box)]
        axis.plot(*to_picture.transform(middles).T, color=colour, linewidth=1.5, zorder=5)
    return place


def _places(frame: Bbox, box: Bbox, width: float, height: float) -> Iterator[Bbox]:
    """Places for a label around a box, near ones first, all within the frame."""
    for away in range(GAP, GAP + STEPS * STEP, STEP):
        across = (box.x0, (box.x0 + box.x1 - width) / 2, box.x1 - width)
        for x in (box.x0 - away - width, *across, box.x1 + away):
            for y in (box.y1 + away, box.y0 - away - height, (box.y0 + box.y1 - height) / 2):
                left = min(max(x, frame.x0 + GAP), frame.x1 - GAP - width)
                low = min(max(y, frame.y0 + GAP), frame.y1 - GAP - height)
                yield Bbox.from_bounds(left, low, width, height)


def _hidden(axis: Axes, place: Bbox, covered: np.ndarray, placed: Sequence[Bbox]) -> float:
    """Pixels of objects and, each counted many times, of other labels that a label at that place hides."""
    corners = axis.transData.inverted().transform([(place.x0, place.y1), (place.x1, place.y0)])
    (x1, y1), (x2, y2) = corners.clip(0).round().astype(int)
    scale = place.width / (corners[1, 0] - corners[0, 0])
    shared = [Bbox.intersection(place, other.padded(GAP)) for other in placed]
    labels = sum(both.width * both.height for both in shared if both is not None)
    return covered[y1:y2, x1:x2].sum() * scale**2 + LABEL * labels


def _distance(place: Bbox, box: Bbox) -> float:
    """How far apart two boxes are, 0 where they touch."""
    across = max(box.x0 - place.x1, place.x0 - box.x1, 0)
    return across + max(box.y0 - place.y1, place.y0 - box.y1, 0)
