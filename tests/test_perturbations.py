"""Perturbation sequences against the reference's frames, and the promises of ours.

tests/golden/perturbations.npz holds frames of hendrycks/robustness: at 224 px the upper right 64 px of each.
"""

from __future__ import annotations

import numpy as np
import pytest
from helpers import golden_arrays, golden_rows, noise
from PIL import Image

from nst.errors import NstError
from nst.robustness.baselines import CIFAR_PERTURBATIONS, DIFFICULTIES, PERTURBATIONS
from nst.robustness.perturbations import (
    NAMES,
    NOISES,
    Perturbations,
    _run_down,
    perturbation_generator,
)
from nst.robustness.warps import affine_matrix, tilt_matrix

GOLDEN = golden_arrays("perturbations.npz")
GOLDEN["input/32"] = golden_arrays("randaugment.npz")["input/astronaut_32"]
SETS = {"32": 32, "64": 64, "64rect": 64, "224": 224}
CASES = sorted(key for key in GOLDEN if key.split("/")[0] in SETS and not key.endswith("_matrix"))

# largest and mean difference in levels; 0 elsewhere
TOLERANCES = {
    "brightness": (1, 0.012),
    "gaussian_blur": (1, 0.004),
    "motion_blur": (1, 0.0005),
    "tilt": (1, 0.001),  # 0 where the processor has AVX2, as the reference's had
}
MOVES = {
    "rotate": lambda picture, frame: affine_matrix(picture, degrees=frame - 15),
    "scale": lambda picture, frame: affine_matrix(picture, scale=(40 + 2.5 * frame) / 100),
    "translate": lambda picture, frame: affine_matrix(picture, shift=frame - 15),
    "tilt": lambda picture, frame: tilt_matrix(picture, frame - 15),
}


def picture(family: str) -> np.ndarray:
    return GOLDEN["input/224base" if family == "224" else f"input/{family}"]


