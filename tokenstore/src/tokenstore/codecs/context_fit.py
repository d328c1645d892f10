"""How codec `context` learns: clusters of neighbours, and a frequency table for each pair of them.

    clusters   codes that are followed alike share one: k-means under the Kullback-Leibler
               divergence of what follows a code, once to its right and once below it
    tables     counts of a pair of clusters, backed off to a product of experts,
               P(x | left)^0.85 P(x | up)^0.85 P(x)^-0.7, with as many pseudo-counts as held-out
               grids like best

Floats occur here only; what a store ships and a decoder reads are the integers that come out.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenstore.codecs.ans import quantised
from tokenstore.compiled import compiled

Symbols = NDArray[np.int64]  # [n, planes, h, w]
Clusters = NDArray[np.int32]  # [S], the cluster of each symbol

ROUNDS = 30  # of k-means at most; it ends when no symbol moves
SMOOTHING = 200.0  # pseudo-counts of a cluster's histogram, in proportion to the popularity
EXPERT, POPULARITY = 0.85, -0.7  # exponents of the product of experts
UNSEEN = 0.02  # added to every count


@dataclass(frozen=True)
class Links:
    """Cluster of each symbol as left and as upper neighbour, int32 [S], 0 .. clusters - 1.

    A missing neighbour is cluster number `clusters`, so there are (clusters + 1)^2 contexts.
    """

    left: Clusters
    up: Clusters
    clusters: int

    @property
    def contexts(self) -> int:
        """How many pairs of clusters there are."""
        return (self.clusters + 1) ** 2

    def numbers(self, symbols: Symbols) -> NDArray[np.int32]:
        """The context of each symbol, of the shape of `symbols`: up * (clusters + 1) + left."""
        beside = np.full(symbols.shape, self.clusters, np.int32)
        above = beside.copy()
        beside[..., :, 1:] = self.left[symbols[..., :, :-1]]
        above[..., 1:, :] = self.up[symbols[..., :-1, :]]
        return above * np.int32(self.clusters + 1) + beside


@dataclass(frozen=True)
class Successors:
    """What follows each symbol and how often: pair p says that `nexts[p]` did `weights[p]` times.

    The pairs of symbol s are starts[s] .. starts[s + 1].
    """

    starts: NDArray[np.int64]
    nexts: NDArray[np.int64]
    weights: NDArray[np.float64]
    popularity: NDArray[np.float64]

    @classmethod
    def count(cls, symbols: Symbols, size: int, *, axis: int) -> "Successors":
        """Count along an axis: -1 to the right, -2 below."""
        last = symbols.shape[axis] - 1
        before = np.take(symbols, np.arange(last), axis=axis).ravel()
        after = np.take(symbols, np.arange(1, last + 1), axis=axis).ravel()
        pairs, counts = np.unique(before * size + after, return_counts=True)
        popularity = np.bincount(symbols.ravel(), minlength=size) + UNSEEN
        starts = np.searchsorted(pairs // size, np.arange(size + 1))
        weights = counts.astype(np.float64)
        return cls(starts, pairs % size, weights, popularity / popularity.sum())

    def bits(self, histograms: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bits that the successors of each symbol cost under histograms [C, S]: [S, C]."""
        smooth = histograms + SMOOTHING * self.popularity
        log_shares = np.log2(smooth / smooth.sum(1, keepdims=True))
        costs = np.empty((len(self.popularity), len(histograms)))
        _costs(self.starts, self.nexts, self.weights, log_shares, costs)
        return costs

    def histograms(self, members: Clusters, clusters: int) -> NDArray[np.float64]:
        """Successors of all members of each cluster, [C, S]."""
        sums = np.zeros((clusters, len(self.popularity)))
        firsts = np.repeat(members, np.diff(self.starts))
        np.add.at(sums, (firsts, self.nexts), self.weights)
        return sums


def cluster(successors: Successors, clusters: int) -> Clusters:
    """Clusters of symbols whose successors are alike, int32 [S]; deterministic."""
    centres = _first_centres(successors, clusters)
    members: Clusters | None = None
    for _ in range(ROUNDS):
        changed = successors.bits(centres).argmin(1).astype(np.int32)
        if members is not None and np.array_equal(changed, members):
            break
        members = changed
        centres = successors.histograms(members, clusters)
    assert members is not None  # noqa: S101 - there is at least one round
    return members


