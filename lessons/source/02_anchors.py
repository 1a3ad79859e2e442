# ---
# lesson:
#   minutes: 90
#   difficulty: 2
# ---

# %% [markdown]
# # 02 · Anchors
#
# A network sees a picture as a fixed grid of cells. Objects have every size and shape and lie anywhere. Where
# does the network get its boxes from?
#
# Faster R-CNN, and Mask R-CNN after it, lays a fixed set of boxes over the picture, the **anchors**, and lets
# the network correct them. The picture below shows what can go wrong. On the left are the objects of a
# generated scene; on the right, for each of them, the best of 12,096 anchors. IoU, the intersection over
# union of two boxes (lesson 01), says how well they agree: 1 for equal boxes, 0 for boxes that do not touch.

# %%
from minimaskrcnn_lessons import setup

setup()

# %%
from minimaskrcnn.ops import box_iou
from minimaskrcnn import maskrcnn_toy
from minimaskrcnn_lessons import show
from minimaskrcnn_lessons.lesson02 import figures, scenes

toy = maskrcnn_toy.config().anchors
toy_anchors, scene = scenes.anchors_of(toy), scenes.picture(38)
best = box_iou(scene.boxes, toy_anchors).amax(dim=1)
print(f"{len(toy_anchors):,} anchors; best IoU of each object: {[round(v, 2) for v in best.tolist()]}")
show(
    figures.badly_covered(scene, toy_anchors),
    "A scene of six objects, and the best anchor of each. Three fit: IoU 0.64, 0.70 and 0.71. A tall person of "
    "48 × 116 pixels reaches 0.56, a small object of 17 × 14 pixels 0.42, and a large one of 106 × 84 only 0.35.",
)

# %% [markdown]
# Twelve thousand boxes, and for three of six objects the best one is poor. The small object of 17 × 14 pixels
# lies between two sizes of anchor, 10 and 24. The person of 48 × 116 is more elongated than any anchor, and
# the large object bigger. Nothing has been trained yet: the outcome is decided by six numbers in a
# configuration, three sizes and three ratios. This lesson is about choosing such numbers.
#
# ## After this lesson you can
#
# - compute the anchors of a cell from a size and an aspect ratio, and lay them over a grid;
# - say how many anchors a picture has, and in which order they come, without running anything;
# - predict from sizes, ratios and stride alone which objects will be covered badly;
# - explain the two roundings of torchvision's anchors and where they matter;
# - match anchors to objects without holding the whole IoU matrix in memory.
#
# ## Before you start
#
# You need lesson 01 (boxes and IoU) and a little torch: shapes, broadcasting, indexing. Nothing is trained
# here. About {{minutes}} minutes, {{difficulty}}. The notebook runs in {{seconds}} seconds and {{memory}} MiB
# on two CPU cores.
#
# ## The idea
#
# A convolutional network turns a picture into **feature maps**: grids of cells, each cell a vector of numbers
# that describes its neighbourhood. The **stride** of a map is the number of pixels from one cell to the next.
# A map of stride 16 over a picture of 160 × 256 pixels has 10 × 16 cells.
#
# A convolution gives the same number of outputs at every cell, and computes them in the same way everywhere:
# where two cells see the same pattern, they say the same. So they cannot well say coordinates, which differ.
# Each cell gets a few boxes of its own instead, the same shapes everywhere, and the outputs are relative to
# them: *is there an object roughly like this one, and by how much is this box off?* The place comes from the
# cell, the rough shape from the anchor, and the network predicts only a small correction.
#
# The correction is small only if some anchor is near, and training makes that strict. For the region proposal
# network (lesson 04) an anchor is an example of an object if its IoU with one is at least 0.7, and background
# if its IoU with all is under 0.3. Those between teach nothing. An object that no anchor reaches at 0.7 is
# not lost, because its best anchor is taken all the same, but few examples teach it.
#
# Drag the object in the explorer and watch the number of anchors at 0.7 or more. Three things to look for:
#
# 1. Move it pixel by pixel, with the arrow keys. The best IoU goes up and down, because anchors exist only on
#    the grid. Then choose a stride of 16 or 32: it goes much further down.
# 2. Make the object 16 pixels wide and high. Anchors of size 32 do not fit it, wherever it lies.
# 3. Make it 64 pixels wide and 16 high: its area is that of a square of 32. Then add the ratios ¼ and 4.

