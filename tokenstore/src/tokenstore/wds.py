"""Reading a store with webdataset: one pipeline stage that turns blocks into images.

    import webdataset
    store = tokenstore.open("photos.tokenstore")
    shards = [f"photos.tokenstore/{s.shard.name}" for s in store["train"].entry.shards]
    dataset = webdataset.WebDataset(shards, shardshuffle=True).compose(tokenstore.wds.Images(store))
    for image in dataset: image["ranks"], image["label"], image["__key__"]

Without the stage webdataset yields a sample a block, with the bytes of its columns. The stage needs
the store, since the index beside a shard tells where records begin. Webdataset itself is not
imported here. For random access and exact epochs use `tokenstore.loader`.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import xxhash

from tokenstore import checks
from tokenstore.columns import mask_of, packed_strings
from tokenstore.errors import CodecError, CorruptRecord, CorruptStore, Mismatch
from tokenstore.manifest import Column
from tokenstore.reader import Split, Store
from tokenstore.shard import NO_TABLES, ShardReader

BlockSample = dict[str, Any]


class Images:
    """The stage: block samples in, image samples out, in the order of the shard. Pickles."""

    def __init__(self, store: Store) -> None:
        """Know the shards of this store by name."""
        self._store = store
        self._places = {
            shard.shard.name: (split, number)
            for split in store.splits.values()
            for number, shard in enumerate(split.entry.shards)
        }

    def __call__(self, blocks: Iterable[BlockSample]) -> Iterator[dict[str, Any]]:
        """Image samples: `__key__`, `__url__`, `ranks` uint16 [h, w], and the split's columns.

        Raises:
            Mismatch: a block comes from a shard that the store does not have.
            CorruptStore: the bytes of a block differ from what the index promises.
        """
        for block in blocks:
            name = str(block["__url__"]).rpartition("/")[2]
            if name not in self._places:
                raise Mismatch(f"{block['__url__']} is no shard of '{self._store.url}'")
            split, number = self._places[name]
            yield from self._images(split, split.shards.open(number), block)

    def _images(
        self, split: Split, shard: ShardReader, block: BlockSample
    ) -> Iterator[dict[str, Any]]:
        number = int(block["__key__"])
        values: dict[str, Any] = {
            column.name: self._column(split, shard, column, number, block[column.name])
            for column in split.entry.columns
        }
        first = shard.first + number * shard.index.block_size
        for i in range(shard.block_count(number)):
            image = {name: column[i] for name, column in values.items()}
            key = image.pop("key", f"{split.name}/{first + i:09d}")
            yield {"__key__": key, "__url__": block["__url__"], **image}

    def _column(
        self, split: Split, shard: ShardReader, column: Column, block: int, content: bytes
    ) -> Any:
        """Values of one column of a block, one an image."""
        where = f"{shard.url}: '{column.name}' of block {block}"
        part, count = shard.index.block(column.name, block), shard.block_count(block)
        if len(content) != part.size or xxhash.xxh3_64_intdigest(content) != part.hash:
            raise CorruptStore(f"{where} does not match its hash; the shard is damaged")
        if column.dtype is not None:
            return [int(value) for value in np.frombuffer(content, column.dtype)]
        if part.ends is None:
            strings = packed_strings(content, count, where)
            return [json.loads(line) for line in strings] if column.name == "meta" else strings
        ends = part.ends[:count].astype(np.int64)
        numbers = np.arange(count, dtype=np.uint64) + np.uint64(
            shard.first + block * shard.index.block_size
        )
        tables = shard.salt if column.name == "ranks" else NO_TABLES
        records = np.frombuffer(content, np.uint8)
        payloads, stops, wrong = checks.gather(
            records, checks.starts_of(ends), ends, numbers, tables
        )
        if wrong.any():
            raise CorruptRecord(f"{where}: record {int(np.argmax(wrong))} fails its check")
        if column.name == "mask":
            parts = np.split(payloads, stops[:-1])
            return [mask_of(mask.tobytes(), where) for mask in parts]
        ranks = np.empty((count, *self._store.manifest.grid), np.uint16)
        codec = self._store.codec(shard.tables)
        try:
            codec.decode(payloads, checks.starts_of(stops), stops, ranks)
        except CodecError as error:
            raise CorruptRecord(f"{where} cannot be decoded: {error}") from error
        return ranks
