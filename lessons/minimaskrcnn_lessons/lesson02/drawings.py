"""What the exercises of lesson 02 draw: what is expected, and where an answer differs."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from minimaskrcnn.ops import box_iou
from minimaskrcnn_lessons.style import BLUE, GREEN, GREY, INK, ORANGE, RED, WIDTH

Drawing = tuple[Figure, str]
COLOURS, DASHES = (BLUE, RED, GREEN, ORANGE, "#CC79A7", "#56B4E9"), ("-", "--", ":", "-.")


def rectangle(axes: Axes, box: Sequence[float], **style: Any) -> None:
    """The outline of an xyxy box."""
    x1, y1, x2, y2 = (float(value) for value in box)
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **({"fill": False, "lw": 2} | style)))


def plane(axes: Axes, boxes: Tensor, margin: float = 0.12) -> None:
    """Square pixels, y downwards, everything in view."""
    low, high = boxes[:, :2].amin(0), boxes[:, 2:].amax(0)
    centre, half = (low + high) / 2, (high - low).max().item() * (0.5 + margin)
    axes.set(xlim=(centre[0] - half, centre[0] + half), ylim=(centre[1] + half, centre[1] - half))
    axes.set_aspect("equal")


def rows_of_boxes(yours: Any, right: Tensor) -> Tensor:
    """The reader's result, row after row, as `[n, 4]`; ValueError for anything without boxes."""
    found = torch.as_tensor(yours).double()
    if found.ndim < 2 or found.shape[-1] != 4 or not found.numel():
        raise ValueError(f"no boxes: shape {tuple(found.shape)}, expected {tuple(right.shape)}")
    return found.reshape(-1, 4)


def first_different(yours: Tensor, right: Tensor) -> int:
    """The first row that differs or that one of the two lacks; 0 where all rows are the same."""
    common = min(len(yours), len(right))
    differs = (~torch.isclose(yours[:common], right[:common].double(), 1e-5, 1e-5)).any(1).nonzero()
    if len(differs):
        return int(differs[0])
    return common if len(yours) != len(right) else 0


def row_of(boxes: Tensor, row: int) -> str:
    """The numbers of a row; or how many rows there are, where this one is missing."""
    if row < len(boxes):
        return numbers(boxes[row])
    return f"missing: only {len(boxes)} row{'s' if len(boxes) > 1 else ''}"


def numbers(box: Sequence[float]) -> str:
    """The four numbers of a box, short."""
    return "(" + ", ".join(f"{float(value):.4g}" for value in box) + ")"


def _shapes(axes: Axes, boxes: Tensor) -> None:
    for row, box in enumerate(boxes.tolist()):
        colour, dash = COLOURS[row % len(COLOURS)], DASHES[row % len(DASHES)]
        rectangle(
            axes, box, ec=colour, ls=dash, label=f"{row}: {box[2] - box[0]:.1f} × {box[3] - box[1]:.1f}"
        )
    axes.plot(0, 0, "+", color=INK, ms=12)


def cell_picture(answer: Callable[..., Tensor]) -> Drawing:
    """One size in three ratios, and one ratio in three sizes."""
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 3.2))
    cases = (((32.0,), (0.5, 1.0, 2.0)), ((16.0, 32.0, 64.0), (1.0,)))
    titles = ("one size, 32, in three ratios", "one ratio, 1, in three sizes")
    for axes, (sizes, ratios), title in zip(panels, cases, titles):
        boxes = answer(sizes=sizes, aspect_ratios=ratios)
        _shapes(axes, boxes)
        plane(axes, boxes)
        axes.set(title=title, xlabel="x, pixels", ylabel="y, pixels")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=11, title="row: w × h")
    return figure, (
        "Two panels of boxes about a common centre at the origin. Left, size 32: 45.3 × 22.6, 32 × 32 and "
        "22.6 × 45.3 pixels, all of area 1024. Right, ratio 1: squares of 16, 32 and 64 pixels."
    )