# %%
from minimaskrcnn_lessons.explorers.anchors import anchors

anchors()

# %% [markdown]
# ## The mathematics
#
# **One anchor.** A size $s$ and an aspect ratio $r$, height over width, fix width $w$ and height $h$ through
# two demands: the area is that of a square of side $s$, and the ratio is $r$.
#
# $$w h = s^2, \qquad \frac{h}{w} = r \qquad\Longrightarrow\qquad w = \frac{s}{\sqrt r}, \qquad h = s \sqrt r .$$
#
# The area stays the same so that size and shape are two separate questions: $s$ says how much picture an
# anchor covers, and $r$ only how that area is spread.
#
# **Its place.** The cell in row $i$ and column $j$ of a map of stride $t$ puts the centre of its anchors on
# its upper left corner, at $(x, y) = (j t,\, i t)$:
#
# $$\left(j t - \tfrac w2,\quad i t - \tfrac h2,\quad j t + \tfrac w2,\quad i t + \tfrac h2\right).$$
#
# Row $i$ moves $y$ and column $j$ moves $x$. The middle of the cell would do as well; torchvision and
# detectron2 use the corner, so published weights were trained with it. Anchors that reach out of the picture
# are kept.
#
# **A pyramid.** With a feature pyramid network (FPN, lesson 03) there are several maps, and each has one
# size: 32 pixels on stride 4, then 64 on 8, 128 on 16, 256 on 32, and 512 on 64. A size is always eight
# strides, so the grid is equally dense for large and small anchors, *relative to their size*. A single map of
# stride 16 (the C4 networks) has to carry all sizes at once. The toy network of this page has sizes of 10, 24
# and 56 on strides of 4, 8 and 16.
#
# **How badly can an object fit?** Call a square object's side $a$ and compare it with a square anchor of side
# $s$:
#
# - *Size.* With the same centre and $a \le s$ the IoU is $a^2 / s^2$. If the sizes grow by a factor $f$ from
#   level to level, the unluckiest object lies $\sqrt f$ from both its neighbours and has an IoU of $1/f$: one
#   half for FPN's doubling.
# - *Shape.* With the same centre and area, and ratios that differ by a factor $q^2$, the intersection is
#   $s^2/q$ (for $q \ge 1$) and the IoU is $1/(2q - 1)$. Between the ratios 1 and 2 the unluckiest object has
#   $q^2 = \sqrt 2$, and an IoU of 0.725.
# - *Place.* Away from the right and lower borders, no centre lies further from a grid point than half a stride
#   in $x$ and in $y$. Two equal squares that far apart share the part $c = (1 - t / 2s)^2$ of their area and
#   have the IoU $c/(2-c)$. At $s = 8t$ that is 0.784; for an anchor of 32 on a map of stride 16 it is 0.391.
#
# Each of the three takes the other two to be perfect. An object can be unlucky in all of them.

# %%
side, q = 16 * 2**0.5, 2**0.25
cases = [
    ("size: √2 too large", (-side, -side, side, side)),
    ("shape: r = √2", (-16 / q, -16 * q, 16 / q, 16 * q)),
    ("place: off by 2 and 2", (-14.0, -14.0, 18.0, 18.0)),
    ("place: off by 8 and 8", (-8.0, -8.0, 24.0, 24.0)),
]
show(
    figures.misfits(32.0, cases),
    "Four panels, an object against a 32-pixel square anchor. Size: an object √2 times as large has IoU 0.500. "
    "Shape: ratio √2 and equal area, 0.725. Place: off by 2 pixels in x and y, half a stride of 4, 0.784; by 8, "
    "half a stride of 16, 0.391.",
)

