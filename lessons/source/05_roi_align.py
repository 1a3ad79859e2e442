# ---
# lesson:
#   minutes: 120
#   difficulty: 2
# ---

# %% [markdown]
# # 05 · RoIPool, RoIWarp, RoIAlign
#
# A mask head predicts a small square of numbers for each box, and the square is then stretched back onto the box.
# What happens if the features that it saw did not come from exactly that box?
#
# Below, nothing is learnt. The star's own mask is used as the feature map, at one cell for 8 × 8 pixels; the box is
# pooled from it to 28 × 28 numbers, and these are pasted back into the box. A perfect pooling would return the
# star.

# %%
from minimaskrcnn_lessons import setup

setup()

# %%
from minimaskrcnn_lessons import show
from minimaskrcnn_lessons.lesson05 import experiments, figures

scene, star, star_box = experiments.star_scene()
wide = (star_box + star_box.new_tensor([-8, -6, 10, 9]))[None]
opening = {name: experiments.mask_through(name, star, wide, 8)[0] for name in experiments.POOLINGS}
show(
    figures.pasted(scene.image, wide[0], star, opening),
    "A star's outline in a dashed box, four times: filled with its true mask, and with the masks that came back "
    "through RoIPool, RoIWarp and RoIAlign. RoIAlign's fills the outline but for the tips; the other two are "
    "ragged stars that stick out of it at the upper left and leave its lower right empty.",
)

# %% [markdown]
# All four pictures show the same box and the same features. Only the pooling differs.
#
# ## After this lesson you can
#
# - say what RoIPool rounds, twice, and what RoIWarp and RoIAlign leave unrounded;
# - predict the error in pixels from the stride, by hand, and measure it;
# - write bilinear sampling, RoIAlign and RoIPool's bins from their definitions;
# - explain `aligned`, `sampling_ratio`, and which samples count 0;
# - say why a box gets a gradient through RoIAlign and none through RoIPool;
# - read RoIAlign as one sparse matrix product, which is how the fast version works.
#
# ## Before you start
#
# You need boxes in continuous coordinates (lesson 01: pixel $i$ covers $i$ to $i + 1$) and the stride of a feature
# map (lesson 03). Some torch and the chain rule help.
#
# {{minutes}} minutes, {{difficulty}}. The notebook runs in {{seconds}} s on two CPU cores and takes
# {{memory}} MiB.
#
# ## The idea
#
# The heads need the same number of features for every box, say 7 × 7 per channel. So a box is cut into 7 × 7
# **bins**, and each bin becomes one number. The trouble is the grid: on a map of stride 16 the box from 54 to 131
# pixels goes from cell 3.375 to cell 8.1875, and there is no cell 3.375.
#
# | | the box | its bins | a bin's number |
# |---|---|---|---|
# | **RoIPool** (Fast R-CNN) | rounded to whole cells | rounded to whole cells | the largest cell |
# | **RoIWarp** (MNC) | rounded to whole cells | kept | bilinear samples |
# | **RoIAlign** (Mask R-CNN) | kept | kept | bilinear samples, their mean or the largest |
#
# Rounding shows when the box moves. Here the star's box slides to the right by a tenth of a pixel at a time, over
# the picture's brightness at stride 16, and we watch one bin.

# %%
import torch

grey = torch.from_numpy(scene.image).double().mean(2)[None] / 255
feature = experiments.cells_of(grey, 16)
shift = torch.arange(0, 32, 0.1, dtype=torch.float64)
slid = star_box + shift[:, None] * star_box.new_tensor([1, 0, 1, 0])
values = {n: experiments.pool_with(n, feature, slid, 7, 16)[:, 0, 3, 3] for n in experiments.POOLINGS}
show(
    figures.sliding(shift, values),
    "Three plots of one bin's value while the box moves by 0 to 32 pixels. RoIPool's is constant but for two jumps, "
    "RoIWarp's but for four, where a side of the box is rounded to another cell; RoIAlign's is one continuous curve.",
)
for name, value in values.items():
    jump = value.diff().abs().max()
    print(f"{name:<9} {len(value.unique()):>4} values, largest change in 0.1 px: {jump:.4f}")

