# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# lesson:
#   minutes: 100
#   difficulty: 2
# ---

# %% [markdown]
# # 04 · The region proposal network: matching, sampling, loss, NMS
#
# A picture of 200 × 200 pixels has about 400 million possible boxes: choose two of the 201 vertical lines
# between its pixels, and two of the 201 horizontal ones. Mask R-CNN looks closely at a few hundred boxes of a
# picture. Which? The **region proposal network** (RPN) chooses.
#
# It does so by giving each of some ten thousand anchors (lesson 02) a score and a correction. The obvious next
# step, to pass on the boxes with the best scores, fails. The picture below shows how. Where the network sees a
# large object, it likes all the anchors around it, and scores them higher than anything on a small object. A
# few objects use up the whole budget, and others get nothing.

# %%
from minimaskrcnn_lessons import setup

setup()

# %%
from minimaskrcnn.ops import clip_boxes_to_image
from minimaskrcnn.rpn import select_best
from minimaskrcnn.weights import load_model
from minimaskrcnn_lessons import show
from minimaskrcnn_lessons.lesson00.scenes import MODEL
from minimaskrcnn_lessons.lesson04 import figures, scenes

model, _ = load_model(MODEL)
seen = scenes.predict(model, scenes.sample(36))
logits, boxes, levels = select_best(seen.output, pre_nms=200)
best = logits[0].argsort(descending=True)[:50]
before = clip_boxes_to_image(boxes[0, best], seen.batch.image_sizes[0])
after = model.propose(seen.output, seen.batch.image_sizes, training=False).boxes[0, :50]
show(*figures.crowding(seen, before, after))

# %% [markdown]
# Each rectangle is a proposal, in the colour of the object that it lies on; dashed black are the objects that no
# proposal reaches with an IoU of 0.5. Both sides spend 50 proposals. On the
# right, **non-maximum suppression** (NMS) has removed near-copies first. The numbers are the model's own; it was
# trained on other scenes of the same kind.
#
# ## After this lesson you can
#
# - say what the RPN's head computes, and from what;
# - label every anchor positive, negative or ignored, and explain why some poor matches count as positive;
# - explain why only some anchors are asked in training, and which divisor the loss has;
# - write greedy NMS, and say in which cases an implementation of it goes wrong;
# - turn a loop whose steps depend on each other into a fixed point, and store it as bits.
#
# ## Before you start
#
# You need boxes and IoU (lesson 01), anchors and deltas (lesson 02), and know that a feature pyramid has maps
# at several strides (lesson 03). About {{minutes}} minutes, {{difficulty}}. The notebook takes {{seconds}} s on
# two CPU cores and {{memory}} MiB of memory. Library code: [`rpn.py`](../minimaskrcnn/rpn.py),
# [`matching.py`](../minimaskrcnn/matching.py), [`ops/nms.py`](../minimaskrcnn/ops/nms.py),
# [`minimaskrcnn_kernels/nms.py`](../kernels/minimaskrcnn_kernels/nms.py).
#
# ## The idea
#
# **The head.** A 3 × 3 convolution looks at each cell of a feature map and its neighbours. Two 1 × 1
# convolutions read the result. One gives a *logit* for each of the cell's three anchors: how likely is it an
# object, of whatever class? The other gives four *deltas* for each: how should it move? The same head slides
# over all levels. A square of 10 pixels at stride 4 then looks to it much like one of 40 at stride 16.

# %%
print(model.rpn)
show(*figures.objectness(seen))

# %% [markdown]
# **Training** asks of each anchor: are you an object, and how far off are you? IoU with the annotated boxes
# answers the first question. It has a grey zone: an anchor at IoU 0.5 is neither a good example of "object" nor
# of "background". Such anchors are *ignored*. They do not enter the loss.
#
# **Proposing** is a funnel, and its order matters:
#
# 1. take the best anchors of each level by logit (200 here; 1000 or more in large models);
# 2. move them by their deltas, clip them to the picture, drop what has no size left;
# 3. NMS at IoU 0.7, within each level;
# 4. keep the best of all levels together (100 here; the paper's models with a pyramid test with 1000).
#
# The cut in step 1 is made level by level: otherwise the level with the most anchors could crowd out the others.
#
# **NMS** is greedy. Take the box with the best score and keep it. Remove all that overlap it by more than a
# threshold. Repeat with those that are left. Step through it below. B overlaps both A and C by more than 0.5,
# and still C stays: A has removed B, and a removed box removes nothing. Then drag C onto A, or move the
# threshold.