# %% [markdown]
# | symbol | in words | in the code |
# |---|---|---|
# | $s$ | anchor size: square root of its area, pixels | `sizes`, a tuple for each level |
# | $r$ | aspect ratio, height / width | `aspect_ratios` |
# | $w, h$ | width and height of an anchor | `2 * half_width`, `2 * half_height` |
# | $t$ | stride, pixels from cell to cell | `strides`, `step_y`, `step_x` |
# | $i, j$ | row and column of a cell | the two leading axes of `corner` |
# | $(jt, it)$ | centre of a cell's anchors | `corner`, twice: for both corners of the box |
# | $A$ | anchors of the whole pyramid | length of the concatenated levels |
# | $G$ | objects (ground truths) of a picture | `len(gt_boxes)` |
#
# ## The loop version
#
# Definition and order in one: level, row, column, ratio, size. The order is a promise: the network has an
# output for each anchor, and output $n$ has to mean anchor $n$. If the two orders disagree nothing crashes,
# and the network learns nonsense.

# %%
import math

import torch
from jaxtyping import Float
from torch import Tensor


def anchors_by_loops(grid_sizes, strides, sizes, aspect_ratios) -> list[Float[Tensor, "_ 4"]]:
    levels = []
    for (rows, columns), t, level_sizes in zip(grid_sizes, strides, sizes):
        found = []
        for i in range(rows):
            for j in range(columns):
                for r in aspect_ratios:
                    for s in level_sizes:
                        w, h = s / math.sqrt(r), s * math.sqrt(r)
                        found.append([j * t - w / 2, i * t - h / 2, j * t + w / 2, i * t + h / 2])
        levels.append(torch.tensor(found, dtype=torch.float64))
    return levels


anchors_by_loops([(1, 2)], [8], [(8.0,)], (0.25, 4.0))[0]

# %% [markdown]
# The last line is the smallest case worth reading: one row of two cells, a stride of 8, one size, and two
# ratios whose roots are whole numbers. A wide and a tall box have their centre at $x = 0$; the same pair
# follows at $x = 8$.
#
# ## Exercises
#
# `check` compares your function with the package's on inputs that it draws, and shows the smallest on which
# they differ.

# %% [markdown] exercise="cell_anchors"
# Write the anchors of one cell, with the centre at the origin: a tensor `[n, 4]` of corners (x1, y1, x2, y2),
# in the order *ratio, size*. A ratio is height / width, and every anchor of size $s$ has the area $s^2$.

# %%
from minimaskrcnn_lessons import check, expected

expected("cell_anchors")


# %% exercise="cell_anchors"
def my_cell_anchors(sizes: tuple[float, ...], aspect_ratios: tuple[float, ...]) -> torch.Tensor:
    """Anchors [n, 4] of a cell at the origin: for each ratio, each size."""
    ### BEGIN SOLUTION
    rows = []
    for r in aspect_ratios:
        for s in sizes:
            w = (s * s / r) ** 0.5
            h = r * w
            rows.append([-w / 2, -h / 2, w / 2, h / 2])
    return torch.tensor(rows)
    ### END SOLUTION


# %%
check("cell_anchors", my_cell_anchors)

# %% grade="cell_anchors"
from minimaskrcnn_lessons import grade

grade("cell_anchors", my_cell_anchors)
### BEGIN HIDDEN TESTS
wide, tall = my_cell_anchors((6.0,), (0.25, 4.0)).tolist()
assert wide == [-6.0, -1.5, 6.0, 1.5] and tall == [-1.5, -6.0, 1.5, 6.0]
### END HIDDEN TESTS

# %% [markdown] exercise="grid_anchors"
# Lay the anchors of one level over its grid. Start from the package's `cell_anchors(sizes, aspect_ratios,
# False)` (imported below) and return `[rows · columns · n, 4]` in the order *row, column, shape*. The loop
# version above does it one number at a time; try to do it without a loop.

# %%
from minimaskrcnn.anchors import cell_anchors

expected("grid_anchors")


# %% exercise="grid_anchors"
def my_grid_anchors(sizes, aspect_ratios, rows: int, columns: int, stride: int) -> torch.Tensor:
    """Anchors [rows * columns * n, 4] of one level: for each row, each column, each shape."""
    base = cell_anchors(sizes, aspect_ratios, False)
    ### BEGIN SOLUTION
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    shifts = stride * torch.stack([x, y, x, y], dim=2).reshape(-1, 1, 4)
    return (shifts + base).reshape(-1, 4)
    ### END SOLUTION


