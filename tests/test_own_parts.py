"""A user's own backbone and box head in the place of ours: README's two examples, trained, saved and read."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from models import random_image, random_target, tiny_config
from torch import nn

from minimaskrcnn.box_head import BoxHead, BoxHeadConfig
from minimaskrcnn.mask_rcnn import MaskRCNN
from minimaskrcnn.resnet import BackboneConfig
from minimaskrcnn.weights import load_model, save_weights


# A backbone in 13 lines.
@dataclass(frozen=True, kw_only=True)
class PlainConfig(BackboneConfig):
    channels: tuple[int, ...] = (16, 32, 64)
    strides: tuple[int, ...] = (4, 8, 16)

    def build(self) -> nn.Module:
        return Plain(self)


class Plain(nn.Module):
    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        steps = zip((3, *config.channels), config.channels, (4, 2, 2))
        self.steps = nn.ModuleList(nn.Conv2d(a, b, 2 * step, step, step // 2) for a, b, step in steps)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x := step(x).relu() for step in self.steps]
# The end of it.


# A box head in 11 lines.
@dataclass(frozen=True, kw_only=True)
class LinearHeadConfig(BoxHeadConfig):
    def build(self, channels: int, num_classes: int, backbone: BackboneConfig | None) -> BoxHead:
        return LinearHead(channels * self.pooled_size**2, num_classes, self)


class LinearHead(BoxHead):
    def __init__(self, width: int, num_classes: int, config: LinearHeadConfig) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(width, num_classes)
        self.deltas = nn.Linear(width, 4 * num_classes)

    def hidden(self, shared: torch.Tensor) -> torch.Tensor:
        return shared.flatten(1)
# The end of it.


@pytest.mark.parametrize(
    "part",
    [{"resnet": PlainConfig()}, {"box_head": LinearHeadConfig(pooled_size=4, rois_per_image=16)}],
    ids=["backbone", "box head"],
)
def test_a_part_of_ones_own_trains_and_survives_a_file(part, tmp_path):
    torch.manual_seed(0)
    model = MaskRCNN(replace(tiny_config(), **part))
    losses = model([random_image(48, 64)], [random_target(48, 64, 3)])
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    path = tmp_path / "own.safetensors"
    save_weights(path, model, preset="own", categories=[])
    again, file = load_model(path, parts=(PlainConfig, LinearHeadConfig))
    assert file.config == model.config
    with torch.no_grad():
        (found,) = again([random_image(48, 64)])
        (expected,) = model.eval()([random_image(48, 64)])
    assert all(torch.equal(found[name], expected[name]) for name in expected) and len(found["boxes"])
    with pytest.raises(ValueError, match=r"is called '\w+': a class of your own goes into `parts`"):
        load_model(path)


def test_they_are_short():
    text = Path(__file__).read_text(encoding="utf-8")
    examples = re.findall(r"^# A [a-z ]+ in (\d+) lines\.\n(.*?)^# The end of it\.", text, re.S | re.M)
    counts = [len([line for line in code.splitlines() if line.strip()]) for _, code in examples]
    assert counts == [int(said) for said, _ in examples] and max(counts) <= 15
