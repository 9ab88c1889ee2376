"""RandAugment on uint8 images: 16 operations at the paper's magnitudes; other libraries' as named variants.

Paper section 3.1: two operations at magnitude 27 for B7 and larger. The one decision worth knowing: a
magnitude M is x = M / 10 times each operation's range, **not clipped**, as in the released code [C]. timm
clips at 10 and applies each operation with p = 0.5; torchvision has another scale and other operations;
neither reproduces it.

`official` is [C] bit for bit, its integer wrap-around included; `fixed` (default) has the same scale and the
meaning that was intended. They differ in the four lines marked *:

    operation        argument          official [C]                          fixed
    AutoContrast     -                 stretch each channel to 0..255        same
    Equalize         -                 flat histogram per channel            same
    Invert           -                 255 - v                               same
    Rotate           +-30x degrees     about the centre, + counter-clockwise same
    ShearX, ShearY   +-0.3x slope      pivot is the top-left pixel           same
  * TranslateX, Y    +-const x pixels  M = 27 empties a 224 px image         at most 3/4 of the side
  * Posterize        trunc(4x) bits    0 and 9, 10, .. bits: 1 bit remains   clamped to 1..8 (M >= 20: no-op)
  * Solarize         trunc(256x)       threshold modulo 256 (M = 27: 179)    threshold clamped to 0..255
    SolarizeAdd      trunc(110x)       add to v < 128, clip at 255           same
    Color            1.8x + 0.1        blend from the grey image             same
  * Contrast         1.8x + 0.1        blend from level min(255, H W / 256)  blend from the mean grey
    Brightness       1.8x + 0.1        blend from black                      same
    Sharpness        1.8x + 0.1        blend from the smoothed image         same
    Cutout           trunc(const x)    half width of a grey square           same

The limit of 3/4 leaves every published setting alone (M = 27 moves a 380 px image by 0.71 of its side). [C]
applies every chosen operation; it has no probability gate.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from nst.errors import NstError, nearest

Image = NDArray[np.uint8]
Operation = Callable[[Image, float], Image]

OPERATIONS = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "Color", "Contrast",
    "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout", "SolarizeAdd",
)  # fmt: skip
SIGNED = frozenset({"Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"})
VARIANTS = ("fixed", "official", "timm", "torchvision")
GREY = 128  # what geometry and cutout leave behind
MAX_TRANSLATION = 0.75  # of the side, `fixed` only
TORCHVISION_BINS = 31
_FLOAT = np.float32
_VALUES = np.arange(256, dtype=np.uint8)


@dataclass(frozen=True)
class RandAugment:
    """`num_ops` operations drawn uniformly with replacement, signs by coin flip, cutout centre uniform.

    Args:
        magnitude: on the scale of `variant`; whole numbers only for `timm` and `torchvision`.
        translate_const: pixels of translation at magnitude 10 (else see `small_image_constants`).
        cutout_const: pixels of cutout half width at magnitude 10.

    Raises:
        NstError: unknown variant, or a magnitude the variant cannot express.
    """

    num_ops: int = 2
    magnitude: float = 27
    variant: str = "fixed"
    translate_const: float = 100
    cutout_const: float = 40

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise NstError(
                f"unknown RandAugment variant{nearest(self.variant, VARIANTS)}",
                got=self.variant,
                valid=", ".join(VARIANTS),
            )
        if self.num_ops < 0 or self.magnitude < 0:
            raise NstError(
                "RandAugment needs num_ops and magnitude of 0 or more",
                got=f"num_ops={self.num_ops}, magnitude={self.magnitude}",
            )
        if self.variant in _PEERS and self.magnitude != int(self.magnitude):
            raise NstError(f"RandAugment variant '{self.variant}' takes whole magnitudes", got=self.magnitude)
        if self.variant == "torchvision" and self.magnitude >= TORCHVISION_BINS:
            raise NstError(
                "torchvision's RandAugment has no such magnitude",
                got=self.magnitude,
                valid=f"0 to {TORCHVISION_BINS - 1}",
            )

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        """uint8 (H, W, 3) -> uint8 (H, W, 3), by `image` and `rng` alone; never writes to `image`."""
        require_rgb(image)
        if self.variant in _PEERS:
            return _PEERS[self.variant](self, image, rng)
        table = _table(self.variant, self.magnitude, self.translate_const, self.cutout_const)
        for chosen in rng.integers(len(table), size=self.num_ops):
            step = table[chosen]
            if step.name == "Cutout":
                image = cutout(image, rng, int(step.argument))
            elif step.signed and rng.random() < 0.5:
                image = step.operation(image, -step.argument)
            else:
                image = step.operation(image, step.argument)
        return image


def small_image_constants(size: int) -> dict[str, float]:
    """Constants of small images [C]: translate and cutout by an eighth of the side (4 px of 32)."""
    return {"translate_const": size // 8, "cutout_const": size // 8}


def apply_op(
    image: Image,
    name: str,
    magnitude: float,
    *,
    variant: str = "official",
    sign: int = +1,
    center: tuple[int, int] | None = None,
    translate_const: float = 100.0,
    cutout_const: float = 40.0,
) -> Image:
    """One operation with its randomness pinned: uint8 (H, W, 3) -> uint8 (H, W, 3).

    Args:
        sign: +1 or -1, used by rotate, shear and translate.
        center: row and column of the cutout's centre; the image's centre if None.

    Raises:
        NstError: unknown operation, or a variant whose operations are not ours.
    """
    if name not in OPERATIONS:
        raise NstError(
            f"unknown RandAugment operation{nearest(name, OPERATIONS)}", got=name, valid=", ".join(OPERATIONS)
        )
    if variant not in _CHANGED:
        raise NstError("single operations exist for our own variants", got=variant, valid=", ".join(_CHANGED))
    require_rgb(image)
    step = _table(variant, magnitude, translate_const, cutout_const)[OPERATIONS.index(name)]
    if name == "Cutout" and center is not None:
        return cutout_at(image, *center, int(step.argument))
    return step.operation(image, step.argument * sign if step.signed else step.argument)


def op_argument(name: str, magnitude: float, *, translate_const: float = 100.0, cutout_const: float = 40.0) -> float:
    """Argument of an operation at a magnitude, before sign, wrap-around and clamping (units: table above)."""
    x = magnitude / 10  # the truncations below are of double-precision products, as in [C]
    if name in ("Color", "Contrast", "Brightness", "Sharpness"):
        return x * 1.8 + 0.1
    formulae = {
        "Rotate": x * 30.0,
        "ShearX": x * 0.3,
        "ShearY": x * 0.3,
        "TranslateX": x * translate_const,
        "TranslateY": x * translate_const,
        "Posterize": int(x * 4),
        "Solarize": int(x * 256),
        "SolarizeAdd": int(x * 110),
        "Cutout": int(x * cutout_const),
    }
    return formulae.get(name, 0)


def cutout(image: Image, rng: np.random.Generator, half_width: int, fill: int = GREY) -> Image:
    """Copy of `image` (H, W, 3) with a square of 2 * `half_width` px filled, centre uniform over pixels."""
    height, width = image.shape[:2]
    return cutout_at(image, int(rng.integers(height)), int(rng.integers(width)), half_width, fill)


def cutout_at(image: Image, row: int, column: int, half_width: int, fill: int = GREY) -> Image:
    """Copy of `image` (H, W, 3), rows row - p .. row + p - 1 and like columns filled, p = `half_width`."""
    image = image.copy()
    rows = slice(max(0, row - half_width), max(0, row + half_width))
    image[rows, max(0, column - half_width) : max(0, column + half_width)] = fill
    return image


def require_rgb(image: Image) -> None:
    """Raises NstError unless `image` is a non-empty uint8 (H, W, 3) array."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise NstError(
            "views take RGB images",
            got=f"{image.dtype} of shape {image.shape}",
            valid="uint8 of shape (height, width, 3), not empty",
        )


