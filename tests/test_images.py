"""Which bytes are a picture, and which pixels they are."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from helpers import encode, noise
from PIL import Image, ImageOps

from nst.data import images
from nst.data.images import (
    DARK,
    ON_WHITE,
    TURNED,
    BadImage,
    decode,
    encode_png,
    extension_of,
    from_pillow,
    image_extension,
    inspect,
)
from tests.forked import ROOT

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
    assert inspect(encode(palette, "PNG")).notes == ()
    assert decode(encode(RGB.convert("1"), "PNG")).max() == 255
    assert decode(encode(grey, "JPEG")).shape == (24, 20, 3)


def test_what_is_transparent_is_shown_on_white_and_noted() -> None:
    alpha = RGB.convert("RGBA")
    alpha.putalpha(128)
    half = inspect(encode(alpha, "PNG"))
    assert np.abs(half.pixels - (PIXELS * (128 / 255) + 127)).max() <= 1.01
    assert half.notes == (ON_WHITE,)
    alpha.putalpha(255)
    opaque = inspect(encode(alpha, "PNG"))
    assert np.array_equal(opaque.pixels, PIXELS)
    assert opaque.notes == ()
    black = Image.new("LA", (6, 6), (0, 0))
    black.paste((0, 255), (0, 0, 3, 6))
    for kind in ("PNG", "WEBP"):
        found = decode(encode(black if kind == "PNG" else black.convert("RGBA"), kind, lossless=True))
        assert found[:, :3].max() == 0
        assert found[:, 3:].min() == 255
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.putpixel((0, 0), 0)
    for kind in ("PNG", "GIF"):
        found = decode(encode(palette, kind, transparency=0))
        assert found[0, 0].tolist() == [255, 255, 255]
        assert found[1, 1].tolist() == [200, 0, 0]


@pytest.mark.parametrize("kind", ["JPEG", "CMYK", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_a_viewer_turns_it(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = RGB.convert("CMYK") if kind == "CMYK" else RGB
    data = encode(picture, {"CMYK": "JPEG"}.get(kind, kind), exif=exif if kind == "TIFF" else exif.tobytes(),
                  quality=100, **({"lossless": True} if kind == "WEBP" else {}))  # fmt: skip
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
    found = inspect(data)
    assert found.pixels.shape == expected.shape
    assert np.abs(found.pixels - expected).max() <= 2
    assert found.notes == ((TURNED,) if orientation > 1 else ())
    if kind != "TIFF":  # which Pillow turns itself
        assert decode(data, upright=False).shape == (24, 20, 3)


def test_fill_bytes_before_a_marker_are_passed_over() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(RGB, "JPEG", exif=exif.tobytes())
    at = data.index(b"\xff\xe1")
    filled = data[:at] + b"\xff\xff" + data[at:]
    with Image.open(io.BytesIO(filled)) as image:
        assert image.getexif()[0x0112] == 6
    assert np.array_equal(decode(filled), decode(data))


def test_exif_that_cannot_be_read_turns_nothing() -> None:
    for exif in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x09"):
        segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
        assert np.array_equal(decode(JPEG[:2] + segment + JPEG[2:]), decode(JPEG))


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


@pytest.mark.parametrize("odd", [
    chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(3_000_000))), chunk(b"tEXt", b"a\0b", crc=0),
    chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(9_000_000))), chunk(b"iTXt", b"no text at all", crc=7),
])  # fmt: skip
def test_chunks_that_no_pixel_needs_do_not_refuse_a_png(odd: bytes) -> None:
    data = encode(RGB, "PNG")
    assert np.array_equal(decode(data[:33] + odd + data[33:]), PIXELS)
    damaged = bytearray(data[:33] + odd + data[33:])
    damaged[damaged.index(b"IDAT") + 20] ^= 0xFF
    with pytest.raises(BadImage):
        decode(bytes(damaged))


def test_a_photograph_of_108_megapixels_is_read() -> None:
    assert decode(encode(Image.new("L", (12_000, 9_000), 128), "JPEG", quality=20)).shape == (9_000, 12_000, 3)


@pytest.mark.parametrize("largest", [65535, 1023])
def test_a_pgm_of_16_bits_keeps_its_high_byte(largest: int) -> None:
    grey = np.linspace(0, largest, 64).reshape(8, 8).astype(">u2")
    shown = decode(b"P5 8 8 %d\n" % largest + grey.tobytes())
    assert np.abs(shown[..., 0] - 255 * (grey / largest)).max() <= 1


def test_12_bits_in_16_are_noted() -> None:
    grey = np.linspace(0, 4095, 64).reshape(8, 8).astype(np.uint16)
    assert inspect(encode(Image.fromarray(grey), "PNG")).notes == (DARK,)
    assert inspect(encode(Image.fromarray(grey * 16), "PNG")).notes == ()


@pytest.mark.parametrize(
    ("kind", "extension"),
    [("JPEG", "jpg"), ("PNG", "png"), ("GIF", "gif"), ("BMP", "bmp"), ("TIFF", "tif"), ("WEBP", "webp"),
     ("PPM", "ppm")],
)  # fmt: skip
def test_pictures_are_known_by_their_first_bytes(kind: str, extension: str) -> None:
    assert extension_of(encode(RGB, kind)[:32]) == extension
    assert extension_of(b"a text about P5 and BM") is None


def test_the_image_of_a_sample_is_the_one_whose_last_part_says_so() -> None:
    assert image_extension(["cls", "seg.png", "jpg"]) == "jpg"
    assert image_extension(["outputs.txt", "input.jpg"]) == "input.jpg"
    assert image_extension(["input.jpg", "mask.png"]) is None
    assert image_extension(["txt"]) is None


def test_heic_is_told_by_name_with_what_helps() -> None:
    with pytest.raises(BadImage, match="HEIC") as caught:
        decode(b"\0\0\0\x18ftypheic" + bytes(40))
    assert "convert" in caught.value.remedy


def test_cmyk_jpeg_has_pillows_colours() -> None:
    data = encode(Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decode(data).mean((0, 1)) - (200, 40, 90)).max() < 4


def test_16_bit_grey_keeps_its_high_byte() -> None:
    grey = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
    assert decode(encode(Image.fromarray(grey), "PNG"))[0, :, 0].tolist() == [0, 0, 1, 255]


def _turned(kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(RGB, kind, exif=exif)


def _odd_files() -> dict[str, bytes]:
    """Files whose pixels a bare conversion to RGB shows otherwise, and some that it does not."""
    alpha = RGB.convert("RGBA")
    alpha.putalpha(Image.fromarray(PIXELS[:, :, 0]))
    grey = Image.merge("LA", [Image.fromarray(PIXELS[:, :, 1]), Image.fromarray(PIXELS[:, :, 0])])
    deep = Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 256 + 3)
    palette = RGB.convert("P", palette=Image.Palette.ADAPTIVE)
    return {
        **{f"exif {kind}": _turned(kind) for kind in ("JPEG", "PNG", "TIFF", "WEBP")},
        "RGBA": encode(alpha, "PNG"), "LA": encode(grey, "PNG"), "16 bits": encode(deep, "PNG"),
        "16 bits TIFF": encode(deep, "TIFF"), "palette": encode(palette, "PNG"),
        "transparent palette": encode(palette, "PNG", transparency=3), "GIF": encode(palette, "GIF", transparency=3),
        "transparent colour": encode(RGB, "PNG", transparency=tuple(PIXELS[0, 0].tolist())),
        "CMYK": encode(RGB.convert("CMYK"), "JPEG"), "CMYK TIFF": encode(RGB.convert("CMYK"), "TIFF"),
        "grey": encode(RGB.convert("L"), "PNG"), "1 bit": encode(RGB.convert("1"), "PNG"),
    }  # fmt: skip


@pytest.mark.parametrize(("name", "data"), _odd_files().items())
@pytest.mark.parametrize("loaded", [False, True])
def test_an_image_that_pillow_has_opened_is_seen_as_its_file(name: str, data: bytes, loaded: bool) -> None:
    image = Image.open(io.BytesIO(data))
    if loaded:
        image.load()
    seen, expected = from_pillow(image), decode(data)
    assert seen.shape == expected.shape
    # libjpeg-turbo and Pillow round otherwise
    assert np.abs(seen.astype(int) - expected).max() <= (2 if "JPEG" in name else 0)
    if loaded:
        assert np.array_equal(from_pillow(image), seen), "also when it is asked again"


def test_an_image_of_pillow_that_cannot_be_seen_is_refused() -> None:
    cut = Image.open(io.BytesIO(encode(noise(200, 200), "JPEG")[:5000]))
    for image in (cut, Image.new("I", (4, 4)), Image.new("F", (4, 4))):
        with pytest.raises(BadImage):
            from_pillow(image)


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
        encode(RGB, "PNG")[:200] + bytes(8) + encode(RGB, "PNG")[208:],
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
        "png-damaged",
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


def test_pillow_says_nothing_beside_it() -> None:
    program = """
import zlib, struct
from nst.data.images import MAX_PIXELS, BadImage, decode
def chunk(kind, data): return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
header = struct.pack(">IIBBBBB", 1000, MAX_PIXELS // 1000 + 10, 8, 2, 0, 0, 0)
rows = chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
try: decode(bytes([137]) + b"PNG" + bytes([13, 10, 26, 10]) + rows)
except BadImage as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (f"more than {images.MAX_PIXELS}" in done.stdout, done.stderr) == (True, "")