# %% [markdown]
# 320 boxes, all different. RoIPool and RoIWarp answer with a handful of values: boxes that round alike are pooled
# alike. A head behind them cannot know which of these boxes asked.
#
# ### How many pixels is that?
#
# First by hand. With stride $s$ a side of the box moves to a whole cell, so by up to half a cell, $s/2$ pixels. If
# boxes lie anywhere, each error up to $s/2$ is as likely as another, and the mean size is $s/4$. A bin in the
# middle of the box gets the mean of the two sides' errors, $s/6$ in the mean. RoIPool rounds its bins as well,
# which can move a bin's middle by another half cell. So we expect for RoIWarp $s/6$ to $s/4$ in the mean and $s/2$
# at worst, for RoIPool more, below $s$. On top of that, both count the last cell as part of the box: its right and
# lower sides lie a whole cell further out, and its middle half a cell.
#
# Then measure. Take a map whose value *is* the place: each cell holds the $x$ of its own middle, in pixels. Pooling
# it tells where each bin looked. From that we subtract where the bin should look. The 600 boxes are not random:
# they are spread evenly, so that their sides fall nearly equally often on all places within a cell, as the estimate
# by hand assumes.

# %%
boxes = experiments.spread_boxes(600)
names = [*experiments.POOLINGS, experiments.UNALIGNED]
missed = {n: [experiments.misplacement(n, boxes, 7, s) for s in figures.STRIDES] for n in names}
for what in ("shared", "mean", "worst"):
    print(f"\n{what} (pixels)")
    figures.table(names, figures.STRIDES, [[row[what] for row in missed[n]] for n in names])
show(
    figures.misplaced({n: missed[n] for n in experiments.POOLINGS}),
    "Mean and worst misplacement in pixels at strides 4, 8, 16 and 32, three straight lines each. At stride 32 "
    "RoIPool has 7 in the mean and 24 at worst, RoIWarp 6 and 16; RoIAlign is 0 everywhere.",
)

# %% [markdown]
# The table splits the error in two. `shared` is what all boxes have in common, half a cell: from the last cell in
# RoIPool and RoIWarp, and in `aligned=False` from a convention that we come to below. The layers that follow can
# learn to undo a constant shift, at least in part. `mean` and `worst` are what is left without it. They differ from
# box to box, and no layer can undo them, because the place of the box within its cell is gone.
#
# ### One edge
#
# A mask is a matter of edges. This map has one soft vertical edge, at $x = 150$, with stride 16. We pool boxes that
# slide across it, half a pixel at a time, to 14 bins, look between which two bins the value crosses one half, and
# read that place back into the image.

# %%
x = (torch.arange(20).double() + 0.5) * 16
edge = torch.sigmoid((x - 150) / 16).expand(1, 1, 20, 20)
left = torch.arange(60, 108, 0.5, dtype=torch.float64)
across = torch.stack([left, torch.full_like(left, 80), left + 130, torch.full_like(left, 200)], 1)
seen = {n: experiments.pool_with(n, edge, across, 14, 16)[:, 0, 7] for n in names}
seen = {n: experiments.edge_seen(row, across) for n, row in seen.items()}
show(
    figures.edges(left, seen, 150),
    "The edge's place as read back, against the left side of the box. RoIAlign stays within 0.2 pixels of 150, with "
    "aligned=False constantly 8 below; RoIWarp drifts and jumps between 135 and 150, RoIPool between 128 and 145.",
)

# %% [markdown]
# ### One mask
#
# The first experiment again, with 24 random boxes that have 4 to 12 pixels to spare on each side; bars go from the
# worst box to the best. The open marks grant RoIPool and RoIWarp what a network could learn: their boxes are moved
# back by the shared half cell before they are pooled.

# %%
generator = torch.Generator().manual_seed(0)
spare = 4 + 8 * torch.rand(24, 4, generator=generator).double()
around = star_box + spare * star_box.new_tensor([-1, -1, 1, 1])


def quality(name, stride, back=0.0):
    masks = experiments.mask_through(name, star, around, stride, back=back)
    return experiments.mask_iou(masks, star)


found = {n: [quality(n, s) for s in figures.STRIDES] for n in experiments.POOLINGS}
moved = {n: [quality(n, s, s / 2) for s in figures.STRIDES] for n in ("RoIPool", "RoIWarp")}
show(
    figures.mask_quality(found, moved),
    "IoU of the pasted star with the true one at strides 4 to 32. RoIAlign has 0.96, 0.91, 0.76, 0.62, nearly the "
    "same for every box. RoIPool has 0.81, 0.69, 0.47, 0.42 with bars of 0.13 to 0.3; moved back by half a cell it "
    "has 0.86, 0.82, 0.58, 0.59.",
)