def cell_difference(inputs: dict[str, Any], yours: Any, right: Tensor) -> Drawing:
    """The reader's anchors of a cell and the right ones."""
    found = rows_of_boxes(yours, right)
    row = first_different(found, right)
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 5.2))
    for axes, boxes, whose in zip(panels, (found, right), ("yours", "expected")):
        _shapes(axes, boxes)
        plane(axes, torch.cat([found, right]))
        x1, y1, x2, y2 = boxes[min(row, len(boxes) - 1)].tolist()
        sides = f": {x2 - x1:.4g} × {y2 - y1:.4g}" if row < len(boxes) else ""
        axes.set(title=f"{whose}, row {row}{sides}\n{row_of(boxes, row)}", xlabel="x", ylabel="y")
    handles = panels[int(len(right) > len(found))].get_legend_handles_labels()[0]
    names = [f"row {n}" for n in range(len(handles))]
    figure.legend(handles, names, loc="outside lower center", ncols=5)
    return figure, (
        f"Anchors for sizes {inputs['sizes']} and ratios {inputs['aspect_ratios']}. Row {row} of yours is "
        f"{row_of(found, row)}, expected {row_of(right, row)}."
    )


def _lattice(axes: Axes, boxes: Tensor, rows: int, columns: int, stride: int, marked: int | None) -> None:
    """The grid of cells, the anchors' outlines, and beside each centre the numbers of the anchors that have it."""
    for i in range(rows):
        for j in range(columns):
            rectangle(axes, (j * stride, i * stride, (j + 1) * stride, (i + 1) * stride), ec=GREY, lw=0.8)
    centres: dict[tuple[float, float], list[int]] = {}
    for number, box in enumerate(boxes.tolist()):
        rectangle(axes, box, ec=BLUE, lw=1.2, alpha=0.55)
        centres.setdefault((round((box[0] + box[2]) / 2, 3), round((box[1] + box[3]) / 2, 3)), []).append(
            number
        )
    for (x, y), there in centres.items():
        axes.plot(x, y, "o", color=INK, ms=4)
        if len(centres) <= 12:
            text = ",".join(map(str, there)) if len(there) < 4 else f"{there[0]},{there[1]},…"
            back = {"fc": "white", "ec": "none", "pad": 0.5, "alpha": 0.8}
            axes.annotate(text, (x, y), (4, 5), textcoords="offset points", fontsize=11, bbox=back)
    if marked is not None and marked < len(boxes):
        rectangle(axes, boxes[marked], ec=RED, lw=2.5, ls="--")


def grid_picture(answer: Callable[..., Tensor]) -> Drawing:
    """Two rows and three columns, two shapes."""
    boxes = answer(sizes=(16.0,), aspect_ratios=(0.5, 2.0), rows=2, columns=3, stride=16)
    figure, axes = plt.subplots(figsize=(WIDTH, 4.4))
    _lattice(axes, boxes, 2, 3, 16, None)
    plane_of(axes, [boxes, torch.tensor([[0.0, 0, 48, 32]])])
    axes.set(
        title="2 × 3 cells of stride 16, 2 shapes: row numbers beside each centre", xlabel="x", ylabel="y"
    )
    return figure, (
        "A grid of 2 rows and 3 columns of 16-pixel cells. Wide and tall anchors are centred on each cell's "
        "upper left corner. Row numbers: 0,1 at (0, 0); 2,3 at (16, 0); 4,5 at (32, 0); 6,7 at (0, 16); 8,9 at "
        "(16, 16); 10,11 at (32, 16)."
    )


def plane_of(axes: Axes, several: Sequence[Tensor]) -> None:
    """Limits that hold all boxes, sides of their own lengths."""
    boxes = torch.cat(list(several))
    low, high = (boxes[:, :2].amin(0) - 3).tolist(), (boxes[:, 2:].amax(0) + 3).tolist()
    axes.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]))
    axes.set_aspect("equal")


def grid_difference(inputs: dict[str, Any], yours: Any, right: Tensor) -> Drawing:
    """Both grids with the rows' numbers; the first row that differs is dashed."""
    found = rows_of_boxes(yours, right)
    row = first_different(found, right)
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 4.8))
    for axes, boxes, whose in zip(panels, (found, right), ("yours", "expected")):
        _lattice(axes, boxes, inputs["rows"], inputs["columns"], inputs["stride"], row)
        plane_of(axes, [found, right.double()])
        axes.set(title=f"{whose}, row {row} (dashed)\n{row_of(boxes, row)}", xlabel="x", ylabel="y")
    return figure, (
        f"{inputs['rows']} × {inputs['columns']} cells of stride {inputs['stride']} with the numbers of the rows at "
        f"their centres. Row {row} of yours is {row_of(found, row)}, expected {row_of(right, row)}."
    )


