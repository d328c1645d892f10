"""Footprint: how many images a run trains on, and the bytes that have to be kept for it.

Written beside each run, so that accuracy can be held against storage without anybody's estimate.
Pictures count as their files. A store counts whole but for its other splits: records, index, tar
framing and keys of train, vocabulary, codec tables and both copies of the manifest; of a share of
its images, that share of what grows with them. Masks count, the tokenizer does not: it is the same
for all stores. Nothing is read but listings and manifests: a large store has many indices.
"""

from dataclasses import dataclass
from typing import Any

from seit_train.config import DataConfig
from seit_train.data import chosen_samples
from seit_train.pictures import PictureSplit
from tokenstore.manifest import NAME
from tokenstore.mixture import MixedSplit
from tokenstore.reader import Split


@dataclass(frozen=True)
class Footprint:
    """What a run trains on.

    Attributes:
        images: how many different ones an epoch can show.
        bytes: that keep them.
    """

    images: int
    bytes: int


def footprint(split: Any, data: DataConfig) -> Footprint:
    """The footprint of what a run sees of a split.

    Args:
        split: of a store, of several stores, or of pictures.
        data: the run's `data` section.
    """
    if isinstance(split, MixedSplit):
        parts = [_of_store(one, len(one)) for one in split.splits]
        return Footprint(sum(p.images for p in parts), sum(p.bytes for p in parts))
    samples = chosen_samples(split, data)
    if isinstance(split, PictureSplit):
        items = split.items if samples is None else [split.items[i] for i in samples]
        return Footprint(len(items), sum(item.size for item in items))
    return _of_store(split, len(split) if samples is None else len(samples))


def _of_store(split: Split, images: int) -> Footprint:
    """A store, with so many images of this split and none of its others."""
    storage, manifest = split.store.storage, split.store.manifest
    shards = manifest.splits[split.name].shards
    files = sum(shard.shard.bytes + shard.index.bytes for shard in shards)
    growing = round(files * images / max(1, len(split)))
    tables = sum(entry.file.bytes for entry in manifest.table_sets if entry.file)
    fixed = manifest.vocabulary.file.bytes + tables + 2 * storage.size(NAME)
    return Footprint(images, growing + fixed)