# %% [markdown]
# RoIAlign loses something too, because a star of 75 pixels is only two or three cells wide at stride 32: detail
# that the map does not hold cannot be pooled from it. That loss is nearly the same for every box. RoIPool's and
# RoIWarp's depend on luck, also with the shift taken back.
#
# ### Drag it
#
# Move the box, or its corner, by quarters of a pixel (arrow keys work). Watch the region that is really read
# and the pixels by which each side is off. Then change the stride.

# %%
from minimaskrcnn_lessons.explorers.roi_alignment import roi_alignment

roi_alignment()

# %% [markdown]
# ## The mathematics
#
# Everything is separable: what holds for $x$ holds for $y$. Let $x_1, x_2$ be the box's sides in pixels, $s$ the
# stride, $P$ the number of bins and $n$ the number of samples in a bin, all along one axis.
#
# **RoIPool.** The first cell is $f = \operatorname{round}(x_1 / s)$, the last is
# $l = \operatorname{round}(x_2 / s)$, and the last belongs to the box, so it has $N = \max(l - f + 1, 1)$ cells.
# Bin $b$ takes the cells from $f + \lfloor bN/P \rfloor$ up to but without $f + \lceil (b+1)N/P \rceil$, and the
# largest of them. Halves are rounded away from zero, as C does it.
#
# **RoIWarp.** The same whole cells, as a box from $f$ to $f + N$, and then RoIAlign's samples in it.
#
# **RoIAlign.** Sample $i$ of bin $b$ lies at the share $t$ of the way through the box, and at the cell coordinate
# $u$:
#
# $$t = \frac{b + (i + \frac12)/n}{P}, \qquad u = \frac{(1 - t)\,x_1 + t\,x_2}{s} - \frac12 .$$
#
# A bin's number is the mean of the map's values at its $n \times n$ points, each interpolated between the four
# cells around it: with $a = u - \lfloor u \rfloor$ the cells on the two sides weigh $1 - a$ and $a$ in $x$, and
# likewise in $y$.
#
# | symbol | in words | name in the code |
# |---|---|---|
# | $x_1, x_2$ | sides of the box, pixels | `boxes` |
# | $s$ | pixels per cell | `stride`; `spatial_scale` is $1/s$ |
# | $P$ | bins along an axis | `output_size`, `bins` |
# | $n$ | samples along an axis of a bin | `sampling_ratio`, `samples` |
# | $u$ | where a sample lies, in cells | `point` |
# | $a$ | how far past its lower cell it lies | `upper` |
# | $-\frac12$ | the half-pixel offset | `aligned=True` |
# | $k$ | level of the pyramid | `fpn_levels` |
#
# ### Why minus one half
#
# Cell $i$ is made from the pixels $is$ to $(i + 1)s$. Its value stands for their middle, $(i + \frac12)s$. Sampling
# at $u = x/s - \frac12$ respects that. The first RoIAlign sampled at $u = x/s$, as if the value stood for the
# cell's first pixel; so everything is read half a cell too far right and down. torchvision's default,
# `aligned=False`, still does so, and its models were trained with it. It also stretches a box to at least one cell.

# %%
show(
    figures.half_pixel(),
    "Four cells of 8 pixels. With aligned=True their values lie at 4, 12, 20 and 28 pixels, the middles of the "
    "cells; with aligned=False at 0, 8, 16 and 24, half a cell to the left.",
)

# %% [markdown]
# ### How many samples, and which of them count
#
# The paper takes 4 samples a bin, so $n = 2$. With `sampling_ratio=0` (or less) it is **adaptive**: the bin's
# length in cells, rounded up, so that no cell is passed over. A sample up to one cell outside of the map is moved
# onto its edge; one further out counts 0, and is still divided by. See both on a map of ones.

# %%
from minimaskrcnn.ops import roi_align
from minimaskrcnn.ops.roi_align_torch import samples_per_bin

