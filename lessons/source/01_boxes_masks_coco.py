# ---
# lesson:
#   minutes: 80
#   difficulty: 1
# ---

# %% [markdown]
# # 01 · Boxes, masks and the COCO format
#
# An annotation file says that an object lies at `[2, 3, 6, 5]`. Which pixels does it cover? The four numbers do not
# say. Three conventions are in use. Code for any of them reads the file without an error, and only one of them is
# what the file means.

# %%
import math

import numpy as np
import torch
from jaxtyping import Float, Num
from torch import Tensor

from minimaskrcnn_lessons import setup

setup()

# %%
from minimaskrcnn.ops import box_iou
from minimaskrcnn_lessons import show
from minimaskrcnn_lessons.lesson01 import figures

x, y, a, b = numbers = [2.0, 3.0, 6.0, 5.0]
readings = {
    "x, y, width, height": torch.tensor([x, y, x + a, y + b]),
    "x1, y1, x2, y2": torch.tensor([x, y, a, b]),
    "first and last pixel": torch.tensor([x, y, a + 1, b + 1]),
}
show(
    figures.three_readings(numbers, readings, "x, y, width, height"),
    "Three grids of pixels. [2, 3, 6, 5] read as x, y, width, height is a box 6 wide and 5 high. Read as two corners "
    "it is 4 by 2, IoU 0.27 with the first; read as first and last pixel it is 5 by 3, IoU 0.50.",
)

# %% [markdown]
# Nothing crashes when a file is read in the wrong convention. The training runs, the loss falls, and the overlap
# with the truth, measured as *intersection over union* (IoU), is lower than it could be. The paper calls a
# proposal positive from an IoU of 0.5 on (section 3.1): the middle reading would lose this object, and the right one
# keeps it with nothing to spare.
#
# ## After this lesson you can
#
# - say what the numbers of a box mean, and convert between the three conventions;
# - compute the area of a box and the IoU of all pairs of two lists of boxes;
# - encode a box as four deltas from another box, decode them, and say what each part of the formula is for;
# - store a mask as a bitmap, as polygons and as COCO's run lengths, and go from one to another;
# - read an annotation file, with its crowd regions and its category ids that have gaps.
#
# ## Before you start
#
# You need Python, tensors with their shapes, and indexing such as `a[:, None]`. Lesson 00 shows what the whole model
# does; nothing of it is needed here. About {{minutes}} minutes, {{difficulty}}. All cells together
# run in {{seconds}} s on two processor cores and take {{memory}} MiB of memory.
#
# ## The idea
#
# ### A picture is a plane
#
# Think of the picture as a plane with real coordinates, $x$ to the right and $y$ downwards. The first pixel of a row
# is a small square that begins at $x = 0$ and ends at $x = 1$. In general, pixel $i$ covers $[i, i + 1)$, and its
# centre is at $i + 0.5$. A picture of width 9 ends at $x = 9$, although its last pixel has the number 8.
#
# A box is then two corners, $(x_1, y_1, x_2, y_2)$, *xyxy* for short. Its width is $x_2 - x_1$, and nothing is ever
# "+ 1". Older data, such as PASCAL VOC, gives the numbers of the first and the last pixel instead, and there the
# width is the difference *plus one*. A program that mixes the two is wrong by one pixel at each mixing.
#
# How much is one pixel? The next figure shows the answer for squares. If the side is $s$ and the box is one pixel
# too large both ways, the IoU is $s^2 / (s + 1)^2$. If it is shifted by one pixel both ways, the overlap is
# $(s - 1)^2$ and the union $2s^2 - (s - 1)^2$. COCO calls objects of less than 32 × 32 pixels *small*, and they are
# the ones that pay.

