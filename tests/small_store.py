"""Small stores with every column, several shards and two codecs, and what was put into them."""

import uuid
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tokenstore import registry
from tokenstore.codecs.base import CodecSpec
from tokenstore.columns import mask_payload
from tokenstore.manifest import (
    Manifest,
    OrderEntry,
    SourceEntry,
    SplitEntry,
    TokenizerEntry,
    columns_for,
    publish,
)
from tokenstore.reader import Store
from tokenstore.storage import open_storage
from tokenstore.vocabulary import Vocabulary
from tokenstore.writer import (
    Reject,
    Samples,
    ShardPlan,
    write_rejects,
    write_shard,
    write_tables,
    write_vocabulary,
)


@dataclass(frozen=True)
class Small:
    """What to write; shards take the codecs in turn."""

    counts: tuple[tuple[str, int], ...] = (("train", 23), ("val", 5))
    grid: tuple[int, ...] = (4, 3)
    codes: int = 300
    block: int = 4
    shard: int = 9
    codecs: tuple[str, ...] = ("zstd", "gzip")
    classes: int | None = 7
    keys: bool = True
    extras: bool = True
    masks: bool = True  # among the extras
    rejects: int = 2
    seed: int = 0
    walk: bool = False  # neighbours are alike, as in pictures


class Written(NamedTuple):
    store: Store
    truth: dict[str, Samples]
    vocabulary: Vocabulary


def write_small_store(place: Any, small: Small = Small()) -> Written:
    storage, rng = open_storage(place), np.random.default_rng(small.seed)
    ids = {name: _ids((count, *small.grid), small, rng) for name, count in small.counts}
    counts = {
        name: np.bincount(grids.ravel(), minlength=small.codes) for name, grids in ids.items()
    }
    # The same for all stores with so many codes, as of one tokenizer.
    codebook = np.random.default_rng(small.codes).normal(size=(small.codes, 2)).astype(np.float32)
    vocabulary = Vocabulary.from_counts(counts, codebook)
    truth = {name: _samples(name, vocabulary.to_ranks(g), small, rng) for name, g in ids.items()}
    spec = CodecSpec(len(vocabulary), small.grid)
    fitted = [
        registry.find("tokenstore.codecs", name).fit(next(iter(truth.values())).ranks, spec)
        for name in small.codecs
    ]
    sets = [write_tables(storage, codec) for codec in fitted]
    columns = columns_for(
        small.classes,
        keys=small.keys,
        masks=small.extras and small.masks,
        meta=small.extras,
        views=small.extras,
    )
    splits = {}
    for name, samples in truth.items():
        shards = []
        for number, first in enumerate(range(0, len(samples), small.shard)):
            tables = number % len(sets)
            plan = ShardPlan(
                name, number, first, columns, tables, sets[tables], fitted[tables], small.block
            )
            shards.append(write_shard(storage, plan, [samples[first : first + small.shard]]))
        splits[name] = SplitEntry(
            count=len(samples), source_bytes=1000, columns=columns, shards=tuple(shards)
        )
    manifest = Manifest(
        tokenizer=TokenizerEntry(name="toy", config={"stride": 8}, weights=None),
        preprocess={"rule": "squash", "size": [32, 24]},
        grid=small.grid,
        vocabulary=write_vocabulary(storage, vocabulary),
        table_sets=tuple(sets),
        block=small.block,
        splits=splits,
        classes=None if small.classes is None else tuple(f"c{i}" for i in range(small.classes)),
        source=SourceEntry(kind="toy", listing="0" * 64),
        order=OrderEntry(rule="input", seed=None),
        rejects=write_rejects(
            storage,
            [Reject("train", f"r{i}", f"r{i}.jpg", "no image") for i in range(small.rejects)],
        ),
    )
    publish(storage, manifest)
    return Written(Store(storage), truth, vocabulary)


def _ids(shape: tuple[int, ...], small: Small, rng: np.random.Generator) -> np.ndarray:
    if not small.walk:
        return np.minimum(rng.geometric(0.02, shape), small.codes) - 1
    steps = rng.integers(0, 3, shape)
    walk = (steps.cumsum(-1) + steps.cumsum(-2)) * (small.codes // 17)
    return (
        np.where(rng.random(shape) < 0.1, rng.integers(0, small.codes, shape), walk) % small.codes
    )


def copy_in_memory(store: Store) -> str:
    """A copy of a local store in fsspec's memory; gives its URL."""
    url = f"memory://{uuid.uuid4()}/s"
    remote = open_storage(url)
    for name in open_storage(store.url).names():
        remote.create(name, open_storage(store.url).read(name))
    return url


def _samples(name: str, ranks: np.ndarray, small: Small, rng: np.random.Generator) -> Samples:
    count = len(ranks)
    labels = None if small.classes is None else rng.integers(0, small.classes, count)
    keys = [f"ordner ä/{name}_{i:03d}" for i in range(count)] if small.keys else None
    if not small.extras:
        return Samples(ranks, labels, keys)
    drawn = [rng.integers(0, 5, (i % 3 + 1, i % 4 + 1)).astype(np.uint8) for i in range(count)]
    masks = [mask_payload(mask % (small.classes or 5)) for mask in drawn] if small.masks else None
    meta = [{"width": i, "name": f"é\n{i}"} for i in range(count)]
    views = rng.integers(0, 3, count).astype(np.uint16)
    return Samples(ranks, labels, keys, masks, meta, views)
