"""How codec `context` learns: clusters of neighbours, and how much each of them tells.

    clusters   symbols that are followed alike share one: k-means under the Kullback-Leibler
               divergence of what follows a symbol, once to its right and once below it
    weights    the log-linear model P(x | up, left) ~ a(x) b(left, x) c(up, x) whose sums over all
               contexts agree with the counts of (left, x) and (up, x), by iterative proportional
               fitting (Deming and Stephan, 1940)

Counts of single contexts would add nothing: with 850 grids of 1,024 tokens they change what
held-out grids cost by 0.1%, and their tables are thirty times as large (docs/log.md).
Floats occur here only; what a store ships and a decoder computes with are integers.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from tokenstore.codecs.base import Ranks
from tokenstore.codecs.context_tables import COARSE, FINE, ContextTables
from tokenstore.compiled import compiled

Clusters = NDArray[np.uint8]  # [S], the cluster of each symbol
Floats = NDArray[np.float64]

# 64 save 3% more, but their 4,225 tables leave the caches: 54 to 62% of the speed of 32.
CLUSTERS = (1, 8, 16, 32)
STEPS = (8, 4, 1)  # of weights, in 1/8 bit; what is rounded more is smaller to ship
SERVED_AT_LEAST = 4096  # images; see `choose`
JUDGED = 5  # every fifth grid
LARGEST_CHOICE = 1024  # grids that the choice looks at
ROUNDS = 15  # of k-means at most; it ends when hardly a symbol moves
SETTLED = 0.999
SMOOTHING = 200.0  # pseudo-counts of a cluster's histogram, in proportion to the popularity
PRIOR = 1000.0  # the same, of what the weights are fitted to
FITTING = 2  # rounds of proportional fitting; more change nothing
UNSEEN = 0.5  # added to every count


def choose(symbols: Ranks, size: int, served: int) -> ContextTables:
    """Tables with which data and tables together are smallest, counted on all grids.

    The choice of clusters and rounding is judged on every fifth grid, learnt from the others, for
    as many images as the tables will serve. That is taken to be 4,096 at least: a store grows, and
    for a thousand images of 4,096 codes 16 and 32 clusters are a tie, where 32 save 4% of every
    record for 44 KB of tables.

    Args:
        symbols: uint16 [n, planes, h, w], below `size`.
        size: how many symbols there are.
        served: images that the tables will serve.
    """
    some = symbols[:: -(-len(symbols) // LARGEST_CHOICE) or 1]
    judge, learn = some[::JUDGED], some[np.arange(len(some)) % JUDGED > 0]
    tokens = max(served, SERVED_AT_LEAST) * prod(symbols.shape[1:])
    best, best_cost = (1, STEPS[-1]), np.inf
    for clusters in CLUSTERS:
        if clusters > 1 and (2 * clusters > size or not len(learn)):
            break
        fitted = _Fitted.of(learn, size, clusters)
        for step in STEPS:
            tables = fitted.rounded(step)
            shipped = sum(array.nbytes for array in tables.shipped().values())
            cost = tokens * mean_bits(judge, tables) / 8 + shipped
            if cost < best_cost:
                best, best_cost = (clusters, step), cost
    clusters, step = best
    return _Fitted.of(symbols, size, clusters).rounded(step)


def mean_bits(symbols: Ranks, tables: ContextTables) -> float:
    """Bits that a symbol of these grids costs; 0 without grids."""
    if not symbols.size:
        return 0.0
    lasts = np.concatenate([np.full((tables.sides**2, 1), -1), tables.lasts()], axis=1)
    contexts, places = tables.contexts(symbols).ravel(), tables.places[symbols].ravel()
    frequencies = lasts[contexts, places.astype(np.int64) + 1] - lasts[contexts, places]
    return float(tables.bits - np.log2(frequencies).mean())


@dataclass(frozen=True)
class _Fitted:
    """Clusters uint8 [2, S], and log2 of the three factors: [S], [C + 1, S], [C + 1, S]."""

    clusters: NDArray[np.uint8]
    popularity: Floats
    left: Floats
    up: Floats

    @classmethod
    def of(cls, symbols: Ranks, size: int, clusters: int) -> "_Fitted":
        """Learn from grids [n, planes, h, w]."""
        counts = np.bincount(symbols.ravel(), minlength=size) + UNSEEN
        shares = counts / counts.sum()
        if clusters == 1:
            links = np.zeros((2, size), np.uint8)
        else:
            links = np.stack(
                [Successors.count(symbols, shares, axis).clusters(clusters) for axis in (-1, -2)]
            )
        factors = _factors(symbols, links, shares)
        own = np.zeros(size)
        for factor in factors:
            # What all clusters say of a symbol is no news of any; it goes to the popularity.
            factor -= (factor * shares).sum(1, keepdims=True)
            usual = np.median(factor, axis=0)
            factor -= usual
            own += usual
        return cls(links, own, *factors)

    def rounded(self, step: int) -> ContextTables:
        """Whole numbers; weights are multiples of `step` eighths of a bit."""
        weights = np.concatenate([self.left, self.up]) * (FINE // COARSE) / step
        most = 127 // step
        whole = np.clip(np.round(weights), -most, most) * step
        popularity = np.clip(np.round(self.popularity * FINE), -(1 << 15), (1 << 15) - 1)
        return ContextTables(self.clusters, popularity.astype(np.int16), whole.astype(np.int8))


def _factors(symbols: Ranks, links: NDArray[np.uint8], shares: Floats) -> tuple[Floats, Floats]:
    """log2 of the factors of each left and each upper cluster, [C + 1, S] each."""
    size, sides = len(shares), int(links.max()) + 2
    tables = ContextTables(links, np.zeros(size, np.int16), np.zeros((2 * sides, size), np.int8))
    contexts = tables.contexts(symbols).ravel()
    pairs = np.bincount(contexts, minlength=sides * sides).reshape(sides, sides).astype(float)
    above, beside = np.divmod(contexts.astype(np.int64), sides)
    targets, factors = [], []
    for neighbours, totals in ((beside, pairs.sum(0)), (above, pairs.sum(1))):
        counts = np.bincount(neighbours * size + symbols.ravel(), minlength=sides * size)
        smooth = counts.reshape(sides, size) + PRIOR * shares
        smooth /= smooth.sum(1, keepdims=True)
        factors.append(smooth / np.sqrt(shares))
        targets.append(smooth * totals[:, None])
    left, up = factors
    for _ in range(FITTING):
        left = _fit_sums(left, targets[0], (pairs / (up @ left.T)).T @ up)
        up = _fit_sums(up, targets[1], (pairs / (up @ left.T)) @ left)
    return np.log2(left), np.log2(up)


def _fit_sums(factor: Floats, target: Floats, others: Floats) -> Floats:
    """The factor that makes its sums agree; as it was for a cluster that never occurs."""
    seen = others.sum(1, keepdims=True) > 0
    return np.where(seen, target / np.where(seen, others, 1), factor)


@dataclass(frozen=True)
class Successors:
    """What follows each symbol and how often: pair p says that `nexts[p]` did `weights[p]` times.

    The pairs of symbol s are starts[s] .. starts[s + 1]; `shares` is the popularity of all.
    """

    starts: NDArray[np.int64]
    nexts: NDArray[np.int64]
    weights: NDArray[np.float32]
    shares: Floats

    @classmethod
    def count(cls, symbols: Ranks, shares: Floats, axis: int) -> "Successors":
        """Count along an axis: -1 to the right, -2 below."""
        size, last = len(shares), symbols.shape[axis] - 1
        before = np.take(symbols, np.arange(last), axis=axis).ravel().astype(np.int64)
        after = np.take(symbols, np.arange(1, last + 1), axis=axis).ravel()
        pairs, counts = np.unique(before * size + after, return_counts=True)
        starts = np.searchsorted(pairs // size, np.arange(size + 1))
        return cls(starts, pairs % size, counts.astype(np.float32), shares)

    def clusters(self, clusters: int) -> Clusters:
        """Clusters of symbols whose successors are alike, uint8 [S]."""
        size, owners = len(self.shares), self._owners()
        members = self._bits(self._first_centres(clusters)).argmin(1)
        for _ in range(ROUNDS):
            cells = members[owners] * size + self.nexts
            centres: Floats = np.bincount(cells, self.weights, clusters * size).astype(float)
            changed = self._bits(centres.reshape(clusters, size)).argmin(1)
            settled = (changed == members).mean() >= SETTLED
            members = changed
            if settled:
                break
        chosen: Clusters = members.astype(np.uint8)
        return chosen

    def _owners(self) -> NDArray[np.int64]:
        """The symbol of each pair."""
        return np.repeat(np.arange(len(self.shares)), np.diff(self.starts))

    def _bits(self, centres: Floats) -> NDArray[np.float32]:
        """Bits that the successors of each symbol cost under histograms [C, S]: [S, C]."""
        smooth = centres + SMOOTHING * self.shares
        logs = np.log2(smooth / smooth.sum(1, keepdims=True))
        bits = np.zeros((len(self.shares), len(centres)), np.float32)
        _add_bits(self.starts, self.nexts, self.weights, _by_symbol(logs), bits)
        return bits

    def _first_centres(self, clusters: int) -> Floats:
        """Start of k-means (k-means++): symbols drawn by what the centres so far make them cost."""
        size, owners = len(self.shares), self._owners()
        totals = np.bincount(owners, self.weights, size)
        own = np.bincount(owners, -self.weights * np.log2(self.weights / totals[owners]), size)
        rng, chosen = np.random.default_rng(0), int(totals.argmax())
        centres, best = np.zeros((clusters, size)), np.full(size, np.inf)
        for number in range(clusters):
            pairs = slice(self.starts[chosen], self.starts[chosen + 1])
            centres[number, self.nexts[pairs]] = self.weights[pairs]
            best = np.minimum(best, self._bits(centres[number : number + 1])[:, 0])
            excess = np.where(totals > 0, np.maximum(best - own, 0), 0)
            if not excess.any():
                break
            chosen = int(rng.choice(size, p=excess / excess.sum()))
        return centres


def _by_symbol(logs: Floats) -> NDArray[np.float32]:
    """[C, S] -> [S, C], so that what one pair needs lies together."""
    return np.ascontiguousarray(logs.T.astype(np.float32))


@compiled
def _add_bits(
    starts: NDArray[np.int64],
    nexts: NDArray[np.int64],
    weights: NDArray[np.float32],
    logs: NDArray[np.float32],
    bits: NDArray[np.float32],
) -> None:
    """Add to `bits` [S, C] what each symbol's successors cost by the logs [S, C] of shares."""
    for symbol in range(len(bits)):
        for pair in range(starts[symbol], starts[symbol + 1]):
            for number in range(logs.shape[1]):
                bits[symbol, number] -= weights[pair] * logs[nexts[pair], number]
