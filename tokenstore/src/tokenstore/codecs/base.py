"""The law of the codec: what every file of this folder must keep.

A codec turns grids of ranks into one payload of bytes an image and back, exactly.

* `fit` learns whatever the codec shares between images (a dictionary, frequency tables) from a
  sample of grids. It is deterministic: the same grids give the same tables, on one kind of machine
  with the locked versions (what is learnt in floats may round otherwise elsewhere).
* `tables` / `from_tables` are the shipped state: plain arrays, written once into the store and
  never rebuilt at reading time. A codec without shared state ships an empty mapping.
* `encode` codes every image alone. Any grid of valid ranks (0 <= rank < vocabulary size) can be
  coded, also one that was not in the sample.
* `decode` takes many payloads at once, each a range of one buffer, and fills one array: the batch
  is the unit, no codec is called image by image. Payloads may lie anywhere, in any order, and may
  be damaged: a codec never reads outside its range, never runs for ever, and either raises
  `CodecError` naming the first bad row or returns ranks. Whether those ranks are the ones that
  were written is the business of the check that the shard layer keeps beside each payload.
* Codecs are thread-safe once made. They know no sample numbers, no checks, no files.

`escape` is not a codec: it is the byte code that the byte codecs (`gzip`, `zstd`) share. Entropy
codecs (`rans`, `context`) code ranks directly.
"""

import functools
import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from typing import ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from tokenstore.errors import CodecError

Ranks = NDArray[np.uint16]  # [n, h, w] or [n, c, h, w]
Bytes = NDArray[np.uint8]
Offsets = NDArray[np.int64]
Tables = Mapping[str, NDArray[np.generic]]

ROWS_A_THREAD = 256  # milliseconds of work: what a thread must have to be worth its waking up


class Payloads(NamedTuple):
    """The coded form of n grids: `data` uint8 [total], payload i is data[ends[i-1]:ends[i]]."""

    data: Bytes
    ends: Offsets

    @classmethod
    def joined(cls, payloads: "list[bytes]") -> "Payloads":
        """Payloads that were made one by one."""
        ends = np.cumsum([len(payload) for payload in payloads], dtype=np.int64)
        return cls(np.frombuffer(b"".join(payloads), np.uint8), ends)

    @property
    def starts(self) -> Offsets:
        """Where each payload begins, int64 [n]."""
        return np.concatenate([np.zeros(1, np.int64), self.ends])[:-1]


class CodecSpec(NamedTuple):
    """What a codec must know of a store beside its tables."""

    vocabulary_size: int
    grid: tuple[int, ...]


class Codec(ABC):
    """One way to write grids of ranks as bytes; see the law above."""

    name: ClassVar[str]

    def __init__(self, spec: CodecSpec) -> None:
        """Keep the vocabulary size and grid shape that every grid must have."""
        self.spec = spec

    @classmethod
    @abstractmethod
    def fit(cls, sample: Ranks, spec: CodecSpec, images: int | None = None) -> Self:
        """A codec whose tables suit these grids.

        Args:
            sample: any number of grids, also none.
            spec: what all grids have in common.
            images: how many images the tables will serve, so that larger ones can pay for
                themselves; None means those of the sample.
        """

    @classmethod
    @abstractmethod
    def from_tables(cls, tables: Tables, spec: CodecSpec) -> Self:
        """The codec as it was shipped.

        Raises:
            CodecError: the tables do not fit the spec or are not this codec's.
        """

    @abstractmethod
    def tables(self) -> dict[str, NDArray[np.generic]]:
        """The arrays to ship with the store; empty where there are none."""

    @abstractmethod
    def encode(self, ranks: Ranks) -> Payloads:
        """Code grids, uint16 [n, *grid] -> n payloads in the same order.

        Raises:
            CodecError: a rank outside the vocabulary, or grids of another shape.
        """

    @abstractmethod
    def decode(self, data: Bytes, starts: Offsets, ends: Offsets, out: Ranks) -> None:
        """Decode payloads data[starts[i]:ends[i]] into `out`, uint16 [n, *grid], C-contiguous.

        Raises:
            CodecError: a payload that no encoder of this codec can have written; names the row.
        """

    def decode_many(self, data: Bytes, starts: Offsets, ends: Offsets, out: Ranks) -> None:
        """`decode`, by as many threads as there are cores and work for.

        Raises:
            CodecError: as `decode`; the same row is named.
        """
        shares = min(cores(), len(starts) // ROWS_A_THREAD)
        if shares < 2:
            self.decode(data, starts, ends, out)
            return
        edges = np.linspace(0, len(starts), shares + 1).astype(np.int64)
        parts = [slice(*edge) for edge in itertools.pairwise(edges.tolist())]
        pool = _threads(os.getpid())
        tasks = [pool.submit(self.decode, data, starts[p], ends[p], out[p]) for p in parts]
        wait(tasks)
        if any(isinstance(task.exception(), CodecError) for task in tasks):
            self.decode(data, starts, ends, out)  # again, to name the row within the whole
        for task in tasks:
            task.result()

    def check_ranks(self, ranks: Ranks) -> None:
        """Refuse grids that do not belong to this codec's spec."""
        if ranks.dtype != np.uint16 or ranks.shape[1:] != self.spec.grid:
            raise CodecError(
                f"expected uint16 grids [n, {', '.join(map(str, self.spec.grid))}], "
                f"got {ranks.dtype} {list(ranks.shape)}"
            )
        if ranks.size and int(ranks.max()) >= self.spec.vocabulary_size:
            raise CodecError(
                f"rank {int(ranks.max())} lies outside the vocabulary of "
                f"{self.spec.vocabulary_size} codes"
            )


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _threads(process: int) -> ThreadPoolExecutor:
    """The threads that decode, one set a process: a fork leaves its parent's behind."""
    return ThreadPoolExecutor(cores(), thread_name_prefix=f"decode-{process}")
