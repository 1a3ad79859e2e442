"""Weights: files of our own, and state dicts that people already have.

A file of ours is safetensors whose metadata carry the preset's name, the whole configuration and the category
table, so that a file is all that prediction needs.  `from_torchvision` renames the parameters of torchvision's
detection models and ResNets; the layers are the same, so nothing is computed (detectron2's: weights_detectron2.py).

| item of torchvision's COCO_V1 weights | field here |
|---|---|
| frozen batch norm with eps 0.0 | `ResNetConfig.norm_eps` |
| anchors: rounded corners, stride = padded size // grid | `AnchorConfig.round_corners`, `.stride_from_grid` |
| masks pasted into boxes cut to integers | `ops.paste_masks` |
| labels are COCO's category ids, 91 classes | `data.coco_names` |
"""

import dataclasses
import json
import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from minimaskrcnn.config_json import config_from_json, config_to_json
from minimaskrcnn.data.coco_names import COCO_NAMES, CategoryName
from minimaskrcnn.files import replacing
from minimaskrcnn.mask_rcnn import MaskRCNN, MaskRCNNConfig
from minimaskrcnn.presets import (
    as_detectron2,
    fasterrcnn_resnet50_fpn,
    keypointrcnn_resnet50_fpn,
    maskrcnn_resnet50_c4,
    maskrcnn_resnet50_c5,
    maskrcnn_resnet50_fpn,
)
from minimaskrcnn.weights_detectron2 import (
    Detectron2Network,
    describe_detectron2,
    detectron2_arrays,
    from_detectron2,
    read_detectron2,
)

StateDict = dict[str, Tensor]
FORMAT = "minimaskrcnn weights 1"
# Keys of training state that may share a checkpoint file with the weights; readers of weights pass them over.
TRAINING_PREFIX = "training/"


class WeightsFile(NamedTuple):
    """The content of a weights file."""

    state_dict: StateDict
    config: MaskRCNNConfig
    preset: str
    categories: list[CategoryName]


def save_weights(
    path: Path,
    model: MaskRCNN,
    *,
    preset: str,
    categories: list[CategoryName],
    training: StateDict | None = None,
    training_metadata: dict[str, str] | None = None,
) -> None:
    """Write a weights file through a temporary name; `training` state rides along under its own prefix."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    tensors |= {TRAINING_PREFIX + name: tensor for name, tensor in (training or {}).items()}
    metadata = {
        "format": FORMAT,
        "preset": preset,
        "config": config_to_json(model.config),
        "categories": json.dumps(categories),
        **(training_metadata or {}),
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata)


def load_weights(path: Path, parts: tuple[type, ...] = ()) -> WeightsFile:
    """Read a file that `save_weights` wrote; `parts` are the configurations of your own that it may have.

    ValueError where it is something else or damaged.
    """
    tensors, metadata = read_safetensors(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: not a weights file of minimaskrcnn (format {metadata.get('format')!r})")
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(TRAINING_PREFIX)}
    categories = [CategoryName(*row) for row in json.loads(metadata["categories"])]
    config = config_from_json(metadata["config"], parts)
    return WeightsFile(weights, config, metadata["preset"], categories)


def read_safetensors(path: Path) -> tuple[StateDict, dict[str, str]]:
    """All tensors and the metadata of a safetensors file; ValueError where it cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error


def load_model(path: Path, parts: tuple[type, ...] = ()) -> tuple[MaskRCNN, WeightsFile]:
    """The model of a weights file, in evaluation mode, and the file's content; `parts` as in `load_weights`."""
    file = load_weights(path, parts)
    model = MaskRCNN(file.config)
    load_exactly(model, file.state_dict, path)
    return model.eval(), file


def load_exactly(model: nn.Module, state_dict: StateDict, path: Path) -> None:
    """Load all tensors; ValueError that names the first one that is missing, unknown or of another shape."""
    own = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: list(tensor.shape) for name, tensor in state_dict.items()}
    for name in sorted(own.keys() | given.keys()):
        if own.get(name) != given.get(name):
            sizes = f"the network has {own.get(name, 'none')}, the file {given.get(name, 'none')}"
            raise ValueError(f"{path}: not the weights of this network: of {name!r} {sizes}")
    model.load_state_dict(state_dict)


