"""detectron2's model-zoo checkpoints under our names.

A file of its COCO model zoo is a pickle `{"model": {name: array}, "__author__": ...}`; `read_detectron2` reads it
without calling what it names.  `describe_detectron2` says which network the arrays are of, and `from_detectron2`
gives its state dict.  The layers are the same; what changes besides the names is the order of some rows:

| there | here |
|---|---|
| class K of K + 1 logits is the background | class 0 is: the last row of `classifier` comes first |
| deltas and masks of K classes | K + 1 classes; the background's rows are zero, and nothing reads them |
| anchors of a cell by size and then ratio | by ratio and then size (`anchors.cell_anchors`) |

What the arrays do not say and a configuration has to:

| item of detectron2 | value |
|---|---|
| picture | BGR, 0..255, minus (103.530, 116.280, 123.675), divided by 1; ResNeXt: by (57.375, 57.120, 58.395) |
| frozen batch norm's eps | 1e-5 |
| stride of a stage | on the first 1×1 convolution in ResNet-50 and 101, on the 3×3 in ResNeXt-101-32x8d |
| anchors | exact corners, stride of the level; C4 and DC5: 5 sizes on one level; 3 aspect ratios |
| RoIAlign | aligned, with as many samples in a bin as it has pixels (sampling ratio 0) |
| DC5 | stage 5 dilated by 2, stride 16 |

| network | read |
|---|---|
| Mask R-CNN, Faster R-CNN: R50-C4, R101-C4, R50-DC5, R101-DC5, R50-FPN, R101-FPN, X101-FPN (any grouped 101) | yes |
| Keypoint R-CNN: the FPN ones | yes |
| these trained on LVIS or on anything with K classes | yes; score threshold, detections and sizes are COCO's |
| RetinaNet, Cascade R-CNN, panoptic and semantic heads, PointRend, DensePose, rotated boxes | no |
| group norm, SyncBN in heads or pyramid, deformable convolution, convolutions in the box head | no |
| class-agnostic boxes or masks, Fast R-CNN without proposals, RPN alone, a backbone alone, Caffe2's files | no |
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minimaskrcnn.resnet import BLOCKS
from minimaskrcnn.restricted_pickle import read_restricted_pickle

Arrays = Mapping[str, np.ndarray | Tensor]
ASPECT_RATIOS = 3
"""Anchors of a cell are so many for each size, in every file of the zoo."""


class Detectron2Network(NamedTuple):
    """What names and shapes of a checkpoint say of its network."""

    kind: Literal["c4", "dc5", "fpn"]
    depth: Literal[50, 101]
    groups: int
    """Of the 3×3 convolutions; 1 in a ResNet, 32 in ResNeXt-101-32x8d."""
    width_per_group: int
    """Of the 3×3 convolutions of the first stage; 64 in a ResNet."""
    num_classes: int
    """With the background: 81 for COCO."""
    has_masks: bool
    has_keypoints: bool


_BACKBONE = r"backbone\.(?:bottom_up\.)?"
_NORM = "(weight|bias|running_mean|running_var)"
_BIAS = "(weight|bias)"
_BLOCK = (
    (r"conv([123])\.weight", "conv{}.weight"),
    (rf"conv([123])\.norm\.{_NORM}", "norm{}.{}"),
    (r"shortcut\.weight", "shortcut.0.weight"),
    (rf"shortcut\.norm\.{_NORM}", "shortcut.1.{}"),
)
# detectron2's whole name, ours with the groups, and the number that our count begins below theirs.
_NAMES = (
    (rf"{_BACKBONE}stem\.conv1\.weight", "resnet.stem.0.weight", 0),
    (rf"{_BACKBONE}stem\.conv1\.norm\.{_NORM}", "resnet.stem.1.{}", 0),
    *((rf"{_BACKBONE}res([2-5])\.(\d+)\.{theirs}", f"resnet.stages.{{}}.{{}}.{ours}", 2) for theirs, ours in _BLOCK),
    (rf"backbone\.fpn_lateral([2-5])\.{_BIAS}", "fpn.lateral.{}.{}", 2),
    (rf"backbone\.fpn_output([2-5])\.{_BIAS}", "fpn.smooth.{}.{}", 2),
    (rf"proposal_generator\.rpn_head\.conv\.{_BIAS}", "rpn.conv.{}", 0),
    (rf"proposal_generator\.rpn_head\.objectness_logits\.{_BIAS}", "rpn.objectness.{}", 0),
    (rf"proposal_generator\.rpn_head\.anchor_deltas\.{_BIAS}", "rpn.deltas.{}", 0),
    *((rf"roi_heads\.res5\.(\d+)\.{theirs}", f"box_head.res5.{{}}.{ours}", 0) for theirs, ours in _BLOCK),
    (rf"roi_heads\.box_head\.fc([12])\.{_BIAS}", "box_head.fc{}.{}", 0),
    (rf"roi_heads\.box_predictor\.cls_score\.{_BIAS}", "box_head.classifier.{}", 0),
    (rf"roi_heads\.box_predictor\.bbox_pred\.{_BIAS}", "box_head.deltas.{}", 0),
    (rf"roi_heads\.mask_head\.mask_fcn(\d)\.{_BIAS}", "mask_head.convs.{}.{}", 1),
    (rf"roi_heads\.mask_head\.deconv\.{_BIAS}", "mask_head.deconv.{}", 0),
    (rf"roi_heads\.mask_head\.predictor\.{_BIAS}", "mask_head.predictor.{}", 0),
    (rf"roi_heads\.keypoint_head\.conv_fcn(\d)\.{_BIAS}", "keypoint_head.convs.{}.{}", 1),
    (rf"roi_heads\.keypoint_head\.score_lowres\.{_BIAS}", "keypoint_head.deconv.{}", 0),
)
# Buffers that a configuration or nothing at all replaces.
_IGNORED = re.compile(
    r"pixel_mean|pixel_std|(proposal_generator\.)?anchor_generator\.cell_anchors\.\d+|.*\.num_batches_tracked"
)
# Of names that are not known, tried in this order on the start of each.
_UNSUPPORTED = (
    (r"head\.(cls|bbox)_|backbone\.top_block\.", "RetinaNet"),
    (r"roi_heads\.(box_head|box_predictor)\.\d\.", "Cascade R-CNN"),
    (r".*\.conv2_offset\.", "deformable convolution"),
    (r"sem_seg_head\.", "a semantic or panoptic head"),
    (r"roi_heads\.(mask_coarse_head|mask_point_head|mask_head\.(coarse|point)_head)\.", "PointRend"),
    (r"roi_heads\.densepose", "DensePose"),
    (r"(roi_heads|backbone\.fpn_.*|proposal_generator)\..*norm\.", "a norm in the pyramid or the heads"),
    (r"roi_heads\.box_head\.conv\d", "a box head with convolutions"),
    (r"conv1_|res\d_|res_conv1_", "Caffe2's Detectron"),
    (r"stem\.|res[2-5]\.", "a backbone alone"),
)
_RPN = "proposal_generator.rpn_head."
_CLASSES = "roi_heads.box_predictor.cls_score.weight"
_BOXES = "roi_heads.box_predictor.bbox_pred.weight"
_MASKS = "roi_heads.mask_head.predictor.weight"
_KEYPOINTS = "roi_heads.keypoint_head.score_lowres.weight"


def read_detectron2(path: Path) -> dict[str, np.ndarray | Tensor]:
    """The arrays of a model-zoo file (`.pkl`) under detectron2's names.

    Raises FileNotFoundError where there is none, ValueError where it is something else.
    """
    return detectron2_arrays(read_restricted_pickle(path), path)


def detectron2_arrays(content: object, path: Path) -> dict[str, np.ndarray | Tensor]:
    """The arrays or tensors under "model" of a checkpoint's content, be it of a `.pkl` or of a `.pth` file.

    Raises ValueError, which names `path`, where there are none.
    """
    if isinstance(content, dict) and "blobs" in content:
        raise ValueError(
            f"{path}: a file of Caffe2's Detectron, and of its successor detectron2 files are read"
        )
    arrays = content.get("model") if isinstance(content, dict) else None
    if not isinstance(arrays, dict) or not arrays:
        raise ValueError(
            f"{path}: expected a dict with arrays under 'model', as detectron2's checkpoints are"
        )
    for name, value in arrays.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray | Tensor):
            raise ValueError(
                f"{path}: expected an array under each name, got {name!r}: {type(value).__name__}"
            )
    return arrays


def _our_name(name: str) -> str | None:
    """Our name of detectron2's `name`; None where it has none."""
    for pattern, ours, shift in _NAMES:
        if match := re.fullmatch(pattern, name):
            groups = match.groups()
            return ours.format(str(int(groups[0]) - shift), *groups[1:]) if shift else ours.format(*groups)
    return None


