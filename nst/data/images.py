"""Image bytes to pixels and back: the one place that decides whether a file is a usable picture.

A picture is either whole or refused. JPEG goes through libjpeg-turbo (simplejpeg) with warnings as errors; what that
reports as merely odd (CMYK, stray bytes between markers) gets a second opinion from Pillow, what it reports as missing
or damaged pixels does not. A picture is seen as a viewer shows it: turned upright by its EXIF orientation, and what is
transparent on white. The ImageNet pipelines of TensorFlow and torchvision do neither; the released sets are read as
they do (`upright=False`).
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image, ImageFile

# file names that hold pictures, in the order in which one is chosen where a sample has several
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "tif", "tiff", "gif")
MAX_PIXELS = 250_000_000  # 750 MB as RGB: the largest phones take 200 million; more is a decompression bomb
# None that starts a program, as EPS does. JPEG covers MPO, which Pillow does not register by itself.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
DAMAGE = ("premature end", "bad huffman code", "instead of rst")  # libjpeg's words for invented pixels
NUM_LEVELS_8_BIT = 256
# what decode did to a picture, or saw in it, that its owner should know
TURNED = "turned upright, as their EXIF orientation says"
ON_WHITE = "transparent: shown on white"
DARK = "16 bits of which only the lower 12 are used, so nearly black: scale them to the full range"
ORIENTATION = 0x0112  # its tag in EXIF
# how the pixels lie for orientations 2 to 8: turned so many quarters to the left, then mirrored or not
TURNS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}
HEAD = 32  # bytes that tell a picture's kind
READERS = 4  # threads that read and decode the pictures of a set
# the first bytes of pictures that are read, and of some that are not
STARTS = {b"\xff\xd8\xff": "jpg", b"\x89PNG\r\n\x1a\n": "png", b"GIF8": "gif", b"II*\0": "tif", b"MM\0*": "tif",
          b"P5\n": "ppm", b"P6\n": "ppm", b"P5 ": "ppm", b"P6 ": "ppm"}  # fmt: skip
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")  # of a PNG, what its pixels need

Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # so that Pillow has no other line
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # what is above it is refused in our words
Image.init()  # load every reader now: Pillow does so at first need, which threads may race for
ImageFile.LOAD_TRUNCATED_IMAGES = False  # Pillow's default; another library may have turned it on


class BadImage(ValueError):
    """The bytes are not a whole picture that can be decoded; `remedy` is what can be done about it."""

    def __init__(self, reason: str, remedy: str = "copy or download them again") -> None:
        super().__init__(reason)
        self.remedy = remedy


@dataclass(frozen=True)
class Decoded:
    """Pixels (H, W, 3) uint8 RGB, and what was done to them or seen in them: TURNED, ON_WHITE, DARK."""

    pixels: np.ndarray
    notes: tuple[str, ...] = ()


def extension_of(head: bytes) -> str | None:
    """Extension of the kind of picture that begins with these bytes (32 are enough); None: of none that is read."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0":
        return "bmp"
    return next((extension for start, extension in STARTS.items() if head.startswith(start)), None)


def is_heif(head: bytes) -> bool:
    """Whether these first bytes are of a HEIC or AVIF picture, which is not read."""
    return head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"heif", b"hevc", b"mif1", b"msf1", b"avif")


def image_extension(extensions: Iterable[str]) -> str | None:
    """Which of a sample's extensions holds its image, by the order of IMAGE_EXTENSIONS; None without one.

    Where none is an image's by itself, one whose last part is (`input.jpg`), unless there are several.
    """
    found = list(extensions)
    for extension in IMAGE_EXTENSIONS:
        if extension in found:
            return extension
    dotted = pictures_among(found)
    return dotted[0] if len(dotted) == 1 else None


def pictures_among(extensions: Iterable[str]) -> list[str]:
    """Those extensions whose last part is an image's, in order, each once."""
    return list(dict.fromkeys(one for one in extensions if one.rsplit(".", 1)[-1] in IMAGE_EXTENSIONS))


def decode(data: bytes, *, upright: bool = True) -> np.ndarray:
    """Pixels (H, W, 3) uint8 RGB of an encoded image, whatever its colour model and depth.

    Args:
        upright: turn it as its EXIF orientation says.

    Raises:
        BadImage: empty, not an image, cut short, damaged, of unknown range (32-bit), or above MAX_PIXELS.
    """
    return inspect(data, upright=upright).pixels


def inspect(data: bytes, *, upright: bool = True) -> Decoded:
    """As `decode`, with what is notable about the picture."""
    if not data:
        raise BadImage("empty file")
    if data[:2] == b"\xff\xd8":
        pixels = _decode_jpeg(data)
        if pixels is not None:
            turn = _jpeg_orientation(data) if upright else 1
            return Decoded(_turned(pixels, turn), (TURNED,) if turn in TURNS else ())
    try:
        return _decode_any(data, upright)
    except BadImage:
        # a chunk that no pixel depends on may be damaged, or larger than Pillow takes
        if data.startswith(PNG_START) and (essential := _essential_png(data)) is not None:
            return _decode_any(essential, upright)
        raise


