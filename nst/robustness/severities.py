"""Strength of every corruption at severity 1 to 5, by the side of the image.

Source: hendrycks/robustness, the generators of ImageNet-C (224), its 299 px companion, Tiny-ImageNet-C (64) and
CIFAR-10-C (32). Strengths are in pixels and are *not* scaled, so an image of another side takes the table of the
nearest one, and a result says which (`table_side`).
"""

from __future__ import annotations

SIDES = (32, 64, 224, 299)
SEVERITIES = (1, 2, 3, 4, 5)

Levels = tuple[tuple[float, ...], ...]  # by severity: the corruption's parameters


def table_side(side: int) -> int:
    """The table that images of `side` px take: the nearest of 32, 64, 224 and 299, the smaller of two."""
    return min(SIDES, key=lambda known: (abs(known - side), known))


def levels(name: str, side: int) -> Levels:
    """Parameters of a corruption at severities 1 to 5, for a side of `SIDES`."""
    return _TABLES[name][side]


def _each(*values: float) -> Levels:
    return tuple((value,) for value in values)


_ZOOMS_SMALL = ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01))
_ZOOMS_LARGE = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
_SNOW_SMALL = ((0.1, 0.2, 1, 0.6, 8, 3), (0.1, 0.2, 1, 0.5, 10, 4), (0.15, 0.3, 1.75, 0.55, 10, 4),
               (0.25, 0.3, 2.25, 0.6, 12, 6), (0.3, 0.3, 1.25, 0.65, 14, 12))  # fmt: skip
_SNOW_LARGE = ((0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
               (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55))  # fmt: skip
_FROST_LARGE = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
_BRIGHT = _each(0.1, 0.2, 0.3, 0.4, 0.5)
_CONTRAST = _each(0.4, 0.3, 0.2, 0.1, 0.05)
_SATURATE = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))


def _with_blend(snow: Levels, *blend: float) -> Levels:
    return tuple((*level, share) for level, share in zip(snow, blend, strict=True))


def _elastic(side: int, *levels: tuple[float, float, float]) -> Levels:
    """Amplitude, smoothing and corner jitter, given as shares of a side, in px."""
    return tuple(tuple(side * share for share in level) for level in levels)


