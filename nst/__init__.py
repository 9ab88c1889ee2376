"""Noisy Student Training: train a teacher, pseudo-label, train a larger noised student, go round again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from nst.training.predictor import Predictor

__version__ = "0.1.0"


def load(
    run: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    device: str = "auto",
    views: str = "one",
    calibrated: bool = False,
) -> Predictor:
    """A trained network, ready to be asked: `nst.load("runs/mine").predict("photos")`.

    Args:
        run: run directory or network file; several answer together, with the mean of their probabilities.
        device: `cpu`, `cuda`, `cuda:1`; auto: a GPU if there is one.
        views: `one`, or `all`: the mean over a picture mirrored and turned, as the network was trained to see it.
        calibrated: whether confidences are made to fit how often it was right on its validation pictures.

    Raises:
        nst.errors.NstError: there is no such run, it has not finished, or the networks know other classes;
            or its confidences cannot be calibrated.
    """
    from nst.training.predictor import Predictor  # here: it brings torch, and the command line's --help needs none

    return Predictor.load(run, device=device, views=views, calibrated=calibrated)
