"""RandAugment on uint8 images: 16 operations at the paper's magnitudes; other libraries' as named variants.

Paper section 3.1: two operations at magnitude 27 for B7 and larger. A magnitude M is x = M / 10 times each operation's
range, **not clipped**, as in the released code [C]. timm clips at 10 and applies each operation with p = 0.5;
torchvision has another scale and other operations; neither reproduces it.

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

import numpy as np

from nst.data import geometry
from nst.data import operations as op
from nst.data.operations import GREY, Image, cutout, require_rgb
from nst.errors import UsageError, require_choice

Operation = Callable[[Image, float], Image]

OPERATIONS = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "Color", "Contrast",
    "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout", "SolarizeAdd",
)  # fmt: skip
SIGNED = frozenset({"Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"})
VARIANTS = ("fixed", "official", "timm", "torchvision")
TORCHVISION_BINS = 31
TIMM_LEAST = 3


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
        require_choice("RandAugment variant", self.variant, VARIANTS)
        if self.variant in _PEERS and self.magnitude != int(self.magnitude):
            raise UsageError(f"RandAugment variant '{self.variant}' takes whole magnitudes", got=self.magnitude)
        if self.variant == "torchvision" and self.magnitude >= TORCHVISION_BINS:
            raise UsageError(
                "torchvision's RandAugment has no such magnitude",
                got=self.magnitude,
                valid=f"0 to {TORCHVISION_BINS - 1}",
            )
        if self.variant == "timm" and self.magnitude < TIMM_LEAST:
            raise UsageError(
                "timm's RandAugment has no such magnitude: it would keep 0 bits of a colour, which Pillow refuses",
                got=self.magnitude,
                valid=f"{TIMM_LEAST} or more; above 10 as 10",
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


# ---- tables ----------------------------------------------------------------------------------------------


class _Step(NamedTuple):
    name: str
    operation: Operation
    argument: float
    signed: bool


_COMMON: dict[str, Operation] = {
    "AutoContrast": op.autocontrast,
    "Equalize": op.equalize,
    "Invert": op.invert,
    "Rotate": geometry.rotate,
    "Color": op.color,
    "Brightness": op.brightness,
    "Sharpness": op.sharpness,
    "ShearX": geometry.shear_x,
    "ShearY": geometry.shear_y,
    "SolarizeAdd": op.solarize_add,
    "Cutout": op.cutout_centre,
}
_CHANGED: dict[str, dict[str, Operation]] = {
    "fixed": {
        "Posterize": op.posterize_fixed,
        "Solarize": op.solarize_fixed,
        "Contrast": op.contrast_fixed,
        "TranslateX": geometry.translate_x_fixed,
        "TranslateY": geometry.translate_y_fixed,
    },
    "official": {
        "Posterize": op.posterize_official,
        "Solarize": op.solarize_official,
        "Contrast": op.contrast_official,
        "TranslateX": geometry.translate_x,
        "TranslateY": geometry.translate_y,
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


def _through_pillow(
    make: Callable[[int, int], Callable[[Any], Any]], settings: RandAugment, image: Image, rng: np.random.Generator
) -> Image:
    """By a transform of Pillow images, which `make` gives for a number of operations and a magnitude."""
    from PIL import Image as Pillow

    with _global_generators_from(rng):
        return np.array(make(settings.num_ops, int(settings.magnitude))(Pillow.fromarray(image)))


@functools.lru_cache(maxsize=8)
def _timm(num_ops: int, magnitude: int) -> Callable[[Any], Any]:
    from timm.data.auto_augment import rand_augment_transform

    return rand_augment_transform(f"rand-m{magnitude}-n{num_ops}-mstd0", {"img_mean": (GREY,) * 3})


@functools.lru_cache(maxsize=8)
def _torchvision(num_ops: int, magnitude: int) -> Callable[[Any], Any]:
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
    "timm": functools.partial(_through_pillow, _timm),
    "torchvision": functools.partial(_through_pillow, _torchvision),
}
