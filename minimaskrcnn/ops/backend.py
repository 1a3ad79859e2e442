"""Which implementation of an operation runs: the torch path, or the Triton kernel of `minimaskrcnn_kernels`.

Each operation has one visible `if use_triton(...)` and imports its kernel inside of it, so that nothing imports
triton before it is used.
"""

import os
from importlib.util import find_spec
from typing import Literal

from torch import Tensor

Backend = Literal["auto", "torch", "triton"]

# Only looked for, not imported: a triton that is there but broken must raise where it is used.
TRITON_IS_INSTALLED = find_spec("triton") is not None


def use_triton(backend: Backend, tensor: Tensor, float64: bool = False) -> bool:
    """Whether the kernel runs.  "auto": for a tensor on a GPU (CUDA or ROCm), where triton is installed.

    `float64` says that some of the operation's numbers are: no kernel takes them, so "auto" does not run it.  Raises
    for "triton" TypeError then, ModuleNotFoundError where triton is not installed, and ValueError for a tensor that
    is not on a GPU, unless the environment has TRITON_INTERPRET=1; ValueError for any other string.
    """
    if backend == "torch":
        return False
    if backend == "auto":
        return tensor.is_cuda and TRITON_IS_INSTALLED and not float64
    if backend != "triton":
        raise ValueError(f"backend {backend!r}: expected 'auto', 'torch' or 'triton'")
    if not TRITON_IS_INSTALLED:
        raise ModuleNotFoundError("backend='triton': the package triton is not installed", name="triton")
    if not tensor.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"backend='triton' on a {tensor.device.type} tensor: Triton needs a GPU; to run its kernels under the "
            "interpreter, slowly, set TRITON_INTERPRET=1 before they are imported"
        )
    if float64:
        raise TypeError("backend='triton': the kernels have no float64")
    return True
