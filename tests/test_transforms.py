"""Views: the released code's crops and bicubic, the samplers' distributions, order of the student's noise.

tests/golden/preprocess.npz holds the released preprocessing's outputs (TensorFlow 1.15, CPU).
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import golden_arrays, noise
from PIL import Image as Pillow

from nst.data.randaugment import RandAugment, small_image_constants
from nst.data.resizing import official_bicubic, resize_official
from nst.data.transforms import (
    RESIZE,
    SAMPLERS,
    Augment,
    CenterView,
    center_crop_box,
    random_crop_box,
    reflect_pad_crop,
)
from nst.data.views import Turn, turns
from nst.errors import NstError
from nst.settings.data import Pictures

GOLDEN = golden_arrays("preprocess.npz")
PHOTO = GOLDEN["input/astronaut_400x300"]
AWKWARD = [(1, 1), (1, 50), (50, 1), (3, 2), (8, 8), (17, 31), (300, 400)]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ---- the released code ----


@pytest.mark.parametrize("key", sorted(k for k in GOLDEN if k.endswith("crop_yxhw")))
def test_center_crop_box_equals_the_released_code(key: str) -> None:
    _, picture, size, _ = key.split("/")
    height, width = GOLDEN[f"input/{picture}"].shape[:2]
    assert center_crop_box(height, width, int(size.removeprefix("to"))) == tuple(GOLDEN[key])


def official_center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The released code's evaluation picture, float32, neither clipped nor rounded."""
    top, left, height, width = center_crop_box(*image.shape[:2], size)
    return official_bicubic(image[top : top + height, left : left + width], size)


@pytest.mark.parametrize("key", sorted(k for k in GOLDEN if k.startswith("eval/") and k.count("/") == 2))
def test_official_center_crop_equals_the_released_code(key: str) -> None:
    _, picture, size = key.split("/")
    image = GOLDEN[f"input/{picture}"]
    result = official_center_crop(image, int(size.removeprefix("to")))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, GOLDEN[key], atol=1e-3)
    view = CenterView(len(result), resize="official")(image)
    np.testing.assert_allclose(view, np.clip(GOLDEN[key], 0, 255), atol=0.5 + 1e-3)


def test_official_fractions_are_rounded_to_1_in_1024() -> None:
    # of the stored cases only this one (262 to 224 px) has fractions that the rounding moves, by 0.1 level
    rows = official_center_crop(PHOTO, 224)[96:112]
    np.testing.assert_allclose(rows, GOLDEN["eval/astronaut_400x300/to224/rows96_112"], atol=1e-3)


def test_official_training_resize_equals_the_released_code() -> None:
    key = "crop_resize/astronaut_400x300/y100_x200_h50_w66/to64"
    crop = PHOTO[100:150, 200:266]
    np.testing.assert_allclose(official_bicubic(crop, 64), GOLDEN[f"{key}/float32"], atol=1e-3)
    difference = np.abs(resize_official(crop, 64).astype(int) - GOLDEN[f"{key}/uint8"])
    assert difference.max() <= 1  # truncation turns 1e-4 into one level where a value is nearly whole
    assert (difference > 0).mean() < 1e-3


def test_official_bicubic_kernel_and_alignment() -> None:
    impulse = np.zeros((9, 9, 3), np.uint8)
    impulse[4] = 200  # constant along x, so that a row of the reference is a column here
    np.testing.assert_allclose(official_bicubic(impulse, 36)[:, 0, 0], GOLDEN["impulse/9to36_row"], atol=1e-3)


def test_small_view_leaves_an_image_of_its_size_unchanged() -> None:
    image = GOLDEN["input/chelsea_32"]
    np.testing.assert_array_equal(CenterView(32, crop="none")(image), GOLDEN["eval_small/chelsea_32"])


# ---- clean view ----


