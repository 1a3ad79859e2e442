# ---
# lesson:
#   minutes: 130
#   difficulty: 3
# ---

# %% [markdown]
# # 06 · RoIAlign as a Triton kernel, forward and backward
#
# On a GPU, thousands of small programs run together, in an order that is not ours to choose. Each makes a
# small part of RoIAlign's output. That is easy as long as no two of them write to the same memory. In the backward
# pass two do: where boxes overlap, both have a gradient for the same cells.
#
# **What happens when two programs write to one cell, and who should own what?** The picture has the gradients of
# two overlapping boxes. On the left they are added up. In the middle the second box's are stored over the first
# one's.

# %%
import os

os.environ["TRITON_INTERPRET"] = "1"  # also where there is a GPU: the tensors of this lesson are on the CPU
from minimaskrcnn_lessons import setup

setup()

# %%
import torch
from minimaskrcnn.ops import roi_align
from minimaskrcnn_lessons import check, expected, show
from minimaskrcnn_lessons.lesson06 import figures


def map_gradient(box):
    cells = torch.zeros(1, 1, 12, 12, requires_grad=True)
    roi_align(cells, torch.tensor([[0, *box]]), 4, 1.0, 2, True).sum().backward()
    return cells.grad[0, 0]


parts = map_gradient([1.0, 1.0, 8.0, 8.0]), map_gradient([5.0, 5.0, 11.0, 11.0])
show(
    figures.lost_updates(*parts),
    "Three maps of 12 by 12 cells. Left: two overlapping boxes' gradients added, sum 32. Middle: the second box's "
    "stored over the first one's; the overlap is no longer the brightest part and the sum is 26.8. Right: the "
    "missing 5.2, all of it where the boxes overlap.",
)

# %% [markdown]
# ## After this lesson you can
#
# - write a Triton kernel with program ids, offsets, masks and strides, and run it without a GPU;
# - say which bytes a load instruction touches, and why channels-last suits RoIAlign;
# - recognise a race, and cure it by atomics or by ownership;
# - read the RoIAlign kernels of this package, forward and backward;
# - check a kernel against a definition: values, gradients, and what the compiler made of it.
#
# ## Before you start
#
# You need [lesson 05](05_roi_align.ipynb): bins, samples, and the bilinear mean of four cells. You need no CUDA
# and no GPU, but **Linux**: Triton's packages on PyPI are for Linux. The first cell says whether Triton is there.
#
# About {{minutes}} minutes, {{difficulty}}. Running all cells takes {{seconds}} s and {{memory}} MiB.
#
# ## The idea
#
# **A program.** A Triton *kernel* is a Python function with the decorator `@triton.jit`. We launch it many times
# at once, as `kernel[(programs,)](arguments)`. Each of these runs is a *program*. They differ in one number only,
# the *program id*: `tl.program_id(0)` is 0 in the first, 1 in the second. It tells a program which part of the
# work is its own.
#
# **Pointers and offsets.** A tensor arrives as a *pointer*: the address of its first number, with no shape. The
# number i places further is at `pointer + i`. `tl.arange(0, BLOCK)` is the vector 0, 1, ..., BLOCK - 1, so that
# `tl.load(pointer + tl.arange(0, BLOCK))` loads BLOCK numbers at once. BLOCK is a power of 2, fixed when the
# kernel is compiled (`tl.constexpr`). We call one entry of such a vector a *lane*.
#
# **Masks.** Nobody checks an address. If n is 5 and BLOCK is 4, the second program's last three lanes lie behind
# the end. A mask switches them off. Here both versions run on memory in which somebody else's numbers follow
# ours.

# %%
import triton
import triton.language as tl