# %%
check("grid_anchors", my_grid_anchors)

# %% grade="grid_anchors"
grade("grid_anchors", my_grid_anchors)
### BEGIN HIDDEN TESTS
last = my_grid_anchors((2.0,), (1.0,), 2, 3, 10)[-1].tolist()
assert last == [19.0, 9.0, 21.0, 11.0]
### END HIDDEN TESTS

# %% [markdown] exercise="count_anchors"
# How many anchors does a picture have? Each layer of stride 2 makes $\lceil n/2 \rceil$ cells from $n$, so a
# level of stride $t$ has $\lceil \text{height}/t \rceil$ rows, and columns alike. Every cell has each size in
# each ratio.

# %%
expected("count_anchors")


# %% exercise="count_anchors"
def my_count_anchors(
    padded_size: tuple[int, int], strides: list[int], num_sizes: int, num_ratios: int
) -> int:
    """Anchors of all levels; padded_size is (height, width)."""
    ### BEGIN SOLUTION
    height, width = padded_size
    total = 0
    for t in strides:
        rows, columns = (height + t - 1) // t, (width + t - 1) // t
        total += rows * columns * num_sizes * num_ratios
    return total
    ### END SOLUTION


# %%
check("count_anchors", my_count_anchors)

# %% grade="count_anchors"
grade("count_anchors", my_count_anchors)
### BEGIN HIDDEN TESTS
assert my_count_anchors((800, 1216), [4, 8, 16, 32, 64], 1, 3) == 242_991
### END HIDDEN TESTS

# %% [markdown] exercise="best_anchors"
# For each object find the anchor with the largest IoU. Return two tensors of shape `[G]`: the IoU, and the
# number of the anchor. Where several anchors are equally good, take the first. Use `box_iou` of
# `minimaskrcnn.ops`.

# %%
expected("best_anchors")


