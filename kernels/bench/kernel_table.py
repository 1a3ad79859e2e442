"""The table of `gpu_kernels.py`: what a row holds, its cells, and whether it meets its goals."""

from dataclasses import dataclass
from typing import NamedTuple

from kernel_cases import Case, Goal

IMPLEMENTATIONS = ("ours", "torch", "torchvision")
COLUMNS = [
    "operation",
    *(f"{name} ms" for name in IMPLEMENTATIONS),
    *("speed-up", "floor ms", "of floor"),
    *(f"{name} MiB" for name in IMPLEMENTATIONS),
    *("error", "goal", "met"),
]


class Measured(NamedTuple):
    """Milliseconds, and bytes at the peak above what was there before (None on a CPU)."""

    milliseconds: float
    peak: int | None


Cell = Measured | str  # or why there is no number


@dataclass(kw_only=True)
class Row:
    """One line of the table."""

    case: Case
    error: float | None = None
    refused: bool = False
    floor: float | None = None
    ours: Cell = ""
    torch: Cell = ""
    peer: Cell = ""


def texts(row: Row) -> list[str]:
    """A row's cells, one for each of `COLUMNS`."""
    cells = (row.ours, row.torch, row.peer)
    speedup = _speedup(row)
    share = _share(row)
    return [
        row.case.name,
        *(cell if isinstance(cell, str) else f"{cell.milliseconds:.3f}" for cell in cells),
        "" if speedup is None else f"{speedup:.1f}",
        "" if row.floor is None else f"{row.floor:.3f}",
        "" if share is None else f"{share:.0%}",
        *("" if isinstance(cell, str) or cell.peak is None else f"{cell.peak / 2**20:.1f}" for cell in cells),
        "" if row.error is None else f"{row.error:.1g}",
        _goal_text(row.case.goal),
        _verdict(row),
    ]


def _speedup(row: Row) -> float | None:
    if isinstance(row.ours, str) or isinstance(row.peer, str):
        return None
    return row.peer.milliseconds / row.ours.milliseconds


def _share(row: Row) -> float | None:
    if isinstance(row.ours, str) or row.floor is None:
        return None
    return row.floor / row.ours.milliseconds


def _goal_text(goal: Goal) -> str:
    texts = [
        "" if goal.speedup is None else f"≥ {goal.speedup:g}×",
        "" if goal.share is None else f"≥ {goal.share:.0%} of floor",
        "" if goal.milliseconds is None else f"≤ {goal.milliseconds:g} ms",
    ]
    return ", ".join(filter(None, texts))


def _verdict(row: Row) -> str:
    """'met', 'not met', or 'unknown' where what a goal compares with is missing; empty without a goal."""
    goal = row.case.goal
    met = []
    if goal.speedup is not None:
        speedup = _speedup(row)
        met.append(None if speedup is None else speedup >= goal.speedup)
    if goal.share is not None:
        share = _share(row)
        met.append(None if share is None else share >= goal.share)
    if goal.milliseconds is not None:
        met.append(None if isinstance(row.ours, str) else row.ours.milliseconds <= goal.milliseconds)
    if not met:
        return ""
    return "not met" if False in met or row.refused else "unknown" if None in met else "met"
