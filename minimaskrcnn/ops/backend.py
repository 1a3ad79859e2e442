"""Which implementation of an operation runs: the torch path, or the Triton kernel of `minimaskrcnn_kernels`.

Each operation has one visible `if use_triton(...)` and imports its kernel inside of it, so that nothing imports
triton before it is used.
"""

import os
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

Backend = Literal["auto", "torch", "triton"]

# Only looked for, not imported: a triton that is there but broken must raise where it is used.
TRITON_IS_INSTALLED = find_spec("triton") is not None


def use_triton(backend: Backend, tensor: Tensor) -> bool:
    """Whether the kernel runs.  "auto": for a tensor on a GPU (CUDA or ROCm), where triton is installed.

    Raises for "triton" ModuleNotFoundError where it is not installed, and ValueError for a tensor that is not on a
    GPU, unless the environment has TRITON_INTERPRET=1; ValueError for any other string.
    """
    if backend == "torch":
        return False
    if backend == "auto":
        return tensor.is_cuda and TRITON_IS_INSTALLED
    if backend != "triton":
        raise ValueError(f"backend {backend!r}: expected 'auto', 'torch' or 'triton'")
    if not TRITON_IS_INSTALLED:
        raise ModuleNotFoundError("backend='triton': the package triton is not installed", name="triton")
    if not tensor.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"backend='triton' on a {tensor.device.type} tensor: Triton needs a GPU; to run its kernels under the "
            "interpreter, slowly, set TRITON_INTERPRET=1 before they are imported"
        )
    return True


def takes(features: Tensor, boxes: Tensor, backend: Backend) -> bool:
    """Whether the kernels take these dtypes, all but float64, which the torch path has; TypeError if they must."""
    if torch.float64 not in (features.dtype, boxes.dtype):
        return True
    if backend == "triton":
        kinds = f"features {features.dtype}, boxes {boxes.dtype}"
        raise TypeError(f"backend='triton', {kinds}: the kernels have no float64")
    return False
