"""Kinds that options of several groups have."""

from __future__ import annotations

from nst.kinds import either, listed, network, null, number, path, text, whole

SIZE = whole(8, 8192)  # px
COUNT = whole()
BATCH = whole(1, 10**6)
SEED = whole(0, 2**32 - 1)
SHARE = number(0, 1)
RATE = number(0, 1, below=True)
SOME = number(0, 1, above=True)
POSITIVE = number(0, 1e9, above=True)
PLACE = null(path())
NETWORK = null(network())
NETWORKS = null(either(network(), listed(network(), least=1)))
NAME = text(200, r"(?!.*(^|/)\.{0,2}(/|$)).*", "a name, as a folder may have it")