def _cells(axes: Axes, size: tuple[int, int], stride: int) -> tuple[int, int]:
    rows, columns = -(-size[0] // stride), -(-size[1] // stride)
    axes.add_patch(Rectangle((0, 0), size[1], size[0], fc="#CFE3F2", ec=BLUE, lw=2))
    for i in range(rows + 1):
        axes.plot([0, columns * stride], [i * stride] * 2, color=GREY, lw=0.8)
    for j in range(columns + 1):
        axes.plot([j * stride] * 2, [0, rows * stride], color=GREY, lw=0.8)
    axes.set(xlim=(-stride / 4, (columns + 0.25) * stride), ylim=((rows + 0.25) * stride, -stride / 4))
    axes.set_aspect("equal")
    return rows, columns


def count_picture(answer: Callable[..., int]) -> Drawing:
    """The coarsest levels of a picture of 800 × 1344."""
    size, strides = (800, 1344), [4, 8, 16, 32, 64]
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 3.4))
    for axes, stride in zip(panels, (32, 64)):
        rows, columns = _cells(axes, size, stride)
        axes.set(title=f"stride {stride}: {rows} × {columns} cells", xlabel="x", ylabel="y")
    total = answer(padded_size=size, strides=strides, num_sizes=1, num_ratios=3)
    figure.suptitle(f"800 × 1344 pixels, strides 4 to 64, 3 anchors a cell: {total:,} anchors")
    return figure, (
        f"A picture of 800 rows and 1344 columns under two grids: 25 × 42 cells of 32 pixels fit exactly; 13 × 21 "
        f"cells of 64 pixels reach 32 pixels below the picture. All five levels together: {total:,} anchors."
    )


def count_difference(inputs: dict[str, Any], yours: Any, right: int) -> Drawing:
    """The grid of the first level, and the sum of all."""
    size, strides = inputs["padded_size"], inputs["strides"]
    per_cell = inputs["num_sizes"] * inputs["num_ratios"]
    stride = strides[0] if max(size) / strides[0] <= 40 else strides[-1]
    figure, axes = plt.subplots(figsize=(WIDTH, 3.6))
    rows, columns = _cells(axes, size, stride)
    levels = " + ".join(f"{-(-size[0] // s)}·{-(-size[1] // s)}" for s in strides)
    first = f"stride {stride}: {rows} × {columns} cells touch {size[0]} × {size[1]} pixels"
    axes.set(xlabel="x", ylabel="y")
    axes.set_title(f"{first}\nexpected ({levels}) · {per_cell} a cell = {right}; yours {yours}")
    return figure, (
        f"A picture of {size[0]} × {size[1]} pixels under {rows} × {columns} cells of stride {stride}. With strides "
        f"{strides} and anchors a cell: {per_cell}, there are {right} anchors; yours are {yours}."
    )


def best_picture(answer: Callable[..., tuple[Tensor, Tensor]]) -> Drawing:
    """Two objects and four anchors, and their matrix."""
    gt_boxes = torch.tensor([[1.0, 1, 5, 4], [4, 4, 8, 8]])
    anchors = torch.tensor([[0.0, 0, 4, 4], [2, 0, 6, 4], [4, 2, 8, 8], [4, 5, 7, 8]])
    iou, index = answer(gt_boxes=gt_boxes, anchors=anchors)
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 3.8))
    _objects(panels[0], gt_boxes, anchors)
    _matrix(panels[1], gt_boxes, anchors, {"the row's best": (index, ORANGE)})
    found = "; ".join(
        f"object {g}: anchor {int(a)}, IoU {float(v):.3f}" for g, (v, a) in enumerate(zip(iou, index))
    )
    return figure, f"Two objects among four anchors, and the 2 × 4 matrix of their IoUs. The best: {found}."


