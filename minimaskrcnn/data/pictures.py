"""Picture files of every kind that datasets contain, as RGB tensors in 0..1.

- 8 and 16 bits a channel; grey becomes three equal channels; palette and CMYK are converted by Pillow.
- Transparency is laid over white, which is how an annotator saw it; dropping it would bring up whatever
  colour the file stores under transparent pixels.
- An EXIF orientation says how to turn the stored pixels upright.  Annotations refer to one of the two:
  where the annotation file's size fits only the stored picture, it stays as stored; otherwise it is turned,
  as viewers do.

Left out: colour profiles, animation (the first frame counts).
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from minimaskrcnn.data.transforms import ImageSize

ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {  # its values, and what turns the stored picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: Path, image_size: ImageSize | None = None) -> Float[Tensor, "3 h w"]:
    """The picture in a file, float32 in 0..1.

    `image_size` is the (height, width) that the annotation file states.  ValueError where the picture fits it
    neither upright nor as stored, and for a file that is no picture or is cut short; FileNotFoundError where
    there is none.
    """
    try:
        with Image.open(path) as picture:
            pixels = _rgb_pixels(_turn_upright(picture, image_size))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such picture") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: {error}") from error
    return torch.from_numpy(to_float(np.ascontiguousarray(pixels.transpose(2, 0, 1))))


def to_float(pixels: np.ndarray) -> np.ndarray:
    """uint8 0..255 to float32 0..1; float32 stays as it is.

    In numpy, like all work on single samples: torch's thread pool gains nothing at this size, and on a machine
    whose cores are busy it costs 50 times as much (32 ms against 0.3 for 480 x 640, measured).
    """
    return pixels if pixels.dtype == np.float32 else np.true_divide(pixels, np.float32(255), dtype=np.float32)


def _turn_upright(picture: Image.Image, image_size: ImageSize | None) -> Image.Image:
    picture.load()  # Pillow turns a TIFF upright here, and then reports no orientation
    stored = (picture.height, picture.width)
    orientation = picture.getexif().get(ORIENTATION, 1)
    upright = stored[::-1] if orientation in (5, 6, 7, 8) else stored
    if image_size is not None and image_size not in (stored, upright):
        raise ValueError(f"its (height, width) is {upright}, the annotation file says {image_size}")
    if orientation not in UPRIGHT or image_size not in (None, upright):
        return picture
    return picture.transpose(UPRIGHT[orientation])


def _rgb_pixels(picture: Image.Image) -> np.ndarray:
    """uint8 [h, w, 3], or float32 in 0..1 where the file has more than 8 bits."""
    if picture.mode.startswith("I") or picture.mode == "F":
        deep = np.asarray(picture).astype(np.float32) / (1.0 if picture.mode == "F" else 65535.0)
        if not (deep.min() >= 0 and deep.max() <= 1):
            raise ValueError(
                f"mode {picture.mode}: expected 16 bits or 0..1, got {deep.min():g}..{deep.max():g}"
            )
        return np.repeat(deep[:, :, None], 3, axis=2)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.array(picture.convert("RGB"))
