"""Small stores for tests, written rank by rank: no images, no tokenizer, milliseconds.

Class c prefers the codes near c: something that a model can learn in a few steps. The tokenizer is
said to be `toy` (see toy_tokenizer.py), whose 64 codes are colours, so that pictures fit too.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.toy_tokenizer import ToyTokenizer
from tokenstore import registry
from tokenstore.codecs.base import CodecSpec
from tokenstore.manifest import (
    Manifest,
    OrderEntry,
    SourceEntry,
    SplitEntry,
    TokenizerEntry,
    columns_for,
    publish,
)
from tokenstore.preprocess import Preprocess
from tokenstore.reader import Store, open_store
from tokenstore.storage import open_storage
from tokenstore.vocabulary import Vocabulary
from tokenstore.writer import (
    Samples,
    ShardPlan,
    write_rejects,
    write_shard,
    write_tables,
    write_vocabulary,
)


@dataclass(frozen=True)
class ToyStore:
    """What to write: images by split, grid side, codes in use, classes (0 = no labels)."""

    counts: dict[str, int] = field(default_factory=lambda: {"train": 48, "val": 16})
    side: int = 8
    codes: int = 16
    classes: int = 4
    seed: int = 0
    with_codebook: bool = True


def write_toy_store(folder: Path, toy: ToyStore = ToyStore()) -> Store:
    storage, rng = open_storage(folder), np.random.default_rng(toy.seed)
    grid, splits = (toy.side, toy.side), {}
    samples = {name: _samples(count, toy, rng) for name, count in toy.counts.items()}
    tokenizer = ToyTokenizer(Preprocess("center-crop", (8 * toy.side, 8 * toy.side)))
    counts = np.ones(64, np.int64)
    counts[toy.codes :] = 0
    codebook = tokenizer.codebook if toy.with_codebook else None
    vocabulary = Vocabulary.from_counts({"train": counts}, codebook)
    codec = registry.find("tokenstore.codecs", "gzip").fit(
        np.zeros((0, *grid), np.uint16), CodecSpec(len(vocabulary), grid)
    )
    tables = write_tables(storage, codec)
    columns = columns_for(toy.classes or None, keys=True)
    for name, some in samples.items():
        plan = ShardPlan(name, 0, 0, columns, 0, tables, codec)
        shards = (write_shard(storage, plan, [some]),) if len(some) else ()
        splits[name] = SplitEntry(count=len(some), source_bytes=0, columns=columns, shards=shards)
    manifest = Manifest(
        tokenizer=TokenizerEntry(name="toy", config=tokenizer.describe(), weights=None),
        preprocess=tokenizer.preprocessing.as_json(),
        grid=grid,
        vocabulary=write_vocabulary(storage, vocabulary),
        table_sets=(tables,),
        splits=splits,
        classes=tuple(f"class{c}" for c in range(toy.classes)) if toy.classes else None,
        source=SourceEntry(kind="toy", listing="0" * 64),
        order=OrderEntry(rule="input", seed=None),
        rejects=write_rejects(storage, []),
    )
    publish(storage, manifest)
    return open_store(folder)


def _samples(count: int, toy: ToyStore, rng: np.random.Generator) -> Samples:
    labels = rng.integers(0, max(toy.classes, 1), count)
    noise = rng.geometric(0.5, (count, toy.side, toy.side))
    ranks = (labels[:, None, None] * 4 + noise) % toy.codes
    keys = [f"class{label}/{i:04d}" for i, label in enumerate(labels)]
    return Samples(ranks.astype(np.uint16), labels if toy.classes else None, keys)
