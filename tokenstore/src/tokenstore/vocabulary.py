"""The vocabulary: the ids that occur, in the order of their popularity.

An id is a row of the tokenizer's codebook; its rank is its place here, 0 the commonest, so that
common tokens fit one byte. Ranks are what a store keeps. The renaming is strict both ways: an id or
rank outside is an error, never a guess. This module counts nothing and knows no images.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from tokenstore.errors import CorruptStore, Mismatch

LARGEST = 65536  # ranks are uint16
LARGEST_TABLE = 1 << 24  # ids below are looked up; a table for larger ones would take too much room


@dataclass(frozen=True)
class Vocabulary:
    """Ids int32 [K] in rank order, their counts int64 [K], codebook rows float32 [K, d] or None."""

    ids: NDArray[np.int32]
    counts: NDArray[np.int64]
    codebook: NDArray[np.float32] | None = None

    @classmethod
    def from_counts(
        cls,
        counts: Mapping[str, NDArray[np.int64]],
        codebook: NDArray[np.float32] | None = None,
    ) -> "Vocabulary":
        """Order the ids that occur in any split by their count in train, then by id.

        Where there is no train split, or nothing in it, all splits count together.

        Args:
            counts: for each split how often each id occurs, int64 [ids].
            codebook: float32 [ids, d] in the order of ids.

        Raises:
            Mismatch: no id occurs, or more than 65,536 do.
        """
        everywhere, weights = _everywhere(counts), _weights(counts)
        occurring = np.flatnonzero(everywhere)
        if not 1 <= len(occurring) <= LARGEST:
            raise Mismatch(f"{len(occurring)} ids occur, a vocabulary holds 1 to {LARGEST}")
        ids = occurring[np.argsort(-weights[occurring], kind="stable")]
        return cls(ids.astype(np.int32), weights[ids].astype(np.int64), _rows(codebook, ids))

    def recounted(
        self,
        counts: Mapping[str, NDArray[np.int64]],
        codebook: NDArray[np.float32] | None = None,
    ) -> "Vocabulary":
        """The same ids in the same order, also those that do not occur, with counts of others.

        Takes the same arguments as `from_counts`.
        """
        return Vocabulary(
            self.ids, _weights(counts)[self.ids].astype(np.int64), _rows(codebook, self.ids)
        )

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> "Vocabulary":
        """Read what `to_bytes` wrote.

        Raises:
            CorruptStore: the arrays are missing, of another shape, or contradict each other.
        """
        try:
            arrays = safetensors.numpy.load(content)
        except (SafetensorError, ValueError, KeyError) as error:
            raise CorruptStore(f"{where} is no safetensors file: {error}") from error
        expected = {"ids": (np.int32, 1), "counts": (np.int64, 1), "codebook": (np.float32, 2)}
        found = {name: (array.dtype.type, array.ndim) for name, array in arrays.items()}
        if found not in (expected, {k: v for k, v in expected.items() if k != "codebook"}):
            raise CorruptStore(f"{where} holds {found}, expected {expected}")
        vocabulary = cls(arrays["ids"], arrays["counts"], arrays.get("codebook"))
        lengths = {len(array) for array in arrays.values()}
        unique = len(np.unique(vocabulary.ids))
        distinct = unique == len(vocabulary) and vocabulary.ids.min(initial=0) >= 0
        if len(lengths) != 1 or not distinct or not 1 <= len(vocabulary) <= LARGEST:
            raise CorruptStore(
                f"{where}: {len(vocabulary)} ids, {unique} distinct, arrays of {sorted(lengths)} "
                f"rows; expected 1 to {LARGEST} distinct ids, none negative, one a row"
            )
        return vocabulary

    def to_bytes(self) -> bytes:
        """The safetensors file: `ids`, `counts` and, if there is one, `codebook`."""
        arrays: dict[str, NDArray[Any]] = {"ids": self.ids, "counts": self.counts}
        if self.codebook is not None:
            arrays["codebook"] = self.codebook
        return safetensors.numpy.save(arrays)

    def __len__(self) -> int:
        """How many ids occur."""
        return len(self.ids)

    @property
    def entropy(self) -> float:
        """Order-0 entropy of a token in bits, to six places; 0 where nothing was counted."""
        occurring = self.counts[self.counts > 0]
        if not len(occurring):
            return 0.0
        shares = occurring / occurring.sum()
        return round(float(-(shares * np.log2(shares)).sum()), 6) + 0.0

    def to_ranks(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.uint16]:
        """Ids of any shape to ranks, uint16 of that shape.

        Raises:
            Mismatch: an id is not in the vocabulary; names it.
        """
        ids, largest = np.asarray(ids), int(self.ids.max())
        if largest < LARGEST_TABLE:  # ten times faster than searching
            rank_of = np.full(largest + 2, -1, np.int32)
            rank_of[self.ids] = np.arange(len(self))
            ranks: NDArray[np.integer[Any]] = rank_of.take(ids, mode="clip")
            wrong = (ranks < 0) | (ids < 0)
        else:
            order = np.argsort(self.ids, kind="stable")
            place = np.searchsorted(self.ids, ids, sorter=order)
            ranks = order[np.minimum(place, len(self) - 1)]
            wrong = self.ids[ranks] != ids
        if wrong.any():
            raise Mismatch(
                f"id {int(ids[wrong].flat[0])} is not among the {len(self)} ids of "
                "this vocabulary; it comes from another tokenizer or other images"
            )
        return ranks.astype(np.uint16)

    def to_ids(self, ranks: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
        """Ranks of any shape to ids, int32 of that shape.

        Raises:
            Mismatch: a rank is not below the size of the vocabulary; names it.
        """
        ranks = np.asarray(ranks)
        wrong = (ranks < 0) | (ranks >= len(self))
        if wrong.any():
            raise Mismatch(
                f"rank {int(ranks[wrong].flat[0])} lies outside the vocabulary of {len(self)} ids"
            )
        ids: NDArray[np.int32] = self.ids[ranks]
        return ids

    def fingerprint(self, tokenizer: str, weights: str | None) -> str:
        """SHA-256 that two vocabularies share if their ranks mean the same codes.

        Args:
            tokenizer: its registry name.
            weights: SHA-256 of its weights, or None where it has none.
        """
        identity = f"{tokenizer}\n{weights or ''}\n".encode()
        return hashlib.sha256(identity + self.ids.astype("<i4").tobytes()).hexdigest()


def _everywhere(counts: Mapping[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    return sum(counts.values(), start=np.zeros(1, np.int64))


def _weights(counts: Mapping[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    """The counts of train, or of all splits where nothing is in train."""
    train = counts.get("train")
    return _everywhere(counts) if train is None or not train.any() else train


def _rows(
    codebook: NDArray[np.float32] | None, ids: NDArray[np.integer[Any]]
) -> NDArray[np.float32] | None:
    """Rows of these ids, float32 [K, d]."""
    return None if codebook is None else np.ascontiguousarray(codebook[ids], np.float32)
