"""Masks of m × m, as the mask head makes them, pasted into the picture (paper, section 3.1: "resized to the RoI").

Rule, as torchvision's: pad the mask by one pixel, grow the box by the same factor (m + 2) / m, cut its corners to
integers towards zero, and resize the padded mask bilinearly (align_corners=False) onto x1..x2 *inclusive*.  The
resize is separable: values = Ry · M · Rxᵀ with Ry [h, m + 2] and Rx [w, m + 2], so an object is two small matrix
products, into the slice of the picture that its box covers.

detectron2's rule is `exact`: the value at a pixel's centre is the mask's there, the mask stretched over the box's
real corners and zero around it.  It is a pair of such matrices too, with other numbers.

Axis letters: n objects; m mask rows and columns; h, w image rows and columns.
These functions stand at the model's boundary: the torch path reads the boxes on the host, once, and loops over
objects; the kernel does neither.  They have no gradient.
The kernel has torchvision's rule alone.

Lessons 00 and 01 (`lessons/`) show it, and measure run lengths against bitmaps.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn.functional import pad

from minimaskrcnn.ops.backend import Backend, use_triton

# Corners beyond this are no corners of a picture.  Integers up to it are safe in 32 bits, with room for a difference.
HUGE = 2.0**30


class RLE(TypedDict):
    """COCO's compressed run-length encoding of one bitmap; `size` is [height, width]."""

    size: list[int]
    counts: str


class _Patch(NamedTuple):
    """The part of the picture that an object's box covers, and its mask's values there."""

    rows: slice
    columns: slice
    values: Float[Tensor, "rows columns"]


def paste_masks(
    masks: Float[Tensor, "n m m"],
    boxes: Float[Tensor, "n 4"],
    image_size: tuple[int, int],
    threshold: float | None = 0.5,
    *,
    exact: bool = False,
    backend: Backend = "auto",
) -> Bool[Tensor, "n h w"] | Float[Tensor, "n h w"]:
    """Masks in the picture: true where the resized mask exceeds `threshold`; `image_size` is (height, width).

    With `threshold=None` the resized masks themselves (what torchvision's model returns), 0 outside of the boxes,
    in the masks' dtype; half precision is computed in float32.  A box without a pixel in the picture gives an empty
    mask, and so does one with a corner that, grown, is NaN or 2**30 pixels or more away.
    `exact` keeps the boxes' fractions (detectron2).  The kernel takes float32 boxes, and masks of at most float32,
    and is not exact; others run on torch unless `backend="triton"`, which raises TypeError for their dtype and
    ValueError for `exact`.  Raises ValueError for masks that are not square or are empty, or not as many as the
    boxes, and for an image size below 0; TypeError for masks or boxes that are not floating point.
    """
    _check(masks, boxes, image_size)
    kernel_takes = boxes.dtype == torch.float32 and masks.dtype != torch.float64 and not exact
    if exact and backend == "triton":
        raise ValueError("the kernel has no exact rule: leave `backend` to 'auto' or 'torch'")
    if use_triton(backend, masks) and (kernel_takes or backend == "triton"):
        from minimaskrcnn_kernels.paste_masks import paste_masks as paste_on_gpu

        return paste_on_gpu(masks.detach(), boxes.detach(), *image_size, threshold)
    out = _blank((len(masks), *image_size), masks.dtype if threshold is None else torch.bool, masks.device)
    for canvas, patch in zip(out, _patches(masks, boxes, image_size, exact)):
        region = canvas[patch.rows, patch.columns]
        if threshold is None:
            region.copy_(patch.values)
        else:
            torch.gt(patch.values, threshold, out=region)
    return out


def paste_masks_rle(
    masks: Float[Tensor, "n m m"],
    boxes: Float[Tensor, "n 4"],
    image_size: tuple[int, int],
    threshold: float = 0.5,
    *,
    exact: bool = False,
) -> list[RLE]:
    """`paste_masks` as COCO run lengths, from each box's region alone: no full-size bitmap is ever made.

    Run lengths are made on the host, and so are these masks: tensors on a GPU are copied there, once.
    """
    _check(masks, boxes, image_size)
    patches = _patches(masks.cpu(), boxes.cpu(), image_size, exact)
    return [_encode(patch, threshold, image_size) for patch in patches]


