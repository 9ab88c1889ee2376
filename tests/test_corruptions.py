"""Corruptions against the reference's outputs under its own random stream, and the laws of ours.

tests/golden/corruptions.npz holds outputs of hendrycks/robustness: whole at 32 px, a window of 64 px at 224.
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import encode, golden_arrays, golden_rows, noise
from PIL import Image
from replayed_draws import ReplayedDraws

from nst.errors import NstError
from nst.robustness import blurs, noises, weather
from nst.robustness.baselines import CORRUPTION_GROUPS, CORRUPTIONS
from nst.robustness.corruptions import NAMES, Corruptions, corruption_generator
from nst.robustness.draws import Draws
from nst.robustness.filters import gaussian_kernel, motion_blurred, plasma
from nst.robustness.frost import BENCHMARK_FILES, Textures
from nst.robustness.perturbations import NAMES as SEQUENCES
from nst.robustness.severities import SEVERITIES, SIDES, levels, table_side

GOLDEN = golden_arrays("corruptions.npz")
_PICTURES = golden_arrays("randaugment.npz")
INPUTS = {224: _PICTURES["input/chelsea_224"], 32: _PICTURES["input/astronaut_32"]}
SEEDS = {224: 20_000, 32: 30_000}
# order in which the reference run numbered its seeds
SEED_INDEX = {name: index for index, name in enumerate(NAMES)}
WINDOWS = {1: (0, 0), 2: (0, 160), 3: (80, 80), 4: (160, 0), 5: (160, 160)}  # row, column at 224 px, by severity
COMPARED = [name for name in NAMES if name != "frost"]  # its textures may not be handed on

# largest and mean difference in levels; 0 elsewhere
TOLERANCES = {
    "defocus_blur": (1, 0.001),  # 0 where the processor has AVX2, as the reference's had
    "motion_blur": (1, 0.0005),
    "zoom_blur": (1, 0.0007),
    "snow": (1, 0.0005),
    "fog": (1, 0.001),  # float32 instead of float64
    "brightness": (1, 0.004),  # closed form: levels that are whole by arithmetic may be truncated either way
    "elastic_transform": (1, 0.0015),
    "gaussian_blur": (1, 0.0005),
    "spatter": (1, 0.0005),
    "saturate": (1, 0.08),
}


def replay(side: int, name: str, severity: int, **options) -> np.ndarray:
    draws = ReplayedDraws(SEEDS[side] + 100 * SEED_INDEX[name] + severity)
    return Corruptions(side, **options)(INPUTS[side], name, severity, draws)


def window(image: np.ndarray, severity: int) -> np.ndarray:
    row, column = WINDOWS[severity]
    return image[row : row + 64, column : column + 64]


def difference(ours: np.ndarray, golden: np.ndarray) -> np.ndarray:
    assert ours.shape == golden.shape
    return np.abs(ours.astype(int) - golden)


# ---- the reference -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.parametrize("side", [32, 224])
def test_corruptions_equal_the_reference_on_its_own_random_stream(side: int, name: str, severity: int) -> None:
    ours = replay(side, name, severity)
    error = difference(window(ours, severity) if side == 224 else ours, GOLDEN[f"{side}/{name}/s{severity}"])
    largest, mean = TOLERANCES.get(name, (0, 0))
    assert error.max() <= largest
    assert error.mean() <= mean


@pytest.mark.parametrize("name", ["gaussian_noise", "motion_blur", "pixelate"])
def test_the_last_jpeg_step_is_that_of_the_released_files(name: str) -> None:
    ours = replay(224, name, 3, jpeg_quality=85)
    error = difference(window(ours, 3), GOLDEN[f"224_jpeg85/{name}/s3"])
    assert error.max() <= (0 if name != "motion_blur" else 4)  # one level before may be a few after
    assert error.mean() <= 0.01


def test_optimised_huffman_tables_do_not_change_the_picture() -> None:
    image, buffer = INPUTS[224], io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=85, optimize=True)
    clean = Corruptions(224, jpeg_quality=85)(image, "contrast", 1, np.random.default_rng(0))
    contrast = Corruptions(224)(image, "contrast", 1, np.random.default_rng(0))
    buffer = io.BytesIO(encode(contrast, "JPEG", quality=85, optimize=True))
    np.testing.assert_array_equal(clean, np.array(Image.open(buffer)))


STATISTICS = [row for row in golden_rows("corruptions_stats.csv") if float(row["draws"]) > 1]


@pytest.mark.parametrize("row", STATISTICS, ids=lambda row: f"{row['size']}-{row['corruption']}-{row['severity']}")
def test_our_own_draws_follow_the_distribution_of_the_reference(row: dict[str, str]) -> None:
    side, name, severity = int(row["size"]), row["corruption"], int(row["severity"])
    corrupt, clean = Corruptions(side), INPUTS[side].astype(float)
    draws = 24 if side == 32 else 4
    measured = []
    for draw in range(draws):
        change = corrupt(INPUTS[side], name, severity, corruption_generator(5, name, severity, f"{draw}")) - clean
        measured.append([change.mean((0, 1)), change.std((0, 1)), np.abs(change).mean((0, 1))])
    for kind, ours in zip(("diff_mean", "diff_std", "abs_diff_mean"), np.mean(measured, axis=0), strict=True):
        golden = np.array([float(row[f"{kind}_{channel}"]) for channel in "RGB"])
        spread = np.array([float(row[f"sd_over_draws_{kind}_{channel}"]) for channel in "RGB"])
        allowed = 4 * spread * (1 / draws + 1 / float(row["draws"])) ** 0.5 * 1.5 + 0.02  # the spread is an estimate
        assert (np.abs(ours - golden) <= allowed).all(), (kind, ours, golden, allowed)


# ---- noise ---------------------------------------------------------------------------------------------------

FLAT = np.full((224, 224, 3), 128, np.uint8)


def flat(level: int) -> np.ndarray:
    return np.full_like(FLAT, level)


def draws(seed: int = 0) -> Draws:
    return Draws(np.random.default_rng(seed))


@pytest.mark.parametrize("sigma", [0.04, 0.08, 0.12])
def test_gaussian_and_speckle_noise_have_their_deviation(sigma: float) -> None:
    gaussian = noises.gaussian_noise(FLAT, draws(), sigma).astype(float)
    speckle = noises.speckle_noise(FLAT, draws(), sigma).astype(float)
    assert gaussian.std() == pytest.approx(255 * sigma, rel=0.01)
    assert speckle.std() == pytest.approx(128 * sigma, rel=0.01)
    for noisy in (gaussian, speckle):
        assert noisy.mean() == pytest.approx(127.5, abs=0.3)  # truncation takes half a level
        skew = ((noisy - noisy.mean()) ** 3).mean() / noisy.std() ** 3
        assert skew == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize("rate", [3, 12, 60, 500])
@pytest.mark.parametrize("level", [0, 1, 60, 128, 255])
def test_photon_counts_are_poisson(rate: int, level: int) -> None:
    counts = draws(level).poisson(flat(level), rate).ravel()
    mean = level / 255 * rate
    assert counts.mean() == pytest.approx(mean, abs=5 * (mean / counts.size) ** 0.5)
    assert counts.var() == pytest.approx(mean, abs=5 * ((mean + 2 * mean**2) / counts.size) ** 0.5)
    observed = np.bincount(counts)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, len(observed))))])
    expected = counts.size * np.exp(np.arange(len(observed)) * np.log(max(mean, 1e-9)) - mean - factorials)
    likely = expected > 10
    chi_squared = ((observed - expected)[likely] ** 2 / expected[likely]).sum()
    assert chi_squared < likely.sum() + 5 * (2 * likely.sum()) ** 0.5


def test_photon_counts_of_a_picture_belong_to_its_levels() -> None:
    image = np.repeat(np.arange(256, dtype=np.uint8), 3 * 400).reshape(320, 320, 3)
    counts = draws().poisson(image, 200).astype(float).reshape(256, -1)
    expected = np.arange(256) / 255 * 200
    assert (np.abs(counts.mean(1) - expected) <= 5 * np.sqrt(expected / counts.shape[1])).all()


@pytest.mark.parametrize("fraction", [0.01, 0.09, 0.27])
def test_impulses_are_as_many_as_asked_for_and_half_are_salt(fraction: float) -> None:
    noisy = noises.impulse_noise(FLAT, draws(), fraction)
    salt, pepper = int((noisy == 255).sum()), int((noisy == 0).sum())
    count = noisy.size * fraction
    assert set(np.unique(noisy)) == {0, 128, 255}
    assert salt + pepper == pytest.approx(count, abs=4 * (count * (1 - fraction)) ** 0.5)
    assert salt - pepper == pytest.approx(0, abs=4 * count**0.5)
    one_channel = (noisy != 128).any(2) & ~(noisy != 128).all(2)
    assert one_channel.any()


# ---- blurs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reach", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", [(24, 24), (17, 40), (12, 13)])
def test_the_shuffle_of_glass_blur_is_the_sequential_copying(shape: tuple[int, int], reach: int) -> None:
    image = noise(*shape, seed=reach)
    expected, height, width = image.copy(), *shape
    shifts = iter(draws(7).shifts(height * width, reach))
    for row in range(height - reach, reach, -1):
        for column in range(width - reach, reach, -1):
            dx, dy = next(shifts)
            expected[row, column] = expected[row + dy, column + dx]
    np.testing.assert_array_equal(blurs.shuffle(image, draws(7), reach), expected)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_blur_of_a_smooth_picture_is_that_of_double_precision(severity: int) -> None:
    """Sums that should reach a whole level are many there, and none may reach it that should not."""
    rows, columns = np.mgrid[:64, :64]
    image = np.stack([2 * columns, 2 * rows, rows + columns], axis=2).astype(np.uint8)
    (sigma,) = levels("gaussian_blur", 64)[severity - 1]
    weights = gaussian_kernel(sigma)
    reach = len(weights) // 2
    padded = np.pad(image.astype(float), ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    blurred = sum(weight * padded[place : place + 64] for place, weight in enumerate(weights))
    blurred = sum(weight * blurred[:, place : place + 64] for place, weight in enumerate(weights))
    expected = np.floor(blurred + 1e-9)  # a sum in double ends as close as this to its whole level
    ours = Corruptions(64)(image, "gaussian_blur", severity, np.random.default_rng(0))
    assert difference(ours, expected).mean() <= 0.001


@pytest.mark.parametrize("name", ["gaussian_blur", "zoom_blur"])
def test_flat_pictures_keep_their_colour_when_blurred(name: str) -> None:
    for level in range(256):
        image = np.full((64, 64, 3), level, np.uint8)
        for severity in SEVERITIES:
            blurred = Corruptions(64)(image, name, severity, np.random.default_rng(0))
            np.testing.assert_array_equal(blurred, image, err_msg=f"level {level}, severity {severity}")


@pytest.mark.parametrize(("severity", "zooms"), [(1, 12), (2, 16), (3, 11), (4, 13), (5, 11)])
def test_zoom_blur_has_the_zooms_of_a_floating_point_range_and_the_image_twice(severity: int, zooms: int) -> None:
    image = np.zeros((224, 224, 3), np.uint8)
    image[0, 0] = 255  # a corner that no zoom but the first shows
    blurred = Corruptions(224)(image, "zoom_blur", severity, np.random.default_rng(0))
    assert blurred[0, 0, 0] == 255 * 2 // (zooms + 1)


def test_motion_blur_is_one_sided_and_keeps_the_light() -> None:
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20] = 255
    blurred = motion_blurred(image, 5, 3, 0)
    lit = np.flatnonzero(blurred[20, :, 0])
    assert lit.max() == 20
    assert lit.min() < 16
    assert np.array_equal(np.flatnonzero(blurred.any((1, 2))), [20])
    assert (np.diff(blurred[20, lit[0] : 21, 0].astype(int)) >= 0).all()


@pytest.mark.parametrize("name", ["gaussian_blur", "motion_blur", "zoom_blur", "elastic_transform", "pixelate"])
@pytest.mark.parametrize("side", SIDES)
def test_what_has_one_colour_keeps_it(name: str, side: int) -> None:
    corrupt = Corruptions(side)
    for level in (1, 128, 255):
        image = np.full((side, side, 3), level, np.uint8)
        for severity in SEVERITIES:
            assert (corrupt(image, name, severity, np.random.default_rng(0)) == level).all()


# ---- weather and colours -------------------------------------------------------------------------------------


def test_plasma_fills_the_unit_interval_and_roughens_with_less_decay() -> None:
    smooth, rough = (plasma(128, decay, draws(1)) for decay in (3, 1.4))
    for clouds in (smooth, rough):
        assert clouds.min() == 0
        assert clouds.max() == 1
    assert np.abs(np.diff(rough, axis=0)).mean() > 3 * np.abs(np.diff(smooth, axis=0)).mean()


def test_grey_gains_red_with_saturation() -> None:
    corrupted = Corruptions(224)(FLAT, "saturate", 5, np.random.default_rng(0))
    assert (corrupted == [128, 102, 102]).all()  # S = 0.2


def test_black_brightens_to_grey() -> None:
    corrupted = Corruptions(224)(flat(0), "brightness", 2, np.random.default_rng(0))
    assert (corrupted == 51).all()


def test_spatter_without_a_drop_leaves_the_image_dry() -> None:
    image = noise(16, 16)
    np.testing.assert_array_equal(weather.add_water(image, np.zeros((16, 16), np.float32), 0.6), image)


# ---- frost ---------------------------------------------------------------------------------------------------


def write_textures(folder, names, side=300) -> None:
    folder.mkdir()
    for number, name in enumerate(names):
        colour = np.full((side, side + 10, 3), 20 * number + 10, np.uint8)
        Image.fromarray(colour).save(folder / name)


def frost_levels(folder, side: int = 224, crops: int = 60) -> set[int]:
    """Level of the texture behind each of many frosted black images, from the flat textures above."""
    corrupt = Corruptions(side, frost_folder=folder)
    black = np.zeros((side, side, 3), np.uint8)
    weight = levels("frost", side)[4][1]
    rng = np.random.default_rng(0)
    return {round(int(corrupt(black, "frost", 5, rng)[0, 0, 0]) / weight / 10) for _ in range(crops)}


def test_the_benchmark_folder_gives_five_textures_and_never_the_sixth(tmp_path) -> None:
    names = ["frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg", "frost6.jpg"]
    write_textures(tmp_path / "frost", names)
    assert names[:5] == list(BENCHMARK_FILES)
    assert frost_levels(tmp_path / "frost") == {1, 3, 5, 7, 9}


def test_another_folder_gives_all_its_pictures(tmp_path) -> None:
    write_textures(tmp_path / "ice", ["a.png", "b.jpg", "c.webp"])
    (tmp_path / "ice" / "notes.txt").write_text("no picture")
    assert frost_levels(tmp_path / "ice") == {1, 3, 5}


def test_the_source_of_frost_says_which_pictures_were_used(tmp_path) -> None:
    write_textures(tmp_path / "ice", ["a.png", "b.png"])
    source = Corruptions(224, frost_folder=tmp_path / "ice").frost_source
    assert source.startswith("ice sha256:")
    assert source == Corruptions(32, frost_folder=str(tmp_path / "ice")).frost_source
    (tmp_path / "ice" / "b.png").write_bytes(encode(noise(300, 300), "PNG"))
    assert Corruptions(224, frost_folder=tmp_path / "ice").frost_source != source
    assert Corruptions(224).frost_source == "procedural"


def test_frost_is_a_weighted_sum_that_is_truncated(tmp_path) -> None:
    write_textures(tmp_path / "ice", ["a.png"])  # level 10
    image = noise(224, 224)
    for severity, (share, weight) in enumerate(levels("frost", 224), start=1):
        frosted = Corruptions(224, frost_folder=tmp_path / "ice")(image, "frost", severity, np.random.default_rng(0))
        exact = np.clip(share * image.astype(float) + weight * 10, 0, 255)
        assert (np.abs(frosted - np.floor(exact + 1e-9)) <= 1).all()
        assert (frosted == np.floor(exact + 1e-3)).mean() > 0.999


@pytest.mark.parametrize(("side", "scale"), [(32, 0.2), (64, 0.3), (224, 1.0)])
def test_textures_are_scaled_with_the_benchmark(tmp_path, side: int, scale: float) -> None:
    folder = tmp_path / "ice"
    folder.mkdir()
    stripes = np.zeros((1000, 1000, 3), np.uint8)
    stripes[:, np.arange(1000) % 100 < 50] = 200
    Image.fromarray(stripes).save(folder / "stripes.png")
    crop = Textures(folder, scale=scale).crop(side, side, draws())
    edges = np.flatnonzero(np.abs(np.diff((crop[0, :, 0] > 100).astype(int))))
    assert np.diff(edges) == pytest.approx(50 * scale, abs=1.01)


def test_textures_grow_where_they_would_not_cover_the_image(tmp_path) -> None:
    write_textures(tmp_path / "small", ["a.png"], side=40)
    for shape in ((224, 224, 3), (300, 500, 3)):
        frosted = Corruptions(224, frost_folder=tmp_path / "small")(
            np.zeros(shape, np.uint8), "frost", 3, np.random.default_rng(0)
        )
        assert (frosted == 7).all()


def test_a_folder_without_usable_textures_is_refused(tmp_path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(NstError, match="the folder of frost textures holds none"):
            Corruptions(224, frost_folder=folder)
    (tmp_path / "broken.png").write_bytes(encode(noise(300, 300), "PNG")[:500])
    with pytest.raises(NstError, match=r"broken\.png cannot be read"):
        Corruptions(224, frost_folder=tmp_path)(FLAT, "frost", 1, np.random.default_rng(0))


def test_procedural_frost_is_pale_blue_and_varied() -> None:
    textures = [Textures(scale=1).crop(224, 224, draws(seed)).astype(float) for seed in range(12)]
    red, _, blue = np.mean(textures, axis=(0, 1, 2))
    assert blue > red + 20
    assert 80 < red < 200
    assert min(texture.std() for texture in textures) > 10
    assert len({texture.tobytes() for texture in textures}) == 12


# ---- what holds for all --------------------------------------------------------------------------------------


def test_names_are_the_fifteen_of_the_benchmark_and_four_more() -> None:
    assert NAMES[:15] == CORRUPTIONS
    assert NAMES[15:] == CORRUPTION_GROUPS["extra"]


@pytest.mark.parametrize("side", SIDES)
def test_tables_have_five_severities_of_every_corruption(side: int) -> None:
    for name in NAMES:
        table = levels(name, side)
        assert len(table) == 5
        assert len({len(parameters) for parameters in table}) == 1
        assert len(set(table)) == 5


@pytest.mark.parametrize(
    ("side", "table"),
    [(8, 32), (32, 32), (48, 32), (49, 64), (144, 64), (145, 224), (224, 224), (261, 224), (262, 299), (800, 299)],
)
def test_other_sides_take_the_nearest_table(side: int, table: int) -> None:
    assert table_side(side) == table
    assert Corruptions(side).table == table


# where the reference's own strengths do not grow, or a random affine map outweighs them
UNEVEN = {"elastic_transform", "glass_blur", "motion_blur", "snow", "frost", "fog", "saturate", "spatter"}


@pytest.mark.parametrize("name", sorted(set(NAMES) - UNEVEN))
@pytest.mark.parametrize("side", SIDES)
def test_corruptions_grow_with_severity(name: str, side: int) -> None:
    image = cv2.resize(INPUTS[224], (side, side), interpolation=cv2.INTER_AREA)
    corrupt = Corruptions(side)
    changes = []
    for severity in SEVERITIES:
        results = [corrupt(image, name, severity, np.random.default_rng(seed)) for seed in range(6)]
        changes.append(np.mean([difference(result, image).mean() for result in results]))
    assert changes == sorted(changes)
    assert changes[0] > 0


@pytest.mark.parametrize("name", NAMES)
def test_seed_name_severity_and_key_alone_decide(name: str) -> None:
    image = INPUTS[32]
    jobs = [(severity, key) for severity in SEVERITIES for key in ("a", "b")]

    def run(order: list[tuple[int, str]]) -> dict[tuple[int, str], bytes]:
        corrupt = Corruptions(32)
        return {
            (severity, key): corrupt(image, name, severity, corruption_generator(1, name, severity, key)).tobytes()
            for severity, key in order
        }

    forward, backward = run(jobs), run(jobs[::-1])
    assert forward == backward
    random = name not in (
        *("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"),
        *("gaussian_blur", "saturate"),
    )
    for severity in SEVERITIES:
        assert (forward[severity, "a"] != forward[severity, "b"]) == random


def test_every_part_of_the_seed_matters() -> None:
    parts = [(0, "snow", 1, "a"), (1, "snow", 1, "a"), (0, "fog", 1, "a"), (0, "snow", 2, "a"), (0, "snow", 1, "b")]
    assert len({corruption_generator(*part).random() for part in parts}) == len(parts)
    assert corruption_generator(0, "snow", np.int64(1), "a").random() == corruption_generator(*parts[0]).random()


@pytest.mark.parametrize("shape", [(8, 8), (8, 31), (16, 16), (41, 9), (70, 100), (320, 230)])
def test_any_shape_from_8_px_on_is_corrupted(shape: tuple[int, int]) -> None:
    corrupt = Corruptions(min(shape), jpeg_quality=85)
    for image in (noise(*shape), np.zeros((*shape, 3), np.uint8), np.full((*shape, 3), 255, np.uint8)):
        before = image.copy()
        for name in NAMES:
            for severity in SEVERITIES:
                corrupted = corrupt(image, name, severity, np.random.default_rng(severity))
                assert corrupted.shape == image.shape
                assert corrupted.dtype == np.uint8
                assert not np.shares_memory(corrupted, image)
        np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", NAMES)
def test_views_and_read_only_images_are_accepted(name: str) -> None:
    view = noise(50, 70)[5:40, 60:10:-1]
    view.flags.writeable = False
    corrupt = Corruptions(32)
    np.testing.assert_array_equal(
        corrupt(view, name, 3, np.random.default_rng(0)), corrupt(view.copy(), name, 3, np.random.default_rng(0))
    )


def test_results_do_not_depend_on_opencv_threads() -> None:
    before, results = cv2.getNumThreads(), []
    try:
        for threads in (0, 4):
            cv2.setNumThreads(threads)
            corrupt = Corruptions(224)
            results.append([corrupt(INPUTS[224], name, 3, np.random.default_rng(0)) for name in NAMES])
    finally:
        cv2.setNumThreads(before)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


def test_mistakes_are_told() -> None:
    corrupt, rng = Corruptions(32), np.random.default_rng(0)
    for severity in (0, 6, -1):
        with pytest.raises(NstError, match=r"no such severity(.|\n)*1 \(weakest\) to 5"):
            corrupt(INPUTS[32], "snow", severity, rng)
    image = INPUTS[32]
    for wrong in (image[..., 0], image / 255, image[:7], image[..., :2], image.astype(np.int16)):
        with pytest.raises(NstError, match="images must be RGB bytes"):
            corrupt(wrong, "snow", 1, rng)


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--sequences"]])
def test_the_benchmark_prints_a_line_for_each(options: list[str]) -> None:
    command = [sys.executable, "-m", "benchmarks", "corruptions", "--side", "16", "--rounds", "1", *options]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert set(SEQUENCES if "--sequences" in options else NAMES) < set(names)