def shorter_side(data: bytes) -> int | None:
    """px of an encoded image's shorter side, by its header alone; None: it does not say."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return min(image.size)
    except Exception:  # as in _decode_any, whose words are for whoever decodes it
        return None


def from_pillow(image: Image.Image) -> np.ndarray:
    """Pixels (H, W, 3) uint8 RGB of a Pillow image, as `decode` sees those of a file that holds it.

    Raises:
        BadImage: it cannot be loaded, or is of unknown range (32-bit), or above MAX_PIXELS.
    """
    try:
        return _shown(image, upright=True).pixels
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # as of files
        raise BadImage(f"{error}") from error


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


def _decode_any(data: bytes, upright: bool) -> Decoded:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return _shown(image, upright)
    except (BadImage, MemoryError):
        raise
    except Image.UnidentifiedImageError as error:
        if is_heif(data[:HEAD]):
            raise BadImage("HEIC or AVIF, which is not read", "convert them to JPEG") from error
        raise BadImage("not an image of a known format", "remove them: they are no pictures") from error
    except Exception as error:  # on damaged files Pillow's readers raise nearly every kind there is
        raise BadImage(f"{error}") from error


def _shown(image: Image.Image, upright: bool) -> Decoded:
    _refuse_bomb(*image.size)
    # Pillow turns a TIFF while it loads; of a PNG it reads EXIF only behind the pixels, so not before them
    said = _orientation(image) if upright and image.format == "TIFF" else 1
    image.load()
    left = _orientation(image) if upright else 1
    found = _to_rgb(image)
    turned = said in TURNS or left in TURNS
    return Decoded(_turned(found.pixels, left), (*found.notes, TURNED)) if turned else found


def _to_rgb(image: Image.Image) -> Decoded:
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM"):  # a PGM's 16 bits are opened as I
        values = np.asarray(image).astype(np.uint16)
        grey = (values // NUM_LEVELS_8_BIT).astype(np.uint8)  # convert() would clip at 255
        dark = 0 < values.max(initial=0) < 4096
        return Decoded(np.repeat(grey[:, :, None], 3, axis=2), (DARK,) if dark else ())
    if image.mode in ("I", "F"):
        raise BadImage("32 bits per value: the range of the pixels is unknown", "convert them to 8 or 16 bits")
    if image.mode in ("P", "PA", "LA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")  # applies the palette without a warning about its transparency
    if image.mode != "RGBA" or image.getchannel("A").getextrema()[0] == NUM_LEVELS_8_BIT - 1:
        return Decoded(np.array(image.convert("RGB")))
    white = Image.new("RGBA", image.size, "white")
    return Decoded(np.array(Image.alpha_composite(white, image).convert("RGB")), (ON_WHITE,))


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as a viewer shows them; other orientations than 2 to 8 change nothing."""
    if orientation not in TURNS:
        return pixels
    quarters, mirrored = TURNS[orientation]
    pixels = np.rot90(pixels, quarters)
    return np.ascontiguousarray(pixels[:, ::-1] if mirrored else pixels)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # EXIF that cannot be read turns nothing
        return 1


def _jpeg_orientation(data: bytes) -> int:
    """The orientation in a JPEG's EXIF; 1 where there is none."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] not in (0xDA, 0xD9):
        if data[position + 1] == 0xFF:  # a fill byte before a marker
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        segment = data[position + 4 : position + 2 + length]
        if data[position + 1] == 0xE1 and segment.startswith(b"Exif\0\0"):
            return _tiff_orientation(segment[6:])
        position += 2 + max(length, 2)
    return 1


def _tiff_orientation(exif: bytes) -> int:
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        if order is None:
            return 1
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(entries):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, start + 2 + 12 * entry)
            if tag == ORIENTATION and kind == 3:  # a 16-bit number
                return int(value)
    except struct.error:  # cut short: EXIF that cannot be read turns nothing
        pass
    return 1


def _essential_png(data: bytes) -> bytes | None:
    """The PNG without chunks that its pixels do not need; None where one of those they need is damaged."""
    kept, position = [PNG_START], len(PNG_START)
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        chunk = data[position : position + 12 + length]
        kind = chunk[4:8]
        if kind in PNG_KEPT:
            if len(chunk) < 12 + length or zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
                return None
            kept.append(chunk)
        position += 12 + length
        if kind == b"IEND":
            return b"".join(kept)
    return None


def _refuse_bomb(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadImage(f"{width} x {height} pixels, more than {MAX_PIXELS}", "make them smaller")


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