# %%
sizes = torch.tensor([4.0, 8, 16, 32, 64, 128])
zeros = torch.zeros_like(sizes)
squares = torch.stack([zeros, zeros, sizes, sizes], 1)
larger = box_iou(squares, squares + torch.tensor([0.0, 0, 1, 1])).diagonal()
shifted = box_iou(squares, squares + 1).diagonal()
show(
    figures.one_pixel_costs(sizes, larger, shifted),
    "Two rising curves of IoU over the side of a square. One pixel too large: 0.64 at side 4, 0.79 at 8, 0.94 at 32, "
    "0.98 at 128. Shifted by one pixel: 0.39 at side 4, 0.62 at 8, 0.88 at 32, 0.97 at 128.",
)

# %% [markdown]
# ### What an annotation file holds
#
# COCO's format is one JSON file beside a folder of pictures, with three lists. `images` gives each picture an id, a
# file name, a height and a width. `categories` gives each class an id and a name. `annotations` has a record for each
# object: the ids of its picture and category, a `bbox`, a `segmentation`, an `area`, and `iscrowd`.
#
# Four things in it surprise people:
#
# - **`bbox` is `[x, y, width, height]`.** The model works with two corners, so somebody has to convert.
# - **Category ids have gaps.** COCO has 80 categories with ids between 1 and 90. A network needs labels 1, 2, 3, ...
#   without gaps, with 0 for the background. Both directions of that table are kept: `label_of[category_id]` for
#   training, `category_of[label]` for writing results.
# - **A `segmentation` has three forms.** It is a list of polygons, or run lengths as a list of numbers, or run
#   lengths packed into a text. In COCO's own files objects have polygons and crowds have lists; the text is what
#   detectors write. An object that something else cuts in two has several polygons. A polygon has no hole, so the
#   toy data below stores a ring as runs.
# - **Crowd regions.** Where too many objects of a kind stand together, one record with `iscrowd` 1 covers them all.
#   Its box is not the box of an object, so we never train on it. The evaluation forgives detections that lie in it.
#
# The next cell generates a toy data set in this format, and reads it as if it were COCO. One line is printed for each
# annotation in the file; the figure shows what the reader makes of them.

# %%
import json
import tempfile
from pathlib import Path

from minimaskrcnn.data.coco import open_coco
from minimaskrcnn.data.segmentation import decode_segmentation, parse_segmentation
from minimaskrcnn.data.toybox import ToyboxConfig, write_toybox

folder = tempfile.TemporaryDirectory()
config = ToyboxConfig(min_size=(144, 192), max_size=(144, 192), crowd_share=0.5)
write_toybox(Path(folder.name), split="tiny", num_images=1, seed=16, config=config)
dataset = open_coco(Path(folder.name), "tiny")
content = json.loads(dataset.annotation_file.read_text())
names = {dataset.label_of[category["id"]]: category["name"] for category in content["categories"]}
print("label_of:", dataset.label_of)
for entry in content["annotations"]:
    label = dataset.label_of[entry["category_id"]]
    print(f"category {entry['category_id']:2} is label {label}, {names[label]:6}", end=" ")
    print(f"crowd {entry['iscrowd']}  bbox {entry['bbox']}  {str(entry['segmentation'])[:36]}...")

crowd = decode_segmentation(parse_segmentation(content["annotations"][0]["segmentation"], (144, 192)), (144, 192))
image, target = dataset[0]
show(
    figures.scene(image, target, names, crowd),
    "Left, a generated picture with the boxes of four objects: a large star, a ring, a heart and a small star. "
    "Right, their masks, the large star's in two parts because the ring lies over it, and hatched a crowd region of "
    "small people, which has no box on the left.",
)

