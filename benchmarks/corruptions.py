"""Corruptions and sequences, ms each on one core; no peer.

    bin/bench corruptions --side 224
    bin/bench corruptions --side 32 --sequences

Every corruption runs at its five severities on one picture. A time is the median CPU time of the repeats, so that
neither the tables that a process prepares once nor the machine's other work count. The mean over the 75 of the
benchmark is one of times: images per second of a full sweep.
"""

from __future__ import annotations

import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")  # before NumPy is loaded

import cv2
import numpy as np

from benchmarks import harness
from nst.robustness.baselines import CORRUPTIONS, PERTURBATIONS
from nst.robustness.corruptions import NAMES, Corruptions, corruption_generator
from nst.robustness.options import RobustnessOptions
from nst.robustness.perturbations import NAMES as SEQUENCES
from nst.robustness.perturbations import Perturbations, perturbation_generator
from nst.robustness.severities import SEVERITIES


def picture(height: int, width: int) -> np.ndarray:
    """Smooth colours, an edge and a little texture (height, width, 3); costs hardly depend on what it shows."""
    rng = np.random.default_rng(0)
    coarse = cv2.resize(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    cv2.circle(coarse, (width // 2, height // 2), min(height, width) // 4, (230, 60, 30), -1)
    return np.clip(coarse + rng.normal(0, 6, coarse.shape), 0, 255).astype(np.uint8)


def median_ms(work: Callable[[], object], repeats: int) -> float:
    """Median CPU time of a call in ms, after one that prepares."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1e3 * statistics.median(times)


def time_corruptions(side: int, repeats: int, jpeg_quality: int | None) -> dict[str, list[float]]:
    """Prints the table; ms per image by name, one for each severity."""
    corrupt = Corruptions(side, jpeg_quality=jpeg_quality)
    image = picture(side, side)

    def work(name: str, severity: int) -> object:
        return corrupt(image, name, severity, corruption_generator(0, name, severity, "picture"))

    ending = "" if jpeg_quality is None else f", JPEG of quality {jpeg_quality} at the end"
    print(f"corruptions at {side} px (table of {corrupt.table} px{ending}), ms per image on one core")
    print(f"{'':18s}" + "".join(f"{f'sev {severity}':>8s}" for severity in SEVERITIES) + f"{'images/s':>10s}")
    swept, times = [], {}
    for name in NAMES:
        row = [median_ms(functools.partial(work, name, severity), repeats) for severity in SEVERITIES]
        print(f"{name:18s}" + "".join(f"{ms:8.3f}" for ms in row) + f"{1e3 / statistics.mean(row):10.0f}")
        swept += row if name in CORRUPTIONS else []
        times[name] = row
    print(f"mean of the {len(swept)}: {statistics.mean(swept):.3f} ms, {1e3 / statistics.mean(swept):.0f} images/s")
    return times


def time_sequences(side: int, repeats: int) -> dict[str, list[float]]:
    """Prints the table; ms per frame by name."""
    perturb = Perturbations(side)
    base = perturb.base(picture(375, 500))

    def work(name: str) -> object:
        return perturb(base, name, perturbation_generator(0, name, 1, "picture"))

    print(f"sequences at {side} px (table of {perturb.table} px), on one core")
    total_ms, total_frames, times = 0.0, 0, {}
    for name in SEQUENCES:
        frames = perturb.frame_count(name)
        ms = median_ms(functools.partial(work, name), repeats)
        times[name] = [ms / frames]
        print(f"{name:18s}{ms / frames:8.3f} ms/frame{1e3 * frames / ms:10.0f} frames/s")
        if name in PERTURBATIONS:
            total_ms, total_frames = total_ms + ms, total_frames + frames
    rate = 1e3 * total_frames / total_ms
    print(f"the {len(PERTURBATIONS)} of the benchmark: {total_frames} frames in {total_ms:.0f} ms, {rate:.0f} frames/s")
    return times


def main(argv: list[str]) -> None:
    parser = harness.parser("corruptions", __doc__, rounds=20)
    parser.add_argument("--side", type=int, default=224, help="px (default: %(default)s)")
    parser.add_argument("--no-jpeg", action="store_true", help="without the JPEG step of the released files' sides")
    parser.add_argument("--sequences", action="store_true", help="perturbation sequences instead of corruptions")
    options = parser.parse_args(argv)
    cv2.setNumThreads(1)
    if options.sequences:
        times: dict[str, Any] = time_sequences(options.side, options.rounds)
    else:
        quality = None if options.no_jpeg else RobustnessOptions().quality(Corruptions(options.side).table)
        times = time_corruptions(options.side, options.rounds, quality)
    harness.finish("corruptions", "ms", times, options)