ends = torch.tensor([[0.0, 3.0], [0.0, 7.0], [0.0, 8.0], [0.0, 30.0]])
print("boxes of 3, 7, 8 and 30 cells in 7 bins, samples:", samples_per_bin(*ends.T, 7, True).tolist())
ones = torch.ones(1, 1, 4, 4)
for x1 in (0.0, -1.0, -2.0, -3.0):
    box = torch.tensor([[0.0, x1, 0.0, x1 + 4, 4.0]])
    print(f"from {x1:g} to {x1 + 4:g} cells:", roi_align(ones, box, 1, 1.0, 4, True).item())

# %% [markdown]
# ### What the box can learn
#
# In RoIAlign $u$ depends on the box smoothly: $\partial u / \partial x_1 = (1 - t)/s$ and
# $\partial u / \partial x_2 = t/s$. So the loss has a gradient with respect to the box: the slope of the map at
# each sample, times how the sample moves. Through a rounding, the derivative is 0 wherever there is one. To see it,
# take the star's pooled features as a target; the loss of a displaced box is the mean squared difference.

# %%
picture = torch.from_numpy(scene.image).double().permute(2, 0, 1) / 255
smooth = torch.nn.functional.avg_pool2d(experiments.cells_of(picture, 8), 3, 1, 1, count_include_pad=False)


def loss(name, boxes):
    target = experiments.pool_with(name, smooth, star_box[None], 7, 8)
    return (experiments.pool_with(name, smooth, boxes, 7, 8) - target).square().mean((1, 2, 3))


shift = torch.arange(-20, 20, 0.1, dtype=torch.float64)
slid = star_box + shift[:, None] * star_box.new_tensor([1, 0, 1, 0])
curves = {name: loss(name, slid) for name in experiments.POOLINGS}
show(
    figures.losses(shift, curves),
    "Loss against the displacement of the box, -20 to 20 pixels. RoIPool's and RoIWarp's are stairs, "
    "flat for several pixels between jumps; RoIAlign's is a smooth valley with its bottom at 0.",
)


def slope(name):
    box = (star_box[None] + 3).requires_grad_()
    value = loss(name, box).sum()
    return torch.autograd.grad(value, box)[0][0].numpy().round(5) if value.requires_grad else "none"


spot = star_box + 40 * torch.rand(400, 1, generator=generator).double() - 20
for name in experiments.POOLINGS:
    flat = (loss(name, spot + 0.01) == loss(name, spot - 0.01)).double().mean()
    print(f"{name:<9} same loss at ±0.01 px: {flat:.1%} of places; gradient at +3 px: {slope(name)}")

# %% [markdown]
# With RoIAlign's gradient a box can walk. It starts beside the star and follows the loss downhill. (The paper's
# end-to-end training ignores this gradient, says its appendix B, and so does the model here, unless
# `RPNConfig.end_to_end` asks for it.)

# %%
from minimaskrcnn.ops import box_iou

walker = (star_box + star_box.new_tensor([22, -14, 34, -2]))[None].requires_grad_()
optimiser = torch.optim.Adam([walker], lr=1.0)
path = [walker.detach()[0].clone()]
for _ in range(120):
    optimiser.zero_grad()
    loss("RoIAlign", walker).sum().backward()
    optimiser.step()
    path.append(walker.detach()[0].clone())
ious = box_iou(torch.stack(path), star_box[None])[:, 0].tolist()
show(
    figures.descent(scene.image, path, star_box, ious),
    "Left: a red box that starts to the right of the star and a blue one that encloses it, with the steps between. "
    f"Right: its IoU with the star's box rises from {ious[0]:.2f} to {ious[-1]:.2f} in 120 steps; through RoIPool it "
    "would stay.",
)

# %% [markdown]
# ### Which map
#
# A pyramid has maps of stride 4, 8, 16 and 32, called P2 to P5. A large box should be read from a coarse map, a
# small one from a fine map, so that bins have about as many cells. FPN's equation 1 does that for a box of
# $w \times h$ pixels: $k = \lfloor 4 + \log_2(\sqrt{wh}/224) \rfloor$, held within 2 and 5. A box of 224 pixels,
# the size of a picture that such networks are first trained on, belongs to level 4. Level $k$ has stride $2^k$.
#
# ## The loop version
#
# RoIPool is a maximum over the cells of each bin. Which cells those are, `pool_cells` says; you will write it in
# exercise 4. RoIAlign's loops are yours too: exercises 1 to 3 build them. The definitions that judge everything are
# in [`reference.py`](../minimaskrcnn/ops/reference.py).

# %%
from minimaskrcnn_lessons.lesson05.answers import pool_cells


