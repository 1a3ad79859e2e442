"""An ablation's report: the table in markdown, and a figure, from the contents of its `table.json`.

Ours are means over the seeds, in percent, with half the range from the lowest to the highest seed; the paper's stand
beside them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minimaskrcnn.engine.ablations import KINDS
from minimaskrcnn.markdown import table_lines

Report = dict[str, Any]
ABSENT = "–"
# Okabe and Ito's blue, vermilion and bluish green: the darkest three, with a marker each.
SERIES = (((0.0, 0.447, 0.698), "o"), ((0.835, 0.369, 0.0), "s"), ((0.0, 0.62, 0.451), "^"))
JOINT = (
    "All parts are trained jointly here, from random weights; the paper's ablations train the RPN separately, from "
    "ImageNet's, on COCO. What can be compared is the order of the rows, not the numbers."
)


def mean(values: Sequence[float | None]) -> float | None:
    """None where any seed has no such number."""
    return None if not values or None in values else sum(values) / len(values)


def half_range(values: Sequence[float | None]) -> float | None:
    """Half of the largest less the smallest; None where there are no two seeds to compare."""
    return None if len(values) < 2 or None in values else (max(values) - min(values)) / 2


def markdown(report: Report) -> str:
    """The table with its title, and what a reader must know to compare."""
    heads = [heading(column, report["columns"]) for column in report["columns"]]
    lines = [["row", *heads, *(f"paper {head}" for head in heads)]]
    for row in report["rows"]:
        ours = [ours_text(*pair) for pair in zip(row["mean"], row["half_range"])]
        lines.append([row["name"], *ours, *(percent(value, 1) for value in row["paper"])])
    seeds = len(report["seeds"])
    seen = report["steps"] * report["training"]["batch_size"]
    spread = " (±: half of the range)" if seeds > 1 else ""
    scenes = report["scenes"]
    budget = (
        f"Mean over {seeds} {'seed' if seeds == 1 else 'seeds'}{spread} of {report['steps']} steps of "
        f"{report['training']['batch_size']} generated scenes ({seen:,} seen, {scenes['train']:,} different "
        f"ones), AP in percent on {scenes['val']} held-out ones. The paper: {report['paper_network']}."
    )
    text = [f"# Table {report['table']}: {report['title']}", "", *table_lines(lines), "", budget, JOINT]
    return "\n".join([*text, *([report["note"]] if report["note"] else []), "", f"`{report['command']}`", ""])


def heading(column: Sequence[str], columns: Sequence[Sequence[str]]) -> str:
    """A column's name; with its kind only where the table has several."""
    kind, metric = column
    return metric if len({kind for kind, _ in columns}) == 1 and kind == "segm" else f"{KINDS[kind]} {metric}"


def ours_text(value: float | None, spread: float | None) -> str:
    """`30.3 ±0.4` of fractions."""
    text = percent(value)
    return text if spread is None or value is None else f"{text} ±{percent(spread)}"


def percent(value: float | None, factor: float = 100) -> str:
    """One decimal."""
    return ABSENT if value is None else f"{factor * value:.1f}"


# ---- figure


def save_figure(report: Report, path: Path) -> None:
    """Two panels as a picture file: ours, a dot a seed and a bar at the mean, and the paper's numbers.

    ModuleNotFoundError, with the remedy, without matplotlib.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the figure needs matplotlib: pip install 'minimaskrcnn[plot]'") from error
    rows = report["rows"]
    with rc_context({"font.size": 11, "axes.titlesize": 12}):
        figure = Figure(figsize=(10, 1.9 + 0.62 * len(rows)), layout="constrained")
        ours, paper = figure.subplots(1, 2, sharey=True)
        drawn = drawn_columns(report["columns"])
        for place, index in enumerate(drawn):
            _plot_column(ours, paper, report, index, place, len(drawn))
        count = len(report["seeds"])
        ours.set_title(f"Here: {count} {'seed' if count == 1 else 'seeds'}, bar at the mean", loc="left")
        paper.set_title(f"The paper: {report['paper_network']}", loc="left")
        ours.set_yticks(range(len(rows)), [row["name"] for row in rows])
        ours.set_ylim(len(rows) - 0.5, -0.5)
        for axis in (ours, paper):
            axis.set_xlabel("AP, %")
            low, high = axis.get_xlim()
            axis.set_xlim(low, high + 0.12 * (high - low))  # room for the last number
            axis.grid(axis="x", alpha=0.25)
            axis.tick_params(axis="y", length=0)
            axis.spines[["top", "right", "left"]].set_visible(False)
            for line in range(len(rows) - 1):
                axis.axhline(line + 0.5, color="0.85", linewidth=0.8)
        handles, labels = paper.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        figure.suptitle(f"Table {report['table']}: {report['title']}", x=0.01, ha="left", fontsize=13)
        figure.savefig(path, dpi=120)


def drawn_columns(columns: Sequence[Sequence[str]]) -> list[int]:
    """The AP of each kind, or all columns where there is one kind: three series at most."""
    if len({kind for kind, _ in columns}) == 1:
        return list(range(len(columns)))
    return [index for index, (_, metric) in enumerate(columns) if metric == "AP"]


def _plot_column(ours: Any, paper: Any, report: Report, index: int, place: int, count: int) -> None:
    """One column in both panels, its rows shifted by `place` so that the series do not cover each other."""
    colour, marker = SERIES[place]
    shift = (place - (count - 1) / 2) * 0.24
    style = {"color": colour, "marker": marker, "markersize": 7, "linestyle": "none"}
    known: list[tuple[float, float]] = []
    for line, row in enumerate(report["rows"]):
        y = line + shift
        middle = row["mean"][index]
        if middle is not None:
            values = [100 * seed[index] for seed in row["values"]]
            ours.plot(values, [y] * len(values), **style, alpha=0.6, markeredgewidth=0)
            ours.plot([100 * middle] * 2, [y - 0.1, y + 0.1], color=colour, linewidth=2.5)
            _write_number(ours, 100 * middle, max(values), y)
        if row["paper"][index] is not None:
            known.append((row["paper"][index], y))
            _write_number(paper, known[-1][0], *known[-1])
    paper.plot(*zip(*known), **style, label=heading(report["columns"][index], report["columns"]))


def _write_number(axis: Any, value: float, x: float, y: float) -> None:
    axis.annotate(f"{value:.1f}", (x, y), (8, 0), textcoords="offset points", va="center")
