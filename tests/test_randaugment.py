"""RandAugment against the released code's outputs, and the promises of `fixed` and of the peers' variants.

tests/golden/randaugment.npz holds outputs of the released operations (TensorFlow 1.15, CPU), keyed
`<set>/m<M>/<Operation>[/sign or centre]`; where an array would be large, `sha256/<key>` holds its digest.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter

import cv2
import numpy as np
import pytest
import torch
from helpers import apply_op, golden_arrays

from nst.data import geometry, operations
from nst.data import randaugment as module
from nst.data.operations import cutout, cutout_at
from nst.data.randaugment import (
    OPERATIONS,
    SIGNED,
    VARIANTS,
    RandAugment,
    op_argument,
    small_image_constants,
)
from nst.errors import NstError

GOLDEN = golden_arrays("randaugment.npz")
INPUTS = {
    "imagenet": "input/chelsea_224",
    "rect": "input/synthetic_96x80",
    "small_chelsea": "input/chelsea_32",
    "small_astronaut": "input/astronaut_32",
    "degenerate": "degenerate/input",
}
CASES = sorted(
    key
    for key in (name.removeprefix("sha256/") for name in GOLDEN)
    if not key.startswith("input/") and not key.endswith("/input")
)


def golden_input(key: str) -> np.ndarray:
    return GOLDEN[INPUTS[key.split("/")[0]]]


def centre_of(text: str) -> tuple[int, int]:
    row, column = text.removeprefix("y").split("_x")
    return int(row), int(column)


def recompute(key: str) -> np.ndarray:
    family, *rest = key.split("/")
    image = golden_input(key)
    if rest[0] == "fixed_cutout16":
        return cutout_at(image, *centre_of(rest[1]), 8)
    magnitude = int(rest.pop(0)[1:]) if rest[0][1:].isdigit() else 0
    constants = small_image_constants(32) if family.startswith("small") else {}
    pinned: dict = {}
    if len(rest) == 2:
        pinned = {"center": centre_of(rest[1])} if rest[0] == "Cutout" else {"sign": int(rest[1] + "1")}
    return apply_op(image, rest[0], magnitude, **pinned, **constants)


@pytest.mark.parametrize("key", CASES)
def test_official_operations_equal_the_released_code(key: str) -> None:
    result = recompute(key)
    if f"sha256/{key}" in GOLDEN:
        assert hashlib.sha256(result.tobytes()).digest() == GOLDEN[f"sha256/{key}"].tobytes()
    elif "AutoContrast" in key:  # a fused multiply-add may round the other way on other machines
        difference = np.abs(result.astype(int) - GOLDEN[key])
        assert difference.max() <= 1
        assert (difference > 0).mean() <= 0.001
    else:
        np.testing.assert_array_equal(result, GOLDEN[key])


def test_golden_cases_cover_every_operation_and_picture() -> None:
    assert len(CASES) == 216
    assert {case.split("/")[0] for case in CASES} == set(INPUTS)
    for operation in OPERATIONS:
        assert any(f"/{operation}" in case for case in CASES), operation


# at 13, 17, 18 and 21 NumPy's own float32 functions are an ulp off; a pixel of a picture then differs
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("magnitude", range(1, 31))
def test_the_matrix_of_a_rotation_is_rounded_once(magnitude: int, sign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = []
    monkeypatch.setattr(geometry, "_warp", lambda image, matrix: matrices.append(matrix) or image)
    apply_op(golden_input("rect"), "Rotate", magnitude, sign=sign)
    cos, minus_sin, _, sin, last, _ = matrices[0]
    angle = float(np.float32(sign * 3 * magnitude) * np.float32(np.pi / 180))
    assert (cos, sin) == (np.float32(math.cos(angle)), np.float32(math.sin(angle)))
    assert (last, minus_sin) == (cos, -sin)


# M: rotate, shear, translate, enhance, posterize, solarize, solarize-add, cutout; small: translate, cutout
ARGUMENTS = {
    1: (3, 0.03, 10, 0.28, 0, 25, 11, 4, 0.4, 0),
    3: (9, 0.09, 30, 0.64, 1, 76, 33, 12, 1.2, 1),
    5: (15, 0.15, 50, 1.0, 2, 128, 55, 20, 2, 2),
    10: (30, 0.3, 100, 1.9, 4, 256, 110, 40, 4, 4),
    15: (45, 0.45, 150, 2.8, 6, 384, 165, 60, 6, 6),
    18: (54, 0.54, 180, 3.34, 7, 460, 198, 72, 7.2, 7),
    21: (63, 0.63, 210, 3.88, 8, 537, 231, 84, 8.4, 8),
    24: (72, 0.72, 240, 4.42, 9, 614, 264, 96, 9.6, 9),
    27: (81, 0.81, 270, 4.96, 10, 691, 297, 108, 10.8, 10),
    30: (90, 0.9, 300, 5.5, 12, 768, 330, 120, 12, 12),
}


@pytest.mark.parametrize(("magnitude", "expected"), ARGUMENTS.items())
def test_arguments_follow_the_released_scale_without_clipping(magnitude: int, expected: tuple) -> None:
    names = ("Rotate", "ShearX", "TranslateY", "Color", "Posterize", "Solarize", "SolarizeAdd", "Cutout")
    small = small_image_constants(32)
    measured = [op_argument(name, magnitude) for name in names]
    measured += [op_argument(name, magnitude, **small) for name in ("TranslateX", "Cutout")]
    assert measured == pytest.approx(expected, abs=1e-9)


RAMP = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)


@pytest.mark.parametrize(("magnitude", "kept"), [(1, 1), (5, 2), (9, 3), (15, 6), (20, 8), (24, 1), (27, 1), (30, 1)])
def test_official_posterize_wraps_around(magnitude: int, kept: int) -> None:
    assert len(np.unique(apply_op(RAMP, "Posterize", magnitude))) == 2**kept


@pytest.mark.parametrize(
    ("magnitude", "threshold"), [(5, 128), (9, 230), (10, 0), (12, 51), (15, 128), (20, 0), (27, 179)]
)
def test_official_solarize_compares_modulo_256(magnitude: int, threshold: int) -> None:
    inverted = np.flatnonzero(apply_op(RAMP, "Solarize", magnitude)[0, :, 0] != RAMP[0, :, 0])
    assert inverted[0] == threshold


def test_official_translation_empties_a_224_image_at_magnitude_27() -> None:
    assert (apply_op(GOLDEN["input/chelsea_224"], "TranslateX", 27) == 128).all()


@pytest.mark.parametrize("size", [(224, 224), (96, 80), (32, 32), (8, 8)])
@pytest.mark.parametrize("name", ["TranslateX", "TranslateY"])
@pytest.mark.parametrize("sign", [+1, -1])
def test_fixed_translation_always_leaves_a_quarter_of_the_image(size: tuple[int, int], name: str, sign: int) -> None:
    black = np.zeros((*size, 3), np.uint8)
    moved = apply_op(black, name, 30, variant="fixed", sign=sign)
    assert (moved == 0).mean() == pytest.approx(0.25)


def test_fixed_translation_equals_official_at_the_paper_resolutions() -> None:
    image = np.random.default_rng(0).integers(0, 256, (380, 380, 3), dtype=np.uint8)
    for name in ("TranslateX", "TranslateY"):
        np.testing.assert_array_equal(
            apply_op(image, name, 27, variant="fixed", sign=-1), apply_op(image, name, 27, sign=-1)
        )


def test_fixed_posterize_keeps_more_levels_at_every_magnitude() -> None:
    levels = [len(np.unique(apply_op(RAMP, "Posterize", m, variant="fixed"))) for m in range(31)]
    assert levels == sorted(levels)
    assert (levels[0], levels[9], levels[-1]) == (2, 8, 256)


def test_fixed_solarize_inverts_ever_fewer_levels() -> None:
    inverted = [(apply_op(RAMP, "Solarize", m, variant="fixed") != RAMP).mean() for m in range(31)]
    assert inverted == sorted(inverted, reverse=True)
    np.testing.assert_array_equal(apply_op(RAMP, "Solarize", 27, variant="fixed")[0, :255], RAMP[0, :255])


@pytest.mark.parametrize("level", [0, 37, 128, 255])
@pytest.mark.parametrize("magnitude", [2, 9, 27])
def test_fixed_contrast_leaves_a_flat_image_alone(level: int, magnitude: int) -> None:
    flat = np.full((40, 30, 3), level, np.uint8)
    assert np.abs(apply_op(flat, "Contrast", magnitude, variant="fixed").astype(int) - level).max() <= 1


def test_fixed_contrast_spreads_levels_around_the_mean() -> None:
    image = np.full((20, 20, 3), 100, np.uint8)
    image[10:] = 110
    spread = apply_op(image, "Contrast", 10, variant="fixed")  # factor 1.9 about 105
    assert spread[0, 0, 0] == 95
    assert spread[-1, 0, 0] == 114


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - set(module._CHANGED["fixed"])))
def test_fixed_changes_only_the_four_listed_operations(name: str) -> None:
    image = GOLDEN["input/astronaut_32"]
    np.testing.assert_array_equal(apply_op(image, name, 27, variant="fixed"), apply_op(image, name, 27))


@pytest.mark.parametrize("variant", ["fixed", "official"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (2, 2), (2, 40)])
def test_every_operation_survives_tiny_images(variant: str, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(3).integers(0, 256, (*shape, 3), dtype=np.uint8)
    original = image.copy()
    for name in OPERATIONS:
        for sign in (+1, -1):
            result = apply_op(image, name, 27, variant=variant, sign=sign)
            assert result.shape == image.shape
            assert result.dtype == np.uint8
    np.testing.assert_array_equal(image, original)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_accept_views_and_read_only_arrays(name: str) -> None:
    wide = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    view = wide[5:30, 50:10:-1]
    view.flags.writeable = False
    np.testing.assert_array_equal(apply_op(view, name, 9), apply_op(view.copy(), name, 9))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_generator_alone_decides(variant: str) -> None:
    image = GOLDEN["input/astronaut_32"]
    augment = RandAugment(magnitude=9, variant=variant, **small_image_constants(32))
    original = image.copy()
    first = [augment(image, np.random.default_rng(seed)) for seed in range(20)]
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)
    second = [augment(image, np.random.default_rng(seed)) for seed in range(20)]
    assert all(np.array_equal(one, two) for one, two in zip(first, second, strict=True))
    assert len({result.tobytes() for result in first}) > 6  # timm leaves a quarter of the images alone
    assert all(result.shape == image.shape and result.dtype == np.uint8 for result in first)
    np.testing.assert_array_equal(image, original)


@pytest.mark.parametrize("variant", VARIANTS)
def test_global_generators_are_left_as_they_were(variant: str) -> None:
    augment = RandAugment(magnitude=9, variant=variant)
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    expected = random.random(), np.random.random(), torch.rand(1).item()
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    augment(GOLDEN["input/chelsea_32"], np.random.default_rng(0))
    assert (random.random(), np.random.random(), torch.rand(1).item()) == expected


def record_draws(monkeypatch: pytest.MonkeyPatch, augment: RandAugment, images: int) -> list[tuple[str, float]]:
    """Runs `augment` on a generator, with operations that only note that they were called."""
    drawn: list[tuple[str, float]] = []

    def noting(name: str):
        def operation(image: np.ndarray, argument: float) -> np.ndarray:
            drawn.append((name, argument))
            return image

        return operation

    def noting_cutout(image: np.ndarray, rng: np.random.Generator, half_width: int) -> np.ndarray:
        drawn.append(("Cutout", half_width))
        return image

    table = module._table(augment.variant, augment.magnitude, augment.translate_const, augment.cutout_const)
    silent = tuple(step._replace(operation=noting(step.name)) for step in table)
    monkeypatch.setattr(module, "_table", lambda *_: silent)
    monkeypatch.setattr(module, "cutout", noting_cutout)
    rng = np.random.default_rng(11)
    for _ in range(images):
        augment(np.zeros((4, 4, 3), np.uint8), rng)
    return drawn


def test_operations_are_drawn_uniformly_and_always_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = record_draws(monkeypatch, RandAugment(num_ops=3), images=4000)
    counts = Counter(name for name, _ in drawn)
    assert sum(counts.values()) == 12000
    expected = 12000 / 16
    chi_squared = sum((counts[name] - expected) ** 2 / expected for name in OPERATIONS)
    assert chi_squared < 37.7  # 0.1 % point at 15 degrees of freedom


def test_signs_are_fair_and_belong_to_geometry_only(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = record_draws(monkeypatch, RandAugment(), images=6000)
    negative = Counter(name for name, argument in drawn if argument < 0)
    total = Counter(name for name, _ in drawn)
    assert set(negative) == SIGNED
    for name in SIGNED:
        assert negative[name] / total[name] == pytest.approx(0.5, abs=4 * 0.5 / total[name] ** 0.5)


def test_cutout_centres_cover_the_image_evenly() -> None:
    rng = np.random.default_rng(2)
    image = np.zeros((6, 4, 3), np.uint8)
    covered = sum((cutout(image, rng, 1)[..., 0] == 128).astype(int) for _ in range(6000))
    assert covered[1:5, 1:3] == pytest.approx(np.full((4, 2), 1000), abs=130)  # 4 of 24 centres reach a pixel inside
    assert covered[5, 3] == pytest.approx(250, abs=70)  # the last corner: only its own centre
    assert covered[0, 0] == pytest.approx(1000, abs=130)  # the first: rows r - 1 .. r make four


def test_small_constants_are_an_eighth_of_the_side() -> None:
    assert small_image_constants(32) == {"translate_const": 4, "cutout_const": 4}
    assert small_image_constants(16) == {"translate_const": 2, "cutout_const": 2}


def test_no_operation_returns_the_image() -> None:
    image = GOLDEN["input/chelsea_32"]
    np.testing.assert_array_equal(RandAugment(num_ops=0)(image, np.random.default_rng(0)), image)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"variant": "offical"}, "did you mean 'official'.*|fixed, official, timm, torchvision"),
        ({"variant": "torchvision", "magnitude": 31}, "0 to 30"),
        ({"variant": "timm", "magnitude": 9.5}, "whole magnitudes"),
        ({"variant": "timm", "magnitude": 2}, "3 or more"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, named: str) -> None:
    with pytest.raises(NstError, match=named):
        RandAugment(**settings)


def test_wrong_images_are_refused() -> None:
    image = GOLDEN["input/chelsea_32"]
    for wrong in (image[..., 0], image.astype(np.float32), image[:0], np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(NstError, match="views take RGB images"):
            RandAugment()(wrong, np.random.default_rng(0))


@pytest.mark.parametrize(("variant", "magnitude"), [("timm", 3), ("torchvision", 0), ("fixed", 0), ("official", 0)])
def test_the_least_magnitude_can_be_drawn_with_every_operation(variant: str, magnitude: int) -> None:
    augment = RandAugment(num_ops=1, magnitude=magnitude, variant=variant)
    for seed in range(120):
        assert augment(golden_input("rect"), np.random.default_rng(seed)).shape == golden_input("rect").shape


def test_timm_magnitudes_above_ten_are_clipped_by_timm() -> None:
    image = GOLDEN["input/astronaut_32"]
    for seed in range(10):
        results = [RandAugment(magnitude=m, variant="timm")(image, np.random.default_rng(seed)) for m in (10, 27)]
        np.testing.assert_array_equal(*results)


def test_results_do_not_depend_on_opencv_threads() -> None:
    image = GOLDEN["input/chelsea_224"]
    before = cv2.getNumThreads()
    try:
        results = []
        for threads in (0, 4):
            cv2.setNumThreads(threads)
            results.append([apply_op(image, name, 9, variant="fixed") for name in OPERATIONS])
    finally:
        cv2.setNumThreads(before)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


# ---- the same bits in less time: what stands for a formula equals it ----


def pictures() -> list[np.ndarray]:
    """Noise, a flat picture, a ramp, and a reversed read-only view, in sizes down to a pixel."""
    generator = np.random.default_rng(3)
    shapes = [(1, 1), (1, 7), (5, 3), (32, 32), (61, 97)]
    found = [generator.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    found += [np.full((9, 9, 3), 77, np.uint8), np.arange(768, dtype=np.uint8).reshape(16, 16, 3)]
    view = generator.integers(60, 180, (40, 30, 3), dtype=np.uint8)[::2, ::-2]
    view.flags.writeable = False
    return [*found, view]


def test_levels_by_threshold_equal_the_formula_for_every_level() -> None:
    levels = np.arange(768, dtype=np.uint8).reshape(16, 16, 3)
    values = levels.astype(int)
    for argument in range(0, 400, 9):
        solarized = np.where(values < min(argument, 255), values, 255 - values)
        np.testing.assert_array_equal(operations.solarize_fixed(levels, argument), solarized)
        added = np.where(values < 128, np.minimum(values + argument, 255), values)
        np.testing.assert_array_equal(operations.solarize_add(levels, argument), added)
    for bits in range(1, 9):
        np.testing.assert_array_equal(
            operations.posterize_fixed(levels, bits), values // 2 ** (8 - bits) * 2 ** (8 - bits)
        )


@pytest.mark.parametrize("factor", [0.1, 0.82, 1.9, 4.96])
def test_blending_by_table_equals_the_formula(factor: float) -> None:
    for image in pictures():
        origin = np.ascontiguousarray(image[::-1])
        step = np.float32(factor) * (image.astype(np.float32) - origin)
        expected = np.clip(step + origin, 0, 255).astype(np.uint8)
        np.testing.assert_array_equal(operations._blend_pictures(origin, image, factor), expected)


@pytest.mark.parametrize("pixels", [-300.0, -7.5, -3.5, -1.2, 0.0, 0.49999997, 0.5, 1.3, 3.5, 10.0, 168.0, 300.0])
def test_translation_by_slices_equals_the_warp(pixels: float) -> None:
    for image in pictures():
        across, down = (1, 0, pixels, 0, 1, 0), (1, 0, 0, 0, 1, pixels)
        np.testing.assert_array_equal(geometry.translate_x(image, pixels), geometry._warp(image, across))
        np.testing.assert_array_equal(geometry.translate_y(image, pixels), geometry._warp(image, down))


@pytest.mark.parametrize("matrix", [(1, 0.81, 0, 0, 1, 0), (1, 0, 0, -0.81, 1, 0), (0.6, -0.8, 9.3, 0.8, 0.6, -4.1)])
def test_warp_reads_whole_pixels_at_the_positions_and_grey_outside(matrix: tuple[float, ...]) -> None:
    for image in pictures():
        height, width = image.shape[:2]
        columns, rows = np.moveaxis(geometry._positions(height, width, matrix).astype(int), -1, 0)
        framed = np.pad(image, ((1, 1), (1, 1), (0, 0)), constant_values=128)
        np.testing.assert_array_equal(geometry._warp(image, matrix), framed[rows + 1, columns + 1])