def roi_pool_loop(feature, box, bins, stride):
    x1, y1, x2, y2 = box.tolist()
    out = torch.zeros(bins, bins, dtype=feature.dtype)
    for ph, (top, bottom) in enumerate(pool_cells(y1, y2, stride, bins, feature.shape[0])):
        for pw, (left, right) in enumerate(pool_cells(x1, x2, stride, bins, feature.shape[1])):
            cells = feature[top:bottom, left:right]
            out[ph, pw] = cells.max() if cells.numel() else 0.0
    return out


small = torch.arange(30.0, dtype=torch.float64).view(5, 6)
small_box = torch.tensor([[10.0, 9.0, 38.0, 31.0]], dtype=torch.float64)
print("loops:\n", roi_pool_loop(small, small_box[0], 2, 8))
for name in experiments.POOLINGS:
    print(name, "\n", experiments.pool_with(name, small[None, None], small_box, 2, 8)[0, 0])

# %% [markdown]
# The map counts 0, 1, 2, ... row by row. Its value at the middle of the box, 24 and 20 pixels, is
# $6 \cdot (20/8 - \frac12) + (24/8 - \frac12) = 14.5$, and that is the mean of RoIAlign's four numbers. RoIWarp's
# have the mean 18, because their box is centred on $(28, 24)$.
#
# ## Exercises
#
# Write each answer into the function and run the cell: it shows what a right answer gives. The check shows the
# smallest input on which yours differs.

# %% [markdown] exercise="bilinear"
# `my_bilinear(plane, y, x)` returns the value of `plane` (a tensor `[H, W]`) at a real point, as a number. Here the
# value of cell $i$ lies at $i$. A point with `y < -1`, `y > H`, `x < -1` or `x > W` has the value 0. Any other
# point outside of the outermost values is moved onto the edge first.

# %% exercise="bilinear"
from minimaskrcnn_lessons import check, expected


# Write your answer into this function.
def my_bilinear(plane, y, x):
    """The value of plane [H, W] at a point, between its four cells."""
    ### BEGIN SOLUTION
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    rows = torch.clamp(1 - (torch.arange(height) - y).abs(), min=0).to(plane.dtype)
    columns = torch.clamp(1 - (torch.arange(width) - x).abs(), min=0).to(plane.dtype)
    return (rows @ plane @ columns).item()
    ### END SOLUTION


expected("bilinear")

# %%
check("bilinear", my_bilinear)

# %% grade="bilinear"
from minimaskrcnn_lessons import grade

grade("bilinear", my_bilinear)
### BEGIN HIDDEN TESTS
assert abs(my_bilinear(torch.tensor([[1.0, 3.0], [5.0, 7.0]]), 0.5, 0.25) - 3.5) < 1e-6
### END HIDDEN TESTS

# %% [markdown] exercise="roi_align_points"
# `my_points(start, end, stride, bins, samples)` returns a tensor `[bins, samples]`: where RoIAlign samples along
# one axis, in cells, for a box from `start` to `end` in pixels. Half-pixel offset included (`aligned=True`).


# %% exercise="roi_align_points"
# Write your answer into this function.
def my_points(start, end, stride, bins, samples):
    """Sample points of each bin on one axis, in cells [bins, samples]."""
    ### BEGIN SOLUTION
    t = (torch.arange(bins * samples, dtype=torch.float64) + 0.5) / (bins * samples)
    return (((1 - t) * start + t * end) / stride - 0.5).view(bins, samples)
    ### END SOLUTION


expected("roi_align_points")

check("roi_align_points", my_points)

# %% grade="roi_align_points"
grade("roi_align_points", my_points)
### BEGIN HIDDEN TESTS
assert torch.allclose(my_points(0.0, 32.0, 8.0, 2, 1), torch.tensor([[0.5], [2.5]], dtype=torch.float64))
### END HIDDEN TESTS

# %% [markdown] exercise="roi_align"
# `my_roi_align(feature, box, bins, stride, samples)` pools one box, a tensor `(x1, y1, x2, y2)` in pixels, from one
# map `[H, W]` to a tensor `[bins, bins]`: the mean of `samples` × `samples` bilinear samples in each bin. Use
# `points` and `bilinear`, which are right answers to the first two exercises.

# %% exercise="roi_align"
from minimaskrcnn_lessons.lesson05.answers import bilinear, points


