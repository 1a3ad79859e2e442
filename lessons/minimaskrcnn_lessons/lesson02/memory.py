"""Peak memory of a function's tensors, from torch's profiler."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile


def peak_mib(function: Callable[[], Any]) -> float:
    """MiB that the function's tensors on the CPU held at once, at most; its arguments not counted."""
    with tempfile.TemporaryDirectory() as folder, _without_stderr():
        path = Path(folder, "trace.json")
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            function()
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    held = peak = 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak / 2**20


@contextmanager
def _without_stderr() -> Iterator[None]:
    """The profiler's C++ part writes to file descriptor 2 that it found no GPU."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
