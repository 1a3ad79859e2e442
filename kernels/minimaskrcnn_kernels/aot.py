"""Compile the kernels without a GPU, exactly as their launchers would, and read what the compiler made of them.

`record` collects the launches that a call of an operation makes, on tensors that lie anywhere: nothing runs.  A
launch keeps what Triton specialises a kernel on: dtypes, which pointers and sizes divide by 16, which sizes are 1,
constants, warps.  `compile_launch` compiles one for a target; `resources` reads registers, shared memory, spills
and the width of each access to global memory off the assembly.

Tests and the report in `kernels/README.md` use this; nothing in the package does.
"""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.runtime.jit import JITFunction

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# What a launcher passes beside the kernel's own parameters.
OPTIONS = {"num_warps", "num_stages", "enable_fp_fusion"}
POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.bool: "*i1",
    torch.uint8: "*u8",
    torch.int16: "*i16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


class Launch(NamedTuple):
    """One kernel, and what Triton would specialise it on."""

    kernel: JITFunction
    signature: dict[str, Any]
    constants: dict[tuple[int, ...], Any]
    divisible: dict[tuple[int, ...], list[list]]
    options: dict[str, Any]


class Resources(NamedTuple):
    """What a compiled kernel takes; `loads` and `stores` count instructions by bytes a lane, atomics apart."""

    registers: int
    shared: int
    spills: int
    loads: Counter[int]
    stores: Counter[int]
    atomics: Counter[int]


def record(call: Callable[[], object]) -> list[Launch]:
    """The launches that `call` makes, in order.  Kernels do not run: their outputs keep whatever was there."""
    launches: list[Launch] = []

    def run(kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **named: Any) -> None:
        launches.append(_specialise(kernel, args, named))

    with patch.object(JITFunction, "run", run):
        call()
    return launches


def compile_launch(launch: Launch, target: str) -> CompiledKernel:
    """The kernel compiled for one of `TARGETS`."""
    source = ASTSource(launch.kernel, launch.signature, launch.constants, launch.divisible)
    return triton.compile(source, target=TARGETS[target], options=launch.options)


def resources(compiled: CompiledKernel) -> Resources:
    """Read from ptxas (NVIDIA) or from the amdgcn text (AMD)."""
    if "amdgcn" in compiled.asm:
        return _amd_resources(compiled.asm["amdgcn"])
    return _nvidia_resources(compiled.asm["ptx"], compiled.metadata.shared)


def _specialise(kernel: JITFunction, args: tuple, named: dict[str, Any]) -> Launch:
    options = {name: value for name, value in named.items() if name in OPTIONS}
    values = dict(zip(kernel.arg_names, args)) | {n: v for n, v in named.items() if n not in OPTIONS}
    signature = {}
    constants = {}
    divisible = {}

    def kind(place: tuple[int, ...], value: Any, constexpr: bool) -> Any:
        if isinstance(value, tuple) and not constexpr:
            return tuple(kind((*place, i), item, False) for i, item in enumerate(value))
        if constexpr or value is None or (isinstance(value, int) and value == 1):
            constants[place] = value
            return "constexpr"
        if isinstance(value, float):
            return "fp32"
        number = value.data_ptr() if isinstance(value, torch.Tensor) else value
        if number % 16 == 0:
            divisible[place] = [["tt.divisibility", 16]]
        if isinstance(value, torch.Tensor):
            return POINTERS[value.dtype]
        return "i1" if isinstance(value, bool) else "i32" if -(2**31) <= value < 2**31 else "i64"

    for place, parameter in enumerate(kernel.params):
        value = values.get(parameter.name, parameter.default)
        signature[parameter.name] = kind((place,), value, parameter.is_constexpr)
    return Launch(kernel, signature, constants, divisible, options)


def _nvidia_resources(ptx: str, shared: int) -> Resources:
    arch = re.search(r"\.target (sm_\w+)", ptx)[1]
    ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = [str(ptxas), "-v", f"-arch={arch}", str(source), "-o", str(source.with_suffix(".cubin"))]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill", told))
    count = {
        name: Counter(
            int(lanes or 1) * int(bits) // 8
            for lanes, bits in re.findall(rf"\b{pattern}(?:\.v(\d))?\.[bfsu]\d*?(\d+)\b", ptx)
        )
        for name, pattern in [
            ("loads", r"ld\.global(?:\.\w+)*?"),
            ("stores", r"st\.global(?:\.\w+)*?"),
            ("atomics", r"(?:atom|red)\.global(?:\.\w+)*?"),
        ]
    }
    return Resources(int(re.search(r"Used (\d+) registers", told)[1]), shared, spills, **count)


def _amd_resources(text: str) -> Resources:
    def number(key: str) -> int:
        return int(re.search(rf"\.{key}:\s+(\d+)", text)[1])

    sizes = {"ubyte": 1, "sbyte": 1, "byte": 1, "ushort": 2, "sshort": 2, "short": 2, "dword": 4}

    def widths(pattern: str) -> Counter[int]:
        found = re.findall(rf"(?:global|buffer|flat)_{pattern}_(u?s?byte|u?s?short|dword)(?:x(\d))?", text)
        return Counter(sizes[unit] * int(lanes or 1) for unit, lanes in found)

    atomics = Counter(
        8 if "x2" in name or "64" in name else 4
        for name in re.findall(r"(?:global|buffer|flat)_atomic_(\w+)", text)
    )
    spills = number("vgpr_spill_count") + number("sgpr_spill_count")
    return Resources(
        number("vgpr_count"),
        number("group_segment_fixed_size"),
        spills,
        widths("load"),
        widths("store"),
        atomics,
    )
