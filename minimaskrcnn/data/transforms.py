"""From a list of pictures of any size to one batch (paper, section 3.1); `targets.py` does the same for targets.

A picture is a float `[3, h, w]` tensor in 0..1; a target is a dict of the objects in it.  The model
normalises each channel, resizes so that the shorter side is `min_size` unless the longer would exceed
`max_size`, and pads with zeros on the right and at the bottom, to the largest size of the batch rounded up
to `size_divisor`. Arithmetic and order are those of torchvision's GeneralizedRCNNTransform: weights trained
there see the same pixels.

The only random changes of a training picture are the horizontal flip and, where several are given, the
choice of the shorter side, both drawn from the caller's generator.  Left out: colour, scale and crop
jitter, which the paper does not use.

Axes: B images, G objects of an image, K keypoints, H W the padded picture, h w a picture's own size.
"""

from dataclasses import dataclass
from typing import NamedTuple, NotRequired, TypedDict

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

ImageSize = tuple[int, int]  # (height, width)

# COCO's 17 keypoints: nose, then left and right eye, ear, shoulder, elbow, wrist, hip, knee, ankle.
FLIPPED_KEYPOINT = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)


class Target(TypedDict):
    """The objects of one picture, in its own pixels."""

    boxes: Float[Tensor, "G 4"]  # xyxy
    labels: Int64[Tensor, " G"]  # 1..N - 1
    masks: NotRequired[Bool[Tensor, "G h w"] | UInt8[Tensor, "G h w"]]
    keypoints: NotRequired[Float[Tensor, "G K 3"]]  # x, y, v (0 not labelled, 1 hidden, 2 visible)
    image_id: NotRequired[int]
    annotation_ids: NotRequired[list[int]]  # of the G objects
    left_out: NotRequired[list[int]]  # annotations without area: no box or no mask pixel inside the picture
    min_size: NotRequired[int]  # the shorter side drawn for this sample by multi-scale training


class Sample(NamedTuple):
    """One picture and what is in it."""

    image: Float[Tensor, "3 h w"]  # 0..1
    target: Target


@dataclass(frozen=True)
class Batch:
    """Pictures as the network takes them."""

    tensor: Float[Tensor, "B 3 H W"]  # normalised, zero where padded
    image_sizes: list[ImageSize]  # after resizing, before padding
    original_sizes: list[ImageSize]  # as the caller gave them

    @property
    def padded_size(self) -> ImageSize:
        """The tensor's (H, W)."""
        return self.tensor.shape[-2], self.tensor.shape[-1]


@dataclass(frozen=True, kw_only=True)
class TransformConfig:
    """What happens to a picture before the network: sizes in pixels, mean and std of values in 0..1."""

    min_sizes: tuple[int, ...] = (800,)  # section 3.1; the last is used unless the caller chooses
    max_size: int = 1333  # torchvision and detectron2; the paper names none
    size_divisor: int = 32  # the stride of the coarsest backbone map, so that every level divides evenly
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # ImageNet, RGB
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    bgr: bool = False  # channels in this order, mean and std too; detectron2
    scale: float = 1.0  # of the values before mean and std: 255 for detectron2


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes of a training sample."""

    flip_probability: float = 0.5  # horizontal only; Fast R-CNN's, which the paper inherits
    min_sizes: tuple[int, ...] = ()  # draw `target["min_size"]` from these; empty: leave it to the model


def resized_size(image_size: ImageSize, min_size: int, max_size: int) -> ImageSize:
    """Size of a picture whose shorter side becomes `min_size` unless the longer would exceed `max_size`.

    Fractions are cut off, in float64 as torchvision does, so `min_size` may come out one pixel short; a side
    never falls below one pixel.  ValueError where a size is not positive.
    """
    if min(*image_size, min_size, max_size) < 1:
        raise ValueError(f"sizes must be positive: picture {image_size}, min {min_size}, max {max_size}")
    scale = min(min_size / min(image_size), max_size / max(image_size))
    return max(1, int(image_size[0] * scale)), max(1, int(image_size[1] * scale))


def resize_image(image: Float[Tensor, "C h w"], size: ImageSize) -> Float[Tensor, "C H W"]:
    """Bilinear, pixel centres at half-integers, no antialiasing (torchvision's default)."""
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]


def resize_masks(masks: Bool[Tensor, "G h w"], size: ImageSize) -> Bool[Tensor, "G H W"]:
    """Nearest pixel, by flooring (F.interpolate's "nearest")."""
    if not len(masks):
        return masks.new_zeros(0, *size)
    if masks.shape[-2:] == size:
        return masks
    return F.interpolate(masks.view(torch.uint8)[:, None], size=size, mode="nearest")[:, 0].view(torch.bool)


def resize_boxes(
    boxes: Float[Tensor, "*n 4"], old_size: ImageSize, new_size: ImageSize
) -> Float[Tensor, "*n 4"]:
    """Scale boxes with their picture.  The ratio is rounded to float32, as torchvision rounds it."""
    ratio_y, ratio_x = _size_ratios(old_size, new_size)
    return boxes * boxes.new_tensor([ratio_x, ratio_y, ratio_x, ratio_y])