def kept(family: str, count: int) -> list[int]:
    """Frames of a sequence of `count` that the golden file keeps."""
    frames = {"32": [0, 3, count // 2, count - 1], "64": [0, 3, 15, 30], "64rect": [0, 7, 15, 23, 30]}
    return frames.get(family, [0, 7, count // 2, count - 1])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ---- the reference -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_frames_equal_the_reference(case: str) -> None:
    family, name = case.split("/")
    frames = Perturbations(SETS[family])(picture(family), name, rng())
    ours = frames[kept(family, len(frames))]
    if family == "224":
        ours = ours[:, :64, 160:]
    error = np.abs(ours.astype(int) - GOLDEN[case])
    largest, mean = TOLERANCES.get(name, (0, 0))
    assert error.max() <= largest
    assert error.mean() <= mean


def test_golden_frames_cover_every_sequence_without_chance() -> None:
    assert {case.split("/")[1] for case in CASES} == set(NAMES) - set(NOISES) - {"snow", "spatter"}


@pytest.mark.parametrize("name", MOVES)
def test_move_matrices_equal_the_reference(name: str) -> None:
    golden = GOLDEN[f"64rect/{name}_matrix"]
    ours = np.array([MOVES[name](picture("64rect"), frame).ravel() for frame in range(len(golden))])
    np.testing.assert_allclose(ours, golden.reshape(ours.shape), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "row", golden_rows("perturbations_stats.csv"), ids=lambda row: "-".join(list(row.values())[:3])
)
def test_random_sequences_follow_the_distribution_of_the_reference(row: dict[str, str]) -> None:
    side, name, difficulty = int(row["size"]), row["perturbation"], int(row["level"][-1])
    perturb, clean, seeds = Perturbations(side), picture(row["size"]).astype(float), 24
    measured = []
    for seed in range(seeds):
        frames = perturb(picture(row["size"]), name, perturbation_generator(3, name, difficulty, f"{seed}"),
                         difficulty=difficulty).astype(float)  # fmt: skip
        change = frames[1:] - clean
        moments = [*change.mean((0, 1, 2)), *change.std((0, 1, 2))]
        measured.append([*moments, np.abs(change).mean(), np.abs(np.diff(frames[1:], axis=0)).mean()])
    columns = [f"diff_{kind}_{channel}" for kind in ("mean", "std") for channel in "RGB"]
    columns += ["abs_diff_mean", "abs_consecutive_diff_mean"]
    golden = np.array([float(row[column]) for column in columns])
    spread = np.array([float(row[f"sd_{column}"]) for column in columns])
    allowed = 4 * spread * (1 / seeds + 1 / float(row["seeds"])) ** 0.5 * 1.5 + 0.02  # the spread is an estimate
    assert (np.abs(np.mean(measured, axis=0) - golden) <= allowed).all()


# ---- sequences -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [32, 64, 224, 299])
def test_sequences_are_as_long_as_those_of_the_benchmark(side: int) -> None:
    perturb = Perturbations(side)
    base = perturb.base(picture("224"))
    for name in NAMES:
        frames = perturb(base, name, rng())
        assert frames.shape == (perturb.frame_count(name), side, side, 3)
        assert frames.dtype == np.uint8
    total = sum(perturb.frame_count(name) for name in (CIFAR_PERTURBATIONS if side == 32 else PERTURBATIONS))
    assert total == {32: 285, 64: 310, 224: 320, 299: 320}[side]


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("side", [32, 224])
def test_noise_begins_clean_is_drawn_afresh_and_grows_with_difficulty(name: str, side: int) -> None:
    perturb = Perturbations(side)
    base = perturb.base(picture("224"))
    sizes = []
    for difficulty in DIFFICULTIES:
        frames = perturb(base, name, rng(), difficulty=difficulty).astype(int)
        np.testing.assert_array_equal(frames[0], perturb.view(base))
        change = np.abs(frames[1:] - frames[0]).mean((1, 2, 3))
        assert change.std() < 0.1 * change.mean()
        assert len({frame.tobytes() for frame in frames}) == len(frames)
        sizes.append(change.mean())
    assert sizes == sorted(sizes)
    assert sizes[0] < 0.75 * sizes[2]


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(NOISES)))
def test_difficulty_leaves_other_sequences_as_they_are(name: str) -> None:
    results = [Perturbations(64)(picture("64"), name, rng(), difficulty=level) for level in DIFFICULTIES]
    assert len({frames.tobytes() for frames in results}) == 1


CLEAN_FRAMES = {
    32: {"translate": 7, "rotate": 15, "shear": 15, "scale": 15, "zoom_blur": 0},
    64: {"translate": 15, "rotate": 15, "shear": 15, "scale": 24, "zoom_blur": 0},
    299: {"translate": 20, "rotate": 15, "shear": 15, "scale": 24, "zoom_blur": 0},
}


@pytest.mark.parametrize("side", CLEAN_FRAMES)
def test_the_clean_picture_appears_where_nothing_moves(side: int) -> None:
    perturb = Perturbations(side)
    base = perturb.base(picture("224"))
    for name, frame in CLEAN_FRAMES[side].items():
        np.testing.assert_array_equal(perturb(base, name, rng())[frame], perturb.view(base))


def test_more_of_the_picture_and_not_black_enters_at_the_edges() -> None:
    base = np.full((64, 128, 3), 200, np.uint8)
    assert (Perturbations(64)(base, "translate", rng()) == 200).all()
    square = Perturbations(64)(base[:, :64], "translate", rng())
    assert (square[0, :, -15:] == 0).all()  # moved to the left by 15 px
    assert (square[-1, :, :15] == 0).all()


def test_views_at_299_px_are_squeezed_central_crops_and_scale_works_on_them() -> None:
    perturb, base = Perturbations(299), picture("224")
    height, width = base.shape[:2]
    assert perturb.base(base) is base
    box = (width // 16, height // 16, width - width // 16, height - height // 16)
    expected = Image.fromarray(base).crop(box).resize((299, 299), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(perturb.view(base), np.array(expected))
    smallest = perturb(base, "scale", rng())[0]  # 40 %: black around the view, equally on all sides
    rows, columns = np.flatnonzero(smallest.any((1, 2))), np.flatnonzero(smallest.any((0, 2)))
    assert len(rows) == len(columns) == pytest.approx(0.4 * 299, abs=1)


@pytest.mark.parametrize("drag", [(0.05, 0.1, 0.15, 0.7), (0, 0.2, 0.8)])
def test_drops_run_down_by_a_convolution_of_columns(drag: tuple[float, ...]) -> None:
    layer = rng().random((20, 3)).astype(np.float32)
    # the shorter one has no row below: NumPy centres a kernel of two on its first weight
    kernel = drag if drag[0] else drag[1:]
    expected = np.stack([np.convolve(column, kernel, mode="same") for column in layer.T], axis=1)
    np.testing.assert_allclose(_run_down(layer, drag), expected, atol=1e-6)


def test_snow_and_spatter_keep_one_layer_through_a_sequence() -> None:
    base = np.full((224, 224, 3), 100, np.uint8)
    for name in ("snow", "spatter"):
        frames = Perturbations(224)(base, name, rng()).astype(float)
        neighbours = np.abs(frames[1] - frames[0]).mean()
        fresh = np.abs(Perturbations(224)(base, name, rng(1))[0] - frames[0]).mean()
        assert 0 < neighbours < 0.6 * fresh


def test_snow_turns_through_the_vertical_in_the_middle() -> None:
    frames = Perturbations(224)(np.zeros((224, 224, 3), np.uint8), "snow", rng())[..., 0].astype(float)
    upright = [np.abs(np.diff(frame, axis=1)).mean() / np.abs(np.diff(frame, axis=0)).mean() for frame in frames]
    assert np.argmax(upright) == pytest.approx(15, abs=1)
    assert upright[15] > 2 * upright[0]


@pytest.mark.parametrize(
    ("side", "size", "expected"),
    [(224, (375, 500), (256, 341)), (224, (500, 375), (341, 256)), (64, (80, 100), (64, 80)), (32, (32, 32), (32, 32)),
     (112, (100, 100), (112, 112)), (256, (512, 512), (293, 293)), (299, (375, 500), (375, 500))],
)  # fmt: skip
def test_pictures_are_brought_to_the_size_at_which_the_benchmark_moves_them(
    side: int, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert Perturbations(side).base(noise(*size)).shape == (*expected, 3)


# ---- what holds for all --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_seed_name_difficulty_and_key_alone_decide(name: str) -> None:
    def run(order: list[str]) -> dict[str, bytes]:
        perturb = Perturbations(32)
        return {key: perturb(picture("32"), name, perturbation_generator(1, name, 1, key)).tobytes() for key in order}

    forward, backward = run(["a", "b"]), run(["b", "a"])
    assert forward == backward
    assert (forward["a"] != forward["b"]) == (name in {*NOISES, "snow", "spatter"})


def test_every_part_of_the_seed_matters() -> None:
    parts = [(0, "snow", 1, "a"), (1, "snow", 1, "a"), (0, "tilt", 1, "a"), (0, "snow", 2, "a"), (0, "snow", 1, "b")]
    assert len({perturbation_generator(*part).random() for part in parts}) == len(parts)


@pytest.mark.parametrize("shape", [(8, 8), (8, 13), (40, 17), (48, 48), (130, 100)])
def test_any_shape_from_8_px_on_is_perturbed(shape: tuple[int, int]) -> None:
    image = noise(*shape)
    before, side = image.copy(), min(shape)
    perturb = Perturbations(side)
    for name in NAMES:
        assert perturb(image, name, rng()).shape == (perturb.frame_count(name), side, side, 3)
    np.testing.assert_array_equal(image, before)


def test_mistakes_are_told() -> None:
    perturb, image = Perturbations(64), picture("64")
    for difficulty in (0, 4):
        with pytest.raises(NstError, match=r"no such difficulty(.|\n)*1, 2 or 3"):
            perturb(image, "gaussian_noise", rng(), difficulty=difficulty)
    for wrong in (image[..., 0], image / 255, image[..., :2]):
        with pytest.raises(NstError, match="images must be RGB bytes"):
            perturb(wrong, "scale", rng())
    with pytest.raises(NstError, match=r"smaller than its frames(.|\n)*Perturbations\.base"):
        perturb(image[:63], "scale", rng())
