"""Fine-tuning: training that starts from weights of another data set, another head or another package.

Weights mean something only with the semantics that they were trained with: the scale and order of pixels, the norm's
eps, the place of a stride.  `starting_config` gives a configuration these; `load_matching` takes over what fits.
"""

from dataclasses import replace

from torch import nn

from minimaskrcnn.mask_rcnn import MaskRCNNConfig
from minimaskrcnn.presets import as_detectron2
from minimaskrcnn.weights import AnyWeights, StateDict, torchvision_coco_v1


def starting_config(config: MaskRCNNConfig, preset: str, given: AnyWeights) -> MaskRCNNConfig:
    """`config`, which is `preset`'s, with the semantics of the weights it is to start from.

    A file of ours with the same preset brings its whole configuration, but for the number of classes.  torchvision's
    detectors have the eps of its COCO_V1 weights, and a ResNet alone has none of its own.
    """
    if given.detectron2 is not None:
        config = as_detectron2(config)
        dilated = given.detectron2.kind == "dc5" and config.fpn is None and config.resnet.stages == 4
        return replace(config, resnet=replace(config.resnet, dilated_c5=dilated))
    if given.file is None:
        return torchvision_coco_v1(config) if "box_head.classifier.weight" in given.state_dict else config
    theirs = given.file.config
    if given.file.preset == preset:
        return replace(theirs, num_classes=config.num_classes)
    config = as_detectron2(config) if theirs.transform.bgr else config
    return replace(config, resnet=replace(config.resnet, norm_eps=theirs.resnet.norm_eps))


def load_matching(model: nn.Module, state_dict: StateDict) -> list[str]:
    """Load every tensor whose name and shape fit; returns the names of the model's that start afresh.

    A backbone's fifth stage is the box head's where that has one (C4), and the other way round.  Raises ValueError
    where nothing fits, or not all of a backbone: half of one is worth nothing.
    """
    own = model.state_dict()
    theirs = "box_head.res5."
    ours = "resnet.stages.3."
    if any(name.startswith(theirs) for name in own):
        theirs, ours = ours, theirs
    state_dict = {
        ours + name.removeprefix(theirs) if name.startswith(theirs) else name: value
        for name, value in state_dict.items()
    }
    fitting = {
        name: value for name, value in state_dict.items() if name in own and value.shape == own[name].shape
    }
    if not fitting:
        raise ValueError("no tensor of these weights fits the model: another architecture")
    strays = sorted(
        name
        for name in state_dict
        if name.startswith(("resnet.", "box_head.res5.")) and name not in fitting and not _counts(name)
    )
    if strays:
        raise ValueError(
            f"these weights have another backbone: {len(strays)} of its tensors have no place in the model, the "
            f"first {strays[0]!r}"
        )
    model.load_state_dict(fitting, strict=False)
    return sorted(name for name in set(own) - set(fitting) if not _counts(name))


def _counts(name: str) -> bool:
    """Whether this is batch norm's counter, which torchvision's files and frozen norms have not."""
    return name.endswith("num_batches_tracked")
