"""How popular the codes of a store are: one account of its vocabulary, and of a sample's grids."""

import math
from dataclasses import dataclass

import numpy as np

from tokenstore.codecs.base import Ranks
from tokenstore.codecs.escape import ESCAPE
from tokenstore.vocabulary import Vocabulary

POINTS = 160  # of the curve; more are not seen


@dataclass(frozen=True)
class Popularity:
    """The vocabulary by its counts.

    Attributes:
        size: codes of the vocabulary.
        tokens: how many tokens were counted.
        occurring: codes that were counted at least once.
        half: how many of the commonest codes make up half of all tokens.
        one_byte: share of tokens whose rank the escape code writes as one byte.
        entropy: order-0, bits a token.
        uniform: bits a token if all codes were equally likely.
        curve: (place by popularity, from 1; share of all tokens), for some of the places.
    """

    size: int
    tokens: int
    occurring: int
    half: int
    one_byte: float
    entropy: float
    uniform: float
    curve: tuple[tuple[int, float], ...]


def popularity(vocabulary: Vocabulary) -> Popularity:
    """Describe a vocabulary, whatever the order of its ranks."""
    counts = vocabulary.counts
    tokens = int(counts.sum())
    falling = np.sort(counts)[::-1]
    shares = falling[falling > 0] / max(tokens, 1)
    half = int(np.searchsorted(2 * np.cumsum(falling), tokens)) + 1 if tokens else 0
    places = np.unique(np.geomspace(1, max(len(shares), 1), POINTS).round().astype(int))
    curve = tuple((int(at), float(shares[at - 1])) for at in places) if len(shares) else ()
    return Popularity(
        size=len(vocabulary),
        tokens=tokens,
        occurring=len(shares),
        half=half,
        one_byte=float(counts[:ESCAPE].sum()) / max(tokens, 1),
        entropy=vocabulary.entropy,
        uniform=math.log2(len(vocabulary)),
        curve=curve,
    )


def distinct_codes(grids: Ranks) -> float:
    """Different codes in an image, on average; 0 without images."""
    if not len(grids):
        return 0.0
    rows = np.sort(grids.reshape(len(grids), -1), axis=1)
    return float((np.diff(rows, axis=1) != 0).sum() / len(grids)) + 1