# %% exercise="best_anchors"
def my_best_anchors(gt_boxes: torch.Tensor, anchors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each object [G, 4] the largest IoU with an anchor [A, 4], and the first anchor that has it."""
    ### BEGIN SOLUTION
    values, places = [], []
    for row in box_iou(gt_boxes, anchors).tolist():
        values.append(max(row))
        places.append(row.index(max(row)))
    return torch.tensor(values), torch.tensor(places)
    ### END SOLUTION


# %%
check("best_anchors", my_best_anchors)

# %% grade="best_anchors"
grade("best_anchors", my_best_anchors)
### BEGIN HIDDEN TESTS
value, place = my_best_anchors(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[0.0, 0, 2, 1], [0.0, 1, 2, 2]]))
assert value.tolist() == [0.5] and place.tolist() == [0]
### END HIDDEN TESTS

# %% [markdown]
# ## The vectorised version
#
# This is [the package's own function](../minimaskrcnn/anchors.py). It has no loop over cells. `corner` holds
# (x, y) of every cell, once for each corner of the box. Adding the base of shape `[n, 4]` to
# `[rows, columns, 1, 4]` broadcasts to `[rows, columns, n, 4]`, and flattening that gives the promised order.

# %%
from minimaskrcnn.anchors import AnchorConfig


# %% library="minimaskrcnn.anchors:grid_anchors"
def grid_anchors(
    grid_sizes: list[tuple[int, int]],
    strides: list[int],
    padded_size: tuple[int, int],
    config: AnchorConfig,
    like: Tensor,
) -> list[Float[Tensor, "_ 4"]]:
    """The anchors of every level, in pixels, with the dtype and device of `like`.

    `grid_sizes` holds each feature map's (height, width), `padded_size` that of the batch's picture.
    Raises ValueError where the numbers of levels disagree.
    """
    if not len(grid_sizes) == len(strides) == len(config.sizes):
        raise ValueError(
            f"{len(grid_sizes)} feature maps, {len(strides)} strides and {len(config.sizes)} levels of anchor "
            "sizes: there must be as many of each"
        )
    levels = []
    for (rows, columns), stride, sizes in zip(grid_sizes, strides, config.sizes):
        step_y = step_x = stride
        if config.stride_from_grid:
            step_y = padded_size[0] // rows
            step_x = padded_size[1] // columns
        base = cell_anchors(sizes, config.aspect_ratios, config.round_corners).to(like)
        y = torch.arange(rows, device=like.device).to(like.dtype) * step_y
        x = torch.arange(columns, device=like.device).to(like.dtype) * step_x
        corner = torch.stack([x.expand(rows, columns), y[:, None].expand(rows, columns)], dim=-1)
        levels.append((corner.repeat(1, 1, 2)[:, :, None] + base).reshape(-1, 4))
    return levels


# %% [markdown]
# It has two switches, both for the sake of weights that exist. torchvision's published detectors were trained
# with two roundings, and a network reproduces its results only on the anchors that it was trained with.
#
# - `round_corners`: corners are rounded to whole pixels, at most half a pixel away. For an anchor of 32 that
#   is little; for one of 8 it changes area and ratio.
# - `stride_from_grid`: the step is padded size // grid size rather than the stride. Where the size is a
#   multiple of the stride nothing changes. But 800 rows make 13 rows of cells at stride 64, and 800 // 13 =
#   61.
#
# Each of the 12 steps from the first row to the last is then 3 pixels short. The last row of cells is
# computed from the picture around its own place, and its anchors lie 36 pixels above it. A network trained so
# has learned to add the difference; one trained with exact anchors has not.

# %%
strides, size = [4, 8, 16, 32, 64], (800, 1344)
grids = [(math.ceil(size[0] / t), math.ceil(size[1] / t)) for t in strides]
exactly = AnchorConfig(round_corners=False, stride_from_grid=False)
rows = []
for level in (3, 4):
    both = [grid_anchors(grids, strides, size, c, torch.zeros(0))[level] for c in (exactly, AnchorConfig())]
    y = [a.reshape(*grids[level], 3, 4)[:, 0, 1, 1::2].mean(dim=1) for a in both]
    rows.append((f"P{level + 2}: {grids[level][0]} rows, steps of {y[0][1]:.0f} and {y[1][1]:.0f}", *y))
print([cell_anchors((32.0,), (0.5,), rounded)[0].tolist() for rounded in (False, True)])
show(
    figures.drift(rows),
    "How much higher than exact each row of anchors lies. On P5, 25 rows and both steps 32, nothing. On P6, 13 rows "
    "and steps of 61 instead of 64, the difference grows by 3 pixels a row to 36 pixels in the last.",
)

# %% [markdown]
# ## The proof
#
# The loops of this lesson against the package, on all five levels of a picture of 400 × 672. The package
# takes its roots in float32, as torchvision does, so the two agree to about a hundred-thousandth of a pixel
# and not to the last bit.
#
# Matching by loops is `minimaskrcnn.ops.reference.match_boxes`. It is slow, so it gets the scene from the top
# of this page and every sixteenth of its anchors.

# %%
from minimaskrcnn.ops import match_boxes, reference

half = [(math.ceil(400 / t), math.ceil(672 / t)) for t in strides]
loops = anchors_by_loops(half, strides, exactly.sizes, exactly.aspect_ratios)
fast = grid_anchors(half, strides, (400, 672), exactly, torch.zeros(0, dtype=torch.float64))
gap = max((a - b).abs().max().item() for a, b in zip(loops, fast))
print(f"{sum(map(len, fast)):,} anchors, largest difference {gap:.1e} pixels")
objects, some = scene.boxes[None].double(), toy_anchors[None, ::16].double()
arguments = objects, objects[..., 0] >= 0, some, torch.ones(1, some.shape[1], dtype=torch.bool)
slow, quick = reference.match_boxes(*arguments), match_boxes(*arguments)
for name, one, other in zip(slow._fields, slow, quick):
    print(f"match_boxes, {name}: {'equal' if torch.allclose(one, other) else 'different'}")

# %% [markdown]
# Gradients: anchors are constants, and matching is a choice; neither carries one. The correction does (lesson
# 01's deltas), and there the anchor is the scale: $x = x_a + w_a\, dx$, so the slope of $x$ is $w_a$, the
# anchor's width. The same output moves a large anchor further than a small one. `gradcheck` compares torch's gradient
# with finite differences.

# %%
from minimaskrcnn.boxes import RPN_WEIGHTS, decode_deltas

three = cell_anchors((32.0, 64.0, 128.0), (1.0,), False)
deltas = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
print("gradcheck:", torch.autograd.gradcheck(lambda d: decode_deltas(d, three, RPN_WEIGHTS), deltas))
(slope,) = torch.autograd.grad(decode_deltas(deltas, three, RPN_WEIGHTS)[:, 0].sum(), deltas)
print("d x1 / d dx:", slope[:, 0].tolist(), "  an anchor needs a gradient:", fast[0].requires_grad)

# %% [markdown]
# ## What it costs
#
# Anchors themselves are cheap: four float32 numbers each, 4.1 MiB for the 268,569 of a picture of 800 × 1333,
# which is padded to 800 × 1344. Three quarters of them belong to stride 4, since each level has a quarter of
# the cells of the one before.
#
# What costs is the question *which anchor fits which object?* The matrix of $G \times A$ IoUs has 500 ·
# 242,991 entries for a picture of 800 × 1216 with 500 objects. That is 486 MB in float32. The usual formula
# holds eight numbers a pair at its peak: lower and upper corner of the intersection, their difference, and
# its clamped copy, two each. So 500 objects take about 4 GB, and training dies on the one picture with a
# crowd.
#
# `match_boxes` takes the objects in chunks, keeps for each anchor the largest IoU so far and its object, and
# forgets the chunk. Which anchors fit an object best is answered inside its chunk. The cell measures peak
# memory with torch's profiler, and time, on your machine.

# %%
import time

from minimaskrcnn_lessons.lesson02.memory import peak_mib

torch.set_num_threads(1)  # steadier on a busy machine, and the same for both
corners = torch.rand(1, 242_991, 2) * 1000
many = torch.cat([corners, corners + 32 + 100 * torch.rand(1, 242_991, 2)], dim=2)
valid = torch.ones(1, 242_991, dtype=torch.bool)
for number in (8, 32):
    gt = many[:, :number]
    ways = {
        "whole matrix": lambda gt=gt: box_iou(gt[0], many[0]).max(dim=0),
        "match_boxes": lambda gt=gt, n=number: match_boxes(gt, valid[:, :n], many, valid),
    }
    for name, way in ways.items():
        mib, start = peak_mib(way), time.perf_counter()
        way()
        milliseconds = 1000 * (time.perf_counter() - start)
        print(f"{number:2} objects, {name:12}: {mib:6.1f} MiB, {milliseconds:4.0f} ms")

# %% [markdown]
# The matrix grows with the number of objects; `match_boxes` stays where it is, whatever their number. None of
# this was measured on a GPU yet.
#
# ## The picture to keep
#
# Take an object of any width and height and ask for the best IoU that any anchor of the toy network can
# offer. On the left the object is lucky and has its centre exactly on a grid point. On the right it is half a
# stride off in x and y, on every level. The dots are the objects of 40 scenes.
#
# Each level is a bright island: the size is its place on the diagonal, and the three ratios give it its
# length across. Between the islands lie straits of low IoU, of depth $1/f$ as computed above. Half a stride
# off, the islands sink. These anchors are only 2.5 to 3.5 strides large (FPN's are 8), so place costs much
# here. Many objects lie in the straits or beyond the last island: the failure at the top of this page.

# %%
boxes, sides = scenes.boxes_of(40), torch.logspace(math.log10(6), math.log10(200), 120)
places = (("centre on a grid point", 0.0), ("centre half a stride off", 0.5))
maps = [(title, figures.best_possible(toy, scenes.STRIDES, sides, off)) for title, off in places]
strait = figures.best_possible(toy, scenes.STRIDES, torch.tensor([math.sqrt(24 * 56)]), 0.0)
print(f"{len(boxes)} objects; a square between sizes 24 and 56: {strait.item():.3f}, 1/f = {24 / 56:.3f}")
print(f"highest on the right: {maps[1][1].max():.3f}")
show(
    figures.coverage(maps, sides, boxes),
    "Two heat maps of the best IoU over an object's width and height, 6 to 200 pixels. Left: three bright "
    "islands around squares of 10, 24 and 56 pixels, drawn out to ratios 1:2 and 2:1; 0.43 between the upper two. "
    "Right: they have sunk, nothing reaches 0.7. Dots: objects, many between the islands or beyond the last.",
)

# %% [markdown]
# ## Try this
#
# The share of objects whose best anchor reaches a threshold is the **recall** of a set of anchors. It needs
# no training, only boxes, so it is the first thing to compute for a new dataset. Four sets on the same objects:

# %%
from dataclasses import replace

sets = {
    "one ratio": replace(toy, aspect_ratios=(1.0,)),
    "as it is": toy,
    "five ratios": replace(toy, aspect_ratios=(0.25, 0.5, 1.0, 2.0, 4.0)),
    "three sizes a level": replace(toy, sizes=((10.0, 13.3, 17.8), (24.0, 31.8, 42.2), (56.0, 74.1, 98.0))),
}
curves = []
for name, chosen in sets.items():
    laid = scenes.anchors_of(chosen)
    reached = box_iou(boxes, laid).amax(dim=1)
    at = [f"at {t}: {(reached >= t).float().mean():.3f}" for t in (0.5, 0.7)]
    print(f"{name:20} {len(laid):6,} anchors, recall {', '.join(at)}")
    curves.append((f"{name}, {len(laid):,}", reached))
show(
    figures.recall(curves),
    "Share of objects reached over the IoU threshold, four sets. At 0.5: one ratio 0.65, three ratios 0.68, five "
    "ratios the same 0.68, three sizes a level 1.00. At 0.7: 0.15, 0.18, 0.18 and 0.79.",
)

# %% [markdown]
# A set that contains another never reaches fewer objects. Two more ratios add none here: the map has hardly
# any objects where their islands would lie. Two more sizes a level help a lot, for three times the anchors.
# Each shape costs outputs at every cell, columns in the matching, and is background nearly everywhere.
#
# - Keep three sizes, one a level, and choose them yourself: replace `sizes`. Recall at 0.5 can rise from 0.68
#   to above 0.9 without a single anchor more. Read the map first.
# - Draw the map for `AnchorConfig()` and strides 4 to 64, sides from 16 to 800. Where are the islands now,
#   and how much do they sink?
# - Set `round_corners=True` for the toy network. Which size suffers most, and why?
#
# ## Summary
#
# - An anchor has a size $s$ (area $s^2$) and a ratio $r = h/w$: $w = s/\sqrt r$, $h = s\sqrt r$. Its centre
#   is the upper left corner of its cell.
# - The order is level, row, column, ratio, size. The network's channels are read in it.
# - A level of stride $t$ has $\lceil H/t \rceil \cdot \lceil W/t \rceil$ cells. At 800 × 1344, on strides 4
#   to 64 and with three ratios, that makes 268,569 anchors.
# - Sizes that grow by $f$ leave objects with an IoU of $1/f$; ratios that grow by 2 leave 0.725; half a
#   stride costs more the smaller an anchor is in strides.
# - torchvision rounds corners, and steps by padded size // grid size: 61 instead of 64 at P6 of 800 rows.
#   Weights want the anchors they were trained with.
# - The IoU matrix is larger than the anchors by the number of objects; matching in chunks never holds it.
#
# ## References
#
# - S. Ren, K. He, R. Girshick, J. Sun, "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal
#   Networks", NIPS 2015, section 3.1.1: anchors, 3 sizes and 3 ratios on one map of stride 16.
# - T.-Y. Lin, P. Dollár, R. Girshick, K. He, B. Hariharan, S. Belongie, "Feature Pyramid Networks for Object
#   Detection", CVPR 2017, section 4.1: one size a level.
# - K. He, G. Gkioxari, P. Dollár, R. Girshick, "Mask R-CNN", ICCV 2017, arXiv:1703.06870: 5 sizes, 3 ratios.
# - J. Redmon, A. Farhadi, "YOLO9000: Better, Faster, Stronger", CVPR 2017: anchor shapes found by clustering
#   the boxes of the dataset.
# - Z. Tian, C. Shen, H. Chen, T. He, "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019:
#   detection without anchors.