# %% [markdown]
# The file has five annotations and the sample has four objects: the crowd region is left out, on purpose. The large
# star has two polygons; its line above is too short to show the second, which lies in the hole of the ring.
#
# ### A box as four deltas
#
# A detector does not write coordinates down from nothing. It is *given* a box, an anchor or a proposal, and says how
# to change it: so much to the right, so much down, so much wider and higher. We call the given box the *reference*
# and the four numbers *deltas*. Two wishes shape them.
#
# - *The size of the picture should not matter.* An object twice as large looks the same to a convolution, so it
#   should give the same numbers. Hence a shift is counted in widths and heights of the reference: divide by its size.
# - *Twice as wide and half as wide should be equally far from "no change".* As plain differences they are $+1$ and
#   $-0.5$ widths, so shrinking would count half as much as growing. Their logarithms are $+0.69$ and $-0.69$.
#   Any real number is then a legal prediction too, because $e$ to its power is always a positive width.
#
# Drag the corners and the centres, or press Tab and use the arrow keys. Move both boxes by the same amount: the
# deltas stay. Shrink the reference to a quarter of a pixel and watch what happens to a target as wide as the plane.

# %%
from minimaskrcnn_lessons.explorers.box_deltas import box_deltas

box_deltas()

# %% [markdown]
# ## The mathematics
#
# **IoU.** For two boxes $a$ and $b$, let $|a|$ ("the area of a") be width times height. The overlap has the width
# $\min(a_{x_2}, b_{x_2}) - \max(a_{x_1}, b_{x_1})$: it begins at the later start and ends at the earlier end. For
# boxes that do not meet this is negative, and counts as 0. With the same for the height,
#
# $$\mathrm{IoU}(a, b) = \frac{|a \cap b|}{|a| + |b| - |a \cap b|}.$$
#
# The area of the overlap is in $|a|$ and in $|b|$, so the union takes it away once. IoU is 1 for equal boxes and 0
# for boxes apart. Shifting or scaling both boxes together does not change it. Two boxes without area have a union of
# 0, and $0 / 0$ is NaN here, as it is in torchvision.
#
# **Deltas.** The reference has centre $(c_x, c_y)$, width $w$ and height $h$; the box that we want has $c_x'$ ("c x
# prime"), $c_y'$, $w'$, $h'$. Then (R-CNN's appendix C; Faster R-CNN's equation 2)
#
# $$d_x = \omega_x \frac{c_x' - c_x}{w}, \quad d_y = \omega_y \frac{c_y' - c_y}{h}, \quad
# d_w = \omega_w \log\frac{w'}{w}, \quad d_h = \omega_h \log\frac{h'}{h}.$$
#
# The weights $\omega$ ("omega") are constants: 1 in the RPN, $(10, 10, 5, 5)$ in the box head. Proposals are close to
# their objects, so their deltas are small: shifts of the order of 0.1 and growth of the order of 0.2. The weights are
# one over these numbers, and bring all four to about unit variance. Decoding solves the four equations for the new
# box:
#
# $$c_x' = c_x + \frac{d_x}{\omega_x} w, \qquad w' = w \exp\!\left(\min\!\left(\frac{d_w}{\omega_w},
# \log\frac{1000}{16}\right)\right),$$
#
# and the same for $y$ and $h$. The minimum is a guard. An untrained network may predict a $d_w$ of 100, and
# $e^{100}$ does not fit into float32. The box would be infinite, and the NaN that follows would end the training. The
# bound lets a box of 16 pixels grow to 1000, which is 62.5 times, and no further.
#
# **Runs.** COCO reads a bitmap as one line, *down the columns*, the pixel in row $r$ and column $c$ at place
# $c\,h + r$ of a picture of height $h$. Then it writes how many pixels in a row are equal: so many of background, so
# many of the object, so many of background, and so on. The first number always counts background, and is 0 where the
# object has the first pixel. The numbers add up to $h\,w$.
#
# | symbol | in words | in the code |
# |---|---|---|
# | $(x_1, y_1, x_2, y_2)$ | left, top, right and bottom edge | a row of `boxes [N, 4]` |
# | $\lvert a \cap b\rvert$ | area of the overlap | `inter` |
# | IoU | overlap through union | `box_iou(boxes1, boxes2)`, shape `[N, M]` |
# | $c_x, c_y, w, h$ | centre and size of the reference | `references`, as xyxy |
# | $d_x, d_y, d_w, d_h$ | shift of the centre, growth | `deltas [N, 4]` |
# | $\omega$ | scale of the deltas | `weights`; `RPN_WEIGHTS`, `BOX_HEAD_WEIGHTS` |
# | $\log(1000/16)$ | bound on growth | `MAX_LOG_SCALE` |
# | $h, w$ of a picture | height and width, in this order | `image_size` |
# | runs | lengths down the columns | `counts` |
#
# The code lies in [`ops/boxes.py`](../minimaskrcnn/ops/boxes.py), [`boxes.py`](../minimaskrcnn/boxes.py),
# [`data/segmentation.py`](../minimaskrcnn/data/segmentation.py) and [`data/coco.py`](../minimaskrcnn/data/coco.py).
#
# ## The loop version
#
# The definition of IoU, one number at a time. It is the library's own, from
# [`ops/reference.py`](../minimaskrcnn/ops/reference.py), and judges every faster version.

