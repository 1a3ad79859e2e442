"""Picture files of every kind that datasets contain, as RGB tensors in 0..1.

- 8 and 16 bits a channel; grey becomes three equal channels; palette and CMYK are converted by Pillow.
- Transparency is laid over white, which is how an annotator saw it; dropping it would bring up whatever
  colour the file stores under transparent pixels.
- An EXIF orientation says how to turn the stored pixels upright.  Annotations refer to one of the two:
  where the annotation file's size fits only the stored picture, it stays as stored; otherwise it is turned,
  as viewers do.

Read are the formats in `RASTER`.  Others Pillow may hand to a program of its own: EPS to Ghostscript, for as long
as that runs.

Left out: colour profiles, animation (the first frame counts).
"""

import struct
import warnings
import zlib
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

# The last one where another library has registered it with Pillow.
RASTER = (
    *("AVIF", "BMP", "DIB", "GIF", "ICNS", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "SGI", "TGA"),
    *("TIFF", "WEBP", "HEIF"),
)

# What Pillow 10 to 13 raises for damaged files of its 30 formats: it parses most of them without checks.
BROKEN = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, AttributeError),
    *(RuntimeError, AssertionError, struct.error, zlib.error),  # of AVIF's decoder, of ICNS, ...
)


def most_pixels() -> float:
    """How many pixels Pillow lets a picture have: twice `PIL.Image.MAX_IMAGE_PIXELS`, 179 million unless changed."""
    return float("inf") if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def read_image(path: Path, image_size: ImageSize | None = None) -> Float[Tensor, "3 h w"]:
    """The picture in a file, float32 in 0..1.

    `image_size` is the (height, width) that the annotation file states.  ValueError where the picture fits it
    neither upright nor as stored, and for a file that is no picture, is cut short, or has more pixels than
    `most_pixels`; FileNotFoundError where there is none.
    """
    try:
        # A device or a pipe of that name could be read forever.
        if path.exists() and not path.is_file():
            raise ValueError("not a file")
        if path.stat().st_size == 0:
            raise ValueError("an empty file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of damaged metadata and of large pictures
            with Image.open(path) as picture:  # this looks at the head only
                if picture.format not in RASTER:
                    raise ValueError(f"its format is {picture.format}; read are {', '.join(RASTER)}")
                pixels = _rgb_pixels(_turn_upright(picture, image_size))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such picture") from None
    except Image.DecompressionBombError:
        raise ValueError(
            f"{path}: a picture of more than {most_pixels():,} pixels, perhaps a decompression bomb; if it is "
            "none, raise PIL.Image.MAX_IMAGE_PIXELS"
        ) from None
    except BROKEN as error:
        reason = str(error).removeprefix(f"{path}: ") or type(error).__name__
        raise ValueError(f"{path}: {reason}") from error
    return torch.from_numpy(to_float(np.ascontiguousarray(pixels.transpose(2, 0, 1))))


def to_float(pixels: np.ndarray) -> np.ndarray:
    """uint8 0..255 to float32 0..1; float32 stays as it is.

    In numpy, like all work on single samples: torch's thread pool gains nothing at this size, and on a machine
    whose cores are busy it costs 50 times as much (32 ms against 0.3 for 480 x 640, measured).
    """
    return pixels if pixels.dtype == np.float32 else np.true_divide(pixels, np.float32(255), dtype=np.float32)


def _turn_upright(picture: Image.Image, image_size: ImageSize | None) -> Image.Image:
    if image_size is not None and picture.width * picture.height > image_size[0] * image_size[1]:
        # Before it is decoded: it may be too large for the memory.
        raise ValueError(_mismatch((picture.height, picture.width), image_size))
    picture.load()  # Pillow turns a TIFF upright here, and then reports no orientation
    stored = (picture.height, picture.width)
    orientation = picture.getexif().get(ORIENTATION, 1)
    upright = stored[::-1] if orientation in (5, 6, 7, 8) else stored
    if image_size is not None and image_size not in (stored, upright):
        raise ValueError(_mismatch(upright, image_size))
    if orientation not in UPRIGHT or image_size not in (None, upright):
        return picture
    return picture.transpose(UPRIGHT[orientation])


def _mismatch(found: ImageSize, stated: ImageSize) -> str:
    return f"its (height, width) is {found}, the annotation file says {stated}"


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
