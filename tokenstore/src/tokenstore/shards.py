"""The shards of a split as one run of samples: which shard, which bytes, one decode a batch.

`Shards.find` sorts the numbers of a batch by shard; the `Found` it returns reads any column of
them, in the order asked. Shards are opened at their first use. Who asks, and with which indices,
is for `reader`; what a single shard promises is for `shard`.
"""

import bisect
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenstore.checks import starts_of
from tokenstore.codecs.base import Codec, Ranks
from tokenstore.columns import mask_of
from tokenstore.errors import CodecError, CorruptRecord, UsageError
from tokenstore.manifest import Manifest
from tokenstore.shard import ShardPlace, ShardReader
from tokenstore.storage import Storage

Numbers = NDArray[np.int64]
Codecs = Callable[[int], Codec]  # codec of a table set
_START = np.zeros(1, np.int64)


class Part(NamedTuple):
    """What of a batch lies in one shard: its rows in the batch, its samples in the shard."""

    shard: ShardReader
    rows: Numbers
    samples: Numbers


class Shards:
    """All shards of one split. Thread-safe."""

    def __init__(self, storage: Storage, manifest: Manifest, split: str, codecs: Codecs) -> None:
        """Know where each shard begins; touches no file."""
        self._storage = storage
        self._manifest = manifest
        self._split = split
        self._entry = manifest.splits[split]
        self._codecs = codecs
        counts = [shard.count for shard in self._entry.shards]
        self._firsts = np.cumsum([0, *counts], dtype=np.int64)
        self._starts = self._firsts.tolist()
        self._columns = frozenset(column.name for column in self._entry.columns)
        self.open = functools.cache(self._open)

    def find(self, numbers: Numbers) -> "Found":
        """Sort sample numbers of the split by shard, int64 [n], each below the split's count."""
        shards = np.searchsorted(self._firsts, numbers, side="right") - 1
        order = np.argsort(shards, kind="stable")
        edges = np.flatnonzero(np.diff(shards[order])) + 1
        runs = np.split(order, edges) if len(order) else []
        parts = [self._part(int(shards[rows[0]]), rows, numbers[rows]) for rows in runs]
        return Found(len(numbers), parts, self._columns, self._codecs)

    def sample(self, number: int) -> "Single":
        """One sample of the split, by its number, which is below the split's count."""
        shard = bisect.bisect_right(self._starts, number) - 1
        return Single(self.open(shard), number - self._starts[shard], self._columns, self._codecs)

    def _part(self, shard: int, rows: Numbers, numbers: Numbers) -> Part:
        return Part(self.open(shard), rows, numbers - self._firsts[shard])

    def _open(self, number: int) -> ShardReader:
        """The reader of shard `number` of the split; `open` keeps it."""
        shard = self._entry.shards[number]
        tables = self._manifest.table_sets[shard.tables].file
        place = ShardPlace(
            self._storage,
            self._split,
            shard,
            self._entry.columns,
            self._manifest.block,
            int(self._firsts[number]),
            tables.sha256 if tables else None,
        )
        return ShardReader(place)


class Single(NamedTuple):
    """As `Found`, of one sample: for reading one image at a time, ten times faster."""

    shard: ShardReader
    number: int  # within the shard
    columns: frozenset[str]
    codecs: Codecs

    def ranks(self, out: Ranks) -> Ranks:
        """Decode into `out`, uint16 [1, *grid], C-contiguous; returns out[0]."""
        payload = np.frombuffer(self.shard.record("ranks", self.number), np.uint8)
        try:
            self.codecs(self.shard.tables).decode(payload, _START, np.array([len(payload)]), out)
        except CodecError as error:
            raise _undecodable(self.shard, self.number, error) from error
        grid: Ranks = out[0]
        return grid

    def fixed(self, column: str) -> int | None:
        """A number."""
        return self.shard.number(column, self.number) if column in self.columns else None

    def string(self, column: str) -> str | None:
        """A string."""
        return self.shard.string(column, self.number) if column in self.columns else None

    def mask(self) -> NDArray[np.uint8] | None:
        """A mask, uint8 [H, W]."""
        if "mask" not in self.columns:
            return None
        payload = self.shard.record("mask", self.number)
        return mask_of(payload, self.shard.sample_name(self.number))


