"""What each benchmark of perturbation sequences does, by the side of its frames.

Source: hendrycks/robustness, the generators of ImageNet-P (224), its 299 px companion, Tiny-ImageNet-P (64) and
CIFAR-10-P (32). As with corruptions, strengths are in pixels and not scaled: frames of another side take the
table of the nearest one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sequences:
    """Settings of one benchmark. By difficulty 1, 2, 3: the strengths of noise.

    Args:
        gaussian_noise: standard deviations, on [0, 1].
        shot_noise: photons at white.
        speckle_noise: standard deviations, as a share of the value.
        motion: radius px, sigma px, degrees a frame, frame at 0 degrees.
        snow: deviation of the flakes, their zoom, blur radius px, sigma px.
        gaussian_blur: sigma px of frame 0, growth a frame, truncation in sigmas.
        spatter: mean, deviation, smoothing px, threshold.
        drag: how drops run down: weights of the row below, the row itself, the row above, ...
        translate: number of frames, frame without a shift; a px a frame.
        scale: percent of frame 0, growth a frame.
        brightness: percent a frame.
        tilt: degrees a frame.
        whole_motion: motion blur works on the whole picture.
        square: views are central crops squeezed to a square, and zooms work on the view.
    """

    gaussian_noise: tuple[float, float, float]
    shot_noise: tuple[float, float, float]
    speckle_noise: tuple[float, float, float]
    motion: tuple[float, float, int, int]
    snow: tuple[float, float, float, float]
    gaussian_blur: tuple[float, float, float]
    spatter: tuple[float, float, float, float]
    drag: tuple[float, ...]
    translate: tuple[int, int]
    scale: tuple[float, float] = (40, 2.5)
    brightness: float = 2.0
    tilt: float = 1.0
    motion_frames: int = 31
    whole_motion: bool = False
    square: bool = False


TABLES = {
    32: Sequences(
        gaussian_noise=(0.02, 0.04, 0.06),
        shot_noise=(700, 400, 200),
        speckle_noise=(0.05, 0.07, 0.1),
        motion=(6, 1.8, 9, 20),
        snow=(0.3, 2, 10, 2),
        gaussian_blur=(0.3, 0.015, 7),
        spatter=(0.6, 0.265, 1.75, 0.7),
        drag=(0, 0.2, 0.8),
        translate=(16, 7),
        scale=(70, 2),
        brightness=1.5,
        tilt=0.75,
        motion_frames=21,
    ),
    64: Sequences(
        gaussian_noise=(0.025, 0.05, 0.075),
        shot_noise=(500, 250, 125),
        speckle_noise=(0.05, 0.1, 0.15),
        motion=(14, 3, 5, 30),
        snow=(0.28, 2, 10, 2.5),
        gaussian_blur=(0.35, 0.014, 7),
        spatter=(0.6, 0.25, 1.75, 0.7),
        drag=(0, 0.2, 0.8),
        translate=(31, 15),
        whole_motion=True,
    ),
    224: Sequences(
        gaussian_noise=(0.03, 0.05, 0.08),
        shot_noise=(300, 120, 60),
        speckle_noise=(0.05, 0.1, 0.15),
        motion=(10, 3, 4, 30),
        snow=(0.3, 3, 14, 4),
        gaussian_blur=(0.25, 0.035, 6),
        spatter=(0.65, 0.27, 3.7, 0.69),
        drag=(0.05, 0.1, 0.15, 0.7),
        translate=(41, 20),
    ),
    299: Sequences(
        gaussian_noise=(0.035, 0.055, 0.085),
        shot_noise=(250, 100, 50),
        speckle_noise=(0.06, 0.11, 0.16),
        motion=(13, 3, 4, 30),
        snow=(0.3, 3, 14, 4),
        gaussian_blur=(0.35, 0.035, 6),
        spatter=(0.65, 0.3, 4, 0.69),
        drag=(0.05, 0.1, 0.15, 0.7),
        translate=(41, 20),
        square=True,
    ),
}
