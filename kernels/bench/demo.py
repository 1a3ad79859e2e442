"""torchvision's Mask R-CNN in the demo's place: the same scenes, the same minutes, the same evaluation.

It gets what a fair comparison asks for: pictures at the size that the demo trains on, anchors that fit it, batch norm
(it starts from random weights, as the demo does), the demo's numbers of anchors, proposals and RoIs, its optimiser,
precision, augmentation and cosine schedule.  Its network stays torchvision's: ResNet-18 and a pyramid of 256
channels, the smallest on offer.

    python kernels/bench/demo.py --minutes 5
"""

import argparse
import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from pycocotools import mask as mask_utils

from minimaskrcnn.commands import demo_scenes
from minimaskrcnn.data.coco import CocoDataset, open_coco
from minimaskrcnn.data.loader import CachedDataset, make_loader, training_batches
from minimaskrcnn.engine.evaluate import Metrics, coco_metrics, format_metrics, to_results
from minimaskrcnn.engine.recipes import cpu_precision
from minimaskrcnn.engine.train import learning_rate, make_optimizer
from minimaskrcnn.mask_rcnn import MaskRCNNConfig
from minimaskrcnn.presets import PRESETS


def make_peer(config: MaskRCNNConfig, min_size: int) -> Any:
    """torchvision's MaskRCNN, ResNet-18-FPN, with `config`'s sampling.  ModuleNotFoundError without torchvision."""
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=torch.nn.BatchNorm2d, trainable_layers=5
    )
    sizes = tuple((size,) for size in (8, 16, 32, 64, 128))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    rpn = config.rpn
    head = config.box_head
    return MaskRCNN(
        backbone,
        config.num_classes,
        min_size=min_size,
        max_size=config.transform.max_size,
        rpn_anchor_generator=anchors,
        rpn_pre_nms_top_n_train=rpn.pre_nms_train,
        rpn_pre_nms_top_n_test=rpn.pre_nms_test,
        rpn_post_nms_top_n_train=rpn.post_nms_train,
        rpn_post_nms_top_n_test=rpn.post_nms_test,
        rpn_batch_size_per_image=rpn.anchors_per_image,
        box_batch_size_per_image=head.rois_per_image,
        box_positive_fraction=head.positive_fraction,
        box_fg_iou_thresh=head.positive_iou,
        box_bg_iou_thresh=head.positive_iou,
        box_detections_per_img=head.detections_per_image,
    )


def train_for(peer: Any, dataset: CocoDataset, minutes: float, batch_size: int) -> int:
    """Train for `minutes`; returns the steps that they sufficed for.  The schedule follows the clock."""
    recipe = replace(PRESETS["maskrcnn_toy"].training, batch_size=batch_size, precision=cpu_precision())
    optimizer = make_optimizer(peer, recipe)
    batches = training_batches(CachedDataset(dataset), batch_size=batch_size, seed=0, augment=recipe.augment)
    began = time.perf_counter()
    for step in itertools.count():
        done = (time.perf_counter() - began) / (60 * minutes)
        if done >= 1:
            return step
        # Warm up by steps, decay by the share of the time that is spent.
        position = step if step < recipe.warmup_steps else max(recipe.warmup_steps, int(done * recipe.steps))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(min(position, recipe.steps - 1), recipe)
        images, targets = next(batches)
        wanted = [{"boxes": t["boxes"], "labels": t["labels"], "masks": t["masks"].byte()} for t in targets]
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            losses = peer.train()(images, wanted)
        loss = sum(losses.values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), recipe.clip_norm)
        optimizer.step()
    raise AssertionError("unreachable")


@torch.no_grad()
def evaluate(peer: Any, dataset: CocoDataset) -> Metrics:
    """COCO's numbers of torchvision's model."""
    peer.eval()
    results = []
    for images, targets in make_loader(dataset, batch_size=8):
        for image, target, detection in zip(images, targets, peer(images)):
            size = (image.shape[-2], image.shape[-1])
            rows = to_results(detection, target["image_id"], size, dataset.category_of)
            bitmaps = (detection["masks"][:, 0] > 0.5).numpy().astype(np.uint8)
            for row, bitmap in zip(rows, bitmaps):
                row["segmentation"] = mask_utils.encode(np.asfortranarray(bitmap))
            results += rows
    return coco_metrics(dataset.annotation_file, results)


def run(out: Path, minutes: float, batch_size: int) -> None:
    """Train torchvision's model on the scenes of `out/toybox` for `minutes`, and print what it reaches."""
    root = demo_scenes(out / "toybox")
    dataset = open_coco(root, "train")
    held_out = open_coco(root, "val")
    recipe = PRESETS["maskrcnn_toy"]
    torch.manual_seed(0)
    model = make_peer(recipe.config(dataset.num_classes), recipe.training.augment.min_sizes[-1])
    steps = train_for(model, dataset, minutes, batch_size)
    print(f"torchvision, resnet18-FPN: {steps} steps of {batch_size} in {minutes:g} minutes")
    print(format_metrics(evaluate(model, held_out)))


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="torchvision's model on the demo's scenes.")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="where `demo` wrote its scenes")
    parser.add_argument("--minutes", type=common.positive_float, default=5.0, help="of training (default 5)")
    parser.add_argument("--batch-size", type=common.positive_int, default=8)
    options = parser.parse_args(arguments)
    common.run(parser, lambda: run(options.out, options.minutes, options.batch_size))


if __name__ == "__main__":
    main()
