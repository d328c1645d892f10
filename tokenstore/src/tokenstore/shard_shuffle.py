"""A shuffle that stays near: a few shards at a time, for stores whose shards come over a network.

    shards in random order   | 7 2 9 | 0 4 5 | 8 1 3 6 |     keyed by (seed, epoch)
    windows of some of them  | all their images, truly shuffled together | ...

An epoch goes through the shards once, so a cache that holds one window and the next reads every
byte once an epoch, and `fetch_ahead` brings the next one while this one is used. Like all orders it
is a pure function: every image exactly once an epoch, any position of any epoch at once, memory in
proportion to the shards. How close it comes to the full shuffle stands in
benchmarks/results/shuffle_*.md; with no more shards than a window it is one.
"""

from dataclasses import dataclass

import numpy as np

from tokenstore.order import Numbers, Permutation, mixed, permuted

WINDOW = 32  # shards; of the default 16,384 images each, some 600 MB of ImageNet's tokens
_SHARDS, _WINDOWS = np.array([1]), np.array([2])  # what a derived seed is for


@dataclass(frozen=True)
class ShardShuffle:
    """Every sample of a split once an epoch, shuffled within windows of randomly chosen shards.

    Attributes:
        counts: samples of each shard, in the order of the split.
        seed: with the epoch, decides the order.
        window: at most so many shards are mixed; all windows have as many, give or take one.

    Example:
        >>> order = ShardShuffle((3, 2, 4), seed=0, window=2)
        >>> sorted(order.at(0, np.arange(9)).tolist())
        [0, 1, 2, 3, 4, 5, 6, 7, 8]
    """

    counts: tuple[int, ...]
    seed: int
    window: int = WINDOW

    def __len__(self) -> int:
        """See `Order`."""
        return sum(self.counts)

    def at(self, epoch: int, positions: Numbers) -> Numbers:
        """See `Order`."""
        shards = self.shards(epoch)
        counts = np.array(self.counts, np.int64)
        ends = np.cumsum(counts[shards])
        edges = np.concatenate([[0], ends])[self._edges()]
        window = np.searchsorted(edges, positions, side="right") - 1
        begins, sizes = edges[window], edges[window + 1] - edges[window]
        seeds = mixed(self.seed, _WINDOWS, window)
        places = begins + permuted(positions - begins, sizes, seeds, np.array([epoch]))
        slots = np.searchsorted(ends, places, side="right")
        moved = (np.cumsum(counts) - counts)[shards] - (ends - counts[shards])
        return places + moved[slots]

    def shards(self, epoch: int) -> Numbers:
        """Numbers of the shards in the order of an epoch, int64 [shards]."""
        number = len(self.counts)
        seed = int(mixed(self.seed, _SHARDS)[0])
        return Permutation(number, seed, epoch).at(np.arange(number))

    def windows(self, epoch: int) -> tuple[Numbers, list[Numbers]]:
        """Where each window of an epoch ends, int64 [windows], and its shards that have samples."""
        shards, counts = self.shards(epoch), np.array(self.counts, np.int64)
        edges = self._edges()
        ends = np.concatenate([[0], np.cumsum(counts[shards])])[edges[1:]]
        mixed_there = np.split(shards, edges[1:-1])
        return ends, [some[counts[some] > 0] for some in mixed_there]

    def _edges(self) -> Numbers:
        """Where windows begin, and the end of the last, int64 [windows + 1], counted in shards."""
        number = len(self.counts)
        windows = max(1, -(-number // self.window))
        return np.arange(windows + 1) * number // windows
