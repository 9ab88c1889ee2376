"""The reference's own random stream, behind the questions that our corruptions ask."""

from __future__ import annotations

import numpy as np

from nst.robustness.draws import Draws


class ReplayedDraws(Draws):
    """Draws as the reference does from NumPy's legacy generator, in double precision and in its order."""

    def __init__(self, seed: int) -> None:
        self._stream = np.random.RandomState(seed)

    def normal(self, shape):
        return self._stream.normal(size=shape)

    def uniform(self, shape):
        return self._stream.uniform(-1, 1, shape)

    def angle(self, low, high):
        return self._stream.uniform(low, high)

    def shifts(self, count, reach):
        return self._stream.randint(-reach, reach, size=(count, 2))

    def poisson(self, image, rate):
        return self._stream.poisson(image / 255.0 * rate)

    def impulses(self, shape, fraction):
        """scikit-image's salt and pepper: a generator of its own, one field for where and one for which."""
        inner = np.random.default_rng(int(self._stream.randint(2**31)))
        replaced, salt = inner.random(shape) <= fraction, inner.random(shape) <= 0.5
        return (replaced & salt).astype(np.int8) - (replaced & ~salt).astype(np.int8)