# %%
from minimaskrcnn_lessons.explorers.nms import nms as nms_explorer

nms_explorer()

# %% [markdown]
# ## The mathematics
#
# | symbol | meaning | in the code |
# |---|---|---|
# | $a$ | an anchor | row of `anchors` |
# | $g$ | an annotated object's box | row of `gt_boxes` |
# | $y_a$ | label: 1 positive, 0 negative, -1 ignored | `matches.label` |
# | $s_a$ | logit; $p_a = 1 / (1 + e^{-s_a})$ is its probability | `output.logits` |
# | $t_a, t_a^*$ | predicted deltas; the deltas from $a$ to its object | `output.deltas`, `targets` |
# | $S$ | the set of sampled anchors, $\lvert S \rvert$ their number | `chosen`, `number` |
# | $\beta$ | where smooth L1 turns from a parabola into a line | `smooth_l1_beta` |
# | $k_j$ | whether box $j$ is kept | `keep` |
#
# **Matching.** Let $m_a = \max_g \mathrm{IoU}(a, g)$ be the anchor's best overlap. Then
#
# $$y_a = \begin{cases}
# 1 & m_a \ge 0.7, \text{ or } \mathrm{IoU}(a, g) = \max_b \mathrm{IoU}(b, g) > 0 \text{ for some } g \\
# 0 & \text{otherwise, if } m_a < 0.3 \\ -1 & \text{otherwise.} \end{cases}$$
#
# The second way to be positive is the rule for *low-quality matches*: every object takes the anchors that
# overlap it most, however little that is. Without it, an object that falls between the anchors' sizes and
# shapes would teach nothing. The cell counts how many would be lost.
#
# **Sampling.** Nearly all anchors are negative. At a logit of 0 each pulls on its logit with the same force,
# $\lvert p_a - y_a \rvert = 1/2$, so the negatives' share of the gradient is their share of the anchors. The
# few positives would hardly be heard. So 256 anchors are drawn for each picture, at most half of them positive
# (64 in this small model); where positives are few, negatives fill their places.

# %%
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from minimaskrcnn.matching import match, sample, sampling_keys
from minimaskrcnn.ops import reference
from minimaskrcnn.ops.reference import _nms_iou  # used by the definition that is shown below


def matches_of(found):
    anchors = torch.cat(found.output.anchors)[None]
    asked = torch.ones(anchors.shape[:2], dtype=torch.bool)
    return match(found.truth.boxes, found.truth.valid, anchors, asked,
                 positive_iou=0.7, negative_iou=0.3, allow_low_quality=True)

matches = matches_of(seen)
chosen = sample(matches.label, sampling_keys(matches.label.shape, None, None), 64, 0.5)
counts = {name: int((matches.label == y).sum()) for name, y in (("positive", 1), ("negative", 0), ("ignored", -1))}
share = counts["negative"] / (counts["negative"] + counts["positive"])
print(counts, f"negatives' share of the gradient at logit 0: {share:.2%}", sep="\n")
print(f"sampled: {int(chosen.positive.sum())} positive of {int(chosen.valid.sum())}")
predictions = [scenes.predict(model, scenes.sample(i)) for i in range(14)]
reached = torch.cat([scenes.best_anchor(found) for found in predictions])
print(f"{int((reached < 0.7).sum())} of {len(reached)} objects in 14 scenes have no anchor with IoU 0.7 or more")
show(*figures.labels(seen, matches))

