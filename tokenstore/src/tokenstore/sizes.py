"""Where the bytes of a store go, against what information theory and the source files say.

`info`, the end of a build and the report draw on this one account. It reads the manifest and the
index files, and no shard.
"""

from collections import Counter
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from tokenstore.index import IndexPlace, IndexReader
from tokenstore.manifest import Manifest, SplitEntry
from tokenstore.reader import Split
from tokenstore.storage import Storage


@dataclass(frozen=True)
class SplitSizes:
    """Bytes of one split.

    `records` are the coded grids with their checks, `framing` is labels and tar headers together,
    `extras` are metadata and views, `source` the image files the split was made of.
    """

    images: int
    records: int
    framing: int
    index: int
    keys: int
    masks: int
    extras: int
    source: int

    @property
    def total(self) -> int:
        """All bytes of the split in the store."""
        return sum((self.records, self.framing, self.index, self.keys, self.masks, self.extras))

    def an_image(self, size: int) -> float:
        """Bytes an image; 0 in an empty split."""
        return size / self.images if self.images else 0.0


@dataclass(frozen=True)
class StoreSizes:
    """Bytes of a store; `entropy` is the order-0 entropy of one image's grid in bytes."""

    splits: dict[str, SplitSizes]
    vocabulary: int
    tables: int
    entropy: float

    @property
    def total(self) -> int:
        """All bytes of the store but its manifests and its list of rejects."""
        return self.vocabulary + self.tables + sum(split.total for split in self.splits.values())


def measure(storage: Storage, manifest: Manifest) -> StoreSizes:
    """Account for the bytes of a store.

    Raises:
        CorruptStore: an index file is damaged.
    """
    tables = [entry.file.bytes for entry in manifest.table_sets if entry.file]
    return StoreSizes(
        splits={
            name: _split(storage, split, manifest.block) for name, split in manifest.splits.items()
        },
        vocabulary=manifest.vocabulary.file.bytes,
        tables=sum(tables),
        entropy=manifest.vocabulary.entropy * prod(manifest.grid) / 8,
    )


def record_sizes(split: Split) -> NDArray[np.int64]:
    """Bytes of each sample's grid with its check, int64 [n].

    Raises:
        CorruptStore: an index file is damaged.
    """
    storage, manifest = split.store.storage, split.store.manifest
    entry, sizes, first = manifest.splits[split.name], [np.zeros(0, np.int64)], 0
    for shard in entry.shards:
        index = IndexReader(IndexPlace(storage, shard, entry.columns, manifest.block, first))
        starts, ends = index.locate("ranks", np.arange(shard.count))
        sizes.append(ends - starts)
        first += shard.count
    return np.concatenate(sizes)


def _split(storage: Storage, split: SplitEntry, block: int) -> SplitSizes:
    columns: Counter[str] = Counter()
    first = 0
    for shard in split.shards:
        index = IndexReader(IndexPlace(storage, shard, split.columns, block, first))
        for column in split.columns:
            columns[column.name] += sum(
                index.block(column.name, i).size for i in range(index.blocks)
            )
        first += shard.count
    extras = columns["meta"] + columns["view"]
    shards = sum(shard.shard.bytes for shard in split.shards)
    return SplitSizes(
        images=split.count,
        records=columns["ranks"],
        framing=shards - columns["ranks"] - columns["key"] - columns["mask"] - extras,
        index=sum(shard.index.bytes for shard in split.shards),
        keys=columns["key"],
        masks=columns["mask"],
        extras=extras,
        source=split.source_bytes,
    )