@triton.jit
def double(x_ptr, n, MASKED: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < (n if MASKED else n + BLOCK)
    x = tl.load(x_ptr + i, mask, other=0.0)
    tl.store(x_ptr + i, 2 * x, mask)


for masked in (True, False):
    memory = torch.tensor([1.0, 2, 3, 4, 5, -7, -7, -7, -7])  # ours are the first five
    double[(2,)](memory, 5, MASKED=masked, BLOCK=4)
    print(f"MASKED={masked!s:5}:", memory.tolist())

# %% [markdown]
# Without a mask the kernel loaded three numbers past our end and overwrote them. No error was raised. On a GPU
# the same happens, or a later call reports an illegal memory access, without a line number. `other` is what a
# masked lane holds after a load; where it matters, say it.
#
# No GPU ran this, but Triton's *interpreter* (`TRITON_INTERPRET=1`, set before Triton was imported). It runs the
# programs one after another, with NumPy arrays for vectors, at a few milliseconds a program. Its addresses are
# real addresses: a wild one can end the notebook's Python process. Then restart it.
#
# **Two programs, one cell.** The interpreter runs programs in turn, so it can never show two that meet. The next
# cell is therefore a *simulation* in plain Python. "Add to a cell" is three steps: load, add, store. Program A
# adds 1, program B adds 2, and the cell should hold 3. The steps of two programs can be interleaved in 20 orders.

# %%
from collections import Counter
from itertools import permutations


def cell_after(order):
    cell, register, done = 0, {}, {"A": 0, "B": 0}
    for who in order:
        if done[who] == 0:
            register[who] = cell
        elif done[who] == 1:
            register[who] += {"A": 1, "B": 2}[who]
        else:
            cell = register[who]
        done[who] += 1
    return cell


orders = sorted({"".join(order) for order in permutations("AAABBB")})
print(f"{len(orders)} orders; the cell holds: how often", dict(Counter(map(cell_after, orders))))
show(
    figures.interleavings([(order, cell_after(order)) for order in ("AAABBB", "AABBBA")], (1, 2)),
    "Two timelines. Above, program A loads, adds and stores before B begins: the cell holds 3, right. Below, A loads "
    "and adds, B loads, adds and stores, then A stores its own number: the cell holds 1 and B's update is lost.",
)

# %% [markdown]
# Only two orders are right: those in which one program has stored before the other loads. This is a *race*. It
# has two cures:
#
# - **Atomics.** `tl.atomic_add` makes load, add and store one step of the memory system. Nothing is lost. The
#   order of the additions stays open, and we shall see what that costs.
# - **Ownership.** Turn the question round: a program owns some *cells*, and gathers what falls on them. Each cell
#   is written once, by one program.
#
# **Addresses.** An NVIDIA GPU spreads a vector over *warps* of 32 lanes that load together. Such a lane of the
# hardware holds one or a few neighbouring entries. Memory is moved in *sectors* of 32 bytes; four make a *line*
# of 128 bytes. If 32 lanes want 32 neighbouring float32 numbers, that is four sectors, all of them used. If each
# wants a number from somewhere else, that is 32 sectors, with 4 of each 32 bytes used. A load of the first sort
# is called *coalesced*.
#
# *Strides* decide where a number lies: how many numbers further the next c, y or x is. In NCHW, torch's usual
# layout, neighbours along x are neighbours in memory. In NHWC, torch's `channels_last`, neighbours along c are.
# The cell counts the sectors of one load; the explorer below it shows them. Drag the program over the map, change
# the layout, and see how many of the bytes that were moved are used.

# %%
from minimaskrcnn_lessons.explorers.coalescing import coalescing


def blocks_touched(offsets, size, itemsize=4):
    return len({offset * itemsize // size for offset in offsets})


for name, layout in (("NCHW", torch.contiguous_format), ("NHWC", torch.channels_last)):
    _, sc, sy, sx = torch.empty(2, 256, 12, 64).contiguous(memory_format=layout).stride()
    ways = {
        "32 channels of a cell": [3 * sy + 8 * sx + lane * sc for lane in range(32)],
        "32 cells of a row": [3 * sy + (8 + lane) * sx for lane in range(32)],
        "32 bins, 2 cells apart": [(3 + bin // 7 * 2) * sy + (8 + bin % 7 * 2) * sx for bin in range(32)],
    }
    for way, offsets in ways.items():
        print(f"{name}, {way}: {blocks_touched(offsets, 32):2} sectors")
coalescing(layout="NHWC", along="C", itemsize=4, per_lane=4, y=3, x=8)

# %% [markdown]
# A row of cells in NCHW is coalesced too, but RoIAlign does not read a row of cells. If lanes are neighbouring
# *bins*, as in torchvision's CUDA kernel, their cells lie a bin apart and in several rows: the third line of each
# layout. If lanes are *channels*, all need the same four cells with the same four weights, whatever the box is.
# In NHWC each cell is then one run of memory, and the arithmetic on boxes is done once for all channels. This is
# the plan of this package's kernels.
#
# ## The mathematics
#
# A box $x_1..x_2$ has $P$ bins along an axis, so a bin is $(x_2 - x_1) / P$ cells long. A sample at the point
# $(y, x)$ reads four cells. Here cell $(t, l)$ lies at the point $(t, l)$; boxes have it at
# $(t + \frac12, l + \frac12)$, hence the $-0.5$ in the code. With $t$ the row above it (the whole part of $y$),
# $l$ the column before it, and the fractions $f_y = y - t$ and $f_x = x - l$:
#
# $$s_c = (1-f_y)(1-f_x)\,F_{t,l,c} + (1-f_y)\,f_x\,F_{t,l+1,c} + f_y(1-f_x)\,F_{t+1,l,c} + f_y f_x\,F_{t+1,l+1,c}$$
#
# $F_{t,l,c}$ is channel $c$ of cell $(t, l)$. It lies at the offset
#
# $$a(t, l, c) = (t\,W + l)\,C + c$$
#
# of a channels-last map with $W$ columns and $C$ channels. A bin is the mean of its $n$ samples. So the output is
# a weighted sum of cells, and backward each cell gets the bins' gradients with the same weights:
#
# $$\frac{\partial L}{\partial F_{t,l,c}} = \sum_{\text{bins } b}\ \sum_{\text{samples } i \text{ of } b}
# \frac{w_i(t, l)}{n}\,\frac{\partial L}{\partial \mathrm{out}_{b,c}}$$
#
# where $L$ is the loss and $w_i(t, l)$ the weight of that cell in sample $i$. Forward is a sum over *cells* for
# each bin, backward a sum over *bins* for each cell. That is why backward has a race and forward has none.
#
# | symbol | in words | name in the code |
# |---|---|---|
# | $F$ | the feature map, channels-last | `features_ptr` |
# | $W$, $C$ | columns, channels | `width`, `channels` |
# | $t$, $l$ | the row and the column before the sample | `top`, `left` |
# | $f_y$, $f_x$ | how far the sample is beyond them | `fy`, `fx` |
# | $P$ | bins along an axis | `bins` |
# | $c$ | the channels of a program, a vector | `c` |
# | $a$ | the offset of a number | `(row * width + column) * channels + c` |
#
# ## The loop version
#
# The definition computes one number at a time. We keep its result for a small map and three boxes, and compare
# everything else with it. One program of the kernel to come will make what the picture shows: **all channels of
# one row of bins of one box**.

# %%
from minimaskrcnn.ops import reference

torch.manual_seed(0)
features = torch.randn(1, 32, 8, 8)
boxes = torch.tensor([[0, 1.0, 1.0, 6.5, 5.5], [0, 2.2, 0.7, 7.4, 6.1], [0, 0.0, 3.0, 4.0, 8.0]])
how = {"output_size": (2, 2), "spatial_scale": 1.0, "sampling_ratio": 2, "aligned": True}
definition = reference.roi_align(features, boxes, **how)
figure, cells = figures.one_program([1.0, 1.0, 6.5, 5.5], bins=2, ph=1, size=(8, 8), channels=32)
show(
    figure,
    f"Left: a map of 8 by 8 cells with a box of 2 by 2 bins; the lower row of bins is framed, its 8 samples are "
    f"dots, and the {cells} cells that they read are blue. Right: the 32 channels of a cell lie one after "
    "another, and lane i reads channel i.",
)

# %% [markdown]
# ## Exercises
#
# These are four parts of a RoIAlign kernel. You write the body of a kernel; the function below it launches it,
# and `check` gets that function. `plain_errors` shows an error of your kernel without the interpreter's wrapper.
# The tensors of these checks lie in a longer memory, whose numbers the check knows.

# %% [markdown] exercise="add_vectors"
# Write $\mathrm{out}_i = x_i + y_i$ for $i < n$. `x`, `y` and `out` have room for 16 numbers, but only the first
# `n` are ours. There are enough programs of 4 lanes to cover `n`; the last may have lanes to spare.

# %%
expected("add_vectors")

# %% exercise="add_vectors"
from minimaskrcnn_lessons.lesson06.launching import plain_errors


@triton.jit
def add_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """out[i] = x[i] + y[i] for the BLOCK numbers i of this program that are below n."""
    ### BEGIN SOLUTION
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ours = i < n
    total = tl.load(x_ptr + i, ours, other=0.0) + tl.load(y_ptr + i, ours, other=0.0)
    tl.store(out_ptr + i, total, ours)
    ### END SOLUTION


@plain_errors
def my_add_vectors(x, y, out, n):
    add_kernel[(triton.cdiv(n, 4),)](x, y, out, n, BLOCK=4)  # cdiv: n / 4, rounded up
    return out


# %%
check("add_vectors", my_add_vectors)

# %% grade="add_vectors"
from minimaskrcnn_lessons import grade

grade("add_vectors", my_add_vectors)
### BEGIN HIDDEN TESTS
found = my_add_vectors(torch.ones(8), torch.ones(8), torch.zeros(8), 5)
assert found.tolist() == [2, 2, 2, 2, 2, 0, 0, 0]
### END HIDDEN TESTS

# %% [markdown] exercise="row_maximum"
# Each program finds the largest number of one row. The matrix has at most 8 columns. Its numbers lie anywhere:
# number (row, column) is `row * row_stride + column * column_stride` places behind `matrix_ptr`. Some rows have
# no number above 0.

# %%
expected("row_maximum")

# %% exercise="row_maximum"
@triton.jit
def row_maximum_kernel(matrix_ptr, out_ptr, columns, row_stride, column_stride, BLOCK: tl.constexpr):
    """out[row] = the largest of the `columns` numbers of this program's row; BLOCK >= columns."""
    ### BEGIN SOLUTION
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    place = matrix_ptr + row * row_stride + column * column_stride
    numbers = tl.load(place, column < columns, other=float("-inf"))
    tl.store(out_ptr + row, tl.max(numbers, 0))
    ### END SOLUTION


@plain_errors
def my_row_maximum(matrix):
    rows, columns = matrix.shape
    out = torch.full((rows,), float("nan"))
    row_maximum_kernel[(rows,)](matrix, out, columns, *matrix.stride(), BLOCK=8)
    return out


# %%
check("row_maximum", my_row_maximum)

# %% grade="row_maximum"
grade("row_maximum", my_row_maximum)
### BEGIN HIDDEN TESTS
table = torch.arange(12.0).view(3, 4)
assert my_row_maximum(table.t()).tolist() == [8, 9, 10, 11]
### END HIDDEN TESTS

# %% [markdown] exercise="bilinear_channels"
# Take one sample of a channels-last map, 4 channels a program. The point lies on the map: y in 0..H - 1, x in
# 0..W - 1. Clamp the second cell of an axis to the last one: no lane reads outside. `out` has room for 8 numbers;
# only the channels are ours.

# %%
expected("bilinear_channels")

# %% exercise="bilinear_channels"
@triton.jit
def bilinear_kernel(features_ptr, point_ptr, out_ptr, height, width, channels, BLOCK: tl.constexpr):
    """out[c] = the value of channel c at the point (y, x), for the BLOCK channels c of this program."""
    y, x = tl.load(point_ptr), tl.load(point_ptr + 1)
    ### BEGIN SOLUTION
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    top, left = y.to(tl.int32), x.to(tl.int32)
    bottom, right = tl.minimum(top + 1, height - 1), tl.minimum(left + 1, width - 1)
    fy, fx = y - top, x - left
    mask = c < channels
    total = (1 - fy) * (1 - fx) * tl.load(features_ptr + (top * width + left) * channels + c, mask, other=0.0)
    total += (1 - fy) * fx * tl.load(features_ptr + (top * width + right) * channels + c, mask, other=0.0)
    total += fy * (1 - fx) * tl.load(features_ptr + (bottom * width + left) * channels + c, mask, other=0.0)
    total += fy * fx * tl.load(features_ptr + (bottom * width + right) * channels + c, mask, other=0.0)
    tl.store(out_ptr + c, total, mask)
    ### END SOLUTION


@plain_errors
def my_bilinear_channels(features, y, x, out):
    height, width, channels = features.shape
    grid = (triton.cdiv(channels, 4),)
    bilinear_kernel[grid](features, torch.tensor([y, x]), out, height, width, channels, BLOCK=4)
    return out


# %%
check("bilinear_channels", my_bilinear_channels)

# %% grade="bilinear_channels"
grade("bilinear_channels", my_bilinear_channels)
### BEGIN HIDDEN TESTS
ramp = torch.arange(24.0).view(3, 4, 2)
assert my_bilinear_channels(ramp, 1.5, 0.5, torch.zeros(4)).tolist() == [13, 14, 0, 0]
### END HIDDEN TESTS

# %% [markdown] exercise="scatter_gradient"
# Now backward, on one axis. Lane i has one sample at the point $x_i$ and its gradient $g_i$. Forward, the sample
# was $(1 - f)\,\mathrm{cell}_l + f\,\mathrm{cell}_{l+1}$. Add each sample's shares to `out`, which holds zeros.
# Several lanes may meet in a cell. Past the last cell ($x_i$ < `width`), clamp the second to it.
#
# Here a lost update is real: the lanes of *one* vector load before any stores, in the interpreter too.
# (In *different* programs, load, add, store would pass under the interpreter and fail on GPUs.)

# %%
expected("scatter_gradient")

# %% exercise="scatter_gradient"
@triton.jit
def scatter_kernel(grad_ptr, x_ptr, out_ptr, n, width, BLOCK: tl.constexpr):
    """out[cell] += the shares of the n samples; one program, BLOCK >= n."""
    ### BEGIN SOLUTION
    i = tl.arange(0, BLOCK)
    mask = i < n
    x, grad = tl.load(x_ptr + i, mask, other=0.0), tl.load(grad_ptr + i, mask, other=0.0)
    low = x.to(tl.int32)
    high, fraction = tl.minimum(low + 1, width - 1), x - low.to(tl.float32)
    tl.atomic_add(out_ptr + low, grad * (1 - fraction), mask)
    tl.atomic_add(out_ptr + high, grad * fraction, mask)
    ### END SOLUTION


@plain_errors
def my_scatter_gradient(grad, x, width):
    out = torch.zeros(width)
    scatter_kernel[(1,)](grad, x, out, len(x), width, BLOCK=8)
    return out


# %%
check("scatter_gradient", my_scatter_gradient)

# %% grade="scatter_gradient"
grade("scatter_gradient", my_scatter_gradient)
### BEGIN HIDDEN TESTS
found = my_scatter_gradient(torch.tensor([4.0, 4.0, 2.0]), torch.tensor([0.25, 0.25, 1.0]), 3)
assert found.tolist() == [6, 4, 0]
assert my_scatter_gradient(torch.tensor([2.0]), torch.tensor([1.5]), 2).tolist() == [0, 2]
### END HIDDEN TESTS

# %% [markdown]
# ## The vectorised version
#
# Without Triton the package writes the same weighted sum as a sparse matrix product in torch
# ([`minimaskrcnn/ops/roi_align.py`](../minimaskrcnn/ops/roi_align.py)): a row for each bin, with the offsets of
# the cells and their weights. It runs on any device.

# %%
vectorised = roi_align(features, boxes, **how, backend="torch")
print("largest difference from the definition:", (vectorised - definition).abs().max().item())

# %% [markdown]
# ## The Triton version
#
# Put exercise 3 into loops over samples and bins, and you have a RoIAlign kernel. **Step 1** is `sample_cells`:
# one point, a block of channels. **Step 2** is the kernel: a program finds its box and its row of bins from its
# id, walks over the bins, and stores a block of channels for each. The grid has (boxes × bins) programs along its
# first axis and one for each block of channels along the second.
#
# It is a sketch: one map, boxes in cells, 2 × 2 samples, and a point outside the map is moved to its border.

# %%
@triton.jit
def sample_cells(map_ptr, y, x, height, width, channels, c):
    y, x = tl.minimum(tl.maximum(y, 0.0), height - 1.0), tl.minimum(tl.maximum(x, 0.0), width - 1.0)
    top, left = y.to(tl.int32), x.to(tl.int32)
    bottom, right = tl.minimum(top + 1, height - 1), tl.minimum(left + 1, width - 1)
    fy, fx, mask = y - top, x - left, c < channels
    upper, lower = map_ptr + top * width * channels + c, map_ptr + bottom * width * channels + c
    value = tl.load(upper + left * channels, mask, other=0.0) * (1 - fy) * (1 - fx)
    value += tl.load(upper + right * channels, mask, other=0.0) * (1 - fy) * fx
    value += tl.load(lower + left * channels, mask, other=0.0) * fy * (1 - fx)
    return value + tl.load(lower + right * channels, mask, other=0.0) * fy * fx


@triton.jit
def bin_row_kernel(map_ptr, boxes_ptr, out_ptr, height, width, channels, bins, BLOCK_C: tl.constexpr):
    box, ph = tl.program_id(0) // bins, tl.program_id(0) % bins
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    x1, y1 = tl.load(boxes_ptr + box * 4) - 0.5, tl.load(boxes_ptr + box * 4 + 1) - 0.5
    x2, y2 = tl.load(boxes_ptr + box * 4 + 2) - 0.5, tl.load(boxes_ptr + box * 4 + 3) - 0.5
    for pw in range(bins):
        total = tl.zeros([BLOCK_C], tl.float32)
        for i in tl.static_range(4):
            y = y1 + (ph + (i // 2) * 0.5 + 0.25) * (y2 - y1) / bins
            x = x1 + (pw + (i % 2) * 0.5 + 0.25) * (x2 - x1) / bins
            total += sample_cells(map_ptr, y, x, height, width, channels, c)
        place = out_ptr + (tl.program_id(0) * bins + pw) * channels
        tl.store(place + c, total / 4, c < channels)


rows = features.permute(0, 2, 3, 1).contiguous()  # [1, H, W, C]
sketch = torch.full((3, 2, 2, 32), float("nan"))  # [R, PH, PW, C]
bin_row_kernel[(3 * 2, 2)](rows, boxes[:, 1:].contiguous(), sketch, 8, 8, 32, 2, BLOCK_C=16)
print("largest difference:", (sketch.permute(0, 3, 1, 2) - definition).abs().max().item())

# %% [markdown]
# The output was filled with NaN first: a number that no program writes is then seen. **Step 3**, from the sketch
# to the package's kernel [`roi_align.py`](../kernels/minimaskrcnn_kernels/roi_align.py), adds no new idea. It is
# care:
#
# - `level_of` chooses the box's level of the pyramid, and `pick` that level's pointer: one launch for all levels;
# - products that end in an address are int64 (`top.to(tl.int64) * width * channels`), since maps can be larger
#   than 2³¹ numbers;
# - numbers are loaded in their own type, then turned into float32, and rounded once, at the store;
# - divisions are `tl.div_rn`, rounded as IEEE 754 says. Triton's `/` is approximate on a GPU, which the
#   interpreter cannot show, and a sample must not cross the map's border by a last bit;
# - a box that is not finite, or has no image, gives NaN and reads no map.
#
# What these kernels share is in [`rois.py`](../kernels/minimaskrcnn_kernels/rois.py). This is its rule for a
# sample on one axis; compare it with the first lines of `sample_cells`. A sample more than one cell outside
# counts 0: `inside` goes into the mask of its loads.

# %% library="minimaskrcnn_kernels.rois:sample"
@triton.jit
def sample(first, size, count, i, extent):
    """Sample i of a bin: its two cells, the fraction between them, and whether it is on the map at all."""
    point = first + tl.div_rn((i + 0.5) * size, tl.maximum(count, 1.0))
    inside = (point >= -1.0) & (point <= extent * 1.0)
    last = extent - 1
    clamped = tl.minimum(tl.maximum(point, 0.0), last * 1.0)
    low = clamped.to(tl.int32)
    return low, tl.minimum(low + 1, last), clamped - low.to(tl.float32), inside, point


# %% [markdown]
# **Backward by scatter**, [`roi_align_scatter.py`](../kernels/minimaskrcnn_kernels/roi_align_scatter.py), has the
# same program as forward, with your exercise 4 in the place of the loads. Each sample has four lines such as
#
# ```python
# tl.atomic_add(upper + left, part * ((1 - fy) * (1 - fx)), write, sem="relaxed")
# ```
#
# `sem="relaxed"` asks for the addition alone, and for no order among other loads and stores.
#
# **Backward by gather**, [`roi_align_gather.py`](../kernels/minimaskrcnn_kernels/roi_align_gather.py), gives a
# program 8 neighbouring cells of a row. It looks through the boxes of its image, 128 at a time, and for each that
# reaches its cells adds
#
# ```python
# total += weight[:, None] * grad[None, :]
# ```
#
# that is, cells × channels: a column of weights times a row of gradients. Boxes are taken in the order of their
# rows, so the sum is always made in the same order.
#
# Does the order matter? Float32 addition rounds, so $(a + b) + c$ need not be $a + (b + c)$. Let 400 boxes each
# add a share to one cell, in 300 orders, as atomics might. NumPy's `cumsum` rounds after each addition; torch's
# does not.

# %%
shares = torch.randn(400)
sums = torch.tensor([shares[torch.randperm(400)].numpy().cumsum()[-1] for _ in range(300)])
exact = shares.double().sum().item()
show(
    figures.sums(sums, exact),
    f"Bars of how often each float32 sum of the same 400 numbers came out in 300 random orders: {len(sums.unique())} "
    f"different sums, from {(sums.min() - exact) * 1e6:.1f} to {(sums.max() - exact) * 1e6:.1f} millionths off.",
)

# %% [markdown]
# None of them is wrong, and no two runs need agree. That is why training with atomics is not reproducible bit by
# bit. With `torch.use_deterministic_algorithms(True)` this package takes the gather kernel.
#
# ## The proof
#
# Values: definition, torch, and the package's kernel. Gradients: the definition has no `backward`, but RoIAlign
# is linear in the map, so its derivative for a cell is its output for a map that is 1 in that cell and 0
# elsewhere. We put all 64 such maps into the channels of one, and get every weight at once.

# %%
from time import perf_counter

cells_as_channels = torch.eye(64).view(1, 64, 8, 8)
weights = reference.roi_align(cells_as_channels, boxes, **how)  # [R, cells, PH, PW]
grad = torch.randn(3, 32, 2, 2)
by_definition = torch.einsum("rkhw,rchw->ck", weights, grad.double()).view(1, 32, 8, 8)

gradients = {}
for name in ("torch", "scatter", "gather"):
    leaf, start = features.clone().requires_grad_(), perf_counter()
    out = roi_align(leaf, boxes, **how, backend="torch" if name == "torch" else "triton")
    torch.use_deterministic_algorithms(name == "gather")
    (gradients[name],) = torch.autograd.grad(out, leaf, grad)
    torch.use_deterministic_algorithms(False)
    worst = (out - definition).abs().max(), (gradients[name] - by_definition).abs().max()
    print(f"{name:8} value off by {worst[0]:.1e}, gradient by {worst[1]:.1e}, {perf_counter() - start:.2f} s here")
print("scatter and gather have the same bits:", torch.equal(gradients["scatter"], gradients["gather"]))

# %% [markdown]
# All agree to float32's rounding. The two backward kernels add the same shares in different ways, so their last
# bits may differ.
#
# ## What it costs
#
# The seconds above are the interpreter's and say nothing about a GPU. **Speed: not measured on a GPU yet**
# ([kernels/README.md](../kernels/README.md) has the goals). Bytes can be counted without one. For 1,000 boxes of
# 256 channels and 7 × 7 bins the output is 1000 · 256 · 49 numbers, 50 MB in float32. Scatter needs zeros first,
# and float32 maps whatever the type of the features. Gather needs neither.
#
# The compiler needs no GPU either. The next cell compiles the package's forward kernel for sm_90 (the H100), in a
# second process without the interpreter. PTX is NVIDIA's assembly language: `ld.global.v4.b32` loads four numbers
# of 32 bits, 16 bytes a lane, and the `@%p...` in front of it is our mask.

# %%
from minimaskrcnn_lessons.lesson06 import compiled

print(compiled.report())

# %% [markdown]
# Sixteen loads of 16 bytes: four samples with four cells each. In 32 lanes one such instruction reads 512
# neighbouring bytes, 128 float32 channels of a cell: the explorer's first state. The four loads of 4 bytes read
# the box, once for a row of bins, and the load of 8 bytes its image index.
#
# ## The picture to keep

# %%
show(
    figures.keep(),
    "Three plans with two bin rows above six cells. Forward: arrows from cells up to bins, each bin row owned by one "
    "program. Scatter: arrows down from bins, and in the two middle cells two programs meet. Gather: arrows down "
    "too, but each program owns three cells and no cell has two owners.",
)

# %% [markdown]
# ## Try this
#
# - In the explorer, take float32, one element a lane, lanes along C, and NCHW. How many of 32 bytes are used in
#   each sector? Change to two bytes: why does the efficiency halve?
# - Change `BLOCK_C` of the sketch to 32 and its grid to `(6, 1)`. Which numbers in the result change?
# - Leave out `other=float("-inf")` in your exercise 2 and run its check. The interpreter puts 0 there; on a GPU
#   do not count on any value.
#
# ## Summary
#
# A kernel is one function, run by many programs that differ in their id. Offsets come from ids, lanes and
# strides; masks keep lanes inside. Loads are cheap where neighbouring lanes read neighbouring bytes: RoIAlign
# reads all channels of a few cells, so it wants channels-last. Backward, each cell sums over bins, and that is a
# race when bins are spread over programs. Atomics lose nothing but leave the order open; ownership fixes the
# order. A definition in loops, an output full of NaN, and the weights of a linear map check a kernel before any
# GPU has seen it. They do not say how fast it is.
#
# ## References
#
# 1. Philippe Tillet, H. T. Kung, David Cox. Triton: An Intermediate Language and Compiler for Tiled Neural
#    Network Computations. MAPL 2019.
# 2. Kaiming He, Georgia Gkioxari, Piotr Dollár, Ross Girshick. [Mask R-CNN](https://arxiv.org/abs/1703.06870).
#    ICCV 2017. Section 3 has RoIAlign.
# 3. David Goldberg. What Every Computer Scientist Should Know About Floating-Point Arithmetic. ACM Computing
#    Surveys, 1991.
# 4. NVIDIA. CUDA C++ Best Practices Guide: coalesced access to global memory.
