"""Reading a store: any sample in O(1), any batch in one call, numpy only.

    Store (a manifest, opened)  ->  Split (its samples)  ->  Batch or Sample (their columns)

A batch is located in the index, fetched, checked and decoded as a whole; order, duplicates and
negative indices are kept as asked. Objects are thread-safe, open their files at first use and
reopen after pickling. Nothing here knows torch; `Store.decode` finds its tokenizer by name.
"""

import functools
import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenstore.cache import CACHE_BYTES, Cache, CachedStorage, open_cache
from tokenstore.codecs.base import Codec, Ranks
from tokenstore.errors import Mismatch, OutOfRange, UnknownName, UsageError
from tokenstore.listed import check_whole, find_codec, load_codec, load_vocabulary
from tokenstore.maker import load_maker
from tokenstore.manifest import Manifest, SplitEntry, load_manifest, load_versions
from tokenstore.shards import Shards
from tokenstore.storage import Storage, open_storage
from tokenstore.vocabulary import Vocabulary

Indices = NDArray[np.int64]
_Out = Ranks | None


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
    """Ranks uint16 [n, h, w], labels int64 [n], masks uint8 [n, H, W]; what is lacking is None."""

    ranks: Ranks
    labels: NDArray[np.int64] | None = None
    keys: list[str] | None = None
    masks: NDArray[np.uint8] | None = None


def open_store(
    place: str | Path, *, cache: str | Path | None = None, cache_bytes: int = CACHE_BYTES
) -> "Store":
    """Open a store by its folder or fsspec URL. Reads the manifest and nothing else.

    In a folder it also looks whether the files are there, in the lengths that the manifest says.

    Args:
        place: the folder or URL.
        cache: folder on a disk of this machine in which shards that were read are kept, whole and
            compared with their hashes, for all processes and stores that name it; it is made where
            it does not exist. None reads from `place` what is asked for, each time anew.
        cache_bytes: the cache holds no more; what was used longest ago makes room.

    Raises:
        UsageError: `cache_bytes` is less than the largest file of the store.
        StoreError: the cache cannot be written, or is a folder with files of somebody else.
        NotAStore: there is no manifest.
        FormatTooNew: the store needs a newer tokenstore, or a codec that is not installed.
        ManifestError: the manifest is damaged.
        CorruptStore: files of a local store are missing or cut; names them.
    """
    kept = None if cache is None else open_cache(cache, cache_bytes)
    store = Store(open_storage(place), cache=kept)
    check_whole(store.storage, store.manifest)
    return store