# %% library="minimaskrcnn.ops.reference:box_iou"
def box_iou(boxes1: Num[Tensor, "N 4"], boxes2: Num[Tensor, "M 4"]) -> Float[Tensor, "N M"]:
    """Intersection over union of each pair; NaN where the union is zero."""
    out = torch.zeros(len(boxes1), len(boxes2), dtype=torch.float64)
    for i, (ax1, ay1, ax2, ay2) in enumerate(boxes1.tolist()):
        for j, (bx1, by1, bx2, by2) in enumerate(boxes2.tolist()):
            inter = max(min(ax2, bx2) - max(ax1, bx1), 0.0) * max(min(ay2, by2) - max(ay1, by1), 0.0)
            union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inter
            out[i, j] = inter / union if union != 0 else math.nan
    return out


# %% [markdown]
# Now the packed text of run lengths. Each character is a number from 0 to 63, counted from the character `"0"`. Its
# lowest five bits are five bits of a run, the lowest ones first; the sixth bit (32) says that more follow. From the
# fourth run on, the text holds the *difference* to the run two places before: neighbouring columns of a mask have
# similar runs, so the differences are small and take one character. A difference may be negative, and its highest
# bit (16, in the last character) is then set. The loop unpacks a text and paints the mask, pixel by pixel.

# %%
def loop_unpack(text: str) -> list[int]:
    runs, number, shift = [], 0, 0
    for character in text:
        digit = ord(character) - 48
        number += (digit & 31) << shift
        shift += 5
        if not digit & 32:
            number -= (digit & 16) << (shift - 4)  # the sign
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    return runs


