"""Explorer of lesson 06: the bytes that one load of a warp touches, in NCHW and in NHWC.

It is arithmetic on strides, which are torch's own; what a real GPU does beyond it (caches) is left out.
"""

from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from minimaskrcnn_lessons.explorers import Explorer
from minimaskrcnn_lessons.style import BLUE, GREY, WIDTH

CHANNELS, HEIGHT, WIDTH_CELLS = 256, 12, 64
LANES, SECTOR, LINE, WIDEST = 32, 32, 128, 16
FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


class Measured(NamedTuple):
    """What a warp's load of its elements comes to."""

    lanes: int
    instructions: int
    requested: int
    sectors: int
    lines: int
    moved: int
    efficiency: float


def strides(layout: str) -> list[int]:
    """How many elements further the next c, y and x is."""
    # Two images: torch does not promise a stride of a dimension of size 1.
    like = torch.empty(2, CHANNELS, HEIGHT, WIDTH_CELLS, device="meta").contiguous(
        memory_format=FORMATS[layout]
    )
    return list(like.stride()[1:])


def addresses(layout: str, along: str, itemsize: int, per_lane: int, y: int, x: int) -> list[list[int]]:
    """The byte addresses of each active lane's elements; the map begins at address 0.

    Lanes are neighbours along C, from channel 0 at (y, x), or along W, from column x on in channel 0.
    """
    sc, sy, sx = strides(layout)
    step, extent = (sc, CHANNELS) if along == "C" else (sx, WIDTH_CELLS - x)
    elements = np.arange(min(LANES * per_lane, extent)) * step + y * sy + x * sx
    return [
        (part * itemsize).tolist() for part in np.split(elements, range(per_lane, len(elements), per_lane))
    ]


def touched(lanes: list[list[int]], size: int) -> list[int]:
    """The aligned blocks of `size` bytes that hold these elements, by number."""
    return np.unique(np.array([a for lane in lanes for a in lane]) // size).tolist()


def instructions(lanes: list[list[int]], itemsize: int, per_lane: int) -> int:
    """One if each lane's elements are neighbours, aligned, and at most 16 bytes; otherwise one for each element."""
    width = itemsize * per_lane
    starts = np.array([lane[0] for lane in lanes])
    whole = all(len(lane) == per_lane and lane[-1] - lane[0] == width - itemsize for lane in lanes)
    return 1 if whole and width <= WIDEST and (starts % width == 0).all() else per_lane


def measure(layout: str, along: str, itemsize: int, per_lane: int, y: int, x: int) -> Measured:
    """Instructions, bytes asked for, sectors and lines, bytes moved, and the part of them that is used."""
    lanes = addresses(layout, along, itemsize, per_lane, y, x)
    requested = sum(map(len, lanes)) * itemsize
    sectors = len(touched(lanes, SECTOR))
    moved = sectors * SECTOR
    return Measured(
        len(lanes), instructions(lanes, itemsize, per_lane), requested, sectors, len(touched(lanes, LINE)), moved,
        requested / moved,
    )  # fmt: skip


def golden() -> list[dict[str, Any]]:
    """What the module's functions must return too."""
    cases = [
        ("NHWC", "C", 4, 1, 3, 8), ("NHWC", "C", 4, 4, 3, 8), ("NHWC", "C", 2, 8, 11, 63), ("NHWC", "C", 2, 1, 0, 0),
        ("NCHW", "C", 4, 1, 3, 8), ("NCHW", "C", 2, 4, 5, 7), ("NCHW", "W", 4, 1, 3, 0), ("NCHW", "W", 4, 1, 3, 5),
        ("NCHW", "W", 4, 4, 2, 1), ("NCHW", "W", 2, 2, 2, 40), ("NHWC", "W", 4, 1, 3, 8), ("NHWC", "W", 2, 2, 7, 60),
    ]  # fmt: skip
    found: list[dict[str, Any]] = [
        {"function": "strides", "args": [name], "result": strides(name)} for name in FORMATS
    ]
    for case in cases:
        lanes = addresses(*case)
        found.append({"function": "addresses", "args": list(case), "result": lanes})
        found.append({"function": "measure", "args": list(case), "result": measure(*case)._asdict()})
        found.append({"function": "touched", "args": [lanes, LINE], "result": touched(lanes, LINE)})
    return found


def coalescing(
    layout: str = "NHWC", along: str = "C", itemsize: int = 4, per_lane: int = 4, y: int = 3, x: int = 8
) -> Explorer:
    """Drag a warp's load over a map of 256 channels and 12 × 64 cells, and see the bytes that it touches."""
    state = {"layout": layout, "along": along, "itemsize": itemsize, "per_lane": per_lane, "y": y, "x": x}
    ways = [("NCHW", along), ("NHWC", along)]
    found = [measure(name, way, itemsize, per_lane, y, x) for name, way in ways]
    figure = _still(
        [addresses(name, way, itemsize, per_lane, y, x) for name, way in ways], found, itemsize, along
    )
    said = "; ".join(
        f"in {name} it touches {m.sectors} sectors of 32 bytes, {m.efficiency:.1%} of these bytes used"
        for (name, _), m in zip(ways, found)
    )
    alt = f"One load of 32 lanes along {along}, {per_lane} elements of {itemsize} bytes each: {said}."
    return Explorer("coalescing", state, figure, alt)


def _still(found: list[list[list[int]]], numbers: list[Measured], itemsize: int, along: str) -> Figure:
    """The first 16 lines of 128 bytes that each layout touches, used bytes filled."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 4.6))
    for ax, lanes, name, m in zip(axes, found, FORMATS, numbers):
        used = [a for lane in lanes for a in lane]
        lines = touched(lanes, LINE)
        for row, line in enumerate(lines[:16]):
            for sector in range(LINE // SECTOR):
                ax.add_patch(
                    plt.Rectangle((sector * SECTOR, row), SECTOR, 0.8, facecolor="white", edgecolor=GREY)
                )
            for a in used:
                if a // LINE == line:
                    ax.add_patch(
                        plt.Rectangle(
                            (a % LINE, row), itemsize, 0.8, facecolor=BLUE, edgecolor="white", lw=0.5
                        )
                    )
        more = f"16 of {len(lines)} lines" if len(lines) > 16 else f"all {len(lines)} lines"
        ax.set(
            xlim=(-2, LINE + 2), ylim=(16.1, -0.3), xticks=range(0, LINE + 1, SECTOR), yticks=[],
            xlabel="byte in the line", title=f"{name}, lanes along {along}: {m.sectors} sectors,\n"
            f"{m.efficiency:.1%} of the bytes used ({more})",
        )  # fmt: skip
        ax.spines["left"].set_visible(False)
        ax.title.set_fontsize(11)
    return figure
