"""The golden stores: inputs made by formulas, and how their bytes were written from them.

    format0           every column, grids [h, w]; a shard of `zstd`, one of `gzip`
    format0-rans      two versions: the second adds a shard, ids and a table set; no codebook
    format0-context   grids [c, h, w] with ranks beyond 4,096, a vocabulary that was taken over

`stores.json` has their fingerprints and the hash of every file. A change of the format is a commit
of its own with a line in CHANGELOG.md; `python -m tests.golden.golden_store` writes new bytes and
the example of docs/format.md. From format 1 on it refuses to write what is there, and every later
version reads and writes these bytes (docs/releasing.md).
"""

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import safetensors.numpy

import tokenstore
from tests.golden import golden_codecs
from tests.golden.golden_codecs import frequencies
from tokenstore import registry
from tokenstore.codecs.base import CodecSpec
from tokenstore.codecs.gzip import Gzip
from tokenstore.codecs.zstd import Zstd
from tokenstore.columns import mask_payload
from tokenstore.manifest import (
    FORMAT,
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

FOLDER = Path(__file__).parent
GOLDEN = FOLDER / f"format{FORMAT}"
PINS = FOLDER / "stores.json"
PAGE = FOLDER.parents[1] / "docs" / "format.md"
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
    """The dictionary of the golden store; another libzstd would train another one."""
    tables = next(FOLDER.glob("format?/tables-*.safetensors"))
    return safetensors.numpy.load(tables.read_bytes())["dictionary"].tobytes()


def rans_ids():
    """Ids [5, 16, 16]: three images with ids below 500, two that bring 84 more."""
    flat = 7 * np.arange(5 * 256)
    return np.where(flat < 7 * 3 * 256, flat % 500, flat % CODES).reshape(5, *GRID)


def write_rans(folder):
    """Version 0 has three images; version 1 adds a shard, ids and a table set, no codebook."""
    storage, grids = open_storage(folder), rans_ids()
    first = Vocabulary.from_counts({"train": counted(grids[:3])})
    manifest = add_version(storage, rans(first), first, first.to_ranks(grids[:3]), None)
    grown = first.extended(counted(grids[3:]), counted(grids))
    add_version(storage, rans(grown), grown, grown.to_ranks(grids[3:]), manifest)


def rans(vocabulary):
    tables, spec = frequencies(len(vocabulary)), CodecSpec(len(vocabulary), GRID)
    return registry.find("tokenstore.codecs", "rans").from_tables(tables, spec)


def write_context(folder):
    """Three blocks of ranks beyond 4,096; a vocabulary that was taken over, so counts may be 0."""
    shipped, ranks, *_ = golden_codecs.read("context-tail")
    counts = np.bincount(ranks.ravel(), minlength=5000)
    vocabulary = Vocabulary((7 * np.arange(5000) % 5003).astype(np.int32), counts)
    codec = golden_codecs.codec("context-tail", shipped)
    add_version(open_storage(folder), codec, vocabulary, ranks, None)


def add_version(storage, codec, vocabulary, ranks, before):
    """Publish a store of ranks alone with one shard more than `before`, the manifest or None."""
    split = before.splits["train"] if before else None
    count, shards = (split.count, split.shards) if split else (0, ())
    sets = (*(before.table_sets if before else ()), write_tables(storage, codec))
    number, columns = len(shards), columns_for(None, keys=False)
    plan = ShardPlan("train", number, count, columns, number, sets[-1], codec, BLOCK)
    shards = (*shards, write_shard(storage, plan, [Samples(ranks=ranks)]))
    manifest = Manifest(
        version=number,
        parent=before.hash if before else None,
        tokenizer=TokenizerEntry(name="golden", config={}, weights=None),
        preprocess={},
        grid=ranks.shape[1:],
        vocabulary=write_vocabulary(storage, vocabulary),
        table_sets=sets,
        block=BLOCK,
        splits={
            "train": SplitEntry(
                count=count + len(ranks), source_bytes=0, columns=columns, shards=shards
            )
        },
        classes=None,
        source=SourceEntry(kind="formula", listing="ef" * 32),
        order=OrderEntry(rule="input", seed=None),
        rejects=write_rejects(storage, []),
    )
    return publish(storage, manifest)


def folders(dictionary):
    """Name of a golden store of today's format -> what writes it into a folder."""
    return {
        GOLDEN.name: lambda folder: write_golden(folder, dictionary),
        f"{GOLDEN.name}-rans": write_rans,
        f"{GOLDEN.name}-context": write_context,
    }


def hashes(folder):
    """Path inside a store -> SHA-256 of that file."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write_example(page, index):
    """Put the bytes of an index where docs/format.md prints them."""
    starts = range(0, len(index), 16)
    lines = [f"{start:04x}  {index[start : start + 16].hex(' ', -4)}" for start in starts]
    text = page.read_text(encoding="utf-8")
    printed = re.compile(r"^0000  [0-9a-f ]+\n(?:[0-9a-f]{4}  [0-9a-f ]+\n)+", re.MULTILINE)
    page.write_text(printed.sub("\n".join(lines) + "\n", text, count=1), encoding="utf-8")


def main():
    """Write the golden stores of today's format, their hashes, and the example of the page."""
    if FORMAT and GOLDEN.exists():
        sys.exit(f"{GOLDEN} is frozen: a change of the format needs another number")
    dictionary, pins = shipped_dictionary(), json.loads(PINS.read_text())
    for old in FOLDER.glob("format0*"):  # is no frozen format: its stores go or are written anew
        shutil.rmtree(old)
        del pins[old.name]
    for name, write in folders(dictionary).items():
        write(FOLDER / name)
        fingerprint = tokenstore.open(FOLDER / name).fingerprint
        pins[name] = {"fingerprint": fingerprint, "files": hashes(FOLDER / name)}
    PINS.write_text(json.dumps(pins, indent=2) + "\n")
    write_example(PAGE, (GOLDEN / "val-000000.index").read_bytes())


if __name__ == "__main__":
    main()
