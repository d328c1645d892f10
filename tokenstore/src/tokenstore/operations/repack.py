"""Samples of whole stores become the shards of a new one, without a look at images.

A split of the new store is a row of pieces, each some samples of one split of one store. They are
read, renamed and encoded shard by shard, by as many threads as there are workers; a finished shard
leaves its entry under `shards/` in the staging folder, so work that was interrupted goes on behind
it. The bytes are a pure function of pieces, codec and sizes. Which samples, and what the manifest
says of them, is for `merge` and `convert` to decide.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from tokenstore import registry
from tokenstore.build.output import Output
from tokenstore.build.pack import SAMPLE_IMAGES, evenly
from tokenstore.codecs.base import Codec, CodecSpec, Ranks
from tokenstore.manifest import (
    Column,
    FileEntry,
    ShardEntry,
    SplitEntry,
    TableSet,
    columns_for,
)
from tokenstore.reader import Split, Store
from tokenstore.storage import Storage
from tokenstore.writer import Samples, ShardPlan, write_shard

RUN = 16_384  # samples that a thread counts at a time

Task = TypeVar("Task")
Result = TypeVar("Result")
OnImages = Callable[[int], None]


@dataclass(frozen=True)
class Piece:
    """Some samples of one split of one store, in its order.

    Attributes:
        numbers: of the samples, int64 [n], ascending; None takes all.
        labels: new label by old label, int64 [classes]; None keeps them.
        ranks: new rank by old rank, uint16 [K]; None keeps them.
    """

    store: Store
    split: str
    numbers: NDArray[np.int64] | None = None
    labels: NDArray[np.int64] | None = None
    ranks: NDArray[np.uint16] | None = None

    def __len__(self) -> int:
        """How many samples."""
        return len(self.store[self.split]) if self.numbers is None else len(self.numbers)

    @property
    def source_bytes(self) -> int | None:
        """Bytes of the images that the samples came from; None where only some are taken."""
        entry = self.store[self.split].entry
        return entry.source_bytes if len(self) == entry.count else None

    def numbers_of(self, start: int, stop: int) -> NDArray[np.int64]:
        """Sample numbers in the old split of places in this piece."""
        return np.arange(start, stop) if self.numbers is None else self.numbers[start:stop]

    def read(self, opened: Split, places: range, columns: Iterable[str]) -> Samples:
        """Samples with these columns, renamed; `opened` is the split that they lie in."""
        numbers, wanted = self.numbers_of(places.start, places.stop), set(columns)
        batch = opened.read(numbers, keys="key" in wanted)
        labels = batch.labels if "label" in wanted else None
        return Samples(
            ranks=batch.ranks if self.ranks is None else self.ranks[batch.ranks],
            labels=labels if labels is None or self.labels is None else self.labels[labels],
            keys=batch.keys,
            masks=opened.shards.find(numbers).mask_payloads() if "mask" in wanted else None,
            meta=opened.meta(numbers) if "meta" in wanted else None,
            views=_views(opened, numbers) if "view" in wanted else None,
        )


@dataclass(frozen=True)
class NewSplit:
    """A split that is to be written: its pieces one after the other, and its columns."""

    name: str
    pieces: tuple[Piece, ...]
    columns: tuple[Column, ...]

    def __len__(self) -> int:
        """How many samples."""
        return sum(map(len, self.pieces))

    @property
    def source_bytes(self) -> int:
        """Bytes of the images that the samples came from; 0 where nobody knows."""
        sizes = [piece.source_bytes for piece in self.pieces]
        return sum(size for size in sizes if size is not None) if None not in sizes else 0

    def chunks(self, places: range, size: int) -> Iterator[Samples]:
        """Samples at these places of the new split, at most `size` at a time.

        The old splits are opened anew, so that what reading keeps in memory ends with the run.
        """
        names, first = [column.name for column in self.columns], 0
        for piece in self.pieces:
            begin, end = max(places.start - first, 0), min(places.stop - first, len(piece))
            opened = Split(piece.store, piece.split)
            for start in range(begin, end, size):
                yield piece.read(opened, range(start, min(start + size, end)), names)
            first += len(piece)


class Form(NamedTuple):
    """How the new store codes its samples."""

    codec: Codec
    tables: TableSet
    shard_size: int
    block: int


class _Run(NamedTuple):
    """A unit of counting: samples of one piece."""

    piece: Piece
    places: range


class _Shard(NamedTuple):
    """A unit of writing."""

    split: NewSplit
    number: int


def columns_like(names: Sequence[str], classes: int) -> tuple[Column, ...]:
    """Columns of these names, the labels as wide as so many classes need."""
    return columns_for(
        classes if "label" in names else None,
        keys="key" in names,
        masks="mask" in names,
        meta="meta" in names,
        views="view" in names,
    )


def count_ranks(
    pieces: Sequence[Piece], workers: int, on_images: OnImages
) -> list[NDArray[np.int64]]:
    """How often each old rank occurs in each piece, int64 [K of its store]."""
    sums = [np.zeros(piece.store.manifest.vocabulary.size, np.int64) for piece in pieces]
    runs = [
        (place, _Run(piece, range(start, min(start + RUN, len(piece)))))
        for place, piece in enumerate(pieces)
        for start in range(0, len(piece), RUN)
    ]
    counted = _in_order(_count, [run for _, run in runs], workers)
    for (place, run), counts in zip(runs, counted, strict=True):
        sums[place] += counts
        on_images(len(run.places))
    return sums


def fit_form(name: str, splits: Sequence[NewSplit], spec: CodecSpec) -> Codec:
    """The codec of this name with tables for the samples of new splits, from train if it can be."""
    filled = [split for split in splits if len(split)]
    chosen = [split for split in filled if split.name == "train"] or filled
    total = sum(map(len, chosen))
    share = [-(-SAMPLE_IMAGES * len(split) // total) for split in chosen]
    sample = [
        _ranks_at(split, evenly(len(split), n)) for split, n in zip(chosen, share, strict=True)
    ]
    kind: type[Codec] = registry.find("tokenstore.codecs", name)
    return kind.fit(np.concatenate(sample), spec, sum(map(len, filled)))


def write_splits(
    output: Output, splits: Sequence[NewSplit], form: Form, workers: int, on_images: OnImages
) -> dict[str, SplitEntry]:
    """Write every shard that is not there yet; the entries of the splits."""
    tasks = [
        _Shard(split, number)
        for split in splits
        for number in range(-(-len(split) // form.shard_size))
    ]
    shards: dict[str, list[ShardEntry]] = {split.name: [] for split in splits}
    written = _in_order(lambda task: _write(task, form, output), tasks, workers)
    for task, entry in zip(tasks, written, strict=True):
        shards[task.split.name].append(entry)
        on_images(entry.count)
    return {
        split.name: SplitEntry(
            count=len(split),
            source_bytes=split.source_bytes,
            columns=split.columns,
            shards=tuple(shards[split.name]),
        )
        for split in splits
    }


def _count(run: _Run) -> NDArray[np.int64]:
    piece, opened = run.piece, Split(run.piece.store, run.piece.split)
    counts = np.zeros(piece.store.manifest.vocabulary.size, np.int64)
    block = piece.store.manifest.block
    for start in range(run.places.start, run.places.stop, block):
        numbers = piece.numbers_of(start, min(start + block, run.places.stop))
        counts += np.bincount(opened.read(numbers).ranks.ravel(), minlength=len(counts))
    return counts


def _ranks_at(split: NewSplit, places: NDArray[np.int64]) -> Ranks:
    """New ranks of the samples at these places, ascending, of a new split."""
    found, first = [], 0
    for piece in split.pieces:
        inside = places[(places >= first) & (places < first + len(piece))] - first
        numbers = inside if piece.numbers is None else piece.numbers[inside]
        ranks = Split(piece.store, piece.split).read(numbers).ranks
        found.append(ranks if piece.ranks is None else piece.ranks[ranks])
        first += len(piece)
    return np.concatenate(found)


def _write(task: _Shard, form: Form, output: Output) -> ShardEntry:
    first = task.number * form.shard_size
    places = range(first, min(first + form.shard_size, len(task.split)))
    columns = task.split.columns
    name = (task.split.name, task.number)
    plan = ShardPlan(*name, first, columns, 0, form.tables, form.codec, form.block)
    sidecar = f"shards/{plan.name}.json"
    entry = _finished(sidecar, output)
    if entry is None:
        entry = write_shard(output.target, plan, task.split.chunks(places, form.block))
        output.staging.create(sidecar, entry.model_dump_json().encode())
    return entry


def _finished(sidecar: str, output: Output) -> ShardEntry | None:
    """The entry of a shard that an interrupted run has finished, if its files are sound."""
    try:
        entry = ShardEntry.model_validate_json(output.staging.read(sidecar))
        sound = all(_is_sound(output.target, file) for file in (entry.shard, entry.index))
    except (FileNotFoundError, ValidationError):
        return None
    return entry if sound else None


def _is_sound(storage: Storage, file: FileEntry) -> bool:
    return hashlib.sha256(storage.read(file.name)).hexdigest() == file.sha256


def _views(opened: Split, numbers: NDArray[np.int64]) -> NDArray[np.uint16] | None:
    views = opened.views(numbers)
    return None if views is None else views.astype(np.uint16)


def _in_order(
    work: Callable[[Any], Result], tasks: Sequence[Any], workers: int
) -> Iterator[Result]:
    """Results in the order of the tasks; what is not begun is dropped when anything goes wrong."""
    executor = ThreadPoolExecutor(workers)
    try:
        yield from executor.map(work, tasks)
    finally:
        executor.shutdown(cancel_futures=True)
