"""Complaint 5 at full size: the memory of a training step with 500 objects in one picture, beside torchvision's."""

import subprocess
import sys

import pytest
from parity import torchvision

# A whole step of ResNet-50-FPN at 800 × 1088, where there are 217,413 anchors.
STEP = """
import resource, sys, torch
package, objects = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(2)
torch.manual_seed(0)
if package == "ours":
    from minimaskrcnn import maskrcnn_resnet50_fpn
    model = maskrcnn_resnet50_fpn(91)
else:
    from torchvision.models.detection import maskrcnn_resnet50_fpn
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
high, wide = 800, 1088
corner = torch.rand(objects, 2) * torch.tensor([wide - 40.0, high - 40.0])
boxes = torch.cat([corner, corner + 10 + 29 * torch.rand(objects, 2)], 1)
masks = torch.zeros(objects, high, wide, dtype=torch.uint8)
for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
    mask[y1:y2, x1:x2] = 1
target = {"boxes": boxes, "labels": torch.randint(1, 91, (objects,)), "masks": masks}
if package == "ours":
    target["masks"] = masks.view(torch.bool)
model.train()
losses = model([torch.rand(3, high, wide)], [target])
sum(losses.values()).backward()
assert all(loss.isfinite() for loss in losses.values())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak(package: str, objects: int) -> float:
    """Resident memory in MiB."""
    run = subprocess.run(
        [sys.executable, "-c", STEP, package, str(objects)], capture_output=True, text=True, check=True
    )
    return float(run.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_complaint_05_the_peak_of_500_objects_is_below_torchvisions():
    torchvision()
    ours, theirs = ({objects: peak(package, objects) for objects in (5, 500)} for package in ("ours", "torchvision"))
    for name, found in (("ours", ours), ("torchvision", theirs)):
        print(f"{name}: {found[5]:.0f} MiB with 5 objects, {found[500]:.0f} MiB with 500")
    assert ours[500] < theirs[500]
    # 500 masks of 800 × 1088 are 415 MiB, the caller's and the batch's own; beyond these a part that is bounded:
    # 256 MiB of masks as numbers at a time, and the heads on more RoIs that are positive.
    assert ours[500] - ours[5] < 2 * 415 + 700
