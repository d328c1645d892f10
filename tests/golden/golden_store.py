"""The golden store: inputs made by formulas, and how its bytes were written from them.

`tests/golden/format0` holds the bytes. A change of the format is a commit of its own that changes
`FORMAT`, has a line in CHANGELOG.md, and runs `python -m tests.golden.golden_store` to write the
new bytes; from the first release on they are never written again.
"""

import shutil
from pathlib import Path

import numpy as np
import safetensors.numpy
import zstandard

from tokenstore.codecs.base import CodecSpec
from tokenstore.codecs.gzip import Gzip
from tokenstore.codecs.zstd import Zstd
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

GOLDEN = Path(__file__).parent / "format0"
GRID, CODES, BLOCK = (16, 16), 600, 2
CLASSES = ("cat", "dog", "elk")


def ids(split, count):
    """Codebook ids [count, 16, 16]: 0, 7, 14 ... modulo 600, so that ranks pass 255 and 510."""
    start = {"train": 0, "val": 1000}[split]
    return (start + 7 * np.arange(count * 256)).reshape(count, *GRID) % CODES


def samples(split, count, vocabulary):
    """Every column, by formula."""
    return Samples(
        ranks=vocabulary.to_ranks(ids(split, count)),
        labels=np.arange(count) % 3,
        keys=[f"{CLASSES[i % 3]}/{split} {i} ä" for i in range(count)],
        masks=[mask_payload(np.full((i + 1, 2), i, np.uint8)) for i in range(count)],
        meta=[{"width": 10 + i, "note": "a\nb"} for i in range(count)],
        views=np.arange(count, dtype=np.uint16),
    )


def counted(grids):
    return np.bincount(grids.ravel(), minlength=CODES)


def trained_dictionary():
    grids = [bytes((i * j) % 251 for j in range(40)) for i in range(400)]
    return zstandard.train_dictionary(512, grids, level=19).as_bytes()


def write_golden(folder, dictionary):
    """Three images to train on in one shard with a dictionary, one to validate with gzip."""
    storage = open_storage(folder)
    codebook = (np.arange(CODES * 2, dtype=np.float32) / 4).reshape(CODES, 2)
    truth = {"train": ids("train", 3), "val": ids("val", 1)}
    vocabulary = Vocabulary.from_counts({s: counted(g) for s, g in truth.items()}, codebook)
    spec = CodecSpec(len(vocabulary), GRID)
    codecs = {"train": Zstd(spec, dictionary), "val": Gzip(spec)}
    sets = {split: write_tables(storage, codec) for split, codec in codecs.items()}
    columns = columns_for(3, keys=True, masks=True, meta=True, views=True)
    splits = {}
    for tables, (split, count) in enumerate((("train", 3), ("val", 1))):
        plan = ShardPlan(split, 0, 0, columns, tables, sets[split], codecs[split], BLOCK)
        shard = write_shard(storage, plan, [samples(split, count, vocabulary)])
        splits[split] = SplitEntry(count=count, source_bytes=1, columns=columns, shards=(shard,))
    manifest = Manifest(
        tokenizer=TokenizerEntry(name="golden", config={"stride": 8}, weights="ab" * 32),
        preprocess={"rule": "squash", "size": [128, 128]},
        grid=GRID,
        vocabulary=write_vocabulary(storage, vocabulary),
        table_sets=tuple(sets.values()),
        block=BLOCK,
        splits=splits,
        classes=CLASSES,
        source=SourceEntry(kind="formula", listing="cd" * 32),
        order=OrderEntry(rule="input", seed=None),
        rejects=write_rejects(storage, []),
    )
    return publish(storage, manifest)


def shipped_dictionary():
    (tables,) = GOLDEN.glob("tables-*.safetensors")
    return safetensors.numpy.load(tables.read_bytes())["dictionary"].tobytes()


if __name__ == "__main__":
    shutil.rmtree(GOLDEN, ignore_errors=True)
    write_golden(GOLDEN, trained_dictionary())