def loop_paint(runs: list[int], image_size: tuple[int, int]) -> Tensor:
    height, width = image_size
    mask, place = torch.zeros(height, width, dtype=torch.bool), 0
    for number, run in enumerate(runs):
        for _ in range(run):
            mask[place % height, place // height] = number % 2 == 1
            place += 1
    return mask


ring = content["annotations"][2]["segmentation"]
runs = loop_unpack(ring["counts"])
print(ring["counts"][:44], "...")
print(runs[:16], "...", int(loop_paint(runs, ring["size"]).sum()), "pixels")

# %% [markdown]
# ## Exercises

# %% [markdown] exercise="coco_boxes"
# Write `my_coco_boxes(bbox, image_size)`. `bbox` is a float tensor `[N, 4]` with rows (x, y, width, height), as in an
# annotation file; `image_size` is (height, width). Return `[N, 4]` with rows (x1, y1, x2, y2), cut to the picture:
# every x from 0 to the width, every y from 0 to the height.

# %%
from minimaskrcnn_lessons import check, expected

expected("coco_boxes")


# %% exercise="coco_boxes"
def my_coco_boxes(bbox, image_size):
    """Boxes [N, 4] as x1, y1, x2, y2 inside a picture of (height, width), of COCO's [N, 4]."""
    ### BEGIN SOLUTION
    height, width = image_size
    x1 = bbox[:, 0].clamp(0, width)
    y1 = bbox[:, 1].clamp(0, height)
    x2 = (bbox[:, 0] + bbox[:, 2]).clamp(0, width)
    y2 = (bbox[:, 1] + bbox[:, 3]).clamp(0, height)
    return torch.stack([x1, y1, x2, y2], dim=1)
    ### END SOLUTION


# %%
check("coco_boxes", my_coco_boxes)

# %% grade="coco_boxes"
from minimaskrcnn_lessons import grade

grade("coco_boxes", my_coco_boxes)
### BEGIN HIDDEN TESTS
bbox = torch.tensor([[190.0, -3.0, 10.5, 9.0], [20.0, 30.0, 40.0, 50.0]])
expected_boxes = torch.tensor([[190.0, 0.0, 192.0, 6.0], [20.0, 30.0, 60.0, 80.0]])
assert torch.equal(my_coco_boxes(bbox, (144, 192)), expected_boxes)
### END HIDDEN TESTS

# %% [markdown] exercise="iou_of_pairs"
# Write `my_iou(boxes1, boxes2)`: of `[N, 4]` and `[M, 4]`, both xyxy, the IoU of every pair, `[N, M]`. Use no loop.
# Boxes here all have an area.

# %%
expected("iou_of_pairs")


# %% exercise="iou_of_pairs"
def my_iou(boxes1, boxes2):
    """IoU [N, M] of boxes [N, 4] and [M, 4], each x1, y1, x2, y2."""
    ### BEGIN SOLUTION
    ax1, ay1, ax2, ay2 = boxes1[:, None].unbind(-1)
    bx1, by1, bx2, by2 = boxes2[None].unbind(-1)
    overlap_w = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    overlap_h = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    overlap = overlap_w * overlap_h
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - overlap
    return overlap / union
    ### END SOLUTION


# %%
check("iou_of_pairs", my_iou)

# %% grade="iou_of_pairs"
grade("iou_of_pairs", my_iou)
### BEGIN HIDDEN TESTS
square = torch.tensor([[0.0, 0.0, 3.0, 3.0]])
moved = torch.tensor([[1.0, 1.0, 4.0, 4.0], [5.0, 5.0, 6.0, 6.0]])
assert torch.allclose(my_iou(square, moved), torch.tensor([[4 / 14, 0.0]]))
### END HIDDEN TESTS

# %% [markdown] exercise="apply_deltas"
# Write `my_apply_deltas(deltas, references, weights)`: the boxes `[N, 4]` (xyxy) that `deltas [N, 4]` make of
# `references [N, 4]` (xyxy). `weights` is a tuple of four numbers that the deltas were multiplied by. Growth is at
# most 62.5 times; `MAX_LOG_SCALE`, imported below, is the logarithm of that.

# %%
from minimaskrcnn.boxes import MAX_LOG_SCALE

expected("apply_deltas")


# %% exercise="apply_deltas"
def my_apply_deltas(deltas, references, weights):
    """Boxes [N, 4] as x1, y1, x2, y2: what deltas (dx, dy, dw, dh), with their weights, make of the references."""
    ### BEGIN SOLUTION
    x1, y1, x2, y2 = references.unbind(1)
    dx, dy, dw, dh = (deltas / torch.tensor(weights, dtype=deltas.dtype)).unbind(1)
    cx = (x1 + x2) / 2 + dx * (x2 - x1)
    cy = (y1 + y2) / 2 + dy * (y2 - y1)
    w = (x2 - x1) * torch.exp(dw.clamp(max=MAX_LOG_SCALE))
    h = (y2 - y1) * torch.exp(dh.clamp(max=MAX_LOG_SCALE))
    return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=1)
    ### END SOLUTION


# %%
check("apply_deltas", my_apply_deltas)

# %% grade="apply_deltas"
grade("apply_deltas", my_apply_deltas)
### BEGIN HIDDEN TESTS
wild = my_apply_deltas(torch.tensor([[0.0, 0.0, 500.0, 0.0]]), torch.tensor([[0.0, 0.0, 16.0, 8.0]]), (10, 10, 5, 5))
assert torch.allclose(wild, torch.tensor([[-492.0, 0.0, 508.0, 8.0]]), rtol=1e-4)
### END HIDDEN TESTS

