"""Lesson 00's trained model, and pictures that it has never seen.

Training draws its scenes from the series crc32("0/train") and is measured on crc32("0/val"); the lesson has a series
of its own, so none of its pictures was ever trained on.
"""

from pathlib import Path

import numpy as np
import torch

from minimaskrcnn.data.toybox import CATEGORIES, ToyboxConfig, make_scene
from minimaskrcnn.data.toybox.coco_masks import bounding_box
from minimaskrcnn.data.transforms import Sample, Target

# lessons/models/README.md says how it was made.
MODEL = Path(__file__).parents[2] / "models" / "toybox.safetensors"
SERIES = 2017
# Labels are contiguous by sorted category id, as in the model's own table.
LABELS = {int(category["id"]): label for label, category in enumerate(CATEGORIES, 1)}


def scene(index: int) -> Sample:
    """Scene `index` of the lesson's series: the picture, `[3, h, w]` in 0..1, and the objects in it."""
    made = make_scene(ToyboxConfig(), SERIES, index)
    objects = [thing for thing in made.objects if not thing.iscrowd]
    corners = torch.tensor([bounding_box(thing.mask) for thing in objects]).view(-1, 4)
    target = Target(
        boxes=torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], dim=1),
        labels=torch.tensor([LABELS[thing.category_id] for thing in objects], dtype=torch.int64),
        masks=torch.from_numpy(
            np.array([thing.mask for thing in objects], bool).reshape(-1, *made.image.shape[:2])
        ),
    )
    return Sample(torch.from_numpy(made.image).permute(2, 0, 1).float() / 255, target)