def best_difference(inputs: dict[str, Any], yours: Any, right: tuple[Tensor, Tensor]) -> Drawing:
    """The boxes, the matrix, and what both have chosen in it."""
    gt_boxes, anchors = inputs["gt_boxes"], inputs["anchors"]
    parts = [torch.as_tensor(part) for part in yours]
    iou, index = (part.reshape(-1) for part in parts)
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 4.6))
    _objects(panels[0], gt_boxes, anchors)
    chosen = {"expected": (right[1], ORANGE)}
    # Other types are values in the place of numbers of anchors.
    if index.dtype == torch.int64:
        chosen["yours"] = index, RED
    _matrix(panels[1], gt_boxes, anchors, chosen)
    lines = []
    if any(part.shape != (len(gt_boxes),) for part in parts):
        shapes = " and ".join(str(list(part.shape)) for part in parts)
        lines.append(f"shapes: expected [{len(gt_boxes)}] and [{len(gt_boxes)}]; yours {shapes}")
    for g, (value, place) in enumerate(zip(*right)):
        own = f"{float(iou[g]):.3g} and {float(index[g]):.3g}" if g < min(len(index), len(iou)) else "nothing"
        lines.append(f"object {g}: expected IoU {float(value):.3g} and anchor {int(place)}; yours {own}")
    figure.suptitle("\n".join(lines), fontsize=12)
    return figure, f"Objects and anchors, and the matrix of their IoUs. {'. '.join(lines)}."[:500]


def _objects(axes: Axes, gt_boxes: Tensor, anchors: Tensor) -> None:
    """The outlines; boxes in the same place share a label."""
    inside = {"ha": "right", "va": "bottom", "color": "#8A5A00"}
    for box, names in _places(anchors, "a").items():
        rectangle(axes, box, ec=ORANGE, ls="--")
        axes.text(box[2] - 0.1, box[3] - 0.06, names, **inside)
    for box, names in _places(gt_boxes, "g").items():
        rectangle(axes, box, ec=BLUE, fc="#0072B230", fill=True)
        axes.text(box[0] + 0.1, box[1] + 0.06, names, ha="left", va="top", color=BLUE, weight="bold")
    end = torch.cat([gt_boxes, anchors]).max().item() + 0.5
    axes.set(xlim=(-0.5, end), ylim=(end, -0.5), xlabel="x", ylabel="y")
    axes.set_title("objects (blue), anchors (dashed)")
    axes.set_aspect("equal")


def _places(boxes: Tensor, letter: str) -> dict[tuple[float, ...], str]:
    """Each place that boxes take, with the names of those that lie there."""
    names: dict[tuple[float, ...], list[str]] = {}
    for number, box in enumerate(boxes.tolist()):
        names.setdefault(tuple(box), []).append(f"{letter}{number}")
    return {box: ", ".join(there) for box, there in names.items()}


def _matrix(axes: Axes, gt_boxes: Tensor, anchors: Tensor, chosen: dict[str, tuple[Tensor, str]]) -> None:
    """The IoU matrix with a frame around what was chosen in each row."""
    iou = box_iou(gt_boxes, anchors)
    axes.imshow(iou, cmap="Greys", vmin=0, vmax=2.2)
    for g, row in enumerate(iou.tolist()):
        for a, value in enumerate(row):
            axes.text(a, g, f"{value:.3f}", ha="center", va="center")
    for order, (whose, (index, colour)) in enumerate(chosen.items()):
        for g, a in enumerate(index.tolist()[: len(gt_boxes)]):
            if not 0 <= a < len(anchors):
                continue
            inset = 0.04 + 0.09 * order
            box = (a - 0.5 + inset, g - 0.5 + inset, a + 0.5 - inset, g + 0.5 - inset)
            rectangle(
                axes, box, ec=colour, lw=3, ls="-" if order == 0 else "--", label=whose if g == 0 else None
            )
    axes.set_xticks(range(len(anchors)), [f"a{a}" for a in range(len(anchors))])
    axes.set_yticks(range(len(gt_boxes)), [f"g{g}" for g in range(len(gt_boxes))])
    axes.set_title("IoU of each object with each anchor")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
