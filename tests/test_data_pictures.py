"""Picture files of every mode come out as RGB in 0..1, the right way up."""

import contextlib
import io
import struct

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, features

from minimaskrcnn.data.pictures import ORIENTATION, read_image

HEIGHT, WIDTH = 5, 8
# What the EXIF standard says about a stored picture, as array operations.
UPRIGHT = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).transpose(1, 0, 2),
    8: np.rot90,
}


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def read(path, *args) -> np.ndarray:
    image = read_image(path, *args)
    assert image.dtype == torch.float32 and image.is_contiguous()
    return image.permute(1, 2, 0).numpy()


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, axis=2).astype(np.float32)


def test_rgb_is_exact(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "p.png")
    np.testing.assert_array_equal(read(tmp_path / "p.png"), rgb.astype(np.float32) / np.float32(255))


def test_grey_and_one_bit(tmp_path, rgb):
    grey = rgb[:, :, 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read(tmp_path / "grey.png"), three(grey) / np.float32(255))
    Image.fromarray(grey > 99).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read(tmp_path / "bits.png"), three(grey > 99))


def test_palette(tmp_path, rgb):
    picture = Image.fromarray(rgb[:, :, 0] % 4, mode=None).convert("P")
    colours = np.array([[255, 0, 0], [0, 128, 0], [0, 0, 64], [9, 8, 7]], dtype=np.uint8)
    picture.putpalette(colours.tobytes())
    picture.save(tmp_path / "p.png")
    expected = colours[rgb[:, :, 0] % 4].astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(read(tmp_path / "p.png"), expected)


def test_transparency_lies_over_white(tmp_path, rgb):
    alpha = np.full((HEIGHT, WIDTH, 1), 255, dtype=np.uint8)
    alpha[0], alpha[1] = 0, 128
    over_white = (rgb * (alpha / 255) + 255 - alpha) / 255
    Image.fromarray(np.concatenate([rgb, alpha], axis=2)).save(tmp_path / "rgba.png")
    np.testing.assert_allclose(read(tmp_path / "rgba.png"), over_white, atol=1 / 255)
    grey = np.concatenate([rgb[:, :, :1], alpha], axis=2)
    Image.fromarray(grey).save(tmp_path / "la.png")
    np.testing.assert_allclose(read(tmp_path / "la.png"), three(over_white[:, :, 0]), atol=1 / 255)


def test_palette_with_a_transparent_colour(tmp_path, rgb):
    index = rgb[:, :, 0] % 2
    picture = Image.fromarray(index).convert("P")
    picture.putpalette([200, 0, 0, 0, 100, 0])
    picture.save(tmp_path / "p.png", transparency=bytes([0, 255]))
    expected = np.array([[255, 255, 255], [0, 100, 0]], dtype=np.float32)[index] / np.float32(255)
    np.testing.assert_array_equal(read(tmp_path / "p.png"), expected)


def test_cmyk(tmp_path):
    ink = np.zeros((HEIGHT, WIDTH, 4), dtype=np.uint8)
    ink[:, 4:, 0] = 255  # the right half in cyan ink: no red
    for name in ("p.jpg", "p.tif"):
        Image.fromarray(ink, mode="CMYK").save(tmp_path / name)
        np.testing.assert_allclose(
            read(tmp_path / name)[:, [0, 7]], [[[1, 1, 1], [0, 1, 1]]] * HEIGHT, atol=0.02
        )


@pytest.mark.parametrize(
    "name, dtype", [("p.png", "<u2"), ("p.tif", "<u2"), ("p.tif", ">u2"), ("p.tif", "<i4")]
)
def test_sixteen_bits_keep_their_precision(tmp_path, name, dtype):
    deep = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH)).astype(dtype)
    Image.fromarray(deep).save(tmp_path / name)
    expected = three(deep.astype(np.float32) / np.float32(65535))
    np.testing.assert_allclose(read(tmp_path / name), expected, atol=1e-7)


def test_floating_values(tmp_path):
    values = np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    Image.fromarray(values).save(tmp_path / "p.tif")
    np.testing.assert_array_equal(read(tmp_path / "p.tif"), three(values))
    for bad in (values * 255, values - 0.5, values * np.nan):
        Image.fromarray(bad).save(tmp_path / "p.tif")
        with pytest.raises(ValueError, match=r"p\.tif: mode F: expected .* 0\.\.1"):
            read_image(tmp_path / "p.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_exif_turns_the_picture_upright(tmp_path, rgb, orientation, suffix):
    path = tmp_path / f"p.{suffix}"
    save_with_orientation(path, rgb, orientation)
    upright = UPRIGHT[orientation](rgb).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(read(path), upright)
    np.testing.assert_array_equal(read(path, upright.shape[:2]), upright)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_picture_annotated_as_stored_stays_as_stored(tmp_path, rgb, orientation):
    save_with_orientation(tmp_path / "p.png", rgb, orientation)
    stored = rgb.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(read(tmp_path / "p.png", (HEIGHT, WIDTH)), stored)


def save_with_orientation(path, pixels: np.ndarray, orientation: int) -> None:
    picture = Image.fromarray(pixels)
    exif = picture.getexif()
    exif[ORIENTATION] = orientation
    picture.save(path, exif=exif)


def test_a_wrong_size_names_file_and_sizes(tmp_path, rgb):
    save_with_orientation(tmp_path / "p.png", rgb, 6)
    message = r"p\.png: its \(height, width\) is \(8, 5\), the annotation file says \(8, 6\)"
    with pytest.raises(ValueError, match=message):
        read_image(tmp_path / "p.png", (8, 6))


def test_files_that_are_no_pictures(tmp_path, rgb):
    with pytest.raises(FileNotFoundError, match=r"none\.png: no such picture"):
        read_image(tmp_path / "none.png")
    Image.fromarray(np.tile(rgb, (40, 40, 1))).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    for name, content in {
        "empty.png": b"",
        "text.png": b"no picture",
        "cut.jpg": whole[: len(whole) // 2],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            read_image(tmp_path / name)


@pytest.mark.skipif(not features.check("avif"), reason="a Pillow without AVIF")
def test_damaged_avif_is_an_error_of_its_file(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "p.avif")
    whole = (tmp_path / "p.avif").read_bytes()
    messages = set()
    for place in range(80, 130):
        (tmp_path / "p.avif").write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        with contextlib.suppress(ValueError):
            read_image(tmp_path / "p.avif")
            continue
        with pytest.raises(ValueError, match=r"p\.avif: ") as caught:
            read_image(tmp_path / "p.avif")
        messages.add(type(caught.value.__cause__))
    assert RuntimeError in messages


def test_an_icon_whose_picture_lacks_its_palette_is_an_error_of_its_file(tmp_path):
    whole = io.BytesIO()
    Image.new("P", (128, 128)).save(whole, "PNG")
    part = b"ic07" + struct.pack(">I", 8 + len(whole.getvalue())) + whole.getvalue()
    (tmp_path / "p.icns").write_bytes(b"icns" + struct.pack(">I", 8 + len(part)) + part)
    with pytest.raises(ValueError, match=r"p\.icns: "):
        read_image(tmp_path / "p.icns")


def test_no_program_is_started_for_a_picture(tmp_path, monkeypatch):
    endless = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 5\n%%EndComments\n{} loop\n%%EOF\n"
    (tmp_path / "p.png").write_text(endless)
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args: started.append(args))
    with pytest.raises(ValueError, match=r"p\.png: its format is EPS; read are AVIF, BMP, .*PNG"):
        read_image(tmp_path / "p.png")
    assert not started
