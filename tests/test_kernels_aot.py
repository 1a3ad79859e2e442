"""Every kernel, compiled ahead of time as its launcher would launch it on a GPU; what holds of all launches."""

from collections import Counter
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
from optional import need

need("triton")

from minimaskrcnn_kernels import aot
from minimaskrcnn_kernels.report import pasting, pooling, suppression, whole_cells

pytestmark = pytest.mark.aot

# Loads narrower than 8 bytes: the four coordinates of a box, and where boxes are looked through, theirs.
NARROW = {
    "roi_align_kernel": 4,
    "boxes_kernel": 4,
    "roi_pool_kernel": 4,
    "scatter_kernel": 4,
    "gather_kernel": 20,
}


def kernels(found: list[aot.Launch]) -> list[str]:
    return [launch.kernel.__name__ for launch in found]


def check(launch: aot.Launch, target: str) -> None:
    """No spill, no narrow load of a row of channels, no division but the exact one, nothing contracted."""
    compiled = aot.compile_launch(launch, target)
    found = aot.resources(compiled)
    name = launch.kernel.__name__
    assert found.spills == 0, (name, found)
    narrow = sum(count for size, count in found.loads.items() if size < 8)
    # AMD reads a box with scalar loads, which are not counted; those of a block of boxes are vectors.
    assert narrow <= NARROW[name], (name, found)
    assert found.loads[16] + found.loads[8] > 0, (name, found)
    assert launch.options["enable_fp_fusion"] is False
    if "ptx" in compiled.asm:
        assert not any(word in compiled.asm["ptx"] for word in ("div.full", "div.approx", "rcp.approx"))


@pytest.mark.parametrize("target", aot.TARGETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("sampling", "maximum"), [(2, False), (0, False), (2, True), (0, True)])
def test_roi_align_over_a_pyramid(target, dtype, sampling, maximum):
    found = pooling(target, dtype, sampling, maximum)
    assert kernels(found) == ["roi_align_kernel", "scatter_kernel", "boxes_kernel", "gather_kernel"]
    for launch in found:
        check(launch, target)


@pytest.mark.parametrize("target", aot.TARGETS)
def test_roi_warp(target):
    found = pooling(target, torch.float32, 0, False, warp=True)
    assert kernels(found) == ["roi_align_kernel", "scatter_kernel", "gather_kernel"]
    for launch in found:
        check(launch, target)


@pytest.mark.parametrize("target", aot.TARGETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_roi_pool(target, dtype):
    found = whole_cells(target, dtype)
    assert kernels(found) == ["roi_pool_kernel", "scatter_kernel", "gather_kernel"]
    for launch in found:
        check(launch, target)


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_sample_reads_four_rows_16_bytes_a_lane(target, dtype):
    forward = aot.resources(aot.compile_launch(pooling(target, dtype, 2, False)[0], target))
    # Four samples of four cells; the image's index is 8 bytes.
    assert forward.loads == Counter({16: 16, 4: 4, 8: 1})
    assert set(forward.stores) == {16}


def test_only_the_scatter_has_a_race():
    for found in (pooling("sm_90", torch.float32, 2, False), whole_cells("sm_90", torch.float32)):
        for launch in found:
            atomics = aot.resources(aot.compile_launch(launch, "sm_90")).atomics
            assert bool(atomics) == (launch.kernel.__name__ == "scatter_kernel")


def test_the_scatter_adds_16_bytes_at_a_time_from_sm_90_on():
    scatter = pooling("sm_90", torch.bfloat16, 2, False)[1]
    assert set(aot.resources(aot.compile_launch(scatter, "sm_90")).atomics) == {16}


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
@pytest.mark.parametrize("maximum", [False, True])
def test_sizes_of_one_which_triton_takes_for_constants(target, maximum):
    for launch in pooling(target, torch.float32, 0, maximum, channels=1, bins=1, sides=(1,), count=1):
        assert aot.resources(aot.compile_launch(launch, target)).spills == 0
    for launch in whole_cells(target, torch.float32, channels=1, side=1, bins=1, count=1):
        assert aot.resources(aot.compile_launch(launch, target)).spills == 0


def test_every_launch_is_made_on_the_device_of_its_tensors():
    guarded, launched = [], []

    @contextmanager
    def guard(tensor):
        guarded.append(tensor)
        yield
        guarded.pop()

    def specialise(kernel, args, named):
        launched.append(kernel.__name__)
        assert guarded, kernel

    with patch("torch.cuda.device_of", guard), patch.object(aot, "_specialise", specialise):
        for launches in (pooling, whole_cells):
            launches("sm_90", torch.float32)
        suppression("sm_90")
        pasting("sm_90", torch.float32)
    # RoIAlign's two backward passes each launch the boxes' kernel.
    assert len(launched) == 5 + 3 + 2 + 1


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_many_levels_and_sizes_that_divide_by_nothing(target):
    for launch in pooling(target, torch.float32, 2, False, channels=37, bins=3, sides=(31, 17, 9, 1)):
        assert aot.resources(aot.compile_launch(launch, target)).spills == 0