def _check(masks: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> None:
    square = masks.ndim == 3 and masks.shape[1] == masks.shape[2] > 0
    if not square or boxes.shape != (len(masks), 4):
        raise ValueError(
            f"masks {tuple(masks.shape)}, boxes {tuple(boxes.shape)}: expected [n,m,m] and [n,4], m above 0"
        )
    if not masks.is_floating_point() or not boxes.is_floating_point():
        raise TypeError(f"masks {masks.dtype}, boxes {boxes.dtype}: expected floating point")
    if masks.device != boxes.device:
        raise ValueError(f"masks on {masks.device}, boxes on {boxes.device}: expected one device")
    if min(image_size) < 0:
        raise ValueError(f"image_size {tuple(image_size)}: expected (height, width), not below 0")


def _encode(patch: _Patch, threshold: float, image_size: tuple[int, int]) -> RLE:
    """Run lengths down the columns of the picture, background first, as COCO counts them."""
    height, width = image_size
    region = (patch.values > threshold).numpy().T
    # A background pixel above and below each column makes every run begin and end within it.
    edges = np.pad(region, ((0, 0), (1, 1)))
    column, row = np.nonzero(edges[:, 1:] != edges[:, :-1])
    place = (column + patch.columns.start) * height + row + patch.rows.start
    # Where a column is full, its end is the start of the next: one run.  The last end closes nothing.
    same = np.diff(place) == 0
    place = place[~(np.append(same, False) | np.append(False, same)) & (place < height * width)]
    runs = np.diff(place, prepend=0, append=height * width)
    rle = coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def _blank(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros.  On the CPU from calloc: the pages of memory that no box touches are never written."""
    if device.type != "cpu" or 0 in shape:
        return torch.zeros(shape, dtype=dtype, device=device)
    numbers = np.zeros(int(np.prod(shape)) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(numbers).view(dtype).view(shape)


def _patches(
    masks: Float[Tensor, "n m m"], boxes: Float[Tensor, "n 4"], image_size: tuple[int, int], exact: bool
) -> Iterator[_Patch]:
    height, width = image_size
    masks = masks.detach() if masks.dtype == torch.float64 else masks.detach().float()
    if exact:
        matrix = _exact_matrix
        corners = boxes.detach().double()
    else:
        matrix = _resize_matrix
        corners = _integer_boxes(boxes.detach(), masks.shape[1])
        masks = pad(masks, (1, 1, 1, 1))
    for mask, (x1, y1, x2, y2) in zip(masks, corners.tolist()):
        rows, resize_rows = matrix(y1, y2, height, mask)
        columns, resize_columns = matrix(x1, x2, width, mask)
        with torch.autocast(mask.device.type, enabled=False):
            values = resize_rows @ mask @ resize_columns.T
        yield _Patch(rows, columns, values)


def _integer_boxes(boxes: Float[Tensor, "n 4"], m: int) -> Int64[Tensor, "n 4"]:
    """The first and last column and row of each box, grown as padding grows its mask; -1 for an absurd box."""
    centre = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * ((m + 2) / m)
    grown = torch.cat([centre - half, centre + half], 1)
    # Integers of NaN and beyond 64 bits differ by device.  Pixel -1 lies beside every picture.
    return grown.where((grown.abs() < HUGE).all(1, keepdim=True), -1.0).long()


def _resize_matrix(
    first: int, last: int, limit: int, mask: Float[Tensor, "s s"]
) -> tuple[slice, Float[Tensor, "visible s"]]:
    """The pixels of first..last that lie in 0..limit - 1, and the weights of the mask's samples at each of them."""
    samples = len(mask)
    length = max(last - first + 1, 1)
    start = min(max(first, 0), limit)
    stop = max(min(last + 1, limit), start)
    pixel = np.arange(start - first, stop - first, dtype=np.float64)
    source = np.clip((pixel + 0.5) * (samples / length) - 0.5, 0, samples - 1)
    # A hat of half-width 1 around the source point: its two neighbours get 1 - fraction and fraction.
    hat = np.maximum(1 - np.abs(source[:, None] - np.arange(samples)), 0)
    return slice(start, stop), torch.from_numpy(hat).to(mask)


def _exact_matrix(
    start: float, end: float, limit: int, mask: Float[Tensor, "m m"]
) -> tuple[slice, Float[Tensor, "visible m"]]:
    """The pixels of 0..limit - 1 that a sample reaches, and the weights of the samples at their centres."""
    samples = len(mask)
    length = end - start
    if not (0 < length < HUGE and abs(start) < HUGE):
        return slice(0, 0), mask.new_zeros(0, samples)
    # The outermost samples reach half their width beyond the box.
    first = min(max(math.ceil(start - 0.5 * length / samples - 0.5), 0), limit)
    stop = max(min(math.floor(end + 0.5 * length / samples - 0.5) + 1, limit), first)
    source = (np.arange(first, stop) + 0.5 - start) * (samples / length) - 0.5
    hat = np.maximum(1 - np.abs(source[:, None] - np.arange(samples)), 0)
    return slice(first, stop), torch.from_numpy(hat).to(mask)