@dataclass(frozen=True)
class Found:
    """The samples of a batch, by shard; every column comes in the order asked.

    A column that the split lacks is None. All raise CorruptStore where bytes differ from what the
    store promises, and CorruptRecord, which names the sample, where they are those of one image.
    """

    count: int
    parts: list[Part]
    columns: frozenset[str]
    codecs: Codecs

    def ranks(self, out: Ranks) -> Ranks:
        """Decode into `out`, uint16 [n, *grid], C-contiguous: one call a table set."""
        for tables in sorted({part.shard.tables for part in self.parts}):
            parts = [part for part in self.parts if part.shard.tables == tables]
            payloads, starts, ends, rows = _joined(parts)
            whole = len(rows) == self.count
            grids = out if whole else np.empty((len(rows), *out.shape[1:]), np.uint16)
            try:
                self.codecs(tables).decode_many(payloads, starts, ends, grids)
            except CodecError as error:
                raise self._damaged(parts, grids[:1]) from error
            if not whole:
                out[rows] = grids
        return out

    def fixed(self, column: str) -> NDArray[np.int64] | None:
        """Numbers, int64 [n]."""
        if column not in self.columns:
            return None
        values = np.empty(self.count, np.int64)
        for part in self.parts:
            values[part.rows] = part.shard.fixed(column, part.samples)
        return values

    def strings(self, column: str) -> list[str] | None:
        """Strings, n of them."""
        if column not in self.columns:
            return None
        strings = [""] * self.count
        for part in self.parts:
            found = part.shard.strings(column, part.samples)
            for row, string in zip(part.rows.tolist(), found, strict=True):
                strings[row] = string
        return strings

    def masks(self) -> list[NDArray[np.uint8]] | None:
        """Masks, n of them, uint8 [H, W] each."""
        if "mask" not in self.columns:
            return None
        masks: list[NDArray[np.uint8]] = [np.empty((0, 0), np.uint8)] * self.count
        for row, payload, where in self._mask_records():
            masks[row] = mask_of(payload, where)
        return masks

    def mask_array(self) -> NDArray[np.uint8] | None:
        """Masks of one size, uint8 [n, H, W].

        Raises:
            UsageError: they have several sizes.
        """
        masks = self.masks()
        if masks is None or not masks:
            return None if masks is None else np.empty((0, 0, 0), np.uint8)
        sizes = sorted({mask.shape for mask in masks})
        if len(sizes) > 1:
            raise UsageError(
                f"masks of {len(sizes)} sizes, such as {sizes[0]} and {sizes[-1]}, make no batch; "
                "read them with split.masks"
            )
        return np.stack(masks)

    def mask_payloads(self) -> list[bytes] | None:
        """Masks as they are stored, n of them: what a writer takes."""
        if "mask" not in self.columns:
            return None
        payloads = [b""] * self.count
        for row, payload, _ in self._mask_records():
            payloads[row] = payload
        return payloads

    def _mask_records(self) -> Iterator[tuple[int, bytes, str]]:
        """Row, payload and name of each sample."""
        for part in self.parts:
            payloads, ends = part.shard.records("mask", part.samples)
            parts = np.split(payloads, ends[:-1])
            for row, sample, mask in zip(part.rows, part.samples, parts, strict=True):
                yield int(row), mask.tobytes(), part.shard.sample_name(int(sample))

    def _damaged(self, parts: list[Part], grid: Ranks) -> CorruptRecord:
        """Name the sample that its codec refuses although its check is right."""
        for part in parts:
            for sample in part.samples.tolist():
                payload, ends = part.shard.records("ranks", np.array([sample]))
                try:
                    self.codecs(part.shard.tables).decode(payload, np.zeros_like(ends), ends, grid)
                except CodecError as error:
                    return _undecodable(part.shard, sample, error)
        return CorruptRecord("records decode one by one, but not together")


def _undecodable(shard: ShardReader, sample: int, error: CodecError) -> CorruptRecord:
    return CorruptRecord(f"{shard.sample_name(sample)} cannot be decoded: {error}")


def _joined(parts: list[Part]) -> tuple[NDArray[np.uint8], Numbers, Numbers, Numbers]:
    """Payloads of some parts, their starts and ends in the order of the batch, and its rows."""
    records = [part.shard.records("ranks", part.samples) for part in parts]
    if len(parts) == 1:  # its rows are in order
        payloads, ends = records[0]
        return payloads, starts_of(ends), ends, parts[0].rows
    payloads = np.concatenate([payloads for payloads, _ in records])
    sizes = np.concatenate([ends - starts_of(ends) for _, ends in records])
    rows = np.concatenate([part.rows for part in parts])
    ends, order = np.cumsum(sizes), np.argsort(rows)
    return payloads, (ends - sizes)[order], ends[order], rows[order]