# %% [markdown] exercise="bitmap_runs"
# Write `my_runs(bitmap)`: of a bool tensor `[h, w]`, the list of COCO's run lengths, uncompressed. Down the columns,
# background first.

# %%
expected("bitmap_runs")


# %% exercise="bitmap_runs"
def my_runs(bitmap):
    """The run lengths of a bool tensor [h, w], down the columns, background first."""
    ### BEGIN SOLUTION
    line = bitmap.T.reshape(-1).int()
    before = torch.cat([torch.zeros(1, dtype=torch.int32), line[:-1]])
    changes = (line != before).nonzero()[:, 0]
    ends = torch.cat([changes, torch.tensor([len(line)])])
    return ends.diff(prepend=torch.tensor([0])).tolist()
    ### END SOLUTION


# %%
check("bitmap_runs", my_runs)

# %% grade="bitmap_runs"
grade("bitmap_runs", my_runs)
### BEGIN HIDDEN TESTS
frame = torch.ones(3, 4, dtype=torch.bool)
frame[1, 1:3] = False
assert list(my_runs(frame)) == [0, 4, 1, 2, 1, 4]
### END HIDDEN TESTS

# %% [markdown]
# ## The vectorised version
#
# All pairs at once is a matter of shapes. An axis of length 1 in front and one behind make torch combine every row of
# one list with every row of the other.

# %%
from minimaskrcnn.ops.boxes import _at_least_float32, box_area, box_convert

five, three = torch.zeros(5, 4), torch.zeros(3, 4)
print(tuple(five[:, None].shape), "with", tuple(three[None].shape), end=" gives ")
print(tuple(torch.maximum(five[:, None], three[None]).shape))


# %% library="minimaskrcnn.ops.boxes:box_iou"
def box_iou(
    boxes1: Float[Tensor, "*B N 4"], boxes2: Float[Tensor, "*B M 4"], fmt: str = "xyxy"
) -> Float[Tensor, "*B N M"]:
    """Intersection over union of every pair, the leading axes in step.

    NaN where the union is zero (two boxes without area), as in torchvision.  `nms` counts such a pair as 0.
    """
    boxes1 = box_convert(_at_least_float32(boxes1), fmt, "xyxy")[..., :, None, :]
    boxes2 = box_convert(_at_least_float32(boxes2), fmt, "xyxy")[..., None, :, :]
    lower = torch.maximum(boxes1[..., :2], boxes2[..., :2])
    upper = torch.minimum(boxes1[..., 2:], boxes2[..., 2:])
    inter = (upper - lower).clamp(min=0).prod(-1)
    return inter / (box_area(boxes1) + box_area(boxes2) - inter)


# %% [markdown]
# `box_convert` knows a third format, `cxcywh`, centre and size: the form in which deltas are computed. Half precision
# is raised to float32, because an area such as 300 × 300 is more than float16 can hold.
#
# A mask from its runs needs no loop either: repeat False, True, False, ... as often as the runs say, and fold the
# line into columns. `np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T` is all of
# `runs_to_mask` in [`data/segmentation.py`](../minimaskrcnn/data/segmentation.py). Beside it is `unpack_runs`, which
# reads the packed text without a loop. Deltas are computed on whole tensors in
# [`boxes.py`](../minimaskrcnn/boxes.py), much as in your third exercise.

# %% [markdown]
# ## The proof
#
# Values first. The loop and the vectorised version must agree, `decode` must undo `encode`, and every mask of the
# sample must survive the way through run lengths, by our loops as by COCO's own library, pycocotools.

# %%
from pycocotools import mask as coco_mask

from minimaskrcnn.boxes import BOX_HEAD_WEIGHTS, decode_deltas, encode_deltas
from minimaskrcnn.data.segmentation import runs_to_mask, unpack_runs
from minimaskrcnn.ops import reference