# ---- operations: (image, argument) -> image --------------------------------------------------------------


def _autocontrast(image: Image, _: float) -> Image:
    table = np.empty((1, 256, 3), np.uint8)
    for channel, histogram in enumerate(_histograms(image)):
        present = np.flatnonzero(histogram)
        low, high = _FLOAT(present[0]), _FLOAT(present[-1])
        if low == high:
            table[0, :, channel] = _VALUES
            continue
        scale = _FLOAT(255) / (high - low)
        # product and sum in double, rounded once: [C] ran with a fused multiply-add
        stretched = _FLOAT(_VALUES * np.float64(scale) + np.float64(-low * scale))
        table[0, :, channel] = np.clip(stretched, 0, 255).astype(np.uint8)
    return _lut(image, table)


def _equalize(image: Image, _: float) -> Image:
    table = np.empty((1, 256, 3), np.uint8)
    for channel, histogram in enumerate(_histograms(image)):
        last = histogram[np.flatnonzero(histogram)[-1]]
        step = (int(histogram.sum()) - int(last)) // 255
        if step == 0:
            table[0, :, channel] = _VALUES
            continue
        below = np.cumsum(histogram) - histogram  # pixels darker than each level
        table[0, :, channel] = np.where(_VALUES > 0, np.minimum((below + step // 2) // step, 255), 0)
    return _lut(image, table)


def _lut(image: Image, table: NDArray[np.integer]) -> Image:
    return np.asarray(cv2.LUT(image, table), np.uint8)


def _histograms(image: Image) -> list[NDArray[np.int64]]:
    return [cv2.calcHist([image], [c], None, [256], [0, 256]).ravel().astype(np.int64) for c in range(3)]


def _invert(image: Image, _: float) -> Image:
    return np.asarray(cv2.bitwise_not(image), np.uint8)


def _solarize_add(image: Image, addition: float) -> Image:
    return _lut(image, _solarize_add_table(int(addition)))


@functools.lru_cache(maxsize=64)
def _solarize_add_table(addition: int) -> Image:
    levels = _VALUES.astype(np.int64)
    return np.where(levels < 128, np.clip(levels + addition, 0, 255), levels).astype(np.uint8)


def _posterize_official(image: Image, bits: float) -> Image:
    # the shift is an 8-bit number in [C]: 9 bits give a shift of -1, i.e. 255, which is clamped to 7
    return _posterize(image, min((8 - int(bits)) % 256, 7))


def _posterize_fixed(image: Image, bits: float) -> Image:
    return _posterize(image, 8 - min(max(int(bits), 1), 8))


def _posterize(image: Image, shift: int) -> Image:
    return _lut(image, (_VALUES >> shift) << shift)


def _solarize_official(image: Image, threshold: float) -> Image:
    return _solarize(image, int(threshold) % 256)  # compared as an 8-bit number in [C]


def _solarize_fixed(image: Image, threshold: float) -> Image:
    return _solarize(image, min(int(threshold), 255))


def _solarize(image: Image, threshold: int) -> Image:
    return _lut(image, np.where(threshold > _VALUES, _VALUES, 255 - _VALUES))


def _blend(origin: Image, image: Image, factor: float) -> Image:
    """origin + factor * (image - origin), clipped, **truncated**, every step rounded to float32 as in [C]."""
    if factor == 1.0:
        return image
    mixed = np.subtract(image, origin, dtype=_FLOAT)
    mixed *= _FLOAT(factor)
    mixed += origin
    np.maximum(mixed, 0, out=mixed)
    np.minimum(mixed, 255, out=mixed)
    return mixed.astype(np.uint8)


def _grey(image: Image) -> Image:
    """Luminance (H, W) as [C] computes it: float32 on values / 255, times 255.5, truncated."""
    red, green, blue = (plane * _FLOAT(1 / 255) for plane in cv2.split(image))
    red *= _FLOAT(0.2989)
    green *= _FLOAT(0.587)
    blue *= _FLOAT(0.114)
    red += green
    red += blue
    red *= _FLOAT(255.5)
    return red.astype(np.uint8)


def _color(image: Image, factor: float) -> Image:
    if factor == 1.0:
        return image
    return _blend(np.asarray(cv2.merge([_grey(image)] * 3), np.uint8), image, factor)


def _contrast_official(image: Image, factor: float) -> Image:
    # [C] divides the histogram's pixel count, not its weighted sum, by 256
    pivot = min(image.shape[0] * image.shape[1] // 256, 255)
    return _lut(image, _blend(np.full(256, pivot, np.uint8), _VALUES, factor))


def _contrast_fixed(image: Image, factor: float) -> Image:
    pivot = int(cv2.mean(_grey(image))[0] + 0.5)
    return _lut(image, _blend(np.full(256, pivot, np.uint8), _VALUES, factor))


def _brightness(image: Image, factor: float) -> Image:
    return _lut(image, _blend(np.zeros(256, np.uint8), _VALUES, factor))


def _cutout_centre(image: Image, half_width: float) -> Image:
    return cutout_at(image, image.shape[0] // 2, image.shape[1] // 2, int(half_width))


_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], _FLOAT) / _FLOAT(13)


def _sharpness(image: Image, factor: float) -> Image:
    if factor == 1.0:
        return image
    smooth = image.copy()  # the one-pixel border stays as it is
    smooth[1:-1, 1:-1] = cv2.filter2D(image, cv2.CV_32F, _SMOOTH)[1:-1, 1:-1].astype(np.uint8)
    return _blend(smooth, image, factor)


# ---- geometry: output (x, y) reads input (a x + b y + c, d x + e y + f) ----------------------------------


def _translate_x(image: Image, pixels: float) -> Image:
    return _warp(image, (1, 0, pixels, 0, 1, 0))


def _translate_y(image: Image, pixels: float) -> Image:
    return _warp(image, (1, 0, 0, 0, 1, pixels))


def _translate_x_fixed(image: Image, pixels: float) -> Image:
    limit = MAX_TRANSLATION * image.shape[1]
    return _translate_x(image, min(max(pixels, -limit), limit))


def _translate_y_fixed(image: Image, pixels: float) -> Image:
    limit = MAX_TRANSLATION * image.shape[0]
    return _translate_y(image, min(max(pixels, -limit), limit))


def _rotate(image: Image, degrees: float) -> Image:
    angle = _FLOAT(degrees) * _FLOAT(np.pi / 180)
    cos, sin = np.cos(angle), np.sin(angle)
    right, bottom = _FLOAT(image.shape[1] - 1), _FLOAT(image.shape[0] - 1)
    x_offset = (right - (cos * right - sin * bottom)) / _FLOAT(2)
    y_offset = (bottom - (sin * right + cos * bottom)) / _FLOAT(2)
    return _warp(image, (cos, -sin, x_offset, sin, cos, y_offset))


_NO_FRACTIONS = np.empty(0, np.uint16)  # remap's second map: whole pixel positions have none


def _warp(image: Image, matrix: tuple[float, ...]) -> Image:
    positions = _positions(image.shape[0], image.shape[1], matrix)
    options: dict[str, Any] = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": (GREY,) * 3}
    return np.asarray(cv2.remap(image, positions, _NO_FRACTIONS, cv2.INTER_NEAREST, **options), np.uint8)


# A run sees few sizes and magnitudes, so the positions of a warp are computed once: 5 operations x 2 signs.
@functools.lru_cache(maxsize=32)
def _positions(height: int, width: int, matrix: tuple[float, ...]) -> NDArray[np.int16]:
    """Input column and row read by each output pixel, int16 (H, W, 2); -1 or the side's length: outside."""
    a, b, c, d, e, f = (_FLOAT(entry) for entry in matrix)
    x = np.arange(width, dtype=_FLOAT)[None, :]
    y = np.arange(height, dtype=_FLOAT)[:, None]
    columns = np.clip(_round_half_away(a * x + b * y + c), -1, width)
    rows = np.clip(_round_half_away(d * x + e * y + f), -1, height)
    return np.stack([columns, rows], axis=-1).astype(np.int16)


def _round_half_away(values: NDArray[np.float32]) -> NDArray[np.float32]:
    whole = np.trunc(values)
    return whole + np.where(np.abs(values - whole) >= _FLOAT(0.5), np.sign(values), _FLOAT(0))


# ---- tables ----------------------------------------------------------------------------------------------


class _Step(NamedTuple):
    name: str
    operation: Operation
    argument: float
    signed: bool


_COMMON: dict[str, Operation] = {
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
    "Invert": _invert,
    "Rotate": _rotate,
    "Color": _color,
    "Brightness": _brightness,
    "Sharpness": _sharpness,
    "ShearX": lambda image, slope: _warp(image, (1, slope, 0, 0, 1, 0)),
    "ShearY": lambda image, slope: _warp(image, (1, 0, 0, slope, 1, 0)),
    "SolarizeAdd": _solarize_add,
    "Cutout": _cutout_centre,
}
_CHANGED: dict[str, dict[str, Operation]] = {
    "fixed": {
        "Posterize": _posterize_fixed,
        "Solarize": _solarize_fixed,
        "Contrast": _contrast_fixed,
        "TranslateX": _translate_x_fixed,
        "TranslateY": _translate_y_fixed,
    },
    "official": {
        "Posterize": _posterize_official,
        "Solarize": _solarize_official,
        "Contrast": _contrast_official,
        "TranslateX": _translate_x,
        "TranslateY": _translate_y,
    },
}


@functools.lru_cache(maxsize=64)
def _table(variant: str, magnitude: float, translate_const: float, cutout_const: float) -> tuple[_Step, ...]:
    operations = _COMMON | _CHANGED[variant]
    constants = {"translate_const": translate_const, "cutout_const": cutout_const}
    return tuple(
        _Step(name, operations[name], op_argument(name, magnitude, **constants), name in SIGNED) for name in OPERATIONS
    )


# ---- other libraries -------------------------------------------------------------------------------------


def _timm(settings: RandAugment, image: Image, rng: np.random.Generator) -> Image:
    with _global_generators_from(rng):
        return _through_pillow(_timm_transform(settings.num_ops, int(settings.magnitude)), image)


def _torchvision(settings: RandAugment, image: Image, rng: np.random.Generator) -> Image:
    with _global_generators_from(rng):
        return _through_pillow(_torchvision_transform(settings.num_ops, int(settings.magnitude)), image)


def _through_pillow(transform: Callable[[Any], Any], image: Image) -> Image:
    from PIL import Image as Pillow

    return np.array(transform(Pillow.fromarray(image)))


@functools.lru_cache(maxsize=8)
def _timm_transform(num_ops: int, magnitude: int) -> Callable[[Any], Any]:
    from timm.data.auto_augment import rand_augment_transform

    return rand_augment_transform(f"rand-m{magnitude}-n{num_ops}-mstd0", {"img_mean": (GREY,) * 3})


@functools.lru_cache(maxsize=8)
def _torchvision_transform(num_ops: int, magnitude: int) -> Callable[[Any], Any]:
    from torchvision.transforms import v2

    return v2.RandAugment(num_ops, magnitude, num_magnitude_bins=TORCHVISION_BINS, fill=[GREY] * 3)


@contextmanager
def _global_generators_from(rng: np.random.Generator) -> Iterator[None]:
    """Both libraries draw from process-wide generators: seeded from `rng`, and put back afterwards."""
    import torch

    seed = int(rng.integers(2**32))
    saved = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would also touch the accelerators' generators
    try:
        yield
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])
        torch.set_rng_state(saved[2])


_PEERS: dict[str, Callable[[RandAugment, Image, np.random.Generator], Image]] = {
    "timm": _timm,
    "torchvision": _torchvision,
}
