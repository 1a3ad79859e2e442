"""A trained model in three lines: a weights file in, a picture in, named things and a drawing out.

    predictor = minimaskrcnn.load("runs/coco/last.safetensors")
    found = predictor.find("street.jpg")
    found.draw().save("street.png")

`for thing in found` gives each thing's name, score, box, mask and keypoints, best first.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image, ImageOps
from torch import Tensor

from minimaskrcnn.data.pictures import read_image
from minimaskrcnn.devices import choose_device
from minimaskrcnn.draw import draw_detections
from minimaskrcnn.mask_rcnn import MaskRCNN
from minimaskrcnn.ops import paste_masks
from minimaskrcnn.postprocess import Detection
from minimaskrcnn.weights import load_any

Picture = str | Path | Image.Image | np.ndarray
"""A file, Pillow's picture, or an array uint8 [height, width, 3] of red, green and blue."""


@dataclass(frozen=True)
class Thing:
    """One thing that was found, in the picture's pixels."""

    name: str
    score: float
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2."""
    mask: Bool[np.ndarray, "h w"] | None
    """Of the picture's size; None of a model without masks."""
    keypoints: Float[np.ndarray, "K 3"] | None
    """(x, y, 1) of each; None of a model without keypoints."""


@dataclass(frozen=True)
class Found:
    """What a model found in one picture, from a score on; its things are read and counted like a list's."""

    image: Float[Tensor, "3 h w"]
    detection: Detection
    """As the model gives it with `paste=False`, best first, on the CPU."""
    names: dict[int, str]
    """Of labels."""
    exact_paste: bool

    def __len__(self) -> int:
        return len(self.detection["labels"])

    def __getitem__(self, index: int) -> Thing:
        found = self.detection
        label = int(found["labels"][index])
        x1, y1, x2, y2 = found["boxes"][index].tolist()
        mask = None
        if "mask_probs" in found:
            size = (self.image.shape[-2], self.image.shape[-1])
            probs = found["mask_probs"][index][None]
            mask = paste_masks(probs, found["boxes"][index][None], size, exact=self.exact_paste)[0].numpy()
        keypoints = found["keypoints"][index].numpy() if "keypoints" in found else None
        name = self.names.get(label, str(label))
        return Thing(name, float(found["scores"][index]), (x1, y1, x2, y2), mask, keypoints)

    def __iter__(self) -> Iterator[Thing]:
        return (self[index] for index in range(len(self)))

    def draw(self) -> Image.Image:
        """The picture with all of them drawn on it."""
        return draw_detections(self.image, self.detection, self.names, score_threshold=0.0)


class Predictor:
    """A trained model, and what its labels are called."""

    def __init__(self, model: MaskRCNN, names: dict[int, str]) -> None:
        self.model = model.eval()
        self.names = names

    @torch.no_grad()
    def find(self, picture: Picture, threshold: float = 0.5) -> Found:
        """The things in a picture that score at least `threshold`.

        Raises FileNotFoundError, ValueError or TypeError for what is no picture.
        """
        image = to_tensor(picture)
        parameter = next(self.model.parameters())
        (detection,) = self.model([image.to(parameter)], paste=False)
        kept = detection["scores"] >= threshold
        detection = Detection(**{name: value[kept].cpu() for name, value in detection.items()})
        exact = self.model.mask_head is not None and self.model.mask_head.config.exact_paste
        return Found(image, detection, self.names, exact)


def load(path: str | Path, device: str | None = None, parts: tuple[type, ...] = ()) -> Predictor:
    """The predictor of a weights file: ours, torchvision's (`.pth`) or detectron2's (`.pkl`, `.pth`).

    `device` is a GPU where there is one; `parts` are the configurations of your own that the file may have.  Raises
    FileNotFoundError where there is no file, ValueError where it is something else.
    """
    model, categories = load_any(Path(path), parts)
    return Predictor(model.to(choose_device(device)), {c.label: c.name for c in categories})


def to_tensor(picture: Picture) -> Float[Tensor, "3 h w"]:
    """A picture as the model takes it: float32 in 0..1, red, green, blue, upright."""
    if isinstance(picture, str | Path):
        return read_image(Path(picture))
    if isinstance(picture, Image.Image):
        picture = np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    if not isinstance(picture, np.ndarray):
        raise TypeError(f"expected a path, a Pillow picture or an array, got {type(picture).__name__}")
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"expected uint8 [height, width, 3], got {picture.dtype} {list(picture.shape)}")
    return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).float() / 255
