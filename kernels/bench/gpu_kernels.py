"""Our kernels on a GPU beside our torch path and torchvision's CUDA operations.

Each row is checked first: fresh random inputs, our kernel's outputs or gradients against those of the torch path in
float32 on the same device.  What disagrees is not timed.  Then each implementation is timed, and its peak memory
above what was there before is read.  The floor is the time in which the bytes that must move (`Case.read`, and what
is written) move at the bandwidth of a large copy.  All times are medians of `triton.testing.do_bench`, with cold
caches.  A cell is empty where an implementation is absent or cannot do it (torchvision, mostly).

    python kernels/bench/gpu_kernels.py
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import common
import torch
from kernel_cases import Case, Inputs, Outputs, Sizes, cases, size_of
from kernel_table import COLUMNS, Cell, Measured, Row, texts
from torch import Tensor

from minimaskrcnn.files import write_text
from minimaskrcnn.markdown import table_lines
from minimaskrcnn.ops.backend import Backend

Call = Callable[[], tuple[Tensor, ...]]
Timer = Callable[[Callable[[], object]], float]  # milliseconds of a call

# ‖ours - expected‖ / ‖expected‖, by the dtype of ours.  A bit may differ where a value is as good as the threshold.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 4e-3, torch.bool: 1e-2}
# The boxes' gradient jumps at grid lines: a row of samples that rounds to a line's other side, one in about 10^5,
# changes its box's gradient by a part.
BOX_TOLERANCE = 3e-2


def run(only: str = "", out: Path | None = None) -> int:
    """Print the table of this machine's GPU as it grows, and write it to `out`; returns how many rows were refused.

    Raises ValueError where torch sees no GPU and where no row's name contains `only`.
    """
    if not torch.cuda.is_available():
        raise ValueError("there must be a GPU, and torch sees none; ops.py measures on the CPU")
    from triton.testing import do_bench

    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    versions = ", ".join(f"{name} {_version(name)}" for name in ("torch", "triton", "torchvision"))
    lines = [f"{torch.cuda.get_device_name()}, {versions}.\n"]
    print(lines[0])
    found: list[Row] = []

    def cells() -> Iterator[list[str]]:
        yield COLUMNS
        time = partial(do_bench, return_mode="median")
        for row in rows(torch.device("cuda"), Sizes(), time, only=only):
            found.append(row)
            yield texts(row)

    for line in table_lines(cells(), [3] * len(COLUMNS)):
        lines.append(line)
        print(line, flush=True)
    if out is not None:
        write_text(out, "\n".join(lines) + "\n")
    return sum(row.refused for row in found)


def rows(
    device: torch.device,
    sizes: Sizes,
    time: Timer,
    *,
    backend: Backend = "triton",
    only: str = "",
    copied: int = 2**30,
) -> Iterator[Row]:
    """Check and measure each case whose name contains `only`; `backend` is ours; `copied` bytes tell the bandwidth.

    Raises ValueError where no name contains it.
    """
    chosen = [case for case in cases(sizes) if only in case.name]
    if not chosen:
        raise ValueError(f"no row's name contains {only!r}")
    random = torch.Generator(device).manual_seed(0)
    bandwidth = _bandwidth(device, copied, time)
    for case in chosen:
        yield _row(case, random, time, bandwidth, backend)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _bandwidth(device: torch.device, size: int, time: Timer) -> float:
    """Bytes a millisecond, read and written, of a copy of `size` bytes on the device."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / time(lambda: target.copy_(source))


def _row(case: Case, random: torch.Generator, time: Timer, bandwidth: float, backend: Backend) -> Row:
    row = Row(case=case)
    try:
        inputs = case.inputs(random)
        incoming, moved = _incoming_and_moved(case, inputs, random, backend)
        row.error, row.refused = _disagreement(case, inputs, incoming, backend)
    except torch.OutOfMemoryError:
        row.ours = "out of memory"
        return row
    if row.refused:
        row.ours = "WRONG"
        return row
    row.floor = None if moved is None else moved / bandwidth

    def ours(chosen: Backend) -> Callable[[], Call]:
        return lambda: _prepare(case, lambda given: case.ours(chosen, given), inputs, incoming)

    row.ours = _measure(ours(backend), time, random.device, case.deterministic)
    row.torch = _measure_if_able(ours("torch"), time, random.device, case.deterministic)
    if case.peer is not None:

        def peer() -> Call:
            return _prepare(case, case.peer, case.peer_inputs(inputs), incoming)

        # Always with atomics: torchvision's deterministic RoIAlign is another, slow implementation.
        row.peer = _measure_if_able(peer, time, random.device, False)
    return row


