"""Which bytes are a picture, and which pixels they are."""

from __future__ import annotations

import io

import numpy as np
import pytest
from helpers import encode, noise
from PIL import Image

from nst.data import images
from nst.data.images import BadImage, decode, encode_png

PIXELS = noise(24, 20)
RGB = Image.fromarray(PIXELS)
JPEG = encode(RGB, "JPEG", quality=90)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_the_same_pixels(kind: str) -> None:
    assert np.array_equal(decode(encode(RGB, kind)), PIXELS)


def test_jpeg_is_decoded_as_pillow_does() -> None:
    for data in (JPEG, encode(RGB, "JPEG", progressive=True, subsampling=0)):
        expected = np.asarray(Image.open(io.BytesIO(data))).astype(int)
        assert np.abs(decode(data) - expected).max() <= 2


def test_png_round_trip_keeps_grey_and_rgb() -> None:
    assert np.array_equal(decode(encode_png(PIXELS)), PIXELS)
    grey = PIXELS[:, :, 0]
    assert np.array_equal(decode(encode_png(grey)), np.stack([grey] * 3, axis=2))
    with pytest.raises(ValueError, match="uint8"):
        encode_png(PIXELS.astype(np.float32))


def test_every_colour_model_becomes_rgb() -> None:
    grey = RGB.convert("L")
    palette = RGB.convert("P")
    alpha = RGB.convert("RGBA")
    alpha.putalpha(128)
    assert np.array_equal(decode(encode(grey, "PNG")), np.stack([np.asarray(grey)] * 3, axis=2))
    assert np.array_equal(decode(encode(palette, "PNG")), np.asarray(palette.convert("RGB")))
    assert np.array_equal(decode(encode(palette, "PNG", transparency=b"\0\7")), np.asarray(palette.convert("RGB")))
    assert np.array_equal(decode(encode(alpha, "PNG")), PIXELS)
    assert decode(encode(RGB.convert("1"), "PNG")).max() == 255
    assert decode(encode(grey, "JPEG")).shape == (24, 20, 3)


def test_cmyk_jpeg_has_pillows_colours() -> None:
    data = encode(Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decode(data).mean((0, 1)) - (200, 40, 90)).max() < 4


def test_16_bit_grey_keeps_its_high_byte() -> None:
    grey = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
    assert decode(encode(Image.fromarray(grey), "PNG"))[0, :, 0].tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"this is text",
        JPEG[: len(JPEG) // 2],
        JPEG[:-2],
        JPEG[: len(JPEG) // 2] + b"\xff\xd9",
        b"\xff\xd8\xff" + b"\0" * 100,
        encode(RGB, "PNG")[:-400],
        encode(RGB, "PNG")[:20],
        encode(RGB, "BMP")[:200],
        encode(Image.fromarray(PIXELS[:, :, 0].astype(np.float32)), "TIFF"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ],
    ids=[
        "empty",
        "text",
        "half",
        "no-end",
        "half-with-end",
        "header-only",
        "png-cut",
        "png-head",
        "bmp-cut",
        "float",
        "eps",
    ],
)
def test_what_is_not_a_whole_picture_is_refused(data: bytes) -> None:
    with pytest.raises(BadImage):
        decode(data)


def test_stray_bytes_between_markers_are_forgiven() -> None:
    start = JPEG.index(b"\xff\xda")
    assert np.array_equal(decode(JPEG[:start] + b"\0\0\0" + JPEG[start:]), decode(JPEG))


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 24 * 20 - 1)
    for data in (JPEG, encode(RGB, "PNG")):
        with pytest.raises(BadImage, match="more than 479"):
            decode(data)
