"""Order: which image comes at which position of which epoch, as a pure function without memory.

A keyed permutation of 0..n-1 is computed, never stored: a Feistel network over the smallest power
of two that holds n, walked along its cycle until it lands inside (Black and Rogaway, 2002). Any
process can ask for any position of any epoch, which is what makes resuming instant and the order
independent of the number of processes. It knows numbers only, no stores.

    domain 2^b >= n, b >= 2;   a position is (left: b//2 bits, right: b - b//2 bits)
    even rounds  left  ^= mix(right + key[round]);   odd rounds  right ^= mix(left + key[round])

`mix` is the finaliser of splitmix64 (Steele, Lea and Flood, 2014). The keys come from seed and
epoch by the same mixing, so all bits of both matter. It must never change: runs resume by it.
"""

import hashlib
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Numbers = NDArray[np.int64]

_ROUNDS = 12  # with 8, five images still preferred some positions; tests/tokenstore/test_order.py
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, the increment of splitmix64
_WORD = 0xFFFFFFFFFFFFFFFF
_SHOWN = 4  # numbers that a description tells one by one


class Order(Protocol):
    """What a loader needs to know: how long an epoch is, and what stands at each position of it.

    A pure function: the same epoch and positions give the same samples in every process, for ever.
    An image may come more than once an epoch, or never, where that is the order's purpose.
    A class that is no dataclass of numbers, arrays and orders may have a `description` of its
    parameters, a string, by which a resume knows it again; see `description_of`.
    """

    def __len__(self) -> int:
        """Positions of an epoch; the same in all epochs."""

    def at(self, epoch: int, positions: Numbers) -> Numbers:
        """Sample numbers, int64 [m], at positions of an epoch, int64 [m] in 0..len-1."""


@dataclass(frozen=True)
class Shuffled:
    """Every sample of a split once an epoch, truly shuffled, anew each epoch."""

    size: int
    seed: int

    def __len__(self) -> int:
        """See `Order`."""
        return self.size

    def at(self, epoch: int, positions: Numbers) -> Numbers:
        """See `Order`."""
        return Permutation(self.size, self.seed, epoch).at(positions)


@dataclass(frozen=True)
class Unshuffled:
    """Every sample of a split once an epoch, in the order of the split."""

    size: int

    def __len__(self) -> int:
        """See `Order`."""
        return self.size

    def at(self, epoch: int, positions: Numbers) -> Numbers:
        """See `Order`."""
        return positions


def description_of(order: Order) -> str:
    """Class and parameters of an order: alike in every process, another for another order.

    What neither is a dataclass nor has a `description` is told by its class alone.

    Example:
        >>> description_of(Shuffled(37, seed=5))
        'Shuffled(size=37, seed=5)'
    """
    told = getattr(order, "description", None)
    if isinstance(told, str):
        return told
    names = [field.name for field in fields(order)] if is_dataclass(order) else list[str]()
    return described(type(order).__name__, **{name: getattr(order, name) for name in names})


def described(kind: str, **parameters: Any) -> str:
    """A class and its parameters on one line; arrays and long tuples are told by a hash."""
    told = ", ".join(f"{name}={_told(value)}" for name, value in parameters.items())
    return f"{kind}({told})" if told else kind


def _told(value: Any) -> str:
    if isinstance(value, tuple):
        numbers = np.array(value, np.float64)
        if numbers.size <= _SHOWN:
            return str(numbers.tolist())
        value = numbers
    if isinstance(value, np.ndarray):
        return f"{len(value)} of {hashlib.sha256(value.tobytes()).hexdigest()[:16]}"
    if hasattr(value, "at"):
        return description_of(value)
    plain = value is None or isinstance(value, str | int | float | np.number)
    return str(value) if plain else type(value).__name__


@dataclass(frozen=True)
class Permutation:
    """A shuffle of `size` images in one epoch.

    Example:
        >>> sorted(Permutation(5, seed=0, epoch=1).at(np.arange(5)).tolist())
        [0, 1, 2, 3, 4]
    """

    size: int
    seed: int
    epoch: int

    def at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Image numbers, int64 [m], at these positions of the epoch, int64 [m] in 0..size-1."""
        seed = np.array([self.seed & _WORD], np.uint64)
        return permuted(positions, np.array([self.size]), seed, np.array([self.epoch]))


def permuted(numbers: Numbers, sizes: Numbers, seeds: Words, epochs: Numbers) -> Numbers:
    """Each number under a shuffle of its own, as `Permutation` computes it.

    Args:
        numbers: int64 [m], each in 0..size-1.
        sizes: of the shuffles, int64 [m] or [1], at most 2^53.
        seeds: of the shuffles, uint64 [m] or [1].
        epochs: of the shuffles, int64 [m] or [1].

    Returns:
        int64 [m], each in 0..size-1.
    """
    keys = np.broadcast_to(_keys(seeds, epochs), (_ROUNDS, len(numbers)))
    bits = np.broadcast_to(np.maximum(2, np.frexp(sizes - 1.0)[1]).astype(np.uint64), len(numbers))
    limits = np.broadcast_to(sizes.astype(np.uint64), len(numbers))
    images = _feistel(numbers.astype(np.uint64), bits, keys)
    outside = np.flatnonzero(images >= limits)
    while outside.size:  # at most three quarters of a domain lie outside, so this ends quickly
        images[outside] = _feistel(images[outside], bits[outside], keys[:, outside])
        outside = outside[images[outside] >= limits[outside]]
    return images.astype(np.int64)


def mixed(seed: int, *words: Numbers) -> Words:
    """Seeds of their own for shuffles within a shuffle, uint64 [m], from a seed and int64 [m]."""
    state = _mix(np.array([seed & _WORD], np.uint64) + np.uint64(_GOLDEN))
    for word in words:
        state = _mix(state * np.uint64(_GOLDEN) + word.astype(np.uint64))
    return state


def _feistel(numbers: Words, bits: Words, keys: Words) -> Words:
    """A bijection of 0..2^bits-1 for each number: bits [m], keys [rounds, m]."""
    one = np.uint64(1)
    high = bits >> one
    low = bits - high
    low_mask, high_mask = (one << low) - one, (one << high) - one
    left, right = numbers >> low, numbers & low_mask
    for round_number, key in enumerate(keys):
        if round_number % 2 == 0:
            left = left ^ (_mix(right + key) & high_mask)
        else:
            right = right ^ (_mix(left + key) & low_mask)
    return (left << low) | right


def _mix(words: Words) -> Words:
    """Finaliser of splitmix64: every bit of the input moves every bit of the output."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _keys(seeds: Words, epochs: Numbers) -> Words:
    """Round keys, uint64 [rounds, m]."""
    state = _mix(_mix(seeds + np.uint64(_GOLDEN)) + epochs.astype(np.uint64))
    steps = np.arange(1, _ROUNDS + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return _mix(state + steps[:, None])