def _incoming_and_moved(
    case: Case, inputs: Inputs, random: torch.Generator, backend: Backend
) -> tuple[Tensor | None, int | None]:
    """A gradient for the output of a backward case, and the bytes that the case must move."""
    out = case.ours(backend, inputs)
    read = None if case.read is None else case.read(inputs)
    if not case.wrt:
        return None, None if read is None else read + size_of(out)
    incoming = torch.randn(out.shape, generator=random, device=random.device).to(out.dtype)
    if read is None:
        return incoming, None
    # A gradient of the maps is written, and needs no map; that of the boxes reads them.
    written = sum(size_of(inputs[i]) for i in case.wrt)
    return incoming, size_of(incoming) + written + (read if case.boxes in case.wrt else 0)


def _prepare(
    case: Case, operation: Callable[[Inputs], Outputs], inputs: Inputs, incoming: Tensor | None
) -> Call:
    """What is timed: the operation, or, after it, the gradients of `case.wrt`."""
    if incoming is None:
        return lambda: _as_tuple(operation(inputs))
    leaves = tuple(t.detach().requires_grad_(i in case.wrt) for i, t in enumerate(inputs))
    wanted = [leaves[i] for i in case.wrt]
    out = operation(leaves)
    given = incoming.to(out.dtype)
    return lambda: torch.autograd.grad(out, wanted, given, retain_graph=True)


def _disagreement(
    case: Case, inputs: Inputs, incoming: Tensor | None, backend: Backend
) -> tuple[float, bool]:
    """The largest relative error of our results, and whether any is beyond its tolerance or not reproducible."""
    # Ours first: memory that the expected results were in may hold them still.
    with _deterministic(case.deterministic):
        call = _prepare(case, lambda given: case.ours(backend, given), inputs, incoming)
        found = call()
        same = not case.deterministic or all(map(torch.equal, found, call()))
    wide = tuple(t.float() if t.is_floating_point() else t for t in inputs)
    wide_incoming = None if incoming is None else incoming.float()
    expected = _prepare(case, lambda given: case.ours("torch", given), wide, wide_incoming)()
    errors = [_relative_error(a, b) for a, b in zip(found, expected, strict=True)]
    of_boxes = [case.boxes is not None and i == case.boxes for i in case.wrt] or [False] * len(found)
    limits = [BOX_TOLERANCE if box else TOLERANCE.get(t.dtype, 0.0) for t, box in zip(found, of_boxes)]
    # `not <=`: NaN is wrong.
    wrong = any(not error <= limit for error, limit in zip(errors, limits))
    return max(errors), wrong or not same


def _relative_error(found: Tensor, expected: Tensor) -> float:
    """‖found - expected‖ / ‖expected‖; for indices and for other shapes 0 or infinity."""
    if found.shape != expected.shape or found.dtype == torch.int64:
        return 0.0 if torch.equal(found, expected) else float("inf")
    difference = (found.float() - expected.float()).norm()
    return float(difference / expected.float().norm().clamp(min=1e-30))


def _measure(prepare: Callable[[], Call], time: Timer, device: torch.device, deterministic: bool) -> Cell:
    try:
        with _deterministic(deterministic):
            call = prepare()
            return Measured(time(call), _peak(call, device))
    except torch.OutOfMemoryError:
        return "out of memory"


def _measure_if_able(
    prepare: Callable[[], Call], time: Timer, device: torch.device, deterministic: bool
) -> Cell:
    """Empty where the implementation is not there, or lacks the dtype or a deterministic form."""
    try:
        with _deterministic(deterministic):
            # What it cannot do shows here, before the clock starts.
            prepare()()
    except torch.OutOfMemoryError:
        return "out of memory"
    except (ImportError, RuntimeError):
        return ""
    return _measure(prepare, time, device, deterministic)


def _peak(call: Call, device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - before


@contextmanager
def _deterministic(on: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(on)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _as_tuple(outputs: Outputs) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def main(arguments: list[str] | None = None) -> None:
    """The command line; exit code 1 where a result is wrong."""
    parser = argparse.ArgumentParser(description="Our kernels on this machine's GPU, checked and then timed.")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the rows whose name contains it")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args(arguments)
    refused = common.run(parser, lambda: run(options.only, options.out))
    if refused:
        raise SystemExit(f"{parser.prog}: {refused} rows disagree with the torch path and were not timed")


if __name__ == "__main__":
    main()
