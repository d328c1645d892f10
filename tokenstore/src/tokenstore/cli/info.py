"""`tokenstore info`: what a store is, and where its bytes go."""

import json
from collections.abc import Callable
from typing import Any

import click

from tokenstore.listed import load_vocabulary
from tokenstore.manifest import Manifest, SplitEntry, TableSet, load_manifest
from tokenstore.preprocess import Preprocess
from tokenstore.sizes import SplitSizes, StoreSizes, measure
from tokenstore.storage import open_storage
from tokenstore.vocabulary import Vocabulary


@click.command("info", epilog="Example: tokenstore info photos.tokenstore")
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(store: str, as_json: bool) -> None:
    """Tell what STORE is, and its bytes an image against entropy and source files."""
    storage = open_storage(store)
    manifest = load_manifest(storage)
    sizes = measure(storage, manifest)
    if as_json:
        vocabulary = load_vocabulary(storage, manifest.vocabulary)
        click.echo(json.dumps({"store": store, **facts(manifest, vocabulary, sizes)}))
    else:
        click.echo("\n".join([*_heading(store, manifest), "", *_table(sizes), "", *_shared(sizes)]))


def facts(manifest: Manifest, vocabulary: Vocabulary, sizes: StoreSizes) -> dict[str, Any]:
    """Everything that `info` tells, and what else a script may ask, as JSON; sizes are in bytes."""
    tokenizer = manifest.tokenizer
    return {
        "images": sum(split.images for split in sizes.splits.values()),
        "grid": list(manifest.grid),
        "bytes": sizes.total,
        "tokenizer": tokenizer.model_dump(mode="json"),
        "preprocess": manifest.preprocess,
        "codecs": [tables.codec for tables in manifest.table_sets],
        "vocabulary": {
            "used": manifest.vocabulary.size,
            "codebook": _codes(manifest),
            "entropy_bits": manifest.vocabulary.entropy,
            "bytes": sizes.vocabulary,
            "file": manifest.vocabulary.file.name,
            "dimension": manifest.vocabulary.dimension,
            "fingerprint": vocabulary.fingerprint(tokenizer.name, tokenizer.weights),
        },
        "table_sets": [_table_facts(tables) for tables in manifest.table_sets],
        "tables_bytes": sizes.tables,
        "entropy_bytes_an_image": sizes.entropy,
        "classes": list(manifest.classes) if manifest.classes is not None else None,
        "ignore_index": manifest.ignore_index,
        "order": manifest.order.model_dump(mode="json"),
        "source": manifest.source.model_dump(mode="json"),
        "rejects": manifest.rejects.count,
        "format": manifest.format,
        "requires": list(manifest.requires),
        "block": manifest.block,
        "version": manifest.version,
        "fingerprint": manifest.hash,
        "parent": manifest.parent,
        "plan": manifest.plan,
        "splits": {
            name: _split_facts(manifest.splits[name], split, sizes)
            for name, split in sizes.splits.items()
        },
    }


def _table_facts(tables: TableSet) -> dict[str, Any]:
    return {
        "codec": tables.codec,
        "vocabulary_size": tables.vocabulary_size,
        "file": None if tables.file is None else tables.file.name,
        "bytes": 0 if tables.file is None else tables.file.bytes,
    }


def _split_facts(entry: SplitEntry, split: SplitSizes, sizes: StoreSizes) -> dict[str, Any]:
    parts = ("records", "framing", "index", "keys", "masks", "extras", "total", "source")
    return {
        "images": split.images,
        "columns": [column.name for column in entry.columns],
        "shards": len(entry.shards),
        "table_sets": sorted({shard.tables for shard in entry.shards}),
        "bytes": {part: getattr(split, part) for part in parts},
        "bytes_an_image": {part: split.an_image(getattr(split, part)) for part in parts},
        "records_of_entropy": _ratio(split.an_image(split.records), sizes.entropy),
        "total_of_source": _ratio(split.total, split.source),
    }


def _ratio(size: float, of: float) -> float | None:
    return size / of if of and size else None