def test_clean_view_is_crop_then_antialiased_bicubic() -> None:
    top, left, height, width = center_crop_box(300, 400, 64)
    crop = Pillow.fromarray(PHOTO).crop((left, top, left + width, top + height))
    expected = np.array(crop.resize((64, 64), Pillow.Resampling.BICUBIC))
    np.testing.assert_array_equal(CenterView(64)(PHOTO), expected)


def test_clean_view_keeps_seven_eighths_of_a_256_image() -> None:
    image = noise(256, 256)
    np.testing.assert_array_equal(CenterView(224)(image), image[16:240, 16:240])


@pytest.mark.parametrize("resize", sorted(RESIZE))
@pytest.mark.parametrize("crop", ["center", "none"])
@pytest.mark.parametrize("shape", AWKWARD)
def test_clean_view_of_any_image_has_the_view_size(resize: str, crop: str, shape: tuple[int, int]) -> None:
    flat = np.full((*shape, 3), 77, np.uint8)
    view = CenterView(16, crop=crop, resize=resize)(flat)
    np.testing.assert_array_equal(view, np.full((16, 16, 3), 77, np.uint8))


@pytest.mark.parametrize("resize", ["fast", "antialias"])
def test_shrinking_averages_instead_of_aliasing(resize: str) -> None:
    grain = noise(512, 512)  # standard deviation 74; the mean of 16 x 16 pixels has 4.6
    assert RESIZE[resize](grain, 32).std() < 10
    assert RESIZE["official"](grain, 32).std() > 60  # the released resize reads one pixel in 16 x 16


@pytest.mark.parametrize("shape", [(300, 400), (100, 90), (1400, 900)])
def test_fast_resize_stays_close_to_antialiased(shape: tuple[int, int]) -> None:
    picture = np.array(Pillow.fromarray(PHOTO).resize(shape[::-1], Pillow.Resampling.BICUBIC))
    fast, slow = (RESIZE[how](picture, 96).astype(float) for how in ("fast", "antialias"))
    assert np.abs(fast - slow).mean() < 6
    assert (fast - slow).mean() == pytest.approx(0, abs=0.3)


# ---- crop boxes ----


def boxes(sampler: str, count: int = 20_000) -> np.ndarray:
    generator = rng(1)
    return np.array([random_crop_box(300, 400, generator, sampler=sampler) for _ in range(count)])


