"""Pictures of lesson 04's exercises: a counterexample, and what a right answer produces."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from minimaskrcnn.ops import box_iou
from minimaskrcnn_lessons.exercise import Drawing, Inputs
from minimaskrcnn_lessons.lesson04 import remarks
from minimaskrcnn_lessons.style import BLUE, GREEN, GREY, INK, ORANGE, RED, WIDTH

NAMES = {1: "positive", 0: "negative", -1: "ignored"}
SIGN = {1: "1", 0: "0", -1: "-1"}


def _frame(axis: Axes, boxes: Tensor) -> None:
    """Axes that hold the boxes, y downwards as in a picture."""
    low, high = boxes.amin(dim=0), boxes.amax(dim=0)
    axis.set_xlim(low[0] - 0.6, high[2] + 0.6)
    axis.set_ylim(high[3] + 0.6, low[1] - 0.9)
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_visible(False)


def _box(axis: Axes, box: Sequence[float], colour: str, text: str, dash: str = "-", width: float = 2) -> None:
    x1, y1, x2, y2 = box
    rectangle = plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, lw=width, ls=dash)
    axis.add_patch(rectangle)
    if text:
        axis.text(x1 + 0.1, y1 + 0.1, text, color=INK, ha="left", va="top", fontsize=11)


def _results(
    axis: Axes,
    rows: list[list[str]],
    names: list[str],
    columns: list[str],
    marked: Sequence[tuple[int, int]] = (),
    widths: Sequence[float] | None = None,
) -> None:
    """A table that fills the axes; the (row, column) that are marked are bold on red."""
    axis.axis("off")
    table = axis.table(
        cellText=rows, rowLabels=names, colLabels=columns, colWidths=widths, loc="center", cellLoc="center"
    )
    table.auto_set_font_size(False)
    table.set_fontsize(11 if widths else 12)
    table.scale(1, 1.7)
    for row, column in marked:
        # Row 0 of the table has the names of the columns.
        table[row + 1, column].set_facecolor("#F9DCCB")
        table[row + 1, column].set_text_props(weight="bold")


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def match_counterexample(inputs: Inputs, yours: Any, right: Any) -> Drawing:
    """The table of IoU, objects down and anchors across, and under it both labels."""
    iou = box_iou(inputs["gt_boxes"], inputs["anchors"])
    count = iou.shape[1]
    rows = [[f"{value:.3g}" for value in row] for row in iou.tolist()]
    names = [f"IoU with object {g}" for g in range(len(iou))]
    marked = []
    for which, what in ((0, "index"), (1, "label")):
        pair = [_padded(torch.as_tensor(result[which]).tolist(), count) for result in (yours, right)]
        marked += [(len(rows), k) for k in range(count) if pair[0][k] != pair[1][k]]
        rows += pair
        names += [f"{what}, yours", f"{what}, right"]
    figure, axis = plt.subplots(figsize=(WIDTH, 0.9 + 0.36 * len(rows)))
    _results(axis, rows, names, [f"anchor {k}" for k in range(count)], marked)
    axis.set_title(f"high = {inputs['high']:g}, low = {inputs['low']:g}; red: different")
    said = [f"{name} {', '.join(row)}" for name, row in zip(names[len(iou) :], rows[len(iou) :])]
    what = f"Table of the IoU of {_many(len(iou), 'object')} with {_many(count, 'anchor')}"
    return figure, f"{what}; {'; '.join(said)}."[:500]


def _padded(values: list, count: int) -> list[str]:
    shown = [f"{value:g}" if isinstance(value, int | float) else str(value) for value in values[:count]]
    return shown + ["none"] * (count - len(values))


def match_picture(f: Callable[..., Any]) -> Drawing:
    """Five anchors beside two objects, with the labels that a solution gives."""
    gt = torch.tensor([[1.0, 1, 5, 5], [9, 2, 11, 4]])
    anchors = torch.tensor([[1.0, 1, 5, 4.5], [2, 1, 6, 5], [5.5, 5, 8, 7], [8, 1, 12, 5], [9, 4.5, 12, 7]])
    _, label = f(gt_boxes=gt, anchors=anchors, high=0.7, low=0.3)
    iou = box_iou(gt, anchors).amax(dim=0)
    figure, axis = plt.subplots(figsize=(WIDTH, 5))
    for g, box in enumerate(gt.tolist()):
        x1, y1, x2, y2 = box
        axis.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, color=GREY, alpha=0.35, lw=0))
        axis.text((x1 + x2) / 2, (y1 + y2) / 2, f"object {g}", ha="center", va="center")
    looks = {1: (GREEN, "-"), 0: (BLUE, "--"), -1: (ORANGE, ":")}
    lines = []
    for k, box in enumerate(anchors.tolist()):
        colour, dash = looks[int(label[k])]
        _box(axis, box, colour, "", dash, 2.5)
        axis.text(box[2] - 0.1, box[3] - 0.1, str(k), ha="right", va="bottom", fontsize=12)
        lines.append(f"{k}: IoU {iou[k]:.2f}, {NAMES[int(label[k])]} ({SIGN[int(label[k])]})")
    _frame(axis, torch.cat([gt, anchors]))
    figure.suptitle("Anchor 3 is positive by the low-quality rule: none overlaps object 1 more", fontsize=12)
    axis.set_xlabel("\n".join(lines), linespacing=1.4)
    return figure, f"Two grey objects and five anchors with high 0.7, low 0.3. {'; '.join(lines)}."


def sample_counterexample(inputs: Inputs, yours: Any, right: Any) -> Drawing:
    """Label and key of each anchor, who chose it as what and as which, and what is wrong with the choice."""
    label, keys = inputs["label"].tolist(), inputs["keys"].tolist()
    chosen = [[torch.as_tensor(part).long().tolist() for part in result] for result in (yours, right)]
    rows = [[str(v) for v in label], [f"{v:.2f}" for v in keys]]
    rows += [[_ranks(k, *parts) for k in range(len(label))] for parts in chosen]
    marked = [(2, k) for k in range(len(label)) if rows[2][k] != rows[3][k]]
    found = remarks.of_sample(inputs, yours, right)
    figure, axis = plt.subplots(figsize=(WIDTH, 3.0 + 0.2 * len(found)))
    _results(axis, rows, ["label", "key", "yours", "right"], [str(k) for k in range(len(label))], marked)
    how = f"number = {inputs['number']}, fraction = {inputs['fraction']:g}"
    how += "; pos 1: first of the positives; red: different"
    axis.set_title("\n".join([how, *found]))
    text = f"Labels {label}. Chosen positives and negatives: yours {chosen[0]}, right {chosen[1]}."
    return figure, " ".join([text, *(f"{remark}." for remark in found)])[:500]


def _ranks(anchor: int, positive: list[int], negative: list[int]) -> str:
    """As which of the positives or negatives an anchor was chosen."""
    texts = []
    for kind, part in (("pos", positive), ("neg", negative)):
        places = [str(place) for place, k in enumerate(part, 1) if k == anchor]
        texts += [f"{kind} {', '.join(places)}"] if places else []
    return "; ".join(texts)


def sample_picture(f: Callable[..., Any]) -> Drawing:
    """Shares of 300 anchors, and of the 32 chosen."""
    label = torch.tensor([1] * 6 + [-1] * 24 + [0] * 270)
    keys = torch.rand(len(label), generator=torch.Generator().manual_seed(0))
    positive, negative = f(label=label, keys=keys, number=32, fraction=0.5)
    figure, axis = plt.subplots(figsize=(WIDTH, 2.6))
    for y, counts in enumerate(([6, 270, 24], [len(positive), len(negative), 0])):
        left = 0.0
        for count, colour, hatch in zip(counts, (GREEN, BLUE, ORANGE), ("//", "", "..")):
            share = count / sum(counts)
            axis.barh(y, share, left=left, color=colour, alpha=0.55, hatch=hatch, edgecolor="white")
            if share > 0.05:
                axis.text(left + share / 2, y, str(count), ha="center", va="center", fontsize=12)
            left += share
    axis.text(0.0, -0.52, "6 positive", ha="left", va="bottom")
    axis.text(0.5, -0.52, "negative", ha="center", va="bottom")
    axis.text(1.0, -0.52, "ignored", ha="right", va="bottom")
    axis.set_yticks([0, 1], ["all 300", "sampled 32"])
    axis.set_ylim(1.5, -0.85)
    axis.set_xlabel("share")
    axis.set_title("All 6 positives are taken; negatives fill the other 26 places")
    alt = f"Bars: of 300 anchors 6 are positive, 270 negative, 24 ignored; of 32 sampled {len(positive)} are positive"
    return figure, f"{alt} and {len(negative)} negative."


def _smooth(x: Tensor, beta: float) -> Tensor:
    return torch.nn.functional.smooth_l1_loss(x, torch.zeros_like(x), beta=beta, reduction="none")


def loss_counterexample(inputs: Inputs, yours: Any, right: Any) -> Drawing:
    """The errors, each with its loss, and both sums."""
    error, positive = inputs["deltas"] - inputs["targets"], inputs["positive"]
    each = _smooth(error, inputs["beta"])
    rows = [
        [*(f"{e:g} ({v:.3g})" for e, v in zip(row, value)), "yes" if is_positive else "no"]
        for row, value, is_positive in zip(error.tolist(), each.tolist(), positive.tolist())
    ]
    figure, axis = plt.subplots(figsize=(WIDTH, 1.6 + 0.36 * len(rows)))
    names = [f"sample {k}" for k in range(len(rows))]
    _results(axis, rows, names, ["dx", "dy", "dw", "dh", "positive"], widths=[0.21] * 4 + [0.16])
    axis.set_title(
        f"Error (smooth L1 of it), beta = {inputs['beta']:g}\nyours {float(yours):.5g}, right {float(right):.5g}"
    )
    losses = f"your loss {float(yours):.5g}, right {float(right):.5g}"
    return figure, f"Table of the errors of {_many(len(rows), 'sample')}; {losses}."


def loss_picture(f: Callable[..., Any]) -> Drawing:
    """The loss of one positive sample whose dx is off by x."""
    xs = torch.linspace(-1, 1, 201)
    figure, axis = plt.subplots(figsize=(WIDTH, 3.4))
    for beta, colour, dash in ((1 / 9, BLUE, "-"), (1.0, RED, "--")):
        values = [
            float(f(deltas=torch.tensor([[x, 0, 0, 0]]), targets=torch.zeros(1, 4),
                    positive=torch.tensor([True]), beta=beta))
            for x in xs.tolist()
        ]  # fmt: skip
        axis.plot(xs, values, color=colour, ls=dash, lw=2.5)
        axis.text(1.02, values[-1], "beta = 1/9" if beta < 1 else "beta = 1", va="center")
    axis.axvspan(-1 / 9, 1 / 9, color=BLUE, alpha=0.12, lw=0)
    axis.text(0, 0.6, "quadratic\nfor beta = 1/9", ha="center")
    axis.set_xlabel("error of dx")
    axis.set_ylabel("loss")
    axis.set_title("Quadratic up to beta, then a line of slope 1")
    return figure, (
        "Smooth L1 over errors of -1 to 1: with beta 1/9 a V rounded within 1/9, 0.94 at 1; with beta 1 a parabola, "
        "0.5 at 1."
    )


def nms_counterexample(inputs: Inputs, yours: Any, right: Any) -> Drawing:
    """The boxes twice: as the reader keeps them, and as they should be kept."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 4.2))
    for axis, result, who in zip(axes, (yours, right), ("yours", "right")):
        _kept(axis, inputs, _numbers(result), f"{who}: keep {_numbers(result)}{_kind(result)}")
    iou = box_iou(inputs["boxes"], inputs["boxes"]).triu(1)
    pairs = [f"{i}-{j}: {iou[i, j]:.3g}" for i, j in (iou > 0).nonzero().tolist()]
    figure.suptitle(
        f"threshold = {inputs['threshold']:g};  IoU {', '.join(pairs[:6]) or 'all 0'}", fontsize=12
    )
    count = len(inputs["boxes"])
    alt = f"{count} box{'' if count == 1 else 'es'}, threshold {inputs['threshold']:g}"
    alt += f", IoU {', '.join(pairs[:6]) or 'all 0'}."
    return figure, f"{alt} You keep {_numbers(yours)}, right is {list(right)}."


