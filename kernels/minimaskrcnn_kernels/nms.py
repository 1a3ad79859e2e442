"""Greedy non-maximum suppression of a batch, exact, without a host sync.

Of rows sorted by group and, within a group, from the best on: keep_j = no kept i before j of j's group hits j, where
i hits j iff IoU(i, j) = inter / (area_i + area_j - inter) > threshold in float32, each operation rounded to nearest
(`tl.div_rn`, no fused multiply-add), as on the CPU.  A union without area gives 0, -0 or NaN: no hit.

Two launches.  B images, N rows, words of 64 bits: bit j of a word is row j of a tile of 64.
1. `_hits_kernel`: one program holds the 64 × 64 pairs of two tiles and writes 64 words, bit j of row i's word set iff
   i hits j and comes before it.  Grid (tiles, tiles, B).  Programs below the diagonal, and those whose groups cannot
   meet, leave at once: the walk never reads their words.  Bytes moved: N² / 16 an image at most.
2. `_walk_kernel`: one program decides on the groups that begin in one tile.  Grid (tiles, B): where groups begin is
   data, so the host need not know it.  It settles its rows of the tile at once, then follows the tile's last group
   through the tiles after, with the bits of removed rows in registers.  Within a tile "kept" is a fixed point, found
   by iteration from "all": the first row is right after one round, the second after two, ...; a few rounds for real
   boxes, 64 for a chain of them.  Bytes moved: the words of kept rows, N² / 16 an image at most.

Memory: N² / 8 bytes an image for the words (1.25 GB for 100,000 rows).  Not differentiable.

Lesson 04, `lessons/04_rpn.ipynb`, runs it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Rows an image: the walk's registers hold one bit for each.
MAX_ROWS = 2**17
TILE = 64
# Later rows whose pairs with a tile are held at once: what registers allow.
COLUMNS = 8
# Words that the walk holds at once, for the same reason.
GATHERED = 4096


@triton.jit
def _or(a, b):
    return a | b


@triton.jit
def _corners(boxes_ptr, row):
    """x1, y1, x2, y2 and the area of rows of [rows, 4]."""
    x1 = tl.load(boxes_ptr + row * 4)
    y1 = tl.load(boxes_ptr + row * 4 + 1)
    x2 = tl.load(boxes_ptr + row * 4 + 2)
    y2 = tl.load(boxes_ptr + row * 4 + 3)
    return x1, y1, x2, y2, (x2 - x1) * (y2 - y1)


@triton.jit
def _hits_kernel(
    # Tensors
    boxes_ptr,  # [B, N, 4] float32
    groups_ptr,  # [B, N] int64, ascending
    words_ptr,  # [B, N, words] int64
    # Sizes
    N,
    # Scalars
    threshold,
    # Constexprs
    TILE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    tile = tl.program_id(0)
    word = tl.program_id(1)
    image = tl.program_id(2)
    if word < tile:
        return
    base = image.to(tl.int64) * N
    words = tl.cdiv(N, TILE)
    last_group = tl.load(groups_ptr + base + tl.minimum(tile * TILE + TILE, N) - 1)
    if last_group < tl.load(groups_ptr + base + word * TILE):
        return
    # Earlier rows i along axis 1; later rows j along axis 0, some at a time: a thread's registers hold few pairs.
    # Rows beyond N read the last one and no mask: the walk ignores their bits.
    i = tile * TILE + tl.arange(0, TILE)
    a = base + tl.minimum(i, N - 1)
    ax1, ay1, ax2, ay2, a_area = _corners(boxes_ptr, a[None, :])
    a_group = tl.load(groups_ptr + a)
    bits = tl.zeros([COLUMNS, TILE], tl.int64)
    for some in range(0, TILE, COLUMNS):
        lanes = some + tl.arange(0, COLUMNS)
        j = word * TILE + lanes
        b = base + tl.minimum(j, N - 1)
        bx1, by1, bx2, by2, b_area = _corners(boxes_ptr, b[:, None])
        b_group = tl.load(groups_ptr + b)
        width = tl.maximum(tl.minimum(ax2, bx2) - tl.maximum(ax1, bx1), 0.0)
        height = tl.maximum(tl.minimum(ay2, by2) - tl.maximum(ay1, by1), 0.0)
        inter = width * height
        iou = tl.div_rn(inter, a_area + b_area - inter)
        hit = (iou > threshold) & (a_group[None, :] == b_group[:, None]) & (i[None, :] < j[:, None])
        bits |= hit.to(tl.int64) << lanes[:, None]
    packed = tl.sum(bits, 0)
    tl.store(words_ptr + (base + i) * words + word, packed, mask=i < N)


@triton.jit
def _walk_kernel(
    # Tensors
    words_ptr,  # [B, N, words] int64
    groups_ptr,  # [B, N] int64, ascending
    alive_ptr,  # [B, N] bool
    kept_ptr,  # [B, N] bool
    # Sizes
    N,
    # Constexprs
    TILE: tl.constexpr,
    WORDS: tl.constexpr,  # a power of two, at least N / TILE
    ROWS: tl.constexpr,  # rows whose words are gathered at once
):
    first = tl.program_id(0)
    image = tl.program_id(1)
    base = image.to(tl.int64) * N
    words = tl.cdiv(N, TILE)
    lane = tl.arange(0, TILE)
    row = first * TILE + lane
    group = tl.load(groups_ptr + base + row, mask=row < N, other=0)
    before = tl.load(groups_ptr + base + row - 1, mask=(row > 0) & (row < N), other=0)
    start = tl.min(tl.where((row < N) & ((row == 0) | (group != before)), row, N), 0)
    if start == N:
        return
    # The tiles after this one that the last group reaches: it is the first of their rows.
    last = tl.load(groups_ptr + base + tl.minimum(first * TILE + TILE, N) - 1)
    word = tl.arange(0, WORDS)
    ahead = (word > first) & (word * TILE < N)
    reached = ahead & (tl.load(groups_ptr + base + word * TILE, mask=ahead, other=0) == last)
    stop = first + 1 + tl.sum(reached.to(tl.int32), 0)
    removed = tl.zeros([WORDS], tl.int64)
    for tile in range(first, stop):
        row = tile * TILE + lane
        group = tl.load(groups_ptr + base + row, mask=row < N, other=0)
        # Rows before `start`, and those after the last group, are other programs': neither read nor written.
        mine = (row < N) & (row >= start) & ((group == last) | (tile == first))
        alive = tl.load(alive_ptr + base + row, mask=mine, other=0) != 0
        hits = tl.load(words_ptr + (base + row) * words + tile, mask=mine, other=0)
        gone = tl.sum(tl.where(word == tile, removed, 0), 0)
        candidates = tl.sum(alive.to(tl.int64) << lane, 0) & ~gone
        kept = candidates
        previous = ~candidates
        while kept != previous:
            previous = kept
            kept = candidates & ~tl.reduce(tl.where((kept >> lane) & 1 != 0, hits, 0), 0, _or)
        tl.store(kept_ptr + base + row, (kept >> lane) & 1 != 0, mask=mine)
        found = tl.zeros([ROWS, WORDS], tl.int64)
        for some in range(0, TILE, ROWS):
            lanes = some + tl.arange(0, ROWS)
            address = words_ptr + (base + tile * TILE + lanes)[:, None] * words + word[None, :]
            read = ((kept >> lanes) & 1 != 0)[:, None] & (reached & (word > tile))[None, :]
            found |= tl.load(address, mask=read, other=0)
        removed |= tl.reduce(found, 0, _or)


@torch.library.custom_op("minimaskrcnn_kernels::nms_keep", mutates_args=())
def nms_keep(boxes: Tensor, groups: Tensor, alive: Tensor, threshold: float) -> Tensor:
    """Which rows are kept, bool [B, N], of `boxes` [B, N, 4] float32 in xyxy and `groups` [B, N] int64.

    Rows must be sorted by group, ascending, and within a group from the best on.  Rows that are not `alive` [B, N]
    bool neither survive nor suppress.  `threshold`, at least 0, is rounded to float32; N is at most `MAX_ROWS`.
    """
    _check(boxes, groups, alive)
    batch, count = alive.shape
    kept = torch.empty_like(alive, memory_format=torch.contiguous_format)
    if kept.numel() == 0:
        return kept
    boxes = boxes.contiguous()
    groups = groups.contiguous()
    alive = alive.contiguous()
    tiles = triton.cdiv(count, TILE)
    size = triton.next_power_of_2(tiles)
    words = boxes.new_empty((batch, count, tiles), dtype=torch.int64)
    # Triton launches on the current device, which need not be the tensors'.
    with torch.cuda.device_of(boxes):
        _hits_kernel[(tiles, tiles, batch)](
            boxes_ptr=boxes,
            groups_ptr=groups,
            words_ptr=words,
            N=count,
            threshold=threshold,
            TILE=TILE,
            COLUMNS=COLUMNS,
            num_warps=4,
            enable_fp_fusion=False,
        )
        _walk_kernel[(tiles, batch)](
            words_ptr=words,
            groups_ptr=groups,
            alive_ptr=alive,
            kept_ptr=kept,
            N=count,
            TILE=TILE,
            WORDS=size,
            ROWS=max(1, min(TILE, GATHERED // size)),
            num_warps=min(16, max(4, size // 8)),
            enable_fp_fusion=False,
        )
    return kept


@nms_keep.register_fake
def _(boxes, groups, alive, threshold):
    return torch.empty_like(alive, memory_format=torch.contiguous_format)


def _check(boxes: Tensor, groups: Tensor, alive: Tensor) -> None:
    batch, count = alive.shape
    matching = boxes.shape == (batch, count, 4) and groups.shape == alive.shape
    if not matching or boxes.dtype != torch.float32 or count > MAX_ROWS:
        shapes = ", ".join(f"{tuple(t.shape)} {t.dtype}" for t in (boxes, groups, alive))
        wanted = f"[B,N,4] float32, [B,N], [B,N], with N at most {MAX_ROWS}"
        raise ValueError(f"boxes, groups, alive {shapes}: expected {wanted}")