# torchvision's names (new ones) to ours, tried in this order on the start of each name.
_RESNET = (
    (r"^conv1\.", "stem.0."),
    (r"^bn1\.", "stem.1."),
    (r"^layer(\d)\.", lambda m: f"stages.{int(m[1]) - 1}."),
    (r"\.bn(\d)\.", r".norm\1."),
    (r"\.downsample\.", ".shortcut."),
)
_DETECTOR = (
    (r"^backbone\.fpn\.inner_blocks\.(\d)\.(0\.)?", r"fpn.lateral.\1."),
    (r"^backbone\.fpn\.layer_blocks\.(\d)\.(0\.)?", r"fpn.smooth.\1."),
    (r"^rpn\.head\.conv\.(0\.0\.)?", "rpn.conv."),
    (r"^rpn\.head\.cls_logits\.", "rpn.objectness."),
    (r"^rpn\.head\.bbox_pred\.", "rpn.deltas."),
    (r"^roi_heads\.box_head\.fc6\.", "box_head.fc1."),
    (r"^roi_heads\.box_head\.fc7\.", "box_head.fc2."),
    (r"^roi_heads\.box_predictor\.cls_score\.", "box_head.classifier."),
    (r"^roi_heads\.box_predictor\.bbox_pred\.", "box_head.deltas."),
    (r"^roi_heads\.mask_head\.(\d)\.0\.", r"mask_head.convs.\1."),
    (r"^roi_heads\.mask_head\.mask_fcn(\d)\.", lambda m: f"mask_head.convs.{int(m[1]) - 1}."),
    (r"^roi_heads\.mask_predictor\.conv5_mask\.", "mask_head.deconv."),
    (r"^roi_heads\.mask_predictor\.mask_fcn_logits\.", "mask_head.predictor."),
    # A sequence of convolutions and ReLUs in turn.
    (r"^roi_heads\.keypoint_head\.(\d+)\.", lambda m: f"keypoint_head.convs.{int(m[1]) // 2}."),
    (r"^roi_heads\.keypoint_predictor\.kps_score_lowres\.", "keypoint_head.deconv."),
)


def from_torchvision(state_dict: StateDict) -> StateDict:
    """torchvision's Mask, Faster or Keypoint R-CNN with `resnet50_fpn`, or its ResNet or ResNeXt, under our names.

    Old and new key names of the detection models are understood; a ResNet's classifier is left out, and its
    tensors come back under `resnet.`.  Raises ValueError for a key that none of them has.
    """
    detector = any(name.startswith("backbone.body.") for name in state_dict)
    renamed = {}
    for name, tensor in state_dict.items():
        if name.endswith("num_batches_tracked") or (not detector and name.startswith("fc.")):
            continue
        body = name.removeprefix("backbone.body.") if detector else name
        table = _RESNET if not detector or body != name else _DETECTOR
        new = body
        for pattern, replacement in table:
            new = re.sub(pattern, replacement, new)
        if new == body:
            raise ValueError(
                f"{name!r} is no parameter of torchvision's Mask, Faster or Keypoint R-CNN or ResNet"
            )
        renamed[f"resnet.{new}" if table is _RESNET else new] = tensor
    return renamed


def torchvision_coco_v1(config: MaskRCNNConfig) -> MaskRCNNConfig:
    """`config` with the norm's eps of torchvision's published COCO_V1 weights; the rest is the default already."""
    return dataclasses.replace(config, resnet=dataclasses.replace(config.resnet, norm_eps=0.0))


class AnyWeights(NamedTuple):
    """Weights of ours or of others, under our names."""

    state_dict: StateDict
    detectron2: Detectron2Network | None
    """Where they are detectron2's: its network, for whose semantics `presets.as_detectron2` stands."""
    file: WeightsFile | None = None
    """Where they are ours: all that the file says."""


