"""A network's configuration as JSON, for the metadata of weights files, and back.

Each part is an object of its fields and, under "type", the name of its class: a head that stands in another's place
is another class.  Files of version 0.1.0 have no types; there a part's field said which variant it was.
"""

import dataclasses
import json
from typing import Any

from minimaskrcnn.anchors import AnchorConfig
from minimaskrcnn.box_head import FCBoxHeadConfig, Res5BoxHeadConfig
from minimaskrcnn.data.transforms import TransformConfig
from minimaskrcnn.fpn import FPNConfig
from minimaskrcnn.keypoint_head import KeypointHeadConfig
from minimaskrcnn.mask_head import FCNMaskHeadConfig, MLPMaskHeadConfig, SigmoidMasks, SoftmaxMasks
from minimaskrcnn.mask_rcnn import MaskRCNNConfig
from minimaskrcnn.pooler import RoIAlignConfig, RoIPoolConfig, RoIWarpConfig
from minimaskrcnn.resnet import ResNetConfig
from minimaskrcnn.rpn import RPNConfig

PARTS: tuple[type, ...] = (
    MaskRCNNConfig,
    TransformConfig,
    ResNetConfig,
    FPNConfig,
    AnchorConfig,
    RPNConfig,
    RoIAlignConfig,
    RoIPoolConfig,
    RoIWarpConfig,
    FCBoxHeadConfig,
    Res5BoxHeadConfig,
    FCNMaskHeadConfig,
    MLPMaskHeadConfig,
    SigmoidMasks,
    SoftmaxMasks,
    KeypointHeadConfig,
)


def config_to_json(config: MaskRCNNConfig) -> str:
    """The configuration as text; parts of your own are written by their class's name."""
    return json.dumps(_to_json(config))


def config_from_json(text: str, parts: tuple[type, ...] = ()) -> MaskRCNNConfig:
    """The configuration that `config_to_json` wrote; `parts` are the classes of your own that it may have.

    Raises ValueError for classes and fields that do not exist here.
    """
    content = json.loads(text)
    if "type" not in content:
        content = _of_version_0_1(content)
    return _build(content, {kind.__name__: kind for kind in (*PARTS, *parts)})


def _to_json(value: Any) -> Any:
    if not dataclasses.is_dataclass(value):
        return value
    fields = {field.name: _to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return {"type": type(value).__name__, **fields}


def _build(value: Any, kinds: dict[str, type]) -> Any:
    if isinstance(value, list):
        return tuple(_build(item, kinds) for item in value)
    if not isinstance(value, dict):
        return value
    name = value.get("type")
    if name not in kinds:
        raise ValueError(f"no configuration is called {name!r}: a class of your own goes into `parts`")
    known = {field.name for field in dataclasses.fields(kinds[name])}
    unknown = sorted(set(value) - known - {"type"})
    if unknown:
        raise ValueError(f"{name} has no field {', '.join(unknown)}")
    return kinds[name](**{key: _build(item, kinds) for key, item in value.items() if key != "type"})


# ---- version 0.1.0

# Parts without variants.
_PLAIN = {
    "transform": "TransformConfig",
    "resnet": "ResNetConfig",
    "fpn": "FPNConfig",
    "anchors": "AnchorConfig",
    "rpn": "RPNConfig",
    "keypoint_head": "KeypointHeadConfig",
}
_POOLERS = {"roi_align": "RoIAlignConfig", "roi_pool": "RoIPoolConfig", "roi_warp": "RoIWarpConfig"}
# Fields of another variant, which a part had all the same.
_UNUSED = {
    "RoIPoolConfig": {"mode", "sampling_ratio", "aligned"},
    "RoIWarpConfig": {"aligned"},
    "FCBoxHeadConfig": {"res5_stride"},
    "Res5BoxHeadConfig": {"convs", "norm", "hidden"},
    "FCNMaskHeadConfig": {"hidden_layers", "hidden"},
    "MLPMaskHeadConfig": {"channels", "convs", "norm"},
}


def _of_version_0_1(old: dict[str, Any]) -> dict[str, Any]:
    """The content of such a file with the types that its fields mean."""
    new = {"type": "MaskRCNNConfig", **old}
    for part, value in old.items():
        if not isinstance(value, dict):
            continue
        value = dict(value)
        if part in _PLAIN:
            name = _PLAIN[part]
        elif part == "pooler":
            name = _POOLERS[value.pop("operation", "roi_align")]
        elif part == "box_head":
            name = "Res5BoxHeadConfig" if value.pop("trunk", "fc") == "res5" else "FCBoxHeadConfig"
        elif part == "mask_head":
            name = "MLPMaskHeadConfig" if value.pop("branch", "fcn") == "mlp" else "FCNMaskHeadConfig"
            value["activation"] = {
                "type": "SoftmaxMasks" if value.pop("activation", "sigmoid") == "softmax" else "SigmoidMasks",
                "class_agnostic": value.pop("class_agnostic", False),
            }
        else:
            raise ValueError(f"MaskRCNNConfig has no field {part}")
        kept = {key: item for key, item in value.items() if key not in _UNUSED.get(name, ())}
        if "res5_stride" in kept:
            kept["stride"] = kept.pop("res5_stride")
        new[part] = {"type": name, **kept}
    return new
