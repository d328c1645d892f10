"""Reading ahead: batches in order from threads, never more bytes waiting than asked.

Batches are read several at a time, since a call costs as much as a few records, and neighbours in
a remote file become one request. The threads spend their time in kernels that release the GIL.
Serves the residencies `stream` and `ram`, which differ in what reads, and fills devices. What comes
when, and where it goes, is for `loader` and `placing`.
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tokenstore.codecs.base import Ranks
from tokenstore.errors import CorruptRecord
from tokenstore.placing import LoaderBatch, Place, Rows
from tokenstore.reader import Batch, Indices

Wanted = tuple[Indices, NDArray[np.bool_]]  # sample numbers [B] of a batch, and which are valid
Damage = tuple[int, CorruptRecord]
OnDamage = Callable[[int, CorruptRecord], None]
Batches = Generator[LoaderBatch, None, None]

THREADS = min(
    4, os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count() or 1
)
_TOGETHER = 1024  # rows read by one call: beyond that a call's own cost is below 2%
_CALLS = 4 * THREADS  # calls ahead: enough to hide a slow one
_BESIDE_RANKS = 17  # bytes a row of label, index and validity


class Reads(Protocol):
    """What gives rows: a split, or its records in memory."""

    def read(
        self,
        indices: Indices,
        *,
        keys: bool = False,
        masks: bool = False,
        out: Ranks | None = None,
    ) -> Batch:
        """See `Split.read`."""

    def labels_of(self, indices: Indices) -> Indices | None:
        """See `Split.labels_of`."""

    def keys(self, indices: Indices) -> list[str] | None:
        """See `Split.keys`."""


@dataclass(frozen=True)
class Ahead:
    """How to read ahead.

    Attributes:
        batch_size: rows of a batch.
        grid: shape of an image's ranks.
        limit: bytes that may be read or wait; one batch is always allowed.
        keys: whether to read keys.
        skip: whether damaged records become invalid rows instead of errors.
        mask: shape of the masks to read, (0, 0) for none.
    """

    batch_size: int
    grid: tuple[int, ...]
    limit: int
    keys: bool = False
    skip: bool = False
    mask: tuple[int, int] = (0, 0)

    @property
    def masks(self) -> bool:
        """Whether to read masks."""
        return self.mask != (0, 0)

    @property
    def batches(self) -> int:
        """Batches that may be read or wait."""
        row = 2 * int(np.prod(self.grid)) + int(np.prod(self.mask)) + _BESIDE_RANKS
        return max(1, self.limit // (row * self.batch_size))

    @property
    def together(self) -> int:
        """Batches read by one call."""
        return max(1, min(_TOGETHER // self.batch_size, self.batches // (2 * THREADS)))

    @property
    def calls(self) -> int:
        """Calls that may be under way or wait for the consumer."""
        return min(self.batches // self.together, _CALLS)


def read_ahead(
    source: Reads, place: Place, ahead: Ahead, wanted: Iterable[Wanted], on_damage: OnDamage
) -> Batches:
    """The wanted batches in order, at their place.

    Args:
        source: what is read.
        place: where the batches are to be.
        ahead: how far and how.
        wanted: rows of each batch.
        on_damage: called in this thread with number and error of each record that is skipped.
    """
    calls = _together(wanted, ahead.together)
    first = next(calls, None)
    if first is None:
        return
    ready = _read(source, place, ahead, first)  # here, since somebody waits: no thread is sooner
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="tokenstore-read")
    pending: deque[Future[_Sent]] = deque()
    allowed = 1  # grows, so that the first batches are not kept waiting by later ones
    try:
        for some in calls:
            pending.append(pool.submit(_read, source, place, ahead, some))
            if len(pending) >= allowed:
                yield from _received(ready, place, ahead, on_damage)
                ready, allowed = pending.popleft().result(), min(allowed + 1, ahead.calls)
        yield from _received(ready, place, ahead, on_damage)
        while pending:
            yield from _received(pending.popleft().result(), place, ahead, on_damage)
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Sent:
    rows: Any
    count: int
    damaged: list[Damage]


def _together(wanted: Iterable[Wanted], many: int) -> Iterator[list[Wanted]]:
    """The first batch alone, since somebody waits for it, then `many` at a time."""
    remaining = iter(wanted)
    yield from ([first] for first in itertools.islice(remaining, 1))
    while some := list(itertools.islice(remaining, many)):
        yield some


def _read(source: Reads, place: Place, ahead: Ahead, some: list[Wanted]) -> _Sent:
    index = np.concatenate([numbers for numbers, _ in some])
    valid = np.concatenate([valid for _, valid in some])
    out = place.buffer((len(index), *ahead.grid))
    damaged: list[Damage] = []
    try:
        batch = source.read(index, keys=ahead.keys, masks=ahead.masks, out=out)
    except CorruptRecord:
        if not ahead.skip:
            raise
        masks = np.zeros((len(index), *ahead.mask), np.uint8) if ahead.masks else None
        damaged = _read_sound(source, index, valid, Batch(out, masks=masks))
        keys = source.keys(index) if ahead.keys else None
        batch = Batch(out, source.labels_of(index), keys, masks)
    rows = Rows(out, batch.labels, valid, index, batch.keys, batch.masks)
    return _Sent(place.send(rows), len(index), damaged)


def _read_sound(
    source: Reads, index: Indices, valid: NDArray[np.bool_], into: Batch
) -> list[Damage]:
    """Read ranks and masks; rows of damaged records become zeros and invalid. Halving finds them.

    `into` has the arrays to read into; its masks are zeros.
    """
    out, masks = into.ranks, into.masks
    try:
        read = source.read(index, masks=masks is not None, out=out)
    except CorruptRecord as error:
        if len(index) > 1:
            half = len(index) // 2
            found = []
            for p in (slice(None, half), slice(half, None)):
                part = Batch(out[p], masks=None if masks is None else masks[p])
                found += _read_sound(source, index[p], valid[p], part)
            return found
        out[:], was_valid = 0, bool(valid[0])
        valid[:] = False
        return [(int(index[0]), error)] if was_valid else []
    if masks is not None and read.masks is not None:
        masks[:] = read.masks
    return []


def _received(
    sent: _Sent, place: Place, ahead: Ahead, on_damage: OnDamage
) -> Iterator[LoaderBatch]:
    for number, error in sent.damaged:
        on_damage(number, error)
    rows = place.receive(sent.rows)
    for start in range(0, sent.count, ahead.batch_size):
        yield rows.batch(start, start + ahead.batch_size)