def read_any(path: Path) -> AnyWeights:
    """The weights of a file of ours (`.safetensors`), of torchvision's (`.pth`) or of detectron2's (`.pkl`, `.pth`).

    FileNotFoundError where there is none, ValueError where it is none of them.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights file")
    if path.suffix == ".safetensors":
        file = load_weights(path)
        return AnyWeights(file.state_dict, None, file)
    if path.suffix == ".pkl":
        return _detectron2_weights(read_detectron2(path), path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, struct.error) as error:
        # The last two are what torch's reader of its older format raises for bytes that are something else.
        raise ValueError(f"{path}: neither .safetensors nor a plain state dict of torch") from error
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        return _detectron2_weights(detectron2_arrays(content, path), path)
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise ValueError(f"{path}: expected a dict of tensors, as torchvision's .pth files are")
    return AnyWeights(from_torchvision(content), None)


def _detectron2_weights(model: Mapping[str, np.ndarray | Tensor], path: Path) -> AnyWeights:
    try:
        return AnyWeights(from_detectron2(model), describe_detectron2(model))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def load_any(path: Path, parts: tuple[type, ...] = ()) -> tuple[MaskRCNN, list[CategoryName]]:
    """The model of a file of ours, torchvision's or detectron2's, in evaluation mode, and what its labels mean.

    `parts` as `load_weights` takes them.  Files of others say nothing of their semantics.  torchvision's: 91 classes
    are taken for COCO's category ids, and the norm's eps is that of its published weights, 0.0.  detectron2's: those
    of its model zoo, labels by sorted id.
    """
    if path.suffix == ".safetensors" and path.is_file():
        model, file = load_model(path, parts)
        return model, file.categories
    state_dict, network, _ = read_any(path)
    if "box_head.classifier.weight" not in state_dict:
        raise ValueError(f"{path}: a backbone alone; give a detector's weights")
    classes = len(state_dict["box_head.classifier.weight"])
    if network is not None:
        config = detectron2_config(network)
        names = _contiguous_names(classes)
    else:
        parts = {name.partition(".")[0] for name in state_dict}
        config = torchvision_coco_v1(_torchvision_config(parts, classes))
        ids = [CategoryName(category_id, category_id, name) for category_id, name in COCO_NAMES]
        names = ids if classes == 91 else _contiguous_names(classes)
    model = MaskRCNN(config)
    load_exactly(model, state_dict, path)
    return model.eval(), names


def _torchvision_config(parts: set[str], classes: int) -> MaskRCNNConfig:
    if "keypoint_head" in parts:
        return keypointrcnn_resnet50_fpn.config(classes)
    preset = maskrcnn_resnet50_fpn if "mask_head" in parts else fasterrcnn_resnet50_fpn
    return preset.config(classes)


def _contiguous_names(classes: int) -> list[CategoryName]:
    """What labels 1, 2, ... mean: COCO's 80 categories by id, its person alone, or nothing that is known."""
    if classes in (2, len(COCO_NAMES) + 1):
        known = sorted(COCO_NAMES)[: classes - 1]
        return [CategoryName(label, *category) for label, category in enumerate(known, start=1)]
    return [CategoryName(label, label, str(label)) for label in range(1, classes)]


def detectron2_config(network: Detectron2Network) -> MaskRCNNConfig:
    """The configuration of a network of detectron2's model zoo, with its semantics."""
    preset = maskrcnn_resnet50_fpn
    if network.kind == "c4":
        preset = maskrcnn_resnet50_c4
    elif network.kind == "dc5":
        preset = maskrcnn_resnet50_c5
    config = preset.config(network.num_classes)
    resnet = dataclasses.replace(
        config.resnet,
        depth=network.depth,
        groups=network.groups,
        group_width=network.width_per_group,
        dilated_c5=network.kind == "dc5",
    )
    people = keypointrcnn_resnet50_fpn.config(network.num_classes)
    if network.has_keypoints:
        config = dataclasses.replace(config, transform=people.transform, keypoint_head=people.keypoint_head)
    masks = config.mask_head if network.has_masks else None
    return as_detectron2(dataclasses.replace(config, resnet=resnet, mask_head=masks))
