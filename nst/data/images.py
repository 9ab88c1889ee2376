"""Image bytes to pixels and back: the one place that decides whether a file is a usable picture.

A picture is either whole or refused. JPEG goes through libjpeg-turbo (simplejpeg) with warnings as errors; what that
reports as merely odd (CMYK, stray bytes between markers) gets a second opinion from Pillow, what it reports as missing
or damaged pixels does not. EXIF orientation is ignored and transparency dropped, as the ImageNet pipelines of
TensorFlow and torchvision do.
"""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
import simplejpeg
from PIL import Image, ImageFile

# file names that hold pictures, in the order in which one is chosen where a sample has several
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "tif", "tiff", "gif")
MAX_PIXELS = 89_478_485  # a quarter of a gigabyte as RGB; Pillow's own line for a decompression bomb
# None that starts a program, as EPS does. JPEG covers MPO, which Pillow does not register by itself.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
DAMAGE = ("premature end", "bad huffman code", "instead of rst")  # libjpeg's words for invented pixels
NUM_LEVELS_8_BIT = 256

Image.init()  # load every reader now: Pillow does so at first need, which threads may race for
ImageFile.LOAD_TRUNCATED_IMAGES = False  # Pillow's default; another library may have turned it on


class BadImage(ValueError):
    """The bytes are not a whole picture that can be decoded."""


def image_extension(extensions: Iterable[str]) -> str | None:
    """Which of a sample's extensions holds its image, by the order of IMAGE_EXTENSIONS; None without one."""
    found = set(extensions)
    return next((extension for extension in IMAGE_EXTENSIONS if extension in found), None)


def decode(data: bytes) -> np.ndarray:
    """Pixels (H, W, 3) uint8 RGB of an encoded image, whatever its colour model and depth.

    Raises:
        BadImage: empty, not an image, cut short, damaged, of unknown range (32-bit), or above MAX_PIXELS.
    """
    if not data:
        raise BadImage("empty file")
    if data[:2] == b"\xff\xd8":
        pixels = _decode_jpeg(data)
        if pixels is not None:
            return pixels
    return _decode_any(data)


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    """The fast path; None where Pillow should decide."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        _refuse_bomb(width, height)
        if colorspace in ("CMYK", "YCCK"):
            return None  # Adobe writes these inverted, which Pillow knows
        return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    except BadImage:
        raise
    except ValueError as error:
        if any(word in str(error).lower() for word in DAMAGE):
            raise BadImage(f"JPEG: {error}") from error
        return None


def _decode_any(data: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _refuse_bomb(*image.size)
            image.load()
            return _to_rgb(image)
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # on damaged files Pillow's readers raise nearly every kind there is
        reason = "not an image of a known format" if isinstance(error, Image.UnidentifiedImageError) else error
        raise BadImage(f"{reason}") from error


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint16) // NUM_LEVELS_8_BIT).astype(np.uint8)  # convert() would clip at 255
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise BadImage("32 bits per value: the range of the pixels is unknown")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # applies the palette without a warning about its transparency
    return np.array(image.convert("RGB"))


def _refuse_bomb(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadImage(f"{width} x {height} pixels, more than {MAX_PIXELS}")


def encode_png(pixels: np.ndarray) -> bytes:
    """Lossless PNG of (H, W) grey or (H, W, 3) RGB uint8 pixels.

    Raises:
        ValueError: another shape or type.
    """
    grey = pixels.ndim == 2
    if pixels.dtype != np.uint8 or not (grey or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise ValueError(f"pixels must be (H, W) or (H, W, 3) uint8, got {pixels.shape} {pixels.dtype}")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()
