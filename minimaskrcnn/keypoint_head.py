"""Keypoint head: where the joints of a detected person are.

Mask R-CNN for human poses (section 5): each of K keypoints is a one-hot m × m mask, so a keypoint is found by a
softmax over the m² cells of its RoI: cells compete, keypoints do not.  The loss is cross-entropy, for the labelled
keypoints of positive RoIs.  A finer map than the mask head's (56 cells a side) is what localises joints.

A keypoint falls in the cell floor((x - x1) · m / width), half-open as pixels are; decoding, which reads a cell's
centre, is in `ops/keypoints.py`.

Letters: R RoIs, K keypoints, m cells along each side of a heat map, P bins along each side of a pooled RoI.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from minimaskrcnn.box_head import RoIs
from minimaskrcnn.data.targets import GroundTruth
from minimaskrcnn.losses import Loss, full_precision
from minimaskrcnn.norms import Norm, make_norm
from minimaskrcnn.options import CheckedOptions
from minimaskrcnn.padded import Rows

# The class that cross-entropy leaves out.
IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class KeypointHeadConfig(CheckedOptions):
    """Numbers of Mask R-CNN, section 5."""

    num_keypoints: int = 17
    """COCO's, of a person."""
    pooled_size: int = 14
    """Bins along each side; heat maps have four times as many."""
    channels: int = 512
    """Of the convolutions."""
    convs: int = 8
    """3×3 convolutions before the deconvolution."""
    norm: Norm = "none"
    """After each of them; for training from scratch."""
    loss_divisor: Literal["visible", "nominal"] = "visible"
    """Number of visible keypoints in the sampled RoIs (torchvision), or, detectron2's static one, the number of RoIs
    that could be positive times `num_keypoints`."""
    score: Literal["logit", "softmax"] = "logit"
    """Of a decoded keypoint: torchvision's, or detectron2's (`ops/keypoints.py`)."""
    pixel_centres: bool = False
    """COCO's keypoints are indices of pixels: take them for these pixels' centres, half a pixel on (detectron2), or
    as coordinates like those of boxes (torchvision)."""

    @property
    def heatmap_size(self) -> int:
        """Cells along each side: the deconvolution doubles the bins, and bilinear upsampling doubles them again."""
        return 4 * self.pooled_size


def keypoint_targets(
    keypoints: Float[Tensor, "R K 3"], boxes: Float[Tensor, "R 4"], size: int
) -> tuple[Int64[Tensor, "R K"], Bool[Tensor, "R K"]]:
    """The cell y · size + x of each keypoint (x, y, v) in its box, and whether it counts: v > 0 and inside the box.

    Keypoints and boxes are in the same pixels.  A keypoint on the right or lower edge falls in the last cell.  The
    cell is 0 where it does not count; in a box without width or height none does.
    """
    point = keypoints[..., :2]
    corner = boxes[:, None, :2]
    end = boxes[:, None, 2:]
    extent = end - corner
    # torchvision's order of operations: another last bit could cross the edge of a cell.
    cell = ((point - corner) * (size / extent)).floor()
    cell = torch.where(point == end, size - 1, cell)
    # Comparisons are false for the NaN of a degenerate box; only numbers that passed them become integers.
    inside = ((cell >= 0) & (cell < size) & (extent > 0)).all(dim=-1)
    counts = inside & (keypoints[..., 2] > 0)
    x, y = torch.where(counts[..., None], cell, 0).long().unbind(-1)
    return y * size + x, counts


def keypoint_loss(
    logits: Float[Tensor, "R K m m"],
    keypoints: Float[Tensor, "R K 3"],
    boxes: Float[Tensor, "R 4"],
    positive: Bool[Tensor, " R"],
) -> Loss:
    """Cross-entropy over the m² cells of the visible keypoints of positive RoIs (section 5); counts these keypoints.

    `keypoints` are those of each RoI's matched person, in the boxes' pixels; `keypoint_targets` says which of them
    count.  Zero (with a graph) where there are none.
    """
    cell, counts = keypoint_targets(keypoints, boxes, logits.shape[-1])
    counts = counts & positive[:, None]
    target = torch.where(counts, cell, IGNORED).flatten()
    scores = logits.flatten(2).flatten(0, 1)
    total = F.cross_entropy(scores, target, ignore_index=IGNORED, reduction="sum")
    return Loss(total, counts.sum())


def keypoint_losses(
    logits: Float[Tensor, "R K m m"],
    rois: RoIs,
    truth: GroundTruth,
    rows: Rows,
    config: KeypointHeadConfig,
) -> dict[str, Loss]:
    """The loss of `rows` of the RoIs, for which `logits` are predicted."""
    points = truth.keypoints[rows.image, rows.of(rois.gt_index)]
    # No gradient runs through a keypoint's cell.
    boxes = rows.of(rois.boxes).detach()
    loss = keypoint_loss(logits, points, boxes, rows.of(rois.positive))
    if config.loss_divisor == "nominal":
        loss = replace(loss, count=torch.full_like(loss.count, rois.positive.numel() * config.num_keypoints))
    return {"loss_keypoint": loss}


class KeypointHead(nn.Module):
    """Convolutions at pooled size, a deconvolution to K maps of twice that size, and bilinear upsampling to four."""

    def __init__(self, in_channels: int, config: KeypointHeadConfig) -> None:
        super().__init__()
        self.config = config
        widths = [in_channels] + [config.channels] * config.convs
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(make_norm(config.norm, channels) for channels in widths[1:])
        self.deconv = nn.ConvTranspose2d(widths[-1], config.num_keypoints, 4, stride=2, padding=1)
        for layer in [*self.convs, self.deconv]:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, pooled: Float[Tensor, "R C P P"]) -> Float[Tensor, "R K m m"]:
        """The logits of each keypoint's heat map."""
        x = pooled
        for conv, norm in zip(self.convs, self.norms):
            x = F.relu(norm(conv(x)))
        coarse = full_precision(self.deconv(x))
        return F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