def _numbers(kept: Any) -> list[int]:
    """The indices that the reader returned, or what a mask selects."""
    found = torch.as_tensor(kept)
    return (found.nonzero()[:, 0] if found.dtype == torch.bool else found.long()).tolist()


def _kind(kept: Any) -> str:
    return ", as a mask" if torch.as_tensor(kept).dtype == torch.bool else ""


def _kept(axis: Axes, inputs: Inputs, kept: list[int], title: str) -> None:
    groups = inputs["groups"].tolist()
    for k, box in enumerate(inputs["boxes"].tolist()):
        colour = (BLUE, RED)[groups[k] % 2]
        _box(axis, box, colour if k in kept else GREY, "", "-" if k in kept else ":", 3 if k in kept else 1.5)
    # Labels beside the boxes: corners coincide too often to hold them.
    lines = [
        f"{k}: score {score:g}, group {groups[k]}{'' if k in kept else ', removed'}"
        for k, score in enumerate(inputs["scores"].tolist())
    ]
    for k, box in enumerate(inputs["boxes"].tolist()):
        axis.text(box[2] - 0.08, box[1] + 0.1 + 0.45 * k, str(k), ha="right", va="top", fontsize=12)
    _frame(axis, inputs["boxes"])
    axis.set_title(title)
    axis.set_xlabel("\n".join(lines))


def nms_picture(f: Callable[..., Any]) -> Drawing:
    """A chain of three: the second goes, and with it what would have removed the third."""
    inputs = {
        "boxes": torch.tensor([[0.0, 0, 4, 3], [1, 0, 5, 3], [2, 0, 6, 3], [7, 0, 10, 3], [7, 0, 10, 2.5]]),
        "scores": torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]),
        "groups": torch.tensor([0, 0, 0, 0, 1]),
        "threshold": 0.5,
    }
    kept = f(**inputs)
    figure, axis = plt.subplots(figsize=(WIDTH, 4.8))
    _kept(axis, inputs, list(kept), f"keep {list(kept)}: 1 hits 2 but is gone; 4 is of another group than 3")
    alt = f"Five boxes, threshold 0.5. Kept: {list(kept)}."
    return figure, f"{alt} Box 1 goes for box 0, so box 2 stays; box 4 has its own group."
