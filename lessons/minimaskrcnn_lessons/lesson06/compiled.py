"""Compile the package's RoIAlign kernel for a GPU that need not be there, and print what came of it.

A process of its own, because the lesson's has Triton's interpreter on, and interpreted kernels cannot be compiled:

    TRITON_INTERPRET=0 python -m minimaskrcnn_lessons.lesson06.compiled
"""

import os
import subprocess
import sys

import torch

MODULE = "minimaskrcnn_lessons.lesson06.compiled"


def report() -> str:
    """What `main` prints, from a process without the interpreter."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, "-m", MODULE], capture_output=True, text=True, env=environment, check=True
    )
    return done.stdout


def main() -> None:
    """Registers, spills and accesses of the forward kernel for sm_90, float32, 256 channels, and its vector loads."""
    from minimaskrcnn_kernels import aot
    from minimaskrcnn_kernels.report import pooling

    forward = pooling("sm_90", torch.float32)[0]
    compiled = aot.compile_launch(forward, "sm_90")
    found = aot.resources(compiled)
    print(f"{forward.kernel.__name__} for sm_90: {found.registers} registers, {found.spills} bytes spilled")
    print("loads by bytes a lane:", dict(found.loads), " stores:", dict(found.stores))
    vectors = [line.strip() for line in compiled.asm["ptx"].splitlines() if "ld.global.v4" in line]
    print(f"{len(vectors)} lines of PTX like these:", *vectors[:4], sep="\n")


if __name__ == "__main__":
    main()