def _first_centres(successors: Successors, clusters: int) -> NDArray[np.float64]:
    """Start of k-means (k-means++): symbols drawn by what the centres so far make them cost."""
    size = len(successors.popularity)
    symbols = np.arange(size, dtype=np.int32)
    totals = np.zeros(size)
    np.add.at(totals, np.repeat(symbols, np.diff(successors.starts)), successors.weights)
    rng, chosen = np.random.default_rng(0), int(totals.argmax())
    centres = np.zeros((clusters, size))
    best = np.full(size, np.inf)
    for number in range(clusters):
        pairs = slice(successors.starts[chosen], successors.starts[chosen + 1])
        centres[number, successors.nexts[pairs]] = successors.weights[pairs]
        bits = successors.bits(centres[number : number + 1])[:, 0]
        best = np.minimum(best, bits)
        # What a symbol costs beyond the popularity's least; never the chosen one again.
        excess = np.maximum(best - _own_bits(successors, totals), 0)
        if not excess.any():
            break
        chosen = int(rng.choice(size, p=excess / excess.sum()))
    return centres


def _own_bits(successors: Successors, totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bits that the successors of each symbol cost under their own histogram, [S]."""
    symbols = np.repeat(np.arange(len(totals)), np.diff(successors.starts))
    bits = np.zeros(len(totals))
    np.add.at(bits, symbols, -successors.weights * np.log2(successors.weights / totals[symbols]))
    return bits


def link(symbols: Symbols, size: int, clusters: int) -> Links:
    """Cluster symbols by what stands to the right of them and by what stands below them."""
    if clusters == 1:
        alone = np.zeros(size, np.int32)
        return Links(alone, alone, 1)
    left = cluster(Successors.count(symbols, size, axis=-1), clusters)
    up = cluster(Successors.count(symbols, size, axis=-2), clusters)
    return Links(left, up, clusters)


def tabulate(
    symbols: Symbols, size: int, links: Links, strengths: tuple[float, ...]
) -> list[NDArray[np.float64]]:
    """Smoothed counts of each context, [contexts, S], for several strengths of the prior.

    Args:
        symbols: the grids to count.
        size: how many symbols there are.
        links: what the contexts are.
        strengths: pseudo-counts that the prior gets in each context.
    """
    sides = links.clusters + 1
    pairs = links.numbers(symbols).ravel().astype(np.int64) * size + symbols.ravel()
    counts = np.bincount(pairs, minlength=links.contexts * size).astype(np.float64)
    counts = counts.reshape(sides, sides, size)
    popularity = _shares(counts.sum((0, 1)) + UNSEEN)
    by_up, by_left = (np.log(_shares(counts.sum(axis) + SMOOTHING * popularity)) for axis in (1, 0))
    prior = EXPERT * (by_up[:, None] + by_left[None, :]) + POPULARITY * np.log(popularity)
    prior = _shares(np.exp(prior - prior.max(-1, keepdims=True)))
    flat = (links.contexts, size)
    return [(counts + strength * prior).reshape(flat) for strength in strengths]


def mean_bits(symbols: Symbols, links: Links, tables: NDArray[np.float64]) -> float:
    """Bits that a symbol of these grids costs with counts [contexts, S]."""
    numbers = links.numbers(symbols).ravel()
    shares = tables[numbers, symbols.ravel()] / tables.sum(1)[numbers]
    return float(-np.log2(shares).mean()) if shares.size else 0.0


def quantise_tables(tables: NDArray[np.float64], bits: int) -> NDArray[np.int64]:
    """Integer frequencies of every context, each row summing to 2^bits."""
    return quantised(tables, bits)


def _shares(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = weights / weights.sum(-1, keepdims=True)
    return shares


@compiled
def _costs(
    starts: NDArray[np.int64],
    nexts: NDArray[np.int64],
    weights: NDArray[np.float64],
    log_shares: NDArray[np.float64],
    costs: NDArray[np.float64],
) -> None:
    """Fill `costs` [S, C] with the bits of each symbol's successors under each cluster."""
    for symbol in range(len(costs)):
        for number in range(len(log_shares)):
            total = 0.0
            for pair in range(starts[symbol], starts[symbol + 1]):
                total -= weights[pair] * log_shares[number, nexts[pair]]
            costs[symbol, number] = total
