"""Reading a store: any sample in O(1), any batch in one call, numpy only.

    Store (a manifest, opened)  ->  Split (its samples)  ->  Batch or Sample (their columns)

A batch is located in the index, fetched, checked and decoded as a whole; order, duplicates and
negative indices are kept as asked. Objects are thread-safe, open their files at first use and
reopen after pickling. Nothing here knows torch; `Store.decode` finds its tokenizer by name.
"""

import functools
import hashlib
import importlib
import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, overload

import numpy as np
import safetensors.numpy
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError

from tokenstore import columns, registry
from tokenstore.codecs.base import Codec, CodecSpec, Ranks
from tokenstore.errors import (
    CodecError,
    CorruptRecord,
    CorruptStore,
    FormatTooNew,
    Mismatch,
    OutOfRange,
    UnknownName,
    UsageError,
)
from tokenstore.manifest import FileEntry, Manifest, SplitEntry, load_manifest
from tokenstore.shard import ShardPlace, ShardReader
from tokenstore.storage import Storage, open_storage
from tokenstore.vocabulary import Vocabulary

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """One image: ranks uint16 [h, w]; columns that the split lacks are None."""

    key: str | None
    ranks: NDArray[np.uint16]
    label: int | None = None
    mask: NDArray[np.uint8] | None = None
    meta: dict[str, Any] | None = None
    view: int | None = None


@dataclass(frozen=True)
class Batch:
    """Images in the order asked: ranks uint16 [n, h, w], labels int64 [n] or None, keys or None."""

    ranks: Ranks
    labels: NDArray[np.int64] | None = None
    keys: list[str] | None = None


def open_store(place: str | Path) -> "Store":
    """Open a store by its folder or fsspec URL. Reads the manifest and nothing else.

    Raises:
        NotAStore: there is no manifest.
        FormatTooNew: the store needs a newer tokenstore, or a codec that is not installed.
        ManifestError: the manifest is damaged.
    """
    return Store(open_storage(place))


