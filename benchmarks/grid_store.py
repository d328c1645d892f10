"""A store of grids that are in memory: what a build does after tokenizing, without images.

For benchmarks that write the same tokens in many ways; keys are left out.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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

SHARD = 16 * 1024
SAMPLE = 8192  # grids that tables are fitted on, as a build takes them


def write_grids(
    folder: Path,
    codec_name: str,
    grids: NDArray[np.uint16],
    labels: NDArray[np.int64],
    codebook: NDArray[np.float32] | None = None,
) -> None:
    """Write ids [n, h, w] and labels as the split `train` of a new store; codebook [K, d]."""
    storage, classes = open_storage(folder), int(labels.max()) + 1
    counts = np.bincount(grids.ravel(), minlength=0 if codebook is None else len(codebook))
    vocabulary = Vocabulary.from_counts({"train": counts}, codebook)
    ranks, shape = vocabulary.to_ranks(grids), grids.shape[1:]
    spec = CodecSpec(len(vocabulary), shape)
    sample = ranks[:: -(-len(ranks) // SAMPLE)]
    codec = registry.find("tokenstore.codecs", codec_name).fit(sample, spec, len(ranks))
    tables, columns, shards = write_tables(storage, codec), columns_for(classes, keys=False), []
    for number, first in enumerate(range(0, len(ranks), SHARD)):
        plan = ShardPlan("train", number, first, columns, 0, tables, codec)
        part = slice(first, first + SHARD)
        shards.append(write_shard(storage, plan, [Samples(ranks[part], labels[part])]))
    split = SplitEntry(count=len(ranks), source_bytes=0, columns=columns, shards=tuple(shards))
    manifest = Manifest(
        tokenizer=TokenizerEntry(name="grids", config={}, weights=None),
        preprocess={},
        grid=shape,
        vocabulary=write_vocabulary(storage, vocabulary),
        table_sets=(tables,),
        splits={"train": split},
        classes=tuple(map(str, range(classes))),
        source=SourceEntry(kind="grids", listing="0" * 64),
        order=OrderEntry(rule="input", seed=None),
        rejects=write_rejects(storage, []),
    )
    publish(storage, manifest)
