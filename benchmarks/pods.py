"""What a pod's hosts fetch, how images are mixed; peer: one lane.

    bin/bench pods                             # 130 million images in shards of 10,000, hosts of 24 images a step
    bin/bench pods --hosts 64 --lanes 64 8     # fewer lanes than hosts: 8 hosts share the shards of each

Nothing is read or timed: one pass of the order itself (`nst.data.stream`) is gone through, and counted. The mixing is
compared with a shuffle of all images: how many shards a batch comes from, and how far apart in the pass two images of
one shard lie, where a shuffle has a third of the pass.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks import harness
from nst.data.stream import Stream

CHUNK = 1_000_000  # entries at a time
SAMPLED_SHARDS = 200
SAMPLED_BATCHES = 20


@dataclass(frozen=True)
class Found:
    """Of one order: MB per second and host (its mean, and the largest host's beside it), and how well it mixes."""

    hosts: int
    lanes: int
    fetched_mb_s: float
    largest_over_mean: float
    hosts_per_shard: float
    first_gb: float  # that a host fetches before its first step
    shards_per_batch: float
    shards_of_a_shuffle: float
    distance: float  # of two images of a shard, as a share of the pass


def main(argv: list[str]) -> None:
    parser = harness.parser("pods", __doc__, rounds=None)
    parser.add_argument("--hosts", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--lanes", type=int, nargs="+", default=None, help="(default: 1, and as many as hosts)")
    parser.add_argument("--images", type=int, default=130_000_000, help="of a pass (default: %(default)s)")
    parser.add_argument("--shard-images", type=int, default=10_000, help="on average (default: %(default)s)")
    parser.add_argument("--images-per-host", type=int, default=24, help="a step (default: %(default)s)")
    parser.add_argument("--step-s", type=float, default=1.77, help="seconds of a step (default: %(default)s)")
    parser.add_argument("--image-kilobytes", type=float, default=100, help="(default: %(default)s)")
    options = parser.parse_args(argv)
    found = [look(options, hosts, lanes) for hosts in options.hosts for lanes in options.lanes or (1, hosts)]
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in found], indent=1))


def look(options: argparse.Namespace, hosts: int, lanes: int) -> Found:
    """One pass of the order of so many lanes, read by so many hosts."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(
        options.shard_images // 2, 3 * options.shard_images // 2, options.images // options.shard_images
    )
    stream = Stream(sizes, seed=0, name="unlabeled", lanes=lanes)
    batch = hosts * options.images_per_host
    seen = np.zeros((hosts, len(sizes)), bool)
    first = np.zeros_like(seen)
    sampled = np.zeros(len(sizes), bool)
    sampled[rng.permutation(len(sizes))[:SAMPLED_SHARDS]] = True
    places: list[np.ndarray] = []
    for lane, start, shards in passed(stream):
        count = start + np.arange(len(shards))
        host = (lane * (batch // lanes) + count % (batch // lanes)) // options.images_per_host
        seen[host, shards] = True
        # loaders fetch what a window holds as soon as they come to it
        early = count < stream.window_shards * options.shard_images // 2
        first[host[early], shards[early]] = True
        kept = sampled[shards]
        places.append(np.stack([shards[kept], lane + lanes * count[kept]]))
    gigabytes = sizes * options.image_kilobytes * 1e3 / 1e9
    fetched = seen @ gigabytes
    seconds = stream.length / batch * options.step_s
    drawn = np.linspace(0, stream.length // batch - 1, SAMPLED_BATCHES).astype(int)
    return Found(
        hosts,
        lanes,
        fetched_mb_s=float(fetched.mean() * 1e3 / seconds),
        largest_over_mean=float(fetched.max() / fetched.mean()),
        hosts_per_shard=float(seen.sum(0).mean()),
        first_gb=float((first @ gigabytes).max()),
        shards_per_batch=float(np.mean([len(np.unique(stream.batch(step, batch).shards)) for step in drawn])),
        shards_of_a_shuffle=float(np.sum(1 - (1 - sizes / stream.length) ** batch)),
        distance=distance(np.concatenate(places, axis=1), rng) / stream.length,
    )


def passed(stream: Stream) -> Iterator[tuple[int, int, np.ndarray]]:
    """Lane, number of the first entry within the lane, and shards (N,): of the first pass, in pieces."""
    for lane in range(stream.lanes):
        count = -(-(stream.length - lane) // stream.lanes)
        for start in range(0, count, CHUNK):
            yield lane, start, stream.entries(start, min(start + CHUNK, count), lane=lane).shards


def distance(places: np.ndarray, rng: np.random.Generator) -> float:
    """Mean distance in the pass of two images of one shard, from (2, N): shards and positions."""
    shards = np.unique(places[0])
    pairs = (rng.choice(places[1, places[0] == shard], (1000, 2)) for shard in shards)
    return float(np.mean([np.abs(np.diff(pair)).mean() for pair in pairs]))


def table(found: Sequence[Found]) -> str:
    lines = [
        "| hosts | lanes | MB/s a host | largest / mean | hosts a shard | GB at the start "
        "| shards a batch (a shuffle) | distance (a shuffle: 33 %) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        shards = f"{one.shards_per_batch:.0f} ({one.shards_of_a_shuffle:.0f})"
        lines.append(
            f"| {one.hosts} | {one.lanes} | {one.fetched_mb_s:.2f} | {one.largest_over_mean:.2f} "
            f"| {one.hosts_per_shard:.2f} | {one.first_gb:.1f} | {shards} | {100 * one.distance:.2f} % |"
        )
    return "\n".join(lines)