class Store(Mapping[str, "Split"]):
    """An open store: a mapping of split names to splits."""

    def __init__(self, storage: Storage) -> None:
        """Read the manifest; see `open_store`."""
        self.storage = storage
        self.url = storage.url
        self.manifest: Manifest = load_manifest(storage)
        self._codec_types = [_codec_type(t.codec, self.url) for t in self.manifest.table_sets]
        self._codec = functools.cache(self._make_codec)
        self.tokenizer = functools.cache(self._load_tokenizer)
        self.splits: Mapping[str, Split] = MappingProxyType(
            {name: Split(self, name) for name in _in_order(self.manifest.splits)}
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by place: the copy opens the store again."""
        return (_reopen, (self.url, self.fingerprint))

    def __repr__(self) -> str:
        """What and how many."""
        counts = ", ".join(f"{name} {len(split)}" for name, split in self.splits.items())
        return f"Store('{self.url}': {counts})"

    def __getitem__(self, name: str) -> "Split":
        """A split by name; raises UnknownName, which lists the known ones."""
        if name not in self.splits:
            raise UnknownName("split", name, self.splits)
        return self.splits[name]

    def __iter__(self) -> Iterator[str]:
        """Names of the splits."""
        return iter(self.splits)

    def __len__(self) -> int:
        """How many splits."""
        return len(self.splits)

    def __contains__(self, name: object) -> bool:
        """Whether there is a split of this name."""
        return name in self.splits

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the manifest: two stores that share it hold the same bytes."""
        return str(self.manifest.hash)

    @property
    def vocabulary_fingerprint(self) -> str:
        """SHA-256 of tokenizer, weights and ids in rank order: what a model's inputs mean."""
        tokenizer = self.manifest.tokenizer
        return self.vocabulary.fingerprint(tokenizer.name, tokenizer.weights)

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """The ids in rank order, their counts and codebook rows."""
        entry = self.manifest.vocabulary
        where = f"{self.url}/{entry.file.name}"
        vocabulary = Vocabulary.from_bytes(self.read_file(entry.file), where)
        codebook = vocabulary.codebook
        found = (len(vocabulary), None if codebook is None else codebook.shape[1])
        if found != (entry.size, entry.dimension):
            raise CorruptStore(
                f"{where} holds {found[0]} ids of dimension {found[1]}, "
                f"the manifest says {entry.size} and {entry.dimension}"
            )
        return vocabulary

    @property
    def codebook(self) -> NDArray[np.float32] | None:
        """Codebook rows in rank order, float32 [K, d]; None where the store has none."""
        return self.vocabulary.codebook

    def ids(self, ranks: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
        """Original codebook ids of ranks, int32 of the same shape."""
        return self.vocabulary.to_ids(ranks)

    def decode(self, ranks: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Images of ranks [n, h, w], uint8 [n, H, W, 3]; needs tokenstore[build]."""
        tokenizer = self.tokenizer()
        images: NDArray[np.uint8] = tokenizer.to_uint8(tokenizer.decode(self.ids(ranks)))
        return images

    def read_file(self, entry: FileEntry) -> bytes:
        """A whole file that the manifest lists, compared with its hash.

        Raises:
            CorruptStore: it is missing or differs.
        """
        return read_listed(self.storage, entry)

    def codec(self, tables: int) -> Codec:
        """The codec of one table set, made at first use."""
        return self._codec(tables)

    def _make_codec(self, tables: int) -> Codec:
        table_set = self.manifest.table_sets[tables]
        spec = CodecSpec(table_set.vocabulary_size, self.manifest.grid)
        arrays: dict[str, NDArray[Any]] = {}
        if table_set.file is not None:
            where = f"{self.url}/{table_set.file.name}"
            try:
                arrays = safetensors.numpy.load(self.read_file(table_set.file))
            except (SafetensorError, ValueError, KeyError) as error:
                raise CorruptStore(f"{where} is no safetensors file: {error}") from error
        return self._codec_types[tables].from_tables(arrays, spec)

    def _load_tokenizer(self, device: str = "cpu", weights: str | None = None) -> Any:
        """The tokenizer that made this store, by its registry name; needs tokenstore[build].

        Args:
            device: torch device that decodes and encodes.
            weights: file of its weights; None means the tokenizer's own place.

        Raises:
            UnknownName: no such tokenizer is installed.
            WeightsError: its weights are missing.
            Mismatch: these weights are not the ones that made the store.
        """
        entry = self.manifest.tokenizer
        try:
            tokenizer = _tokenizer(entry.name, device, weights, self.manifest.preprocess)
        except ModuleNotFoundError as error:
            raise UsageError(
                f"decoding images needs {error.name}; pip install 'tokenstore[build]'"
            ) from error
        if tokenizer.weights_sha256 != entry.weights:
            raise Mismatch(
                f"'{self.url}' was made with {entry.name} weights {entry.weights}, found "
                f"{tokenizer.weights_sha256}. Give the weights that made it."
            )
        return tokenizer


class Split(Sequence[Sample]):
    """The samples of one split, by number."""

    def __init__(self, store: Store, name: str) -> None:
        """Opened by its store; touches no file."""
        self.store = store
        self.name = name
        self.entry: SplitEntry = store.manifest.splits[name]
        self.columns = tuple(column.name for column in self.entry.columns)
        counts = [shard.count for shard in self.entry.shards]
        self._firsts = np.cumsum([0, *counts], dtype=np.int64)
        self.shard = functools.cache(self._open_shard)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by store and name."""
        return (operator.getitem, (self.store, self.name))

    def __repr__(self) -> str:
        """What and how many."""
        return f"Split('{self.store.url}' {self.name}: {len(self)} samples)"

    def __len__(self) -> int:
        """How many samples."""
        return self.entry.count

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """Sample by number, negative from the end, with every column the split has."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        indices = self.resolve([operator.index(index)])
        batch = self.read(indices, keys="key" in self.columns)
        label = None if batch.labels is None else int(batch.labels[0])
        key = None if batch.keys is None else batch.keys[0]
        mask, meta, view = self.masks(indices), self.meta(indices), self.views(indices)
        return Sample(
            key,
            batch.ranks[0],
            label,
            None if mask is None else mask[0],
            None if meta is None else meta[0],
            None if view is None else int(view[0]),
        )

    def __iter__(self) -> Iterator[Sample]:
        """All samples in order."""
        return (self[i] for i in range(len(self)))

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names by label; None where the split has no labels."""
        return self.store.manifest.classes if "label" in self.columns else None

    @functools.cached_property
    def labels(self) -> NDArray[np.int64] | None:
        """Labels of the whole split, int64 [n]; None where it has none."""
        everything = np.arange(len(self), dtype=np.int64)
        return self._fixed("label", self._by_shard(everything), len(self))

    def read(self, indices: ArrayLike, *, keys: bool = False, out: Ranks | None = None) -> Batch:
        """Read any samples, in the order asked; duplicates and negative numbers are fine.

        Args:
            indices: sample numbers, [n].
            keys: also read the keys.
            out: array to decode into, uint16 [n, *grid], C-contiguous; saves an allocation.

        Raises:
            OutOfRange: a number outside the split.
            UsageError: no whole numbers, or an `out` of another kind.
            CorruptStore: bytes differ from what the store promises; names the place.
        """
        numbers = self.resolve(indices)
        parts = self._by_shard(numbers)
        ranks = self._out(len(numbers), out)
        self._decode(parts, ranks)
        labels = self._fixed("label", parts, len(numbers))
        return Batch(ranks, labels, self._strings("key", parts, len(numbers)) if keys else None)

    def keys(self, indices: ArrayLike) -> list[str] | None:
        """Keys of these samples; None where the split has none."""
        numbers = self.resolve(indices)
        return self._strings("key", self._by_shard(numbers), len(numbers))

    def meta(self, indices: ArrayLike) -> list[dict[str, Any]] | None:
        """Metadata of these samples; None where the split has none."""
        numbers = self.resolve(indices)
        lines = self._strings("meta", self._by_shard(numbers), len(numbers))
        return None if lines is None else [json.loads(line) for line in lines]

    def views(self, indices: ArrayLike) -> NDArray[np.int64] | None:
        """View numbers of these samples, int64 [n]; None where the split has none."""
        numbers = self.resolve(indices)
        return self._fixed("view", self._by_shard(numbers), len(numbers))

    def masks(self, indices: ArrayLike) -> list[NDArray[np.uint8]] | None:
        """Masks of these samples, uint8 [H, W] each; None where the split has none."""
        if "mask" not in self.columns:
            return None
        numbers = self.resolve(indices)
        masks: list[NDArray[np.uint8]] = [np.empty((0, 0), np.uint8)] * len(numbers)
        for part in self._by_shard(numbers):
            payloads, ends = part.shard.records("mask", part.samples)
            for row, payload in zip(part.rows.tolist(), np.split(payloads, ends[:-1]), strict=True):
                where = f"{part.shard.url}: mask of sample {int(numbers[row])} of '{self.name}'"
                masks[row] = columns.mask_of(payload.tobytes(), where)
        return masks

    def resolve(self, indices: ArrayLike) -> Indices:
        """Sample numbers as int64 [n], negative ones counted from the end.

        Raises:
            OutOfRange: one lies outside the split.
            UsageError: they are no whole numbers.
        """
        numbers = np.asarray(indices)
        if numbers.size == 0:
            return np.zeros(0, np.int64)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
            raise UsageError(
                f"samples are asked for by a list of whole numbers, got {numbers.dtype} "
                f"{list(numbers.shape)}"
            )
        outside = (numbers >= len(self)) | (numbers < -len(self))
        if outside.any():
            raise OutOfRange(
                f"sample {int(numbers[outside][0])} lies outside split '{self.name}' of "
                f"'{self.store.url}', which has {len(self)} samples"
            )
        numbers = numbers.astype(np.int64)
        return np.where(numbers < 0, numbers + len(self), numbers)

    def _out(self, count: int, out: Ranks | None) -> Ranks:
        shape = (count, *self.store.manifest.grid)
        if out is None:
            return np.empty(shape, np.uint16)
        if out.shape != shape or out.dtype != np.uint16 or not out.flags.c_contiguous:
            raise UsageError(
                f"out must be C-contiguous uint16 {list(shape)}, got {out.dtype} {list(out.shape)}"
            )
        return out

    def _decode(self, parts: list["_Part"], ranks: Ranks) -> None:
        """Fill `ranks` with a batch: one decode call a table set."""
        for tables in sorted({part.shard.tables for part in parts}):
            some = [part for part in parts if part.shard.tables == tables]
            records = [part.shard.records("ranks", part.samples) for part in some]
            rows = np.concatenate([part.rows for part in some])
            sizes = np.concatenate([np.diff(ends, prepend=0) for _, ends in records])
            data = np.concatenate([payloads for payloads, _ in records])
            ends = np.cumsum(sizes)
            order = np.argsort(rows)
            whole = len(rows) == len(ranks)
            grids = ranks if whole else np.empty((len(rows), *ranks.shape[1:]), np.uint16)
            try:
                self.store.codec(tables).decode(data, (ends - sizes)[order], ends[order], grids)
            except CodecError as error:
                raise self._damaged(some, error) from error
            if not whole:
                ranks[rows[order]] = grids

    def _damaged(self, parts: list["_Part"], error: CodecError) -> CorruptRecord:
        """Name the sample that a codec refused although its check was right."""
        for part in parts:
            codec = self.store.codec(part.shard.tables)
            for sample in part.samples.tolist():
                payload, ends = part.shard.records("ranks", np.array([sample]))
                grid = np.empty((1, *self.store.manifest.grid), np.uint16)
                try:
                    codec.decode(payload, np.zeros(1, np.int64), ends, grid)
                except CodecError as reason:
                    number = part.shard.first + sample
                    return CorruptRecord(
                        f"{part.shard.url}: sample {number} of split '{self.name}' cannot be "
                        f"decoded: {reason}"
                    )
        return CorruptRecord(f"{self.store.url}: split '{self.name}': {error}")

    def _fixed(self, column: str, parts: list["_Part"], count: int) -> NDArray[np.int64] | None:
        if column not in self.columns:
            return None
        values = np.empty(count, np.int64)
        for part in parts:
            values[part.rows] = part.shard.fixed(column, part.samples)
        return values

    def _strings(self, column: str, parts: list["_Part"], count: int) -> list[str] | None:
        if column not in self.columns:
            return None
        strings = [""] * count
        for part in parts:
            found = part.shard.strings(column, part.samples)
            for row, string in zip(part.rows.tolist(), found, strict=True):
                strings[row] = string
        return strings

    def _by_shard(self, numbers: Indices) -> list["_Part"]:
        """Which rows of a batch lie in which shard, and as which of its samples."""
        shards = np.searchsorted(self._firsts, numbers, side="right") - 1
        order = np.argsort(shards, kind="stable")
        edges = np.flatnonzero(np.diff(shards[order])) + 1
        runs = np.split(order, edges) if len(order) else []
        return [self._part(int(shards[rows[0]]), rows, numbers[rows]) for rows in runs]

    def _part(self, shard: int, rows: Indices, numbers: Indices) -> "_Part":
        return _Part(self.shard(shard), rows, numbers - self._firsts[shard])

    def _open_shard(self, number: int) -> ShardReader:
        manifest, shard = self.store.manifest, self.entry.shards[number]
        tables = manifest.table_sets[shard.tables].file
        return ShardReader(
            ShardPlace(
                self.store.storage,
                self.name,
                shard,
                self.entry.columns,
                manifest.block,
                int(self._firsts[number]),
                tables.sha256 if tables else None,
            )
        )


class _Part(NamedTuple):
    """The part of a batch that lies in one shard."""

    shard: ShardReader
    rows: Indices
    samples: Indices


def read_listed(storage: Storage, entry: FileEntry) -> bytes:
    """A whole file that a manifest lists.

    Raises:
        CorruptStore: it is missing or differs from what the manifest says.
    """
    where = f"{storage.url}/{entry.name}"
    try:
        content = storage.read(entry.name)
    except FileNotFoundError as error:
        raise CorruptStore(f"{where} is missing; the store is not whole") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != entry.sha256 or len(content) != entry.bytes:
        raise CorruptStore(
            f"{where} has {len(content)} bytes and SHA-256 {digest}, the manifest says "
            f"{entry.bytes} and {entry.sha256}"
        )
    return content


def _codec_type(name: str, url: str) -> type[Codec]:
    try:
        found: type[Codec] = registry.find("tokenstore.codecs", name)
    except UnknownName as error:
        raise FormatTooNew(
            f"'{url}' is written with the codec '{name}', this tokenstore has "
            f"{', '.join(error.known)}. Install a newer tokenstore, or the package of that codec."
        ) from error
    return found


def _tokenizer(name: str, device: str, weights: str | None, preprocess: dict[str, Any]) -> Any:
    """Loaded by name, so that reading alone never imports torch."""
    rule = importlib.import_module("tokenstore.preprocess").Preprocess.from_json(preprocess)
    tokenizers = importlib.import_module("tokenstore.tokenizers")
    return tokenizers.load_tokenizer(name, weights, device=device, preprocess=rule)


def _in_order(splits: Mapping[str, SplitEntry]) -> list[str]:
    """train, val, test as people think of them, then any others."""
    usual = [name for name in ("train", "val", "test") if name in splits]
    return usual + sorted(set(splits) - set(usual))


def _reopen(url: str, fingerprint: str) -> Store:
    """Open a pickled store again, unless it has changed since."""
    store = open_store(url)
    if store.fingerprint != fingerprint:
        raise Mismatch(
            f"'{url}' has changed since it was pickled: its fingerprint is {store.fingerprint}, "
            f"expected {fingerprint}. Open it again."
        )
    return store