def _codes(manifest: Manifest) -> int | None:
    """Codes of the whole codebook, where the tokenizer's settings tell."""
    return manifest.tokenizer.codes


def _codecs(manifest: Manifest) -> str:
    """`zstd`, or `gzip, zstd (3 table sets)`, as appending makes them."""
    names = ", ".join(sorted({tables.codec for tables in manifest.table_sets}))
    sets = len(manifest.table_sets)
    return f"{names} ({sets} table sets)" if sets > 1 else names


def _heading(store: str, manifest: Manifest) -> list[str]:
    classes = manifest.classes or ()
    named = f"{len(classes)}: {', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}"
    grid = "x".join(map(str, manifest.grid))
    codes = f" of {_codes(manifest):,}" if _codes(manifest) else ""
    seed = "" if manifest.order.seed is None else f", seed {manifest.order.seed}"
    images = sum(split.count for split in manifest.splits.values())
    return [
        f"{store}: {images:,} images as {grid} tokens",
        f"tokenizer   {manifest.tokenizer.name}, {_pictures(manifest)}",
        f"vocabulary  {manifest.vocabulary.size:,} codes{codes}, "
        f"order-0 entropy {manifest.vocabulary.entropy:.3f} bits a token",
        f"codec       {_codecs(manifest)}",
        f"classes     {named if manifest.classes is not None else 'none'}",
        f"order       {manifest.order.rule}{seed}",
        f"rejects     {manifest.rejects.count:,}",
        f"format      {manifest.format}, version {manifest.version}, fingerprint {manifest.hash}",
    ]


def _pictures(manifest: Manifest) -> str:
    """How pictures became tokens, or where tokens came from that do not tell."""
    if not manifest.preprocess:
        return f"imported from {manifest.source.kind} files that do not tell more"
    preprocess = Preprocess.from_json(manifest.preprocess)
    return f"pictures {'x'.join(map(str, preprocess.size))} ({preprocess.rule})"


Cell = Callable[[SplitSizes], str]


def _table(sizes: StoreSizes) -> list[str]:
    """One line a quantity, one column a split."""

    def an_image(part: str) -> Cell:
        return lambda split: f"{split.an_image(getattr(split, part)):,.2f}"

    def against(part: str, of: Callable[[SplitSizes], float]) -> Cell:
        def cell(split: SplitSizes) -> str:
            ratio = _ratio(split.an_image(getattr(split, part)), of(split))
            return "-" if ratio is None else f"{ratio:.4f}"

        return cell

    lines: list[tuple[str, Cell]] = [
        ("images", lambda split: f"{split.images:,}"),
        ("bytes an image", lambda split: ""),
        ("  records", an_image("records")),
        ("  labels and tar framing", an_image("framing")),
        ("  index", an_image("index")),
        ("  keys", an_image("keys")),
        ("  masks", an_image("masks")),
        ("  metadata, views", an_image("extras")),
        ("  together", an_image("total")),
        ("  order-0 entropy", lambda split: f"{sizes.entropy:,.2f}"),
        ("  source files", an_image("source")),
        ("records / entropy", against("records", lambda split: sizes.entropy)),
        ("together / source", against("total", lambda split: split.an_image(split.source))),
    ]
    for part, label in {"masks": "  masks", "extras": "  metadata, views"}.items():
        if not any(getattr(split, part) for split in sizes.splits.values()):
            lines = [line for line in lines if line[0] != label]
    width = max(12, *(len(name) + 2 for name in sizes.splits))
    heading = f"{'':<26}" + "".join(f"{name:>{width}}" for name in sizes.splits)
    rows = [
        f"{label:<26}" + "".join(f"{cell(split):>{width}}" for split in sizes.splits.values())
        for label, cell in lines
    ]
    return [line.rstrip() for line in (heading, *rows)]


def _shared(sizes: StoreSizes) -> list[str]:
    return [
        f"vocabulary and codebook {sizes.vocabulary:,} bytes, codec tables {sizes.tables:,} bytes, "
        "once a store"
    ]