# %% [markdown]
# **Loss.** Cross-entropy for the logits, smooth L1 for the deltas of positive anchors, with one divisor for
# both:
#
# $$L = \frac{1}{\lvert S \rvert} \sum_{a \in S} -\bigl[y_a \log p_a + (1 - y_a) \log (1 - p_a)\bigr]
#  + \frac{1}{\lvert S \rvert} \sum_{a \in S,\, y_a = 1} \sum_{i=1}^{4} \ell_\beta(t_{a,i} - t^*_{a,i})$$
#
# $$\ell_\beta(e) = \begin{cases} e^2 / (2 \beta) & \lvert e \rvert < \beta \\
# \lvert e \rvert - \beta / 2 & \text{otherwise.} \end{cases}$$
#
# Near 0 the parabola lets the gradient die out. Far away the line bounds it: one bad anchor pulls with force 1,
# however bad it is. With $\beta = 1/9$ the line begins where a shift is wrong by a ninth of the anchor's width.
#
# Why divide the box term by all samples, and not by the positives? So that each positive counts the same: divided
# by the positives, the only one of a picture would pull as hard as a hundred of another together. (Faster R-CNN
# wrote $10 / N_{reg}$ with $N_{reg} \approx 2400$ places of anchors: about $1/240$, nearly the same as $1/256$.)
# Detectron2 divides by 256 for every picture, torchvision and this package by the number really sampled.
#
# **NMS.** With the boxes sorted by score, best first, and $h_{ij}$ true if $\mathrm{IoU}(i, j)$ exceeds the
# threshold and $i$ and $j$ are of the same group (here: the same level),
#
# $$k_j = \text{no } i < j \text{ with } k_i \text{ and } h_{ij}.$$
#
# Four details make this a contract that all implementations meet: the comparison is strict; ties in score go to
# the lower index; two boxes without area have IoU 0; only a *kept* box suppresses.
#
# ## The loop version
#
# The definition of NMS, as the library has it:

# %% library="minimaskrcnn.ops.reference:nms"
def nms(
    boxes: Float[Tensor, "N 4"],
    scores: Float[Tensor, "N"],
    iou_threshold: float,
    groups: Int64[Tensor, "N"] | None = None,
) -> Int64[Tensor, "K"]:
    """Sort by score descending, stable, ties to the lower index; keep a box iff no kept earlier box of its group
    has IoU > threshold; a degenerate union gives IoU 0."""
    group = [0] * len(boxes) if groups is None else groups.tolist()
    # Half precision has neither the areas nor the quotients.
    corners = (boxes if boxes.dtype == torch.float64 else boxes.float()).detach().cpu().numpy()
    kept: list[int] = []
    for j in sorted(range(len(boxes)), key=lambda row: -scores[row].item()):
        earlier = [i for i in kept if group[i] == group[j]]
        if not any(_nms_iou(corners[i], corners[j]) > iou_threshold for i in earlier):
            kept.append(j)
    return torch.tensor(kept, dtype=torch.int64)

# %% [markdown]
# And the loss, one sampled anchor at a time. `keys` are the random numbers that decide which anchors are drawn.

# %%
from minimaskrcnn.boxes import RPN_WEIGHTS, encode_deltas