def largest_gap(one: np.ndarray, two: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance of two samples."""
    grid = np.union1d(one, two)
    cumulative = [np.searchsorted(np.sort(sample), grid, side="right") / len(sample) for sample in (one, two)]
    return float(np.abs(cumulative[0] - cumulative[1]).max())


def test_official_sampler_draws_the_released_distribution() -> None:
    reference = GOLDEN["random_crop/boxes_yxhw_first10000"].astype(float)
    ours = boxes("official").astype(float)
    limit = 1.95 * np.sqrt(1 / 10_000 + 1 / 20_000)  # 0.1 % point
    for column in range(4):
        assert largest_gap(reference[:, column], ours[:, column]) < limit
    assert largest_gap(reference[:, 2] * reference[:, 3], ours[:, 2] * ours[:, 3]) < limit
    assert largest_gap(reference[:, 3] / reference[:, 2], ours[:, 3] / ours[:, 2]) < limit
    assert (ours[:, 2] * ours[:, 3]).min() >= 0.1 * 300 * 400


def test_torchvision_sampler_draws_torchvisions_distribution() -> None:
    import torch
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    picture = torch.zeros(1, 300, 400)
    reference = np.array(
        [RandomResizedCrop.get_params(picture, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(5000)], float
    )
    ours = boxes("torchvision", 5000).astype(float)
    for column in range(4):
        assert largest_gap(reference[:, column], ours[:, column]) < 1.95 * np.sqrt(2 / 5000)
    area = boxes("torchvision").astype(float)[:, 2:].prod(axis=1) / (300 * 400)
    assert np.quantile(area, [0.05, 0.25, 0.5, 0.75, 0.95]) == pytest.approx(
        [0.113, 0.246, 0.421, 0.592, 0.809], abs=0.012
    )


@pytest.mark.parametrize("sampler", ["torchvision", "official"])
@pytest.mark.parametrize("shape", [*AWKWARD, (5000, 3), (2, 900)])
def test_boxes_lie_inside_any_image(sampler: str, shape: tuple[int, int]) -> None:
    generator = rng(4)
    for min_area in (0.01, 0.08, 1.0):
        for _ in range(50):
            top, left, height, width = random_crop_box(*shape, generator, min_area, sampler=sampler)
            assert height >= 1
            assert width >= 1
            assert 0 <= top <= shape[0] - height
            assert 0 <= left <= shape[1] - width


@pytest.mark.parametrize(("sampler", "reached"), [("torchvision", True), ("official", False)])
def test_only_the_released_sampler_misses_the_last_position(sampler: str, reached: bool) -> None:
    generator = rng(6)
    drawn = np.array([random_crop_box(24, 24, generator, sampler=sampler) for _ in range(2000)])
    for side in (0, 1):
        smaller = drawn[drawn[:, side + 2] < 24]
        assert (smaller[:, side] + smaller[:, side + 2] == 24).any() == reached


def test_without_a_fitting_box_the_centre_is_taken() -> None:
    assert random_crop_box(10, 1000, rng()) == (0, 493, 10, 13)  # 10 high, 4/3 wide
    assert random_crop_box(1000, 10, rng()) == (493, 0, 13, 10)


# ---- the student's view ----


IMAGENET = Augment(48, randaugment=RandAugment(magnitude=9))
SMALL = Augment(32, crop="pad", cutout=16, randaugment=RandAugment(magnitude=5, **small_image_constants(32)))


@pytest.mark.parametrize("augment", [IMAGENET, SMALL, Augment(16, crop="none"), Augment(16, crop="pad")])
@pytest.mark.parametrize("shape", AWKWARD)
def test_student_view_of_any_image_has_the_view_size(augment: Augment, shape: tuple[int, int]) -> None:
    image = noise(*shape)
    original = image.copy()
    for seed in range(5):
        view = augment(image, rng(seed))
        assert view.shape == (augment.image_size, augment.image_size, 3)
        assert view.dtype == np.uint8
        assert view.flags.c_contiguous
    np.testing.assert_array_equal(image, original)


@pytest.mark.parametrize("augment", [IMAGENET, SMALL])
def test_student_view_depends_on_the_generator_alone(augment: Augment) -> None:
    first, again = ([augment(PHOTO, rng(seed)) for seed in range(12)] for _ in range(2))
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert len({view.tobytes() for view in first}) == 12


def test_half_of_the_images_are_flipped() -> None:
    image = noise(8, 8)
    augment, generator = Augment(8, crop="none"), rng(7)
    views = [augment(image, generator) for _ in range(2000)]
    flipped = sum(np.array_equal(view, image[:, ::-1]) for view in views)
    kept = sum(np.array_equal(view, image) for view in views)
    assert flipped + kept == 2000
    assert flipped == pytest.approx(1000, abs=90)


def test_digits_are_never_flipped() -> None:
    image, generator = noise(8, 8), rng(7)
    augment = Augment(8, crop="none", flip=False)
    assert all(np.array_equal(augment(image, generator), image) for _ in range(100))


@pytest.mark.parametrize("crop", ["none", "random_resized"])
def test_turned_pictures_come_in_eight_ways_equally_often(crop: str) -> None:
    image = noise(8, 8)
    augment, generator = Augment(8, crop=crop, min_area=1.0, turn=True), rng(7)
    views = [augment(image, generator) for _ in range(1600)]
    ways = [np.rot90(each, quarters) for quarters in range(4) for each in (image, image[:, ::-1])]
    if crop == "none":
        seen = [sum(np.array_equal(view, way) for view in views) for way in ways]
        assert sum(seen) == 1600
        assert max(abs(count - 200) for count in seen) < 55  # four standard deviations
    assert all(view.flags.c_contiguous and view.shape == (8, 8, 3) for view in views)
    assert all(np.array_equal(Augment(8, crop="none", flip=False)(image, rng(seed)), image) for seed in range(20))


def test_the_turns_of_pictures_are_those_that_show_the_same_class() -> None:
    assert turns(Pictures(flip=False)) == (Turn(),)
    assert turns(Pictures()) == (Turn(), Turn(0, True))
    every = turns(Pictures(turn=True))
    assert (every[0], len(every), len(set(every))) == (Turn(), 8, 8)
    assert {turn.mirrored for turn in turns(Pictures(flip=False, turn=True))} == {False}


def test_digits_of_8_px_become_views_of_16() -> None:
    digit = noise(8, 8)
    expected = np.array(Pillow.fromarray(digit).resize((16, 16), Pillow.Resampling.BICUBIC))
    np.testing.assert_array_equal(Augment(16, crop="none", flip=False)(digit, rng()), expected)
    np.testing.assert_array_equal(CenterView(16, crop="none")(digit), expected)


def test_random_resized_crop_is_the_resized_box() -> None:
    augment = Augment(64, flip=False, resize="official", sampler="official", min_area=0.3)
    top, left, height, width = random_crop_box(300, 400, rng(3), 0.3, sampler="official")
    expected = resize_official(PHOTO[top : top + height, left : left + width], 64)
    np.testing.assert_array_equal(augment(PHOTO, rng(3)), expected)


def test_flip_comes_before_randaugment_at_imagenet_size(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def record(self: RandAugment, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        seen.append(image)
        return np.full_like(image, 9)

    monkeypatch.setattr(RandAugment, "__call__", record)
    augment = Augment(40, randaugment=RandAugment(), cutout=0)
    views = [augment(PHOTO, rng(seed)) for seed in range(16)]
    assert all((view == 9).all() for view in views)
    unflipped = Augment(40, flip=False)
    flips = [not np.array_equal(image, unflipped(PHOTO, rng(seed))) for seed, image in enumerate(seen)]
    assert {True, False} == set(flips)


def test_cutout_comes_before_the_reflecting_crop() -> None:
    black = np.zeros((32, 32, 3), np.uint8)
    augment, generator = Augment(32, crop="pad", cutout=16), rng(8)
    grey = np.array([(augment(black, generator) == 128).all(axis=-1).sum() for _ in range(300)])
    assert grey.max() > 256  # a square near the border is mirrored by the padding, which makes it larger
    assert grey.min() < 256  # and clipped by the border where its centre lies in a corner
    cut_only = Augment(32, crop="none", cutout=16)
    area = np.array([(cut_only(black, generator) == 128).all(axis=-1).sum() for _ in range(300)])
    assert area.max() == 256
    assert area.min() < 150


@pytest.mark.parametrize("pad", [0, 1, 4])
def test_pad_crop_reflects_without_repeating_the_edge(pad: int) -> None:
    image = noise(12, 9)
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    windows = {
        padded[top : top + 12, left : left + 9].tobytes() for top in range(2 * pad + 1) for left in range(2 * pad + 1)
    }
    generator = rng(9)
    drawn = {reflect_pad_crop(image, generator, pad).tobytes() for _ in range(1500)}
    assert drawn == windows  # every offset occurs, and nothing else


def test_impossible_settings_and_pictures_are_refused() -> None:
    with pytest.raises(NstError, match=r"pad is in pixels of the view(.|\n)*0 to 31"):
        Augment(32, crop="pad", pad=32)
    with pytest.raises(NstError, match="views take RGB images"):
        CenterView(32)(np.zeros((8, 8), np.uint8))


def test_boxes_are_the_bits_that_uniform_draws() -> None:
    one, other = rng(11), rng(11)
    for _ in range(500):
        area = 300 * 400 * one.uniform(0.08, 1.0)
        ratio = math.exp(one.uniform(math.log(3 / 4), math.log(4 / 3)))
        expected = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        assert SAMPLERS["torchvision"](300, 400, other, 0.08) == expected