class Store(Mapping[str, "Split"]):
    """An open store: a mapping of split names to splits."""

    def __init__(
        self, storage: Storage, manifest: Manifest | None = None, cache: Cache | None = None
    ) -> None:
        """Read the manifest, unless an older one is given; no other file, unlike `open_store`."""
        self.url = storage.url
        self.manifest: Manifest = manifest or load_manifest(storage)
        files, self.cache = self.manifest.files(), cache
        self.storage = storage if cache is None else CachedStorage(storage, files, cache)
        for table_set in self.manifest.table_sets:
            find_codec(table_set, self.url)
        self.codec = functools.cache(self._load_codec)
        self.tokenizer = functools.cache(functools.partial(load_maker, self.manifest, self.url))
        self.splits: Mapping[str, Split] = MappingProxyType(
            {name: Split(self, name) for name in _in_order(self.manifest.splits)}
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by place: the copy opens the store again."""
        return (_reopen, (self.url, self.fingerprint, self.cache))

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
        return load_vocabulary(self.storage, self.manifest.vocabulary)

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

    def _load_codec(self, tables: int) -> Codec:
        """The codec of one table set; `codec` keeps it."""
        return load_codec(self.storage, self.manifest.table_sets[tables], self.manifest.grid)


class Split(Sequence[Sample]):
    """The samples of one split, by number."""

    def __init__(self, store: Store, name: str) -> None:
        """Opened by its store; touches no file."""
        self.store = store
        self.name = name
        self.entry: SplitEntry = store.manifest.splits[name]
        self.columns = tuple(column.name for column in self.entry.columns)
        self.shards = Shards(store.storage, store.manifest, name, store.codec)

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
            return self._samples(np.arange(*index.indices(len(self))))
        number = operator.index(index)
        if not 0 <= number < len(self):
            number = int(self.resolve([number])[0])
        return self._sample(number)

    def __getitems__(self, indices: list[int]) -> list[Sample]:
        """Samples by number, read as one batch; a torch DataLoader asks so if it finds this."""
        return self._samples(self.resolve(indices))

    def __iter__(self) -> Iterator[Sample]:
        """All samples in order, read a block at a time."""
        block = self.store.manifest.block
        for first in range(0, len(self), block):
            yield from self._samples(np.arange(first, min(first + block, len(self))))

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names by label; None where the split has no labels."""
        return self.store.manifest.classes if "label" in self.columns else None

    @property
    def shard_counts(self) -> tuple[int, ...]:
        """Samples of each shard, in the order of the split."""
        return tuple(shard.count for shard in self.entry.shards)

    @functools.cached_property
    def labels(self) -> NDArray[np.int64] | None:
        """Labels of the whole split, int64 [n]; None where it has none."""
        return self.shards.find(np.arange(len(self))).fixed("label")

    def read(
        self, indices: ArrayLike, *, keys: bool = False, masks: bool = False, out: _Out = None
    ) -> Batch:
        """Read any samples, in the order asked; duplicates and negative numbers are fine.

        Args:
            indices: sample numbers, [n].
            keys: also read the keys.
            masks: also read the masks, which must be of one size.
            out: array to decode into, uint16 [n, *grid], C-contiguous; saves an allocation.

        Raises:
            OutOfRange: a number outside the split.
            UsageError: no whole numbers, an `out` of another kind, or masks of several sizes.
            CorruptStore: bytes differ from what the store promises; names the place.
        """
        some = self.shards.find(self.resolve(indices))
        ranks = some.ranks(self._out(some.count, out))
        labels, names = some.fixed("label"), some.strings("key") if keys else None
        return Batch(ranks, labels, names, some.mask_array() if masks else None)

    def labels_of(self, indices: ArrayLike) -> NDArray[np.int64] | None:
        """Labels of these samples, int64 [n]; None where the split has none."""
        return self.shards.find(self.resolve(indices)).fixed("label")

    def keys(self, indices: ArrayLike) -> list[str] | None:
        """Keys of these samples; None where the split has none."""
        return self.shards.find(self.resolve(indices)).strings("key")

    def meta(self, indices: ArrayLike) -> list[dict[str, Any]] | None:
        """Metadata of these samples; None where the split has none."""
        lines = self.shards.find(self.resolve(indices)).strings("meta")
        return None if lines is None else [json.loads(line) for line in lines]

    def views(self, indices: ArrayLike) -> NDArray[np.int64] | None:
        """View numbers of these samples, int64 [n]; None where the split has none."""
        return self.shards.find(self.resolve(indices)).fixed("view")

    def masks(self, indices: ArrayLike) -> list[NDArray[np.uint8]] | None:
        """Masks of these samples, uint8 [H, W] each; None where the split has none."""
        return self.shards.find(self.resolve(indices)).masks()

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

    def _sample(self, number: int) -> Sample:
        found = self.shards.sample(number)
        meta = found.string("meta")
        return Sample(
            found.string("key"),
            found.ranks(self._out(1, None)),
            found.fixed("label"),
            found.mask(),
            None if meta is None else json.loads(meta),
            found.fixed("view"),
        )

    def _samples(self, numbers: Indices) -> list[Sample]:
        found = self.shards.find(numbers)
        meta = found.strings("meta")
        columns: list[Any] = [
            found.strings("key"),
            found.ranks(self._out(found.count, None)),
            _plain(found.fixed("label")),
            found.masks(),
            None if meta is None else [json.loads(line) for line in meta],
            _plain(found.fixed("view")),
        ]
        filled = ([None] * found.count if column is None else column for column in columns)
        return [Sample(*values) for values in zip(*filled, strict=True)]

    def _out(self, count: int, out: Ranks | None) -> Ranks:
        shape = (count, *self.store.manifest.grid)
        if out is None:
            return np.empty(shape, np.uint16)
        if out.shape != shape or out.dtype != np.uint16 or not out.flags.c_contiguous:
            raise UsageError(
                f"out must be C-contiguous uint16 {list(shape)}, got {out.dtype} {list(out.shape)}"
            )
        return out


def _plain(values: NDArray[np.int64] | None) -> list[int] | None:
    return None if values is None else values.tolist()


def _in_order(splits: Mapping[str, SplitEntry]) -> list[str]:
    """train, val, test as people think of them, then any others."""
    usual = [name for name in ("train", "val", "test") if name in splits]
    return usual + sorted(set(splits) - set(usual))


def _reopen(url: str, fingerprint: str, cache: Cache | None) -> Store:
    """Open a pickled store again, at the version that it had if there are later ones now."""
    storage = open_storage(url)
    newest = load_manifest(storage)
    for manifest in load_versions(storage, newest):
        if manifest.hash == fingerprint:
            return Store(storage, manifest, cache)
    raise Mismatch(
        f"'{url}' has changed since it was pickled: its fingerprint is {newest.hash}, "
        f"expected {fingerprint}. Open it again."
    )