def resize_keypoints(
    keypoints: Float[Tensor, "*n 3"], old_size: ImageSize, new_size: ImageSize
) -> Float[Tensor, "*n 3"]:
    """Scale x and y with their picture; v stays."""
    ratio_y, ratio_x = _size_ratios(old_size, new_size)
    return keypoints * keypoints.new_tensor([ratio_x, ratio_y, 1.0])


def shift_keypoints(keypoints: Float[Tensor, "*n 3"], offset: float) -> Float[Tensor, "*n 3"]:
    """Keypoints (x, y, v) moved by `offset` pixels right and down."""
    return keypoints + keypoints.new_tensor([offset, offset, 0.0])


def normalize(image: Float[Tensor, "3 h w"], config: TransformConfig) -> Float[Tensor, "3 h w"]:
    """(image · scale - mean) / std per channel, in the picture's own dtype and the network's order of channels."""
    if config.bgr:
        image = image.flip(0)
    if config.scale != 1:
        image = image * config.scale
    return (image - image.new_tensor(config.mean)[:, None, None]) / image.new_tensor(config.std)[
        :, None, None
    ]


def pad_batch(images: list[Tensor], size_divisor: int) -> tuple[Float[Tensor, "B C H W"], list[ImageSize]]:
    """Stack pictures `[C, h, w]` at the top left of one zero tensor, H and W multiples of `size_divisor`."""
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    height, width = (-(-max(side) // size_divisor) * size_divisor for side in zip(*sizes))
    batch = images[0].new_zeros(len(images), images[0].shape[0], height, width)
    for slot, image, (h, w) in zip(batch, images, sizes):
        slot[:, :h, :w] = image
    return batch, sizes


def hflip(image: Float[Tensor, "3 h w"], target: Target) -> Sample:
    """Mirror left and right: pixel column x becomes w - 1 - x, an edge at x becomes w - x.

    A keypoint is a pixel's index in COCO's files, so it moves as pixels do; left and right parts change
    places, and a keypoint with v = 0 becomes (0, 0, 0).  ValueError unless keypoints are COCO's 17.
    """
    width = image.shape[-1]
    x1, y1, x2, y2 = target["boxes"].unbind(-1)
    flipped: Target = {**target, "boxes": torch.stack([width - x2, y1, width - x1, y2], dim=-1)}
    if "masks" in target:
        flipped["masks"] = target["masks"].flip(-1)
    if "keypoints" in target:
        keypoints = target["keypoints"]
        if keypoints.shape[1] != len(FLIPPED_KEYPOINT):
            raise ValueError(f"only COCO's 17 keypoints can be mirrored, got {list(keypoints.shape)}")
        x, y, v = keypoints[:, list(FLIPPED_KEYPOINT)].unbind(-1)
        mirrored = [torch.where(v > 0, width - 1 - x, 0.0), torch.where(v > 0, y, 0.0), v]
        flipped["keypoints"] = torch.stack(mirrored, dim=-1)
    return Sample(image.flip(-1), flipped)


def augment(sample: Sample, config: AugmentConfig, generator: torch.Generator) -> Sample:
    """Flip by chance, and draw `target["min_size"]` where `config.min_sizes` offers any.

    Both are drawn in every case, so one option never shifts the other's draws.
    """
    flip, size = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    image, target = sample
    if flip < config.flip_probability:
        image, target = hflip(image, target)
    if config.min_sizes:
        target = {**target, "min_size": config.min_sizes[int(size * len(config.min_sizes))]}
    return Sample(image, target)


def preprocess(
    images: list[Tensor], config: TransformConfig, min_size_choice: list[int] | None = None
) -> Batch:
    """Normalise, resize and pad pictures `[3, h, w]` in 0..1 into one batch.

    `min_size_choice` gives each picture's shorter side; None means `config.min_sizes[-1]` for all.
    Raises ValueError or TypeError for anything that is not a list of such pictures.
    """
    check_images(images)
    if min_size_choice is None:
        min_size_choice = [config.min_sizes[-1]] * len(images)
    if len(min_size_choice) != len(images):
        raise ValueError(f"{len(min_size_choice)} chosen sizes for {len(images)} pictures")
    original_sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    resized = [
        resize_image(normalize(image, config), resized_size(size, choice, config.max_size))
        for image, size, choice in zip(images, original_sizes, min_size_choice)
    ]
    tensor, image_sizes = pad_batch(resized, config.size_divisor)
    return Batch(tensor, image_sizes, original_sizes)


def check_images(images: list[Tensor]) -> None:
    """ValueError or TypeError unless `images` are `[3, h, w]` tensors of one floating dtype, at least one."""
    if not len(images):
        raise ValueError("expected at least one picture, got none")
    for i, image in enumerate(images):
        if image.dim() != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise ValueError(f"picture {i} must be [3, h, w], got {list(image.shape)}")
        if not image.is_floating_point() or image.dtype != images[0].dtype:
            raise TypeError(f"pictures must share one floating dtype, picture {i} has {image.dtype}")


def _size_ratios(old_size: ImageSize, new_size: ImageSize) -> tuple[float, float]:
    old = torch.tensor(old_size, dtype=torch.float32)
    ratio_y, ratio_x = (torch.tensor(new_size, dtype=torch.float32) / old).tolist()
    return ratio_y, ratio_x
