"""Break the kernels one line at a time and see that a test notices: `python tests/mutate_kernels.py`.

Each mutation replaces a piece of one kernel's source in a copy of the checkout and runs that operation's tests there,
stopping at the first failure.  A mutation that no test notices is printed as SURVIVED, and the exit code is 1.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
# Seconds; the tests of one operation take up to 100 on two cores.
TIMEOUT = 600


class Mutation(NamedTuple):
    """Replace `old`, which occurs in `file`, by `new` (its first occurrence after `after`), and run `test`."""

    file: str
    old: str
    new: str
    after: str = ""

    @property
    def tests(self) -> str:
        stem = self.file.removesuffix(".py")
        for name in ("roi_pool", "nms", "paste_masks"):
            if stem == name:
                return f"tests/test_kernels_{name.removesuffix('_masks')}.py"
        return "tests/test_kernels_roi_align.py"


MUTATIONS = [
    # Addresses and offsets
    Mutation("rois.py", "boxes_ptr + r.to(tl.int64) * 4", "boxes_ptr + r.to(tl.int64) * 3"),
    Mutation("rois.py", "tl.load(box + 2), tl.load(box + 3)", "tl.load(box + 3), tl.load(box + 2)"),
    Mutation("roi_align.py", "top.to(tl.int64) * width", "top * width"),
    Mutation("roi_align.py", "image * height * width", "image * height * height"),
    Mutation("roi_align.py", "out += channels", "out += BLOCK_C", after="winner_ptr + out, winner"),
    Mutation("roi_align_scatter.py", "row += channels", "row += BLOCK_C"),
    Mutation("roi_align_scatter.py", "image * height * width", "image * height * height"),
    Mutation("roi_align_gather.py", "tl.load(order_ptr + row)", "row"),
    Mutation("roi_align_gather.py", "image.to(tl.int64) * height + y", "image.to(tl.int64) * width + y"),
    Mutation("roi_align_boxes.py", "row += channels", "row += BLOCK_C"),
    # Geometry
    Mutation("rois.py", "start -= 0.5", "start -= 0.25"),
    Mutation("rois.py", "length = tl.maximum(length, 1.0)", "length = tl.maximum(length, 0.0)"),
    Mutation("rois.py", "level += (area >= areas[i])", "level += (area > areas[i])"),
    Mutation("rois.py", "tl.abs(x - whole) >= 0.5", "tl.abs(x - whole) > 0.5"),
    Mutation("rois.py", "round_half_away(end) - start + 1", "round_half_away(end) - start"),
    Mutation("rois.py", "tl.maximum(tl.ceil(size), 0.0)", "tl.maximum(tl.floor(size), 0.0)"),
    Mutation("rois.py", "(i + 0.5) * size", "(i + 0.0) * size"),
    # Clamps and masks
    Mutation("rois.py", "(point >= -1.0)", "(point >= 0.0)"),
    Mutation("rois.py", "(point <= extent * 1.0)", "(point < extent * 1.0)"),
    Mutation("rois.py", "tl.minimum(low + 1, last)", "low + 1"),
    Mutation("rois.py", "tl.maximum(point, 0.0)", "point"),
    Mutation("rois.py", "lower - first, step)) - 2", "lower - first, step)) + 1"),
    Mutation("rois.py", "tl.div_rn(lower - start, size)) - 1", "tl.div_rn(lower - start, size)) + 1"),
    Mutation("rois.py", "(image < images)", "(image <= images)"),
    Mutation("roi_align.py", "tl.where(y_inside & x_inside, channels, 0)", "channels"),
    Mutation("roi_align.py", "mask = c < channels", "mask = c <= channels"),
    Mutation("roi_align_scatter.py", "tl.where(y_inside & x_inside, channels, 0)", "channels"),
    Mutation("roi_align_gather.py", "(x < width)[:, None]", "(x <= width)[:, None]"),
    Mutation("roi_align_gather.py", "tl.load(first_ptr + image + 1)", "tl.load(first_ptr + image + 1) - 1"),
    # Accumulations
    Mutation("roi_align.py", "fy * fx, value)", "fy * fx, value * 0)"),
    Mutation("roi_align.py", "best += value", "best = value"),
    Mutation("roi_align.py", "tl.where(value > best, iy", "tl.where(value >= best, iy"),
    Mutation("roi_align_scatter.py", "part * (fy * fx)", "part * (fy * fy)"),
    Mutation("roi_align_scatter.py", "grad = tl.div_rn(grad, number)", "grad = grad"),
    Mutation("roi_align_gather.py", "total += weight[:, None] * grad", "total = weight[:, None] * grad"),
    Mutation("roi_align_gather.py", "tl.where(cell == high, fraction, 0.0)", "tl.where(cell == low, fraction, 0.0)"),
    Mutation("roi_align_gather.py", "rows > row", "rows > row + 1"),
    Mutation("roi_align_gather.py", "areas, LEVELS) == level", "areas, LEVELS) >= level"),
    Mutation("roi_align_boxes.py", "slope_y * (1 - y_at)", "slope_y * y_at"),
    Mutation("roi_align_boxes.py", "d_x2 += part", "d_x2 = part"),
    Mutation("roi_align_boxes.py", "tl.where(y >= 0,", "tl.where(y >= -1,"),
    Mutation("roi_align_boxes.py", "tl.sum(d_x1, 0) * scale", "tl.sum(d_x1, 0)"),
    Mutation("roi_align_boxes.py", "y1 * scale) >= 1)", "y1 * scale) >= 2)"),
    Mutation("roi_pool.py", "tl.floor(p * size)", "tl.ceil(p * size)"),
    Mutation("roi_pool.py", "tl.ceil((p + 1) * size)", "tl.floor((p + 1) * size)"),
    Mutation("roi_pool.py", "- first + 1, 1.0)", "- first, 1.0)"),
    Mutation("roi_pool.py", "better = (value > best)", "better = (value >= best)"),
    Mutation("roi_pool.py", "tl.where(some, float(\"-inf\"), 0.0)", "tl.where(some, 0.0, 0.0)"),
    Mutation("roi_pool.py", "winner >= 0, sem", "winner >= -1, sem"),
    Mutation("roi_pool.py", "(y * width + x)[:, None]", "(y * height + x)[:, None]"),
    Mutation("roi_pool.py", "tl.div_rn(low - first, size)) - 1", "tl.div_rn(low - first, size)) + 1"),
    Mutation("roi_pool.py", "out += channels", "out += BLOCK_C"),
    Mutation("roi_pool.py", "total += tl.where(won", "total = tl.where(won"),
    # NMS
    Mutation("nms.py", "boxes_ptr + row * 4 + 1)", "boxes_ptr + row * 4)"),
    Mutation("nms.py", "base = image.to(tl.int64) * N", "base = image.to(tl.int64) * TILE"),
    Mutation("nms.py", "if last_group < tl.load", "if last_group <= tl.load"),
    Mutation("nms.py", "tl.minimum(i, N - 1)", "i"),
    Mutation("nms.py", "bits |= hit", "bits = hit"),
    Mutation("nms.py", "- tl.maximum(ax1, bx1), 0.0)", "- tl.maximum(ax1, bx1), 1.0)"),
    Mutation("nms.py", "tl.div_rn(inter, a_area + b_area - inter)", "inter * (1 / (a_area + b_area - inter))"),
    Mutation("nms.py", "(iou > threshold)", "(iou >= threshold)"),
    Mutation("nms.py", "a_group[None, :] == b_group[:, None]", "a_group[None, :] <= b_group[:, None]"),
    Mutation("nms.py", "(i[None, :] < j[:, None])", "(i[None, :] <= j[:, None])"),
    Mutation("nms.py", "<< lanes[:, None]", "<< (lanes[:, None] % 32)"),
    Mutation("nms.py", "(base + i) * words + word", "(base + i) * TILE + word"),
    Mutation("nms.py", "(row == 0) | (group != before)", "(group != before)"),
    Mutation("nms.py", "first + 1 + tl.sum(reached", "first + tl.sum(reached"),
    Mutation("nms.py", "(row >= start) &", ""),
    Mutation("nms.py", "((group == last) | (tile == first))", "(tile >= first)"),
    Mutation("nms.py", "<< lane, 0) & ~gone", "<< lane, 0)"),
    Mutation("nms.py", "kept = candidates & ~tl.reduce", "kept = kept & ~tl.reduce"),
    Mutation("nms.py", "& (reached & (word > tile))[None, :]", "& (word > tile)[None, :]"),
    Mutation("nms.py", "found |= tl.load", "found = tl.load"),
    Mutation("nms.py", "removed |= tl.reduce", "removed = tl.reduce"),
    # Pasting
    Mutation("paste_masks.py", "boxes_ptr + box * 4 + axis)", "boxes_ptr + box * 4)"),
    Mutation("paste_masks.py", "* 0.5 * factor", "* 0.5"),
    Mutation("paste_masks.py", "(tl.abs(first) < HUGE)", "(tl.abs(first) <= HUGE)"),
    Mutation("paste_masks.py", "tl.where(sane, first, -1.0)", "tl.where(sane, first, 0.0)"),
    Mutation("paste_masks.py", "(last - first + 1).to", "(last - first).to"),
    Mutation("paste_masks.py", "+ 0.5) * scale - 0.5", "+ 0.5) * scale"),
    Mutation("paste_masks.py", "scale - 0.5, 0.0)", "scale - 0.5, -1.0)"),
    Mutation("paste_masks.py", "return before - 1,", "return before,"),
    Mutation("paste_masks.py", "(row < m)", "(row <= m)"),
    Mutation("paste_masks.py", "tl.maximum(y1, 0)", "y1"),
    Mutation("paste_masks.py", "tl.minimum(x2 + 1, width)", "tl.minimum(x2, width)"),
    Mutation("paste_masks.py", "tl.num_programs(1))", "tl.num_programs(1) + 1)"),
    Mutation("paste_masks.py", "box * (m * m)", "box * m"),
    Mutation("paste_masks.py", "_sample(mask_ptr, row + 1, column, inside", "_sample(mask_ptr, row, column, inside"),
    Mutation("paste_masks.py", "values > threshold", "values >= threshold"),
    Mutation("paste_masks.py", "(box * height + rows) * width", "(box * width + rows) * width"),
    Mutation("paste_masks.py", "tl.program_id(0).to(tl.int64)", "tl.program_id(0)"),
]  # fmt: skip


def survives(mutation: Mutation) -> bool:
    """Whether all tests of the operation pass with the mutation."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in ("minimaskrcnn", "kernels", "tests", "lessons"):
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tree)
        path = tree / "kernels" / "minimaskrcnn_kernels" / mutation.file
        text = path.read_text()
        start = text.index(mutation.after)
        at = text.index(mutation.old, start)
        path.write_text(text[:at] + mutation.new + text[at + len(mutation.old) :])
        paths = [str(tree / name) for name in ("", "kernels", "lessons", "tests")]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow and not unhooked and not aot"]
        command += ["--hypothesis-profile", "unshrunk"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        how = {"cwd": tree, "env": environment, "capture_output": True, "timeout": TIMEOUT, "check": False}
        try:
            return (
                subprocess.run([*command, mutation.tests, "tests/test_kernels_memory.py"], **how).returncode
                == 0
            )
        except subprocess.TimeoutExpired:
            # A loop that does not end is noticed too.
            return False


def main() -> int:
    survivors = 0
    only = sys.argv[1:]
    for mutation in MUTATIONS:
        if only and mutation.file not in only:
            continue
        lives = survives(mutation)
        survivors += lives
        fate = "SURVIVED" if lives else "caught  "
        print(f"{fate}  {mutation.file}: {mutation.old!r} -> {mutation.new!r}", flush=True)
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
