"""No kernel reads beyond its inputs: under the interpreter, with inputs that end where no memory may be touched."""

import subprocess
import sys

import pytest
import torch
from optional import need_kernels

need_kernels()

# A process of its own: a read beyond the end is a segmentation fault.
PREPARE = """
import ctypes, math, mmap, os, sys
os.environ["TRITON_INTERPRET"] = "1"
import torch
from unittest.mock import patch

held = []

def guarded(tensor):
    # The tensor's copy ends at the end of a page, and the page after it may not be read.
    size = tensor.numel() * tensor.element_size()
    pages = math.ceil(size / mmap.PAGESIZE)
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    held.append(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(start + pages * mmap.PAGESIZE), mmap.PAGESIZE, 0) == 0
    copy = torch.frombuffer(memory, dtype=torch.uint8, count=size, offset=pages * mmap.PAGESIZE - size)
    copy = copy.view(tensor.dtype).view(tensor.shape)
    return copy.copy_(tensor)

def channels_last(shape, seed=0):
    b, c, h, w = shape
    random = torch.Generator().manual_seed(seed)
    return guarded(torch.randn(b, h, w, c, generator=random)).permute(0, 3, 1, 2)

boxes = guarded(torch.tensor([[0.0, 0, 9, 9], [-3, 2, 4, 30], [5, 5, 40, 40], [1, 1, 2, 3], [0, 0, 0, 0]]))
image = guarded(torch.tensor([0, 1, 1, 0, 1]))
"""
OPERATIONS = {
    "roi_align": """
from minimaskrcnn_kernels.roi_align import roi_align, roi_align_backward
maps = [channels_last((2, 5, 6, 7)), channels_last((2, 5, 3, 3))]
for sampling, maximum in [(2, False), (0, True)]:
    how = [0.5, 0.25], [0.0, 100.0]
    out, winner = roi_align(maps, boxes, image, *how, 2, 3, sampling, False, False, maximum)
    grad = guarded(out.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2)
    winner = guarded(winner.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2) if maximum else winner
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(deterministic)
        roi_align_backward(grad, winner, maps, boxes, image, *how, sampling, False, False, maximum, True, True)
""",
    "roi_pool": """
from minimaskrcnn_kernels.roi_pool import roi_pool, roi_pool_backward
feature = channels_last((2, 5, 6, 7))
out, winner = roi_pool(feature, boxes, image, 0.5, 2, 3)
grad, winner = (guarded(t.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2) for t in (out, winner))
for deterministic in (False, True):
    torch.use_deterministic_algorithms(deterministic)
    roi_pool_backward(grad, winner, feature, boxes, image, 0.5)
""",
    "nms": """
from minimaskrcnn_kernels.nms import nms_keep
for count in (5, 64, 70):
    corner = 30 * torch.rand(1, count, 2)
    a, group = guarded(torch.cat([corner, corner + 9], 2)), guarded((torch.arange(count)[None] > 66).long())
    nms_keep(a, group, guarded(group < 9), 0.5)
""",
    "paste_masks": """
from minimaskrcnn_kernels.paste_masks import paste_masks
masks = guarded(torch.rand(5, 3, 3))
for threshold in (None, 0.5):
    paste_masks(masks, boxes, 20, 21, threshold)
""",
    "a read beyond the end, to see that it is caught": """
from minimaskrcnn_kernels.paste_masks import _paste_kernel
import triton, triton.language as tl

@triton.jit
def read(x_ptr, out_ptr):
    tl.store(out_ptr, tl.load(x_ptr + 20))

read[(1,)](boxes, torch.zeros(1))
""",
}


@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter's test; compute-sanitizer is a GPU's")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_nothing_beyond_the_inputs_is_read(operation, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(PREPARE + OPERATIONS[operation])
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == ("is caught" not in operation), done.stderr
