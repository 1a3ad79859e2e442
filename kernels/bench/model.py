"""A whole model's time, stage by stage, beside torchvision's in the same run.

Inference and a training step of a preset with random weights, on pictures of noise of one size, by the model's own
parts in its own order.  torchvision's time is that of its whole model, where it has one of the same layers, and is
taken in turn with ours.  Random weights find many objects, so the heads are as busy as they can be: real pictures
take less.

    python kernels/bench/model.py --preset maskrcnn_resnet50_fpn
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import common
import torch
from torch import Tensor

from minimaskrcnn.commands import recipe_of
from minimaskrcnn.data.transforms import Target, preprocess
from minimaskrcnn.devices import choose_device, describe_device
from minimaskrcnn.distributed import shared_means
from minimaskrcnn.markdown import table_lines
from minimaskrcnn.mask_rcnn import MaskRCNN, MaskRCNNConfig
from minimaskrcnn.postprocess import Detection
from minimaskrcnn.rpn import rpn_losses

Timed = Callable[..., Any]
# torchvision's class and backbone of the same layers.
PEERS = {
    "maskrcnn_resnet50_fpn": ("MaskRCNN", "resnet50"),
    "maskrcnn_resnet101_fpn": ("MaskRCNN", "resnet101"),
    "maskrcnn_resnext101_fpn": ("MaskRCNN", "resnext101_32x8d"),
    "fasterrcnn_resnet50_fpn": ("FasterRCNN", "resnet50"),
    "keypointrcnn_resnet50_fpn": ("KeypointRCNN", "resnet50"),
}
Row = tuple[str, float]


class Watch:
    """Milliseconds by stage; a GPU is waited for after each."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rows = list[Row]()

    def __call__(self, stage: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        result = call(*arguments, **options)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.rows.append((stage, 1000 * (time.perf_counter() - began)))
        return result


@torch.no_grad()
def inference(model: MaskRCNN, images: list[Tensor], timed: Timed) -> list[Detection]:
    """`model(images)`, each stage through `timed`."""
    batch = timed("resize, pad", preprocess, images, model.config.transform)
    features = timed("backbone", model.features, batch.tensor)
    scored = timed("RPN", model.rpn, features, model.strides, batch.padded_size)
    proposals = timed("proposals", model.propose, scored, batch.image_sizes, training=False)
    found = timed("box head", model.detect, features, proposals, batch.image_sizes)
    if model.mask_head is not None:
        found = timed("mask head", model.add_masks, features, found)
    if model.keypoint_head is not None:
        found = timed("keypoint head", model.add_keypoints, features, found)
    return timed("post-processing", model.to_pictures, found, batch, paste=True)


def training_step(model: MaskRCNN, images: list[Tensor], targets: list[Target], timed: Timed) -> Tensor:
    """The sum of the losses and its gradients, each stage through `timed`; the weights stay."""
    config = model.config
    model.zero_grad(set_to_none=True)
    batch = timed("resize, pad", preprocess, images, config.transform)
    features = timed("backbone", model.features, batch.tensor)
    scored = timed("RPN", model.rpn, features, model.strides, batch.padded_size)
    truth = timed("targets", model.ground_truth, targets, batch)
    proposals = timed("proposals", model.propose, scored, batch.image_sizes, training=True)
    losses = timed("RPN's losses", rpn_losses, scored, truth, config.rpn, None)
    rois = timed("sampling", model.sample, proposals, truth)
    seen = timed("RoI features", model.box_features, features, rois.boxes, rois.valid)
    losses |= timed("box head", model.box_losses, seen, rois, truth)
    if model.mask_head is not None:
        losses |= timed("mask head", model.mask_losses, features, seen, rois, truth)
    if model.keypoint_head is not None:
        losses |= timed("keypoint head", model.keypoint_losses, features, rois, truth)
    total = sum(shared_means(losses).values())
    timed("backward", total.backward)
    return total.detach()


def run(
    name: str,
    config: MaskRCNNConfig,
    device: torch.device,
    *,
    size: tuple[int, int],
    batch: int,
    repeats: int,
) -> None:
    """Print two tables, of inference and of a training step: medians of `repeats` runs in milliseconds."""
    # Given sizes are the network's: pictures are not resized, beyond the padding.
    transform = replace(config.transform, min_sizes=(min(size),), max_size=max(size))
    config = replace(config, transform=transform)
    torch.manual_seed(0)
    model = MaskRCNN(config).to(device, memory_format=torch.channels_last)
    peer = make_peer(name, config, size)
    if peer is not None:
        peer.to(device)
    images, targets = _pictures(size, batch, config, device)
    print(
        f"{name}, {batch} picture{'s' * (batch > 1)} of {size[0]} × {size[1]}, {describe_device(device)}, torch "
        f"{torch.__version__}; random weights, medians of {repeats} runs in ms"
    )
    theirs = [{**target, "masks": target["masks"].byte()} for target in targets]
    for title, ours, other in (
        (
            "inference",
            lambda watch: inference(model.eval(), images, watch),
            lambda: _peer_inference(peer.eval(), images),
        ),
        (
            "training step",
            lambda watch: training_step(model.train(), images, targets, watch),
            lambda: _peer_step(peer.train(), images, theirs),
        ),
    ):
        _print(title, *_measure(ours, other if peer is not None else None, device, repeats))


def make_peer(name: str, config: MaskRCNNConfig, size: tuple[int, int]) -> Any:
    """torchvision's model of the same layers, as many of them frozen; None where it has none or does not import."""
    if name not in PEERS or common.torchvision() is None:
        return None
    from torchvision.models import detection
    from torchvision.ops import FrozenBatchNorm2d

    kind, body = PEERS[name]
    backbone = detection.backbone_utils.resnet_fpn_backbone(
        backbone_name=body,
        weights=None,
        norm_layer=FrozenBatchNorm2d,
        trainable_layers=5 - config.resnet.frozen_stages,
    )
    options = {"num_classes": config.num_classes, "min_size": min(size), "max_size": max(size)}
    return getattr(detection, kind)(backbone, **options)


def _pictures(
    size: tuple[int, int], batch: int, config: MaskRCNNConfig, device: torch.device
) -> tuple[list[Tensor], list[Target]]:
    """Noise, and ten objects on each picture: whole boxes as masks, joints anywhere in them."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, *size, generator=generator).to(device) for _ in range(batch)]
    targets: list[Target] = []
    for _ in range(batch):
        extent = torch.tensor([size[1], size[0]])
        sides = extent * (0.1 + 0.3 * torch.rand(10, 2, generator=generator))
        corner = (extent - sides) * torch.rand(10, 2, generator=generator)
        boxes = torch.cat([corner, corner + sides], dim=1)
        masks = torch.zeros(10, *size, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.long().tolist()):
            mask[y1 : y2 + 1, x1 : x2 + 1] = True
        joints = corner[:, None] + sides[:, None] * torch.rand(10, 17, 2, generator=generator)
        target = {
            "boxes": boxes,
            "labels": torch.randint(1, config.num_classes, (10,), generator=generator),
            "masks": masks,
            "keypoints": torch.cat([joints, torch.full((10, 17, 1), 2.0)], dim=2),
        }
        targets.append({key: value.to(device) for key, value in target.items()})
    return images, targets


@torch.no_grad()
def _peer_inference(peer: Any, images: list[Tensor]) -> None:
    peer(images)


def _peer_step(peer: Any, images: list[Tensor], targets: list[Any]) -> None:
    peer.zero_grad(set_to_none=True)
    sum(peer(images, [dict(target) for target in targets]).values()).backward()


def _measure(
    ours: Callable[[Watch], None], other: Callable[[], None] | None, device: torch.device, repeats: int
) -> tuple[list[Row], float, float | None]:
    """Median milliseconds of each stage, of all of them together and of the peer, the two taken in turn."""
    runs = []
    peers = []
    for _ in range(repeats + 1):
        watch = Watch(device)
        ours(watch)
        runs.append(watch.rows)
        if other is not None:
            clock = Watch(device)
            clock("peer", other)
            peers.append(clock.rows[0][1])
    # The first run pays for memory and for compiled inner loops.
    stages = [name for name, _ in runs[0]]
    rows = [(name, median(rows[i][1] for rows in runs[1:])) for i, name in enumerate(stages)]
    total = median(sum(value for _, value in rows) for rows in runs[1:])
    return rows, total, median(peers[1:]) if peers else None


def _print(title: str, rows: list[Row], total: float, peer: float | None) -> None:
    table = [[title, "ms", "share"]]
    table += [[stage, f"{value:.1f}", f"{100 * value / total:.0f}%"] for stage, value in rows]
    table.append(["all", f"{total:.1f}", "100%"])
    if peer is not None:
        table.append(["torchvision", f"{peer:.1f}", ""])
    print("", *table_lines(table), sep="\n", flush=True)
    if peer is None:
        print("torchvision: no model of these layers, or it does not import here")
    else:
        print(f"torchvision's time / ours: {peer / total:.2f}")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="A whole model stage by stage, beside torchvision's.")
    parser.add_argument("--preset", default="maskrcnn_resnet50_fpn", help="the network")
    parser.add_argument(
        "--height", type=common.positive_int, default=800, help="of the pictures (default 800)"
    )
    parser.add_argument("--width", type=common.positive_int, default=1216, help="(default 1216)")
    parser.add_argument("--batch-size", type=common.positive_int, default=1)
    parser.add_argument(
        "--repeats", type=common.positive_int, default=3, help="runs of which the median counts"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda where there is one)")
    options = parser.parse_args(arguments)
    common.run(parser, lambda: _of_preset(options))


def _of_preset(options: argparse.Namespace) -> None:
    config = recipe_of(options.preset).config(91)
    if config.keypoint_head is not None:
        config = recipe_of(options.preset).config(2)
    run(
        options.preset,
        config,
        choose_device(options.device),
        size=(options.height, options.width),
        batch=options.batch_size,
        repeats=options.repeats,
    )


if __name__ == "__main__":
    main()
