"""How close do cheaper shuffles come to the full one?

    python -m benchmarks.shuffle [--images 1281167] [--shard 16384] [--classes 1000]

Once for a split that lies sorted by class (a store built with `--order input`), the worst case, and
once for one in random order, as stores are by default. Compared, over a few seeds:

    full           tokenstore's `shuffle="full"`; the ideal
    shards W       tokenstore's `shuffle="shards"`, windows of W shards
    blocks W       the same over blocks of 1,024 images instead of shards, for comparison
    buffer N       WebDataset's way: shards in random order, then a buffer of N images from which a
                   random one leaves whenever one comes in (simulated, one worker)
    none           the order of the split

Printed, for both: mean length of runs of one class; share of a batch of 1,024 that its commonest
class takes; classes in such a batch. Alike for both: correlation of neighbours' places in the
split; correlation of an image's positions in two epochs; mean distance between the positions of two
neighbours of the split, as a share of the epoch (1/3 ideally); images that must lie at hand; CPU
time an image. One JSON object.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tokenstore.order import Shuffled, Unshuffled
from tokenstore.shard_shuffle import ShardShuffle

Numbers = NDArray[np.int64]
Epoch = Callable[[int, int], Numbers]  # (seed, epoch) -> sample numbers
BATCH, BLOCK, SEEDS, ASKED = 1024, 1024, 3, 16_384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_281_167)
    parser.add_argument("--shard", type=int, default=16_384)
    parser.add_argument("--classes", type=int, default=1000)
    asked = parser.parse_args()
    labels = np.sort(np.random.default_rng(0).integers(0, asked.classes, asked.images))
    rows = []
    for name, at_hand, epoch in shuffles(asked.images, asked.shard):
        measured = [quality(epoch, labels, seed) for seed in range(SEEDS)]
        means = {key: float(f"{np.mean([m[key] for m in measured]):.4g}") for key in measured[0]}
        rows.append({"shuffle": name, "images at hand": at_hand, **means})
    print(json.dumps({"images": asked.images, "shard": asked.shard, "rows": rows}, indent=1))


def shuffles(images: int, shard: int) -> list[tuple[str, int, Epoch]]:
    """Name, images at hand, and the epoch itself."""
    shards, blocks = counts_of(images, shard), counts_of(images, BLOCK)
    listed: list[tuple[str, int, Epoch]] = [
        ("full", images, lambda seed, epoch: whole(Shuffled(images, seed), epoch))
    ]
    listed += [(f"shards {w}", w * shard, by_runs(shards, w)) for w in (2, 4, 8, 16, 32)]
    listed += [(f"blocks {w}", w * BLOCK, by_runs(blocks, w)) for w in (64, 256)]
    sizes = (1_000, 10_000, 131_072, 262_144)
    listed += [(f"buffer {size}", size, buffered(shards, size)) for size in sizes]
    listed.append(("none", 0, lambda seed, epoch: whole(Unshuffled(images), epoch)))
    return listed


def counts_of(images: int, size: int) -> tuple[int, ...]:
    rest = images % size
    return (size,) * (images // size) + ((rest,) if rest else ())


def whole(order: Shuffled | Unshuffled | ShardShuffle, epoch: int) -> Numbers:
    """An epoch, asked for as a loader asks."""
    positions = np.arange(len(order))
    parts = [order.at(epoch, positions[p : p + ASKED]) for p in range(0, len(order), ASKED)]
    return np.concatenate(parts)


def by_runs(counts: tuple[int, ...], window: int) -> Epoch:
    return lambda seed, epoch: whole(ShardShuffle(counts, seed, window), epoch)


def buffered(counts: tuple[int, ...], size: int) -> Epoch:
    """Shards in random order through a buffer of `size` images."""

    def epoch_of(seed: int, epoch: int) -> Numbers:
        rng = np.random.default_rng((seed, epoch))
        firsts = np.cumsum((0, *counts))
        order = rng.permutation(len(counts))
        coming = np.concatenate([np.arange(firsts[s], firsts[s + 1]) for s in order])
        size_here = min(size, len(coming))
        buffer, rest = coming[:size_here].tolist(), coming[size_here:].tolist()
        leaving = []
        for slot, number in zip(rng.integers(0, size_here, len(rest)).tolist(), rest, strict=True):
            leaving.append(buffer[slot])
            buffer[slot] = number
        return np.concatenate([np.array(leaving, np.int64), rng.permutation(buffer)])

    return epoch_of


def quality(epoch: Epoch, labels: Numbers, seed: int) -> dict[str, float]:
    began = time.process_time()
    first = epoch(seed, 0)
    seconds = time.process_time() - began
    second, count = epoch(seed, 1), len(labels)
    assert np.array_equal(np.sort(first), np.arange(count)), "each image exactly once"
    unsorted = np.random.default_rng(1).permutation(labels)
    places, again = np.empty(count), np.empty(count)
    places[first], again[second] = np.arange(count), np.arange(count)
    return {
        **classes_met("sorted", labels[first]),
        **classes_met("unsorted", unsorted[first]),
        "neighbour correlation": np.corrcoef(first[:-1], first[1:])[0, 1],
        "epoch correlation": np.corrcoef(places, again)[0, 1],
        "distance of neighbours": np.abs(np.diff(places)).mean() / count,
        "CPU us an image": seconds / count * 1e6,
    }


def classes_met(stored: str, classes: Numbers) -> dict[str, float]:
    """What a training sees of the classes, int64 [n], as they come in an epoch."""
    batches = classes[: len(classes) // BATCH * BATCH].reshape(-1, BATCH)[::7]
    counts = np.stack([np.bincount(batch).max() for batch in batches])
    return {
        f"{stored}: class run": len(classes) / (1 + np.count_nonzero(np.diff(classes))),
        f"{stored}: commonest class of a batch": counts.mean() / BATCH,
        f"{stored}: classes in a batch": np.mean([len(np.unique(batch)) for batch in batches]),
    }


if __name__ == "__main__":
    main()
