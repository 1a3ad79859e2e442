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
    return json.dumps(typed_fields(config))


def config_from_json(text: str, parts: tuple[type, ...] = ()) -> MaskRCNNConfig:
    """The configuration that `config_to_json` wrote; `parts` are the classes of your own that it may have.

    Raises ValueError for classes and fields that do not exist here.
    """
    content = json.loads(text)
    if "type" not in content:
        content = _of_version_0_1(content)
    return _build(content, {kind.__name__: kind for kind in (*PARTS, *parts)})


def typed_fields(value: Any) -> Any:
    """A configuration as a dict of its fields and its class's name; other values as they are."""
    if not dataclasses.is_dataclass(value):
        return value
    fields = {field.name: typed_fields(getattr(value, field.name)) for field in dataclasses.fields(value)}
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

# Of each part its class, or the field that says which of two or three; its other fields mean what they say.
_CLASSES = {
    "transform": "TransformConfig",
    "resnet": "ResNetConfig",
    "fpn": "FPNConfig",
    "anchors": "AnchorConfig",
    "rpn": "RPNConfig",
    "keypoint_head": "KeypointHeadConfig",
    "pooler": {"roi_align": "RoIAlignConfig", "roi_pool": "RoIPoolConfig", "roi_warp": "RoIWarpConfig"},
    "box_head": {"fc": "FCBoxHeadConfig", "res5": "Res5BoxHeadConfig"},
    "mask_head": {"fcn": "FCNMaskHeadConfig", "mlp": "MLPMaskHeadConfig"},
}
_CHOSEN_BY = {"pooler": "operation", "box_head": "trunk", "mask_head": "branch"}
# Fields of another class, which a part had all the same.
_UNUSED = {
    "RoIPoolConfig": {"mode", "sampling_ratio", "aligned"},
    "RoIWarpConfig": {"aligned"},
    "FCBoxHeadConfig": {"stride"},
    "Res5BoxHeadConfig": {"convs", "norm", "hidden"},
    "FCNMaskHeadConfig": {"hidden_layers", "hidden"},
    "MLPMaskHeadConfig": {"channels", "convs", "norm"},
}


def _of_version_0_1(old: dict[str, Any]) -> dict[str, Any]:
    """The content of such a file with the types that its fields mean."""
    parts = {name: _part(name, dict(value)) for name, value in old.items() if isinstance(value, dict)}
    return {"type": "MaskRCNNConfig", **old, **parts}


def _part(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    kind = _CLASSES.get(name, name)
    if isinstance(kind, dict):
        # What a file leaves out was the first.
        kind = kind[fields.pop(_CHOSEN_BY[name], next(iter(kind)))]
    if name == "mask_head":
        softmax = fields.pop("activation", "sigmoid") == "softmax"
        activation = {"type": "SoftmaxMasks" if softmax else "SigmoidMasks"}
        fields["activation"] = activation | {"class_agnostic": fields.pop("class_agnostic", False)}
    if "res5_stride" in fields:
        fields["stride"] = fields.pop("res5_stride")
    unused = _UNUSED.get(kind, ())
    return {"type": kind, **{key: value for key, value in fields.items() if key not in unused}}