corners = torch.rand(60, 2, dtype=torch.float64) * 20
boxes = torch.cat([corners, corners + 1 + torch.rand(60, 2, dtype=torch.float64) * 20], 1)
print("IoU:    largest difference", (box_iou(boxes, boxes) - reference.box_iou(boxes, boxes)).abs().max().item())
deltas = encode_deltas(boxes[:30], boxes[30:], BOX_HEAD_WEIGHTS)
back = decode_deltas(deltas, boxes[30:], BOX_HEAD_WEIGHTS)
print("deltas: largest difference", (back - boxes[:30]).abs().max().item())
for mask in target["masks"]:
    text = coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))["counts"]
    runs = loop_unpack(text.decode())
    assert runs == reference.run_lengths(mask) == unpack_runs(text).tolist()
    assert np.array_equal(runs_to_mask(np.array(runs), mask.shape), mask.numpy())
    assert torch.equal(loop_paint(runs, mask.shape), mask)
print(f"masks:  {len(target['masks'])} of {len(target['masks'])} equal after packing and unpacking")

# %% [markdown]
# Now gradients. The loop computes in Python's numbers and has none, so it is differentiated the old way: change one
# coordinate by $\pm\varepsilon$ ("plus or minus epsilon", a small number), and divide the change of the sum of all
# IoUs by $2\varepsilon$. For the deltas, `gradcheck` does the same with the function's own values.

# %%
few, others = boxes[:4].clone().requires_grad_(), boxes[4:8]
box_iou(few, others).sum().backward()
numeric, epsilon = torch.zeros(4, 4, dtype=torch.float64), 1e-6
for place in np.ndindex(4, 4):
    step = torch.zeros(4, 4, dtype=torch.float64)
    step[place] = epsilon
    up, down = (reference.box_iou(few.detach() + s, others).sum() for s in (step, -step))
    numeric[place] = (up - down) / (2 * epsilon)
print("IoU:    largest difference of gradients", (few.grad - numeric).abs().max().item())
inputs = deltas[:4].requires_grad_(), boxes[:4].clone().requires_grad_()
print("deltas:", torch.autograd.gradcheck(lambda d, r: decode_deltas(d, r, BOX_HEAD_WEIGHTS), inputs))

# %% [markdown]
# ## What it costs
#
# The next cell measures time on this machine's processor, on one thread, and memory. Boxes are cheap once there is no
# loop. Masks are not: 100 of them as bitmaps of 800 × 1333 pixels are more than 100 MB for one picture.
# `paste_masks_rle` ([`ops/paste.py`](../minimaskrcnn/ops/paste.py)) goes from the network's 28 × 28 masks to packed
# run lengths and never makes a full bitmap, because outside of its box a mask has no runs. Nothing of this lesson has
# been measured on a GPU yet.

# %%
import time

from minimaskrcnn.ops import paste_masks, paste_masks_rle