def loop_losses(output, truth, keys, number, beta):
    anchors = torch.cat(output.anchors)
    found = reference.match_boxes(truth.boxes, truth.valid, anchors[None], torch.ones_like(keys, dtype=torch.bool))
    positive, negative = [], []
    for a in keys[0].argsort(descending=True).tolist():
        if found.iou[0, a] >= 0.7 or found.best_for_gt[0, a]:
            positive.append(a)
        elif found.iou[0, a] < 0.3:
            negative.append(a)
    positive = positive[: number // 2]
    negative = negative[: number - len(positive)]
    objectness = box = 0.0
    for a in positive + negative:
        s = output.logits[0, a]
        objectness = objectness + torch.log1p(torch.exp(-s if a in positive else s))
    for a in positive:
        target = encode_deltas(truth.boxes[0, found.index[0, a]], anchors[a], RPN_WEIGHTS)
        for e in (output.deltas[0, a] - target).abs():
            box = box + (e**2 / (2 * beta) if e < beta else e - beta / 2)
    return objectness / len(positive + negative), box / len(positive + negative)

# %% [markdown]
# ## Exercises
#
# Each `check` compares your function with the definition on small drawn inputs, and shows the smallest on which
# they differ.

# %% [markdown] exercise="match_anchors"
# Write `my_match(gt_boxes, anchors, high, low)` for one picture: `gt_boxes` `[G, 4]` with G at least 1,
# `anchors` `[A, 4]`. Return two int64 tensors `[A]`: the `index` of the object that each anchor overlaps most
# (the first of several), and the `label`: 1 from `high` on or by the low-quality rule, 0 under `low`, -1
# between. `minimaskrcnn.ops.box_iou` is there for you.

# %%
from minimaskrcnn.ops import box_iou
from minimaskrcnn_lessons import check, expected

expected("match_anchors")

# %% exercise="match_anchors"
def my_match(gt_boxes, anchors, high, low):
    ### BEGIN SOLUTION
    iou = box_iou(gt_boxes, anchors)
    most, index = iou.max(dim=0)
    label = torch.full_like(index, -1)
    label[most < low] = 0
    for row in iou:
        if row.max() > 0:
            label[row == row.max()] = 1
    label[most >= high] = 1
    return index, label
    ### END SOLUTION

# %%
check("match_anchors", my_match)

# %% grade="match_anchors"
grade("match_anchors", my_match)
### BEGIN HIDDEN TESTS
object_and_anchors = torch.tensor([[0.0, 0, 8, 4]]), torch.tensor([[0.0, 0, 2, 4], [0, 0, 1, 4], [20, 0, 24, 4]])
assert my_match(*object_and_anchors, 0.7, 0.3)[1].tolist() == [1, 0, 0]
### END HIDDEN TESTS

# %% [markdown] exercise="sample_anchors"
# Write `my_sample(label, keys, number, fraction)`. Return two int64 tensors of indices: the positives chosen,
# at most `int(number * fraction)`, and the negatives chosen, as many as still fit into `number`. Take those
# with the highest `keys` (all different), highest first, and none twice: where there are too few, the sample is
# smaller.

# %%
expected("sample_anchors")

# %% exercise="sample_anchors"
def my_sample(label, keys, number, fraction):
    ### BEGIN SOLUTION
    order = keys.argsort(descending=True)
    positive = order[label[order] > 0][: int(number * fraction)]
    negative = order[label[order] == 0][: number - len(positive)]
    return positive, negative
    ### END SOLUTION

# %%
check("sample_anchors", my_sample)

# %% grade="sample_anchors"
grade("sample_anchors", my_sample)
### BEGIN HIDDEN TESTS
parts = my_sample(torch.tensor([1, 1, 1, 0, 0, -1]), torch.tensor([0.1, 0.6, 0.3, 0.2, 0.5, 0.9]), 4, 0.5)
assert [part.tolist() for part in parts] == [[1, 2], [4, 3]]
### END HIDDEN TESTS

# %% [markdown] exercise="rpn_box_loss"
# Write `my_box_loss(deltas, targets, positive, beta)`: `deltas` and `targets` `[S, 4]` of the sampled anchors,
# `positive` bool `[S]`. Sum smooth L1 over the four coordinates of positive rows; divide by S.
# (`F.smooth_l1_loss` would do the first half. Write it out.)

# %%
expected("rpn_box_loss")

# %% exercise="rpn_box_loss"
def my_box_loss(deltas, targets, positive, beta):
    ### BEGIN SOLUTION
    error = (deltas - targets)[positive].abs()
    inner = error.clamp(max=beta)
    return (inner**2 / (2 * beta) + error - inner).sum() / len(deltas)
    ### END SOLUTION

# %%
check("rpn_box_loss", my_box_loss)

# %% grade="rpn_box_loss"
grade("rpn_box_loss", my_box_loss)
### BEGIN HIDDEN TESTS
one_off = torch.tensor([[-2.0, 0, 0, 0], [5, 5, 5, 5]]), torch.zeros(2, 4), torch.tensor([True, False])
assert abs(float(my_box_loss(*one_off, 0.5)) - 0.875) < 1e-6
### END HIDDEN TESTS

# %% [markdown] exercise="greedy_nms"
# Write `my_nms(boxes, scores, groups, threshold)`. Return the indices of the kept boxes as a list, by
# descending score; of equal scores the lower index first. Boxes of different groups never touch each other.

# %%
expected("greedy_nms")

# %% exercise="greedy_nms"
def my_nms(boxes, scores, groups, threshold):
    ### BEGIN SOLUTION
    left = scores.argsort(descending=True, stable=True)
    kept = []
    while len(left):
        first, left = left[0], left[1:]
        kept.append(int(first))
        iou = box_iou(boxes[first][None], boxes[left])[0]
        left = left[(iou <= threshold) | (groups[left] != groups[first])]
    return kept
    ### END SOLUTION

# %%
check("greedy_nms", my_nms)

# %% grade="greedy_nms"
grade("greedy_nms", my_nms)
### BEGIN HIDDEN TESTS
chain = torch.tensor([[0.0, 0, 4, 2], [1, 0, 5, 2], [2, 0, 6, 2]]), torch.tensor([0.7, 0.9, 0.7]), torch.zeros(3)
assert my_nms(*chain, 0.5) == [1] and my_nms(*chain, 0.6) == [1, 0, 2]
### END HIDDEN TESTS

# %% [markdown]
# ## The vectorised version
#
# Matching and sampling are a few lines of tensor code. NMS resists: whether $j$ is kept depends on all kept
# boxes before it. But read the definition as an equation for the whole vector $k$, and it can be iterated:
# start from "all kept", and put the last answer into the right side until nothing changes. Box 0 has nobody
# before it, so it is right from the start. Box 1 depends on box 0 only, so it is right after one round, and so
# on: never more than $n$ rounds, and far fewer if chains of overlaps are short. A round is one matrix product.
# These are the 24 best boxes of one level in another scene, not yet thinned.

# %%
from minimaskrcnn.ops import nms

crowd = scenes.predict(model, scenes.sample(18))
some_logits, some_boxes, of_level = select_best(crowd.output, pre_nms=200)
near, ordered = some_boxes[0, of_level == 1][:24], some_logits[0, of_level == 1][:24]
hits = (box_iou(near, near) > 0.7).triu(diagonal=1)
states = [torch.ones(24, dtype=torch.bool)]
while len(states) < 2 or not torch.equal(states[-1], states[-2]):
    suppressed = states[-1].float() @ hits.float() > 0
    states.append(~suppressed)
assert states[-1].nonzero()[:, 0].tolist() == nms(near, ordered, 0.7).tolist()
show(*figures.rounds(hits, states))

# %% [markdown]
# The library works on blocks of 128 boxes, so that the full matrix is never in memory, and a settled block
# suppresses all that follow. On the CPU it first skips pairs that cannot overlap enough
# ([`nms_by_pairs.py`](../minimaskrcnn/ops/nms_by_pairs.py)).
#
# **Groups.** A widespread trick runs NMS once for all groups: shift group $c$ by $c$ times the picture's width,
# so that boxes of different groups never overlap. It costs precision. The farther from 0 a floating-point
# number lies, the wider the gaps to its neighbours: at 26,680 (group 20, 1,334 pixels each) they are 0.002 in
# float32 and 16 in float16. Boxes of ten pixels vanish there or become alike, and beyond 65,504 float16 has no
# finite numbers. The pair below overlaps by 0.82, so NMS should keep one of the two.

# %%
pair = torch.tensor([[90.0, 90, 100, 100], [91, 90, 101, 100]])
for dtype in (torch.float32, torch.float16):
    for group in (0, 1, 20, 60):
        moved = pair.to(dtype) + torch.tensor(group * 1334.0).to(dtype)
        left = len(nms(moved, torch.tensor([0.9, 0.8]), 0.7))
        print(f"{dtype}, group {group:2}: IoU {box_iou(moved, moved)[0, 1]:.4f}, kept {left}")
corner = torch.rand(200_000, 2) * 1000
first = torch.cat([corner, corner + 10], 1)
second = first + (1 + 2 * torch.rand(200_000, 1)) * torch.tensor([1.0, 0, 1, 0])
exact, shifted = (
    box_iou((first + far)[:, None], (second + far)[:, None]).flatten() > 0.7 for far in (0, 90 * 1334)
)
print(f"float32, group 90: {int((exact != shifted).sum())} of 200,000 pairs of small boxes are decided otherwise")

# %% [markdown]
# NaN is not above any threshold, so both boxes stay. In float32 the trick gets only close calls wrong. In
# float16 it silently keeps duplicates. Comparing the groups themselves, as `batched_nms` here does, moves no
# coordinate, so none is rounded.
#
# ## The Triton version
#
# A hit is one bit, so 64 entries of a row of the hit matrix fit into one 64-bit integer. The kernel in
# [`minimaskrcnn_kernels/nms.py`](../kernels/minimaskrcnn_kernels/nms.py) works in two launches. The first
# computes these words, one program for 64 × 64 pairs. The second walks down the tiles: within a tile it
# iterates the fixed point, with `&`, `|` and `~` on words in place of a matrix product; then it ors the words
# of kept boxes into "removed" for the tiles that follow. Groups are runs of sorted rows, compared and never
# shifted. The cell does the inner loop with Python's integers, and then runs the real kernel, on the CPU under
# Triton's interpreter.

# %%
from minimaskrcnn.ops.backend import TRITON_IS_INSTALLED

words = [sum(1 << j for j in range(24) if hits[i, j]) for i in range(24)]
kept, previous = (1 << 24) - 1, 0
while kept != previous:
    previous, removed = kept, 0
    for i in range(24):
        if kept >> i & 1:
            removed |= words[i]
    kept = (1 << 24) - 1 & ~removed
by_bits = [j for j in range(24) if kept >> j & 1]
if TRITON_IS_INSTALLED:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    by_kernel = nms(near.to(device), ordered.to(device), 0.7, backend="triton").tolist()
    print(f"bits {by_bits}, kernel {by_kernel}, equal: {by_bits == by_kernel}")
show(*figures.bits(words, kept, 24))

# %% [markdown]
# ## The proof
#
# NMS returns indices, so agreement means equality, also on ties and on IoU of exactly 1/2. For the losses we
# compare values and gradients in float64, with the same random keys. Through NMS, and through the choice of
# samples, no gradient flows.

# %%
from dataclasses import replace

from minimaskrcnn.ops import batched_nms
from minimaskrcnn.rpn import RPNOutput, rpn_losses

generator = torch.Generator().manual_seed(0)
for _ in range(30):
    corner = torch.randint(0, 12, (40, 2), generator=generator)
    drawn = torch.cat([corner, corner + torch.randint(1, 9, (40, 2), generator=generator)], 1).float()
    scores, groups = torch.randint(0, 9, (2, 40), generator=generator)
    wanted = reference.nms(drawn, scores.float(), 0.5, groups)
    assert torch.equal(batched_nms(drawn, scores.float(), groups, 0.5), wanted)
print("30 draws of 40 boxes: batched_nms equals the definition, index by index")

leaves = [t.double().clone().requires_grad_() for t in (seen.output.logits, seen.output.deltas)]
output = RPNOutput([a.double() for a in seen.output.anchors], *leaves)
truth = replace(seen.truth, boxes=seen.truth.boxes.double())
keys = sampling_keys(output.logits.shape, None, torch.Generator().manual_seed(1))
losses = rpn_losses(output, truth, model.config.rpn, torch.Generator().manual_seed(1))
ours = [loss.mean for loss in losses.values()]
loops = loop_losses(output, truth, keys, 64, 1 / 9)
for name, one, other in zip(("objectness", "box"), ours, loops):
    slopes = [torch.autograd.grad(x, leaves, allow_unused=True, retain_graph=True) for x in (one, other)]
    apart = max((a - b).abs().max().item() for a, b in zip(*slopes) if b is not None)
    print(f"{name}: {one:.6f}, differs by {abs(one - other):.1e}, its gradients by at most {apart:.1e}")

# %% [markdown]
# ## What it costs

# %%
import time

print("boxes     loop, ms   library, ms   full IoU matrix, MB   bit mask, MB")
for n in (100, 400, 4000):
    corner = torch.rand(n, 2) * torch.tensor([1200.0, 700.0])
    many, score = torch.cat([corner, corner + 20 + 100 * torch.rand(n, 2)], 1), torch.rand(n)
    times = []
    for function in (reference.nms, nms)[n > 400 :]:
        start = time.perf_counter()
        function(many, score, 0.7)
        times.append((time.perf_counter() - start) * 1000)
    loop = f"{times[0]:9.1f}" if n <= 400 else "        -"
    print(f"{n:5}  {loop}   {times[-1]:11.1f}   {n * n * 4 / 1e6:19.2f}   {n * n / 8 / 1e6:12.3f}")

# %% [markdown]
# The loop compares each box with every kept one, a pair at a time in Python; the library skips most pairs. A bit
# in place of a float32 makes the mask 32 times smaller than a matrix of IoU: $N^2/8$ bytes. The Triton kernels
# have not been measured on a GPU yet, and the interpreter's speed says nothing about theirs.
#
# Matching has the same problem of memory: 500 objects and 242,991 anchors (the number for an 800 × 1216 picture
# with five levels) make a matrix of 0.5 GB in float32, and computing it holds several such at once. The library
# takes the objects in chunks ([`match_boxes.py`](../minimaskrcnn/ops/match_boxes.py)).
#
# ## The picture to keep
#
# How many of the objects are reached by the $k$ best proposals of a scene? This is the RPN's own measure of
# quality. What it does not propose, no later stage can find.

# %%
from dataclasses import replace

ks, curves = [5, 10, 20, 50, 100], {}
for name, iou in (("without NMS", 1.0), ("NMS at 0.7", 0.7), ("NMS at 0.3", 0.3)):
    config = replace(model.config.rpn, nms_iou=iou)
    curves[name] = [scenes.recall(predictions, config, k) for k in ks]
show(*figures.recall(ks, curves))

# %% [markdown]
# "Without NMS" is a threshold of 1, which no IoU exceeds. A low threshold does more with few proposals, but its
# curve ends lower: where two objects overlap, the box of one removes the box of the other, and nothing brings it
# back. The RPN therefore uses a lenient 0.7. The final detections, which are few and have classes, use 0.5.
#
# ## Try this
#
# - Change the scene in the second cell, and look for one where an object is without any proposal before NMS.
#   Which kind of object is it?
# - Set `nms_iou` to 0.9 and 0.1 in the last figure. Where does a stricter threshold help, and which objects
#   does it lose?
# - Raise `positive_iou` to 0.8 in `matches_of`. How many positives remain, and by which rule?
# - In the explorer, make a chain of four boxes in which every second one is kept.
#
# ## Summary
#
# The RPN scores and moves every anchor with one small head that all levels share. In training an anchor is
# positive from IoU 0.7 on, or if it is an object's best; negative under 0.3; else ignored. A sample of at most
# half positives keeps the negatives from drowning the rest. Both losses are divided by the number of sampled
# anchors. Proposals are the best anchors of each level, moved, clipped, and thinned by NMS within the level.
# NMS is greedy, strict, stable, and only kept boxes suppress: the same result comes from a loop, from a fixed
# point, and from words of bits. Lesson 05 reads features out of these boxes.
#
# ## References
#
# - S. Ren, K. He, R. Girshick, J. Sun. *Faster R-CNN: Towards Real-Time Object Detection with Region Proposal
#   Networks.* NeurIPS 2015. Section 3: anchors, labels, loss, sampling, NMS.
# - T.-Y. Lin, P. Dollár, R. Girshick, K. He, B. Hariharan, S. Belongie. *Feature Pyramid Networks for Object
#   Detection.* CVPR 2017. Section 4.1: the RPN on a pyramid.
# - R. Girshick. *Fast R-CNN.* ICCV 2015. Smooth L1, and sampling by fractions.
# - K. He, G. Gkioxari, P. Dollár, R. Girshick. *Mask R-CNN.* ICCV 2017. Section 3.1: proposals in training and
#   at test.