_TABLES: dict[str, dict[int, Levels]] = {
    "gaussian_noise": {  # standard deviation, on [0, 1]
        32: _each(0.04, 0.06, 0.08, 0.09, 0.10),
        64: _each(0.04, 0.08, 0.12, 0.15, 0.18),
        224: _each(0.08, 0.12, 0.18, 0.26, 0.38),
        299: _each(0.09, 0.13, 0.19, 0.27, 0.40),
    },
    "shot_noise": {  # photons at white
        32: _each(500, 250, 100, 75, 50),
        64: _each(250, 100, 50, 30, 15),
        224: _each(60, 25, 12, 5, 3),
        299: _each(50, 20, 10, 5, 3),
    },
    "impulse_noise": {  # share of the values that are replaced
        32: _each(0.01, 0.02, 0.03, 0.05, 0.07),
        64: _each(0.01, 0.02, 0.05, 0.08, 0.14),
        224: _each(0.03, 0.06, 0.09, 0.17, 0.27),
        299: _each(0.04, 0.07, 0.10, 0.18, 0.28),
    },
    "defocus_blur": {  # disk radius px, smoothing of the disk's edge px
        32: ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        64: ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        224: ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        299: ((4, 0.1), (5, 0.5), (7, 0.5), (10, 0.5), (12, 0.5)),
    },
    "glass_blur": {  # blur px, reach of a shift px, rounds
        32: ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        64: ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
        224: ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        299: ((0.8, 1, 3), (1, 3, 1), (1.1, 2, 4), (1.2, 4, 2), (1.6, 5, 2)),
    },
    "motion_blur": {  # radius px, sigma px
        32: ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        64: ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        224: ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        299: ((12, 4), (17, 6), (17, 9), (17, 13), (22, 16)),
    },
    "zoom_blur": {  # stop and step of the zoom factors from 1 on
        32: _ZOOMS_SMALL,
        64: _ZOOMS_SMALL,
        224: _ZOOMS_LARGE,
        299: _ZOOMS_LARGE,
    },
    "snow": {  # mean and deviation of the flakes, their zoom, threshold, blur radius and sigma px, share of the image
        32: _with_blend(_SNOW_SMALL, 0.95, 0.9, 0.9, 0.85, 0.8),
        64: _with_blend(_SNOW_SMALL, 0.8, 0.8, 0.7, 0.65, 0.6),
        224: _SNOW_LARGE,
        299: _SNOW_LARGE,
    },
    "frost": {  # weight of the image, weight of the texture
        32: ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        64: ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
        224: _FROST_LARGE,
        299: _FROST_LARGE,
    },
    "fog": {  # amount, decay of the roughness
        32: ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        64: ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        224: ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        299: ((1.5, 2), (2, 2), (2.5, 1.8), (2.5, 1.6), (3, 1.5)),
    },
    "brightness": {  # added to the value of HSV
        32: _each(0.05, 0.1, 0.15, 0.2, 0.3),
        64: _BRIGHT,
        224: _BRIGHT,
        299: _BRIGHT,
    },
    "contrast": {  # scale about the channel's mean
        32: _each(0.75, 0.5, 0.4, 0.3, 0.15),
        64: _CONTRAST,
        224: _CONTRAST,
        299: _CONTRAST,
    },
    "elastic_transform": {  # amplitude, smoothing, corner jitter, px
        32: _elastic(32, (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        64: _elastic(64, (0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
        # 244, not 224: so the reference, and so the released data
        224: _elastic(244, (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
        299: _elastic(360, (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
    },
    "pixelate": {  # scale
        32: _each(0.95, 0.9, 0.85, 0.75, 0.65),
        64: _each(0.9, 0.8, 0.7, 0.6, 0.5),
        224: _each(0.6, 0.5, 0.4, 0.3, 0.25),
        299: _each(0.5, 0.4, 0.3, 0.25, 0.2),
    },
    "jpeg_compression": {  # quality
        32: _each(80, 65, 58, 50, 40),
        64: _each(65, 58, 50, 40, 25),
        224: _each(25, 18, 15, 10, 7),
        299: _each(23, 16, 13, 8, 5),
    },
    "speckle_noise": {  # standard deviation, as a share of the value
        32: _each(0.06, 0.1, 0.12, 0.16, 0.2),
        64: _each(0.15, 0.2, 0.25, 0.3, 0.35),
        224: _each(0.15, 0.2, 0.35, 0.45, 0.6),
        299: _each(0.16, 0.21, 0.36, 0.46, 0.61),
    },
    "gaussian_blur": {  # sigma px
        32: _each(0.4, 0.6, 0.7, 0.8, 1),
        64: _each(0.5, 0.75, 1, 1.25, 1.5),
        224: _each(1, 2, 3, 4, 6),
        299: _each(1.5, 2.5, 3.5, 4.5, 6.5),
    },
    "spatter": {  # mean, deviation, smoothing px, threshold, then strength of water or smoothing of mud px; 1: mud
        32: ((0.62, 0.1, 0.7, 0.7, 0.5, 0), (0.65, 0.1, 0.8, 0.7, 0.5, 0), (0.65, 0.3, 1, 0.69, 0.5, 0),
             (0.65, 0.1, 0.7, 0.69, 0.6, 1), (0.65, 0.1, 0.5, 0.68, 0.6, 1)),
        64: ((0.62, 0.1, 0.7, 0.7, 0.6, 0), (0.65, 0.1, 0.8, 0.7, 0.6, 0), (0.65, 0.3, 1, 0.69, 0.6, 0),
             (0.65, 0.1, 0.7, 0.68, 0.6, 1), (0.65, 0.1, 0.5, 0.67, 0.6, 1)),
        224: ((0.65, 0.3, 4, 0.69, 0.6, 0), (0.65, 0.3, 3, 0.68, 0.6, 0), (0.65, 0.3, 2, 0.68, 0.5, 0),
              (0.65, 0.3, 1, 0.65, 1.5, 1), (0.67, 0.4, 1, 0.65, 1.5, 1)),
        299: ((0.65, 0.3, 4, 0.69, 0.9, 0), (0.65, 0.3, 3.5, 0.68, 0.9, 0), (0.65, 0.3, 3, 0.68, 0.8, 0),
              (0.65, 0.3, 1.2, 0.65, 1.8, 1), (0.67, 0.4, 1.2, 0.65, 1.8, 1)),
    },
    "saturate": {  # factor and offset of the saturation of HSV
        32: ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        64: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
        224: _SATURATE,
        299: _SATURATE,
    },
}  # fmt: skip