def milliseconds(function, *arguments):
    """The shortest of three runs, and the result."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = function(*arguments)
        seconds.append(time.perf_counter() - start)
    return 1000 * min(seconds), result


def through_bitmaps(masks, boxes, image_size):
    bitmaps = paste_masks(masks, boxes, image_size)
    return bitmaps, [coco_mask.encode(np.asfortranarray(one)) for one in bitmaps.numpy().view(np.uint8)]


torch.set_num_threads(1)
loop, _ = milliseconds(reference.box_iou, boxes, boxes)
fast, _ = milliseconds(box_iou, boxes, boxes)
print(f"IoU of {len(boxes)} × {len(boxes)} boxes: loop {loop:.1f} ms, vectorised {fast:.2f} ms")
starts = torch.rand(100, 2) * torch.tensor([1000.0, 600])
arguments = torch.rand(100, 28, 28).cumsum(1) / 28, torch.cat([starts, starts + 150], 1), (800, 1333)
slow, (bitmaps, _) = milliseconds(through_bitmaps, *arguments)
quick, packed = milliseconds(paste_masks_rle, *arguments)
print(f"100 masks to bitmaps, then packed: {slow:.0f} ms, {bitmaps.numel() / 1e6:.1f} MB of bitmaps")
print(f"100 masks packed directly: {quick:.0f} ms, {sum(len(rle['counts']) for rle in packed) / 1e6:.3f} MB")

# %% [markdown]
# ## The picture to keep
#
# One small mask in its three forms. The polygon runs along the borders of pixels, so its corners are whole numbers
# and it decodes to exactly this bitmap. Follow the arrows: from one column into the next the count goes on.

# %%
from minimaskrcnn.data.toybox.coco_masks import segmentation

heart = figures.HEART
polygons = segmentation(heart, polygons=True, compressed=False)
counts = segmentation(heart, polygons=False, compressed=False)["counts"]
text = segmentation(heart, polygons=False, compressed=True)["counts"]
show(
    figures.three_forms(heart, polygons, counts, text),
    f"A heart of 5 rows and 7 columns three times: as 35 zeros and ones with its box; as a polygon of "
    f"{len(polygons[0]) // 2} corners along pixel borders; and with its pixels numbered down the columns, whose runs "
    f"are {counts}, packed {text}.",
)

# %% [markdown]
# ## Try this
#
# - Read the toy file wrongly: with `raw = torch.tensor([e["bbox"] for e in content["annotations"][1:]])`, compare
#   `box_iou(target["boxes"], raw)` with `box_iou(target["boxes"], box_convert(raw, "xywh", "xyxy"))`. What do the
#   diagonals say? Three of the raw boxes end before they begin. Why does `box_area(raw)` not show it for all three?
# - `masks_to_boxes` of `minimaskrcnn.ops` returns the *numbers* of the last row and column, as torchvision's does.
#   Make boxes of `target["masks"]` with it that agree with `target["boxes"]`.
# - Draw a bar of 30 × 2 pixels, standing and lying, in a mask of 40 × 40, and count the runs of both with
#   `reference.run_lengths`. Which shapes are cheap in COCO's order?
#
# ## Summary
#
# Pixel $i$ covers $[i, i + 1)$, so a width is a difference and a picture ends at its width. COCO stores (x, y, width,
# height) and everything else here uses two corners; IoU compares boxes, and one pixel costs small objects most.
# Deltas say where a box lies as seen from another one: shifts in units of its size, growth as a logarithm, bounded at
# 62.5 times, times weights. A mask is a bitmap in the computer, and polygons or run lengths in the file. Run lengths
# go down the columns and begin with background. Crowd regions are not trained on, and category ids are mapped to
# labels without gaps. Lesson 02 lays thousands of reference boxes over the picture.
#
# ## References
#
# - T.-Y. Lin et al., *Microsoft COCO: Common Objects in Context*, ECCV 2014,
#   [arXiv:1405.0312](https://arxiv.org/abs/1405.0312): the data set.
# - R. Girshick, J. Donahue, T. Darrell, J. Malik, *Rich feature hierarchies for accurate object detection and
#   semantic segmentation* (R-CNN), CVPR 2014, [arXiv:1311.2524](https://arxiv.org/abs/1311.2524): appendix C has the
#   deltas.
# - S. Ren, K. He, R. Girshick, J. Sun, *Faster R-CNN: Towards Real-Time Object Detection with Region Proposal
#   Networks*, NIPS 2015, [arXiv:1506.01497](https://arxiv.org/abs/1506.01497): the deltas from anchors.
# - K. He, G. Gkioxari, P. Dollár, R. Girshick, *Mask R-CNN*, ICCV 2017,
#   [arXiv:1703.06870](https://arxiv.org/abs/1703.06870): where all of this is used.
# - M. Everingham, L. Van Gool, C. Williams, J. Winn, A. Zisserman, *The PASCAL Visual Object Classes (VOC)
#   Challenge*, International Journal of Computer Vision, 2010: IoU as the measure of a detection.