def _our_names(model: Arrays) -> dict[str, str]:
    """detectron2's names to ours, without the buffers that are left out; ValueError for a name that is not known."""
    names = {name: _our_name(name) for name in model if not _IGNORED.fullmatch(name)}
    unknown = [name for name, ours in names.items() if ours is None]
    for name in unknown:
        for pattern, network in _UNSUPPORTED:
            if re.match(pattern, name):
                raise ValueError(f"{name!r} is a parameter of {network}, which is not supported")
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no parameter of detectron2's Mask, Faster or Keypoint R-CNN")
    if len(set(names.values())) < len(names):
        raise ValueError(
            "these weights have two backbones: one with and one without 'bottom_up' in its names"
        )
    return {name: ours for name, ours in names.items() if ours is not None}


def describe_detectron2(model: Arrays) -> Detectron2Network:
    """Which network detectron2's arrays, under its names, are of; read from names and shapes.

    Raises ValueError, of one sentence, for a network that is not supported (the module's table).
    """
    names = _our_names(model)
    if _RPN + "objectness_logits.weight" not in names:
        raise ValueError("these weights have no region proposal network: a Fast R-CNN or a part of a network")
    if _CLASSES not in names or _BOXES not in names:
        raise ValueError("these weights have no box head: a region proposal network alone")
    kind = "dc5"
    if any(name.startswith("backbone.fpn_") for name in names):
        kind = "fpn"
    elif any(name.startswith("roi_heads.res5.") for name in names):
        kind = "c4"
    num_classes = len(model[_CLASSES])
    _check_rows(model, num_classes - 1)
    depth, groups, width = _describe_resnet(names, model)
    return Detectron2Network(
        kind, depth, groups, width, num_classes, has_masks=_MASKS in names, has_keypoints=_KEYPOINTS in names
    )