# Write your answer into this function.
def my_roi_align(feature, box, bins, stride, samples):
    """RoIAlign (aligned) of one box on one map [H, W]: [bins, bins]."""
    ### BEGIN SOLUTION
    x1, y1, x2, y2 = box.tolist()
    ys, xs = points(y1, y2, stride, bins, samples), points(x1, x2, stride, bins, samples)
    out = torch.zeros(bins, bins, dtype=torch.float64)
    for ph in range(bins):
        for pw in range(bins):
            found = [bilinear(feature, y, x) for y in ys[ph].tolist() for x in xs[pw].tolist()]
            out[ph, pw] = sum(found) / len(found)
    return out
    ### END SOLUTION


expected("roi_align")

# %%
check("roi_align", my_roi_align)

# %% grade="roi_align"
grade("roi_align", my_roi_align)

# %% [markdown] exercise="roi_pool_cells"
# `my_pool_cells(start, end, stride, bins, extent)` returns, for one axis of RoIPool, a list with a pair `(first,
# stop)` for each bin: its first cell, and one past its last. `start >= 0` and `end` are pixels; the map has the
# cells `0 .. extent - 1`, and both numbers of a pair are clipped to `0 .. extent`.


# %% exercise="roi_pool_cells"
# Write your answer into this function.
def my_pool_cells(start, end, stride, bins, extent):
    """The cells of each bin: a list of (first, one past the last)."""
    ### BEGIN SOLUTION
    first, last = int(start / stride + 0.5), int(end / stride + 0.5)
    count = last - first + 1
    pairs = [(b * count // bins, -(-(b + 1) * count // bins)) for b in range(bins)]
    return [(min(first + low, extent), min(first + high, extent)) for low, high in pairs]
    ### END SOLUTION


expected("roi_pool_cells")

check("roi_pool_cells", my_pool_cells)

# %% grade="roi_pool_cells"
grade("roi_pool_cells", my_pool_cells)

# %% [markdown] exercise="fpn_level"
# `my_fpn_level(width, height)` returns the level $k$, an integer from 2 to 5, on which a box of that many pixels is
# pooled.


# %% exercise="fpn_level"
# Write your answer into this function.
def my_fpn_level(width, height):
    """FPN's equation 1: the level 2..5 of a box."""
    ### BEGIN SOLUTION
    side = (width * height) ** 0.5
    return 2 + sum(side >= border for border in (112, 224, 448))
    ### END SOLUTION


expected("fpn_level")

check("fpn_level", my_fpn_level)

# %% grade="fpn_level"
grade("fpn_level", my_fpn_level)

# %% [markdown]
# ## The vectorised version
#
# Along one axis a bin's number is a weighted sum of cells, and the weights do not depend on the features. Write
# them as a matrix $A_x$ with a row for each bin and a column for each cell. Because the samples form a grid, the
# weight of a cell in two dimensions is the product of its weights in $y$ and in $x$. So RoIAlign of one box on one
# channel $F$ is
#
# $$A_y \, F \, A_x^{\mathsf T} .$$
#
# [`roi_align_torch.py`](../minimaskrcnn/ops/roi_align_torch.py) makes the weights, for all boxes at once, with
# the two cells around each sample.
#
# Most entries are 0. The sparse form lists the others, cells and weights, for each bin. A weighted sum of listed
# rows of a table is what torch calls an **embedding bag**: the table's rows are cells, with all channels side by
# side; a bag is a bin. The same file writes all boxes, images and pyramid levels as bags of one table, and
# [`embedding_bag.py`](../minimaskrcnn/ops/embedding_bag.py) has the product with its derivatives.

# %%
from torch.nn.functional import embedding_bag

from minimaskrcnn.ops.roi_align_torch import axis_samples


def axis_matrix(start, end, extent, bins, samples):
    """The share of each cell in each bin [bins, extent], of a box in cells."""
    counts, extents = torch.tensor([samples]), torch.tensor([extent])
    cell, weight = axis_samples(start[None], end[None], extents, bins, counts, samples, True)
    matrix = torch.zeros(bins, extent, dtype=weight.dtype)
    return matrix.scatter_add(1, cell[0].flatten(1), weight[0].flatten(1) / samples)


x1, y1, x2, y2 = small_box[0] / 8
down, across = axis_matrix(y1, y2, 5, 2, 2), axis_matrix(x1, x2, 6, 2, 2)
show(
    figures.axis_matrices(down, across),
    "Two matrices with a row for each of two bins: A_y with 5 columns and A_x with 6. Each row has three numbers "
    "above 0, neighbours of one another, which sum to 1; the rest are 0.",
)
print(down @ small @ across.T)

share = torch.einsum("py,qx->pqyx", down, across).view(4, 30)
bag, cell = share.nonzero().unbind(1)
starts = torch.searchsorted(bag, torch.arange(4))
table = small.view(30, 1)
pooled = embedding_bag(cell, table, starts, mode="sum", per_sample_weights=share[bag, cell])
print(f"{len(cell)} entries in 4 bags\n", pooled.view(2, 2))

# %% [markdown]
# ## The Triton version
#
# On a GPU a kernel does the same without writing the weights to memory: one program makes a row of bins for a block
# of channels. Without a GPU, Triton's interpreter runs it here on a tiny case. Lesson 06 is about it.

# %%
from minimaskrcnn.ops.backend import TRITON_IS_INSTALLED

device = "cuda" if torch.cuda.is_available() else "cpu"
roi = torch.cat([torch.zeros(1, 1), small_box.float()], 1).to(device)
if TRITON_IS_INSTALLED:
    tiny = small.float()[None, None].to(device)
    print(roi_align(tiny, roi, 2, 1 / 8, 2, True, backend="triton")[0, 0])
else:
    print("Triton is not installed here: this cell is passed over.")

# %% [markdown]
# ## The proof
#
# Values first: the definition in loops against the package, for each pooling, on random maps and boxes, some
# partly outside.

# %%
from minimaskrcnn.ops import reference, roi_pool, roi_warp

maps = torch.randn(2, 3, 6, 7, generator=generator, dtype=torch.float64)
corner = 48 * torch.rand(6, 2, generator=generator, dtype=torch.float64) - 8
rois = torch.cat([torch.arange(6)[:, None] % 2, corner, corner + 4 + 30 * torch.rand(6, 2).double()], 1)
pairs = {
    "RoIPool": [op(maps, rois, (3, 3), 1 / 8) for op in (reference.roi_pool, roi_pool)],
    "RoIWarp": [op(maps, rois, (3, 3), 1 / 8, 2) for op in (reference.roi_warp, roi_warp)],
    "RoIAlign": [op(maps, rois, (3, 3), 1 / 8, 2, True) for op in (reference.roi_align, roi_align)],
    "RoIAlign, adaptive": [op(maps, rois, (3, 3), 1 / 8, 0, True) for op in (reference.roi_align, roi_align)],
}
for name, (loops, package) in pairs.items():
    print(f"{name:<20} largest difference {(loops - package).abs().max():.1e}")

# %% [markdown]
# Then gradients. The definition has none of its own, so it is moved a little, number by number: a central
# difference $(f(z + h) - f(z - h)) / 2h$ for each coordinate of a box and for each cell of a map.


# %%
def differences(f, z, h=1e-6):
    """The central difference of the number f(z) in each number of z."""
    steps = h * torch.eye(z.numel(), dtype=z.dtype).view(-1, *z.shape)
    return torch.stack([(f(z + step) - f(z - step)) / (2 * h) for step in steps]).view(z.shape)


weight = torch.randn(2, 2, generator=generator, dtype=torch.float64)
plane, inside = maps[:1, :1].clone().requires_grad_(), torch.tensor([[0, 9.3, 7.1, 37.7, 33.9]]).double()
inside.requires_grad_()
(roi_align(plane, inside, 2, 1 / 8, 2, True) * weight).sum().backward()


def definition(plane, rois):
    return (reference.roi_align(plane, rois, (2, 2), 1 / 8, 2, True) * weight).sum()


by_box = differences(lambda z: definition(plane.detach(), z), inside.detach())[:, 1:]
by_map = differences(lambda z: definition(z, inside.detach()), plane.detach())
for what, gap in (("boxes", inside.grad[:, 1:] - by_box), ("map", plane.grad - by_map)):
    print(f"{what}: largest difference {gap.abs().max():.1e}")

# %% [markdown]
# ## What it costs
#
# Work and memory grow with the numbers that come out: boxes × channels × bins. Times are your machine's.

# %%
import time


def seconds(f, repeats):
    """The fastest of some runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return min(times)


big = torch.randn(1, 64, 50, 68).to(memory_format=torch.channels_last)
many = torch.cat([torch.zeros(256, 1), 600 * torch.rand(256, 2), 640 + 150 * torch.rand(256, 2)], 1)
one = seconds(lambda: reference.roi_align(big[:, :1], many[:1], (7, 7), 1 / 16, 2, True), 3)
numbers = 256 * 64 * 49
print(f"loops, 49 numbers: {one * 1e3:.1f} ms, {one / 49 * 1e9:.0f} ns each")
for name in experiments.POOLINGS:
    took = seconds(lambda: experiments.pool_with(name, big, many[:, 1:], 7, 16), 3)  # noqa: B023
    print(f"{name:<9} {numbers} numbers: {took * 1e3:.1f} ms, {took / numbers * 1e9:.1f} ns each")

# %% [markdown]
# For a training step of the paper's size, 512 boxes × 256 channels × 7 × 7 in float32, the result has
# $512 \cdot 256 \cdot 49 \cdot 4$ bytes, 25.7 MB. The lists of entries are small beside it: 16 weights and 16 cell
# numbers for each of $512 \cdot 49$ bins, 4.8 MB, shared by all channels. The Triton kernel has not been measured
# on a GPU yet.
#
# ## The picture to keep

# %%
show(
    figures.three_ways(scene.image, wide[0].float(), 32),
    "The star's box on a grid of stride 32, three times. RoIPool and RoIWarp read a shaded region of whole cells "
    "that begins below its top and overshoots its lower side by 47 pixels; RoIAlign's 6 by 6 samples lie in the "
    "box itself.",
)

# %% [markdown]
# This is what the paper measured with trained networks on COCO: average precision, AP, in percent. AP75 asks for
# precise masks, of IoU 0.75. (Its ablations train the RPN apart; training in this course is joint.)
#
# | paper | RoIPool | RoIWarp | RoIAlign |
# |---|---|---|---|
# | table 2c, masks, stride 16: AP (RoIWarp with max) | 26.9 | 27.2 | 30.3 |
# | the same: AP75 | 26.4 | 27.1 | 31.5 |
# | table 2d, masks, stride 32: AP | 23.6 | – | 30.9 |
# | table 2d, boxes, stride 32: AP | 28.2 | – | 34.0 |
# | table 6, keypoints: AP | 59.8 | – | 64.2 |
#
# RoIWarp interpolates and hardly gains over RoIPool, so what counts is the unrounded box. At stride 32 the gain is
# larger than at stride 16, 7.3 against 3.4, as half a cell is twice as many pixels. And whether a bin takes the
# mean or the largest sample is nearly the same: 30.3 and 30.2.
#
# ## Try this
#
# - Give `mask_through` 14 or 56 `bins` in the mask experiment. At which stride does it matter, and for which
#   pooling?
# - Start the walking box so far off that it does not touch the star. What does the loss tell it there?
# - Give a box to `fpn_levels` and look how many cells a 7 × 7 bin has on its level, for sides of 30 to 800 pixels.
#
# ## Summary
#
# - RoIPool rounds the box to cells, and then its bins; RoIWarp rounds the box; RoIAlign rounds nothing.
# - Rounding moves a side by up to half a cell, $s/2$ pixels. What all boxes share of it can be learnt; the rest
#   cannot.
# - `aligned=True` takes off half a cell, since a cell's value stands for its middle.
# - RoIAlign is linear in the features, so it is a sparse matrix product, and it is continuous in the box, so the
#   box has a gradient.
#
# ## References
#
# - K. He, G. Gkioxari, P. Dollár, R. Girshick. *Mask R-CNN*. ICCV 2017. Section 3 (RoIAlign), tables 2c, 2d and 6.
# - R. Girshick. *Fast R-CNN*. ICCV 2015. Section 2.1 (RoI pooling).
# - J. Dai, K. He, J. Sun. *Instance-aware Semantic Segmentation via Multi-task Network Cascades*. CVPR 2016.
# - T.-Y. Lin, P. Dollár, R. Girshick, K. He, B. Hariharan, S. Belongie. *Feature Pyramid Networks for Object
#   Detection*. CVPR 2017. Equation 1.
# - M. Jaderberg, K. Simonyan, A. Zisserman, K. Kavukcuoglu. *Spatial Transformer Networks*. NIPS 2015.