def _check_rows(model: Arrays, classes: int) -> None:
    """The numbers of rows are those of `classes` foreground classes, boxes of four numbers, three ratios."""
    anchors, deltas = (
        len(model.get(_RPN + name, [])) for name in ("objectness_logits.weight", "anchor_deltas.weight")
    )
    boxes = len(model[_BOXES])
    if deltas == 5 * anchors or boxes == 5 * classes:
        raise ValueError("these weights predict rotated boxes, which are not supported")
    if deltas != 4 * anchors or anchors % ASPECT_RATIOS:
        raise ValueError(
            f"expected 4 deltas for each of 3, 6, ... anchors, got {deltas} deltas and {anchors} anchors"
        )
    masks = len(model[_MASKS]) if _MASKS in model else classes
    for what, rows, each in (("boxes", boxes, 4), ("masks", masks, 1)):
        # With one class, class-agnostic rows are that class's rows.
        if rows == each != each * classes:
            raise ValueError(f"these weights predict class-agnostic {what}, which are not supported")
        if rows != each * classes:
            raise ValueError(f"expected {each * classes} rows for {what} of {classes} classes, got {rows}")


def _describe_resnet(names: dict[str, str], model: Arrays) -> tuple[Literal[50, 101], int, int]:
    """(depth, groups, channels of a group in the first stage) of a bottleneck ResNet or ResNeXt."""
    theirs = {ours: name for name, ours in names.items()}
    if "resnet.stem.1.running_var" not in theirs:
        raise ValueError("these weights have no frozen batch norm in the stem: group norm is not supported")
    blocks = [0, 0, 0, 0]
    for ours in theirs:
        if match := re.match(r"resnet\.stages\.(\d)\.(\d+)\.|box_head\.(res5)\.(\d+)\.", ours):
            stage, block = (int(match[1]), int(match[2])) if match[1] else (3, int(match[4]))
            blocks[stage] = max(blocks[stage], block + 1)
    is_bottleneck = "resnet.stages.0.0.conv3.weight" in theirs
    depth = {BLOCKS[50]: 50, BLOCKS[101]: 101}.get(tuple(blocks)) if is_bottleneck else None
    if depth is None or "resnet.stages.0.0.conv2.weight" not in theirs:
        raise ValueError(
            f"expected the blocks of ResNet-50 or 101, got {blocks} of {3 if is_bottleneck else 2} layers"
        )
    width, per_group = model[theirs["resnet.stages.0.0.conv2.weight"]].shape[:2]
    return depth, width // per_group, per_group


def _tensor(value: np.ndarray | Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    # A copy that can be written to, in this machine's byte order.
    return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))


def _by_ratio(rows: Tensor, each: int) -> Tensor:
    """`each` rows an anchor, ordered by size and then ratio: ordered by ratio and then size."""
    return rows.unflatten(0, (-1, ASPECT_RATIOS, each)).transpose(0, 1).flatten(0, 2)


def _with_background(rows: Tensor, each: int) -> Tensor:
    """`each` rows a class: zeros for the background before them."""
    return torch.cat([rows.new_zeros(each, *rows.shape[1:]), rows])


def _reorder(layer: str, rows: Tensor) -> Tensor:
    """The rows of a layer's weight or bias, detectron2's, in our order; `layer` is our name."""
    match layer:
        case "rpn.objectness":
            return _by_ratio(rows, 1)
        case "rpn.deltas":
            return _by_ratio(rows, 4)
        case "box_head.classifier":
            return rows.roll(1, 0)
        case "box_head.deltas":
            return _with_background(rows, 4)
        case "mask_head.predictor":
            return _with_background(rows, 1)
    return rows


def from_detectron2(model: Arrays) -> dict[str, Tensor]:
    """The state dict, under our names, of detectron2's arrays or tensors under its names.

    Tensors may share memory with `model`'s.  Raises ValueError as `describe_detectron2` does, and for a name that is
    not known, which it says.
    """
    describe_detectron2(model)
    return {
        ours: _reorder(ours.rpartition(".")[0], _tensor(model[name]))
        for name, ours in _our_names(model).items()
    }
