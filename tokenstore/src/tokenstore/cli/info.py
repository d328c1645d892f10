"""`tokenstore info`: what a store is, and where its bytes go."""

import json
from collections.abc import Callable
from typing import Any

import click

from tokenstore.manifest import Manifest, load_manifest
from tokenstore.preprocess import Preprocess
from tokenstore.sizes import SplitSizes, StoreSizes, measure
from tokenstore.storage import open_storage


@click.command("info", epilog="Example: tokenstore info photos.tokenstore")
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(store: str, as_json: bool) -> None:
    """Tell what STORE is, and its bytes an image against entropy and source files."""
    storage = open_storage(store)
    manifest = load_manifest(storage)
    sizes = measure(storage, manifest)
    if as_json:
        click.echo(json.dumps(facts(store, manifest, sizes)))
    else:
        click.echo("\n".join([*_heading(store, manifest), "", *_table(sizes), "", *_shared(sizes)]))


def facts(store: str, manifest: Manifest, sizes: StoreSizes) -> dict[str, Any]:
    """Everything that `info` tells, as JSON; sizes are in bytes."""
    return {
        "store": store,
        "images": sum(split.images for split in sizes.splits.values()),
        "grid": list(manifest.grid),
        "tokenizer": manifest.tokenizer.model_dump(mode="json"),
        "preprocess": manifest.preprocess,
        "codecs": [tables.codec for tables in manifest.table_sets],
        "vocabulary": {
            "used": manifest.vocabulary.size,
            "codebook": _codes(manifest),
            "entropy_bits": manifest.vocabulary.entropy,
            "bytes": sizes.vocabulary,
        },
        "tables_bytes": sizes.tables,
        "entropy_bytes_an_image": sizes.entropy,
        "classes": list(manifest.classes) if manifest.classes is not None else None,
        "order": manifest.order.model_dump(mode="json"),
        "rejects": manifest.rejects.count,
        "format": manifest.format,
        "version": manifest.version,
        "fingerprint": manifest.hash,
        "splits": {name: _split_facts(split, sizes) for name, split in sizes.splits.items()},
    }


def _split_facts(split: SplitSizes, sizes: StoreSizes) -> dict[str, Any]:
    parts = ("records", "framing", "index", "keys", "extras", "total", "source")
    return {
        "images": split.images,
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


def _heading(store: str, manifest: Manifest) -> list[str]:
    classes = manifest.classes or ()
    named = f"{len(classes)}: {', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}"
    grid = "x".join(map(str, manifest.grid))
    preprocess = Preprocess.from_json(manifest.preprocess)
    size = "x".join(map(str, preprocess.size))
    codes = f" of {_codes(manifest):,}" if _codes(manifest) else ""
    seed = "" if manifest.order.seed is None else f", seed {manifest.order.seed}"
    images = sum(split.count for split in manifest.splits.values())
    return [
        f"{store}: {images:,} images as {grid} tokens",
        f"tokenizer   {manifest.tokenizer.name}, pictures {size} ({preprocess.rule})",
        f"vocabulary  {manifest.vocabulary.size:,} codes{codes}, "
        f"order-0 entropy {manifest.vocabulary.entropy:.3f} bits a token",
        f"codec       {', '.join(tables.codec for tables in manifest.table_sets)}",
        f"classes     {named if manifest.classes is not None else 'none'}",
        f"order       {manifest.order.rule}{seed}",
        f"rejects     {manifest.rejects.count:,}",
        f"format      {manifest.format}, version {manifest.version}, fingerprint {manifest.hash}",
    ]


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
        ("  masks, metadata, views", an_image("extras")),
        ("  together", an_image("total")),
        ("  order-0 entropy", lambda split: f"{sizes.entropy:,.2f}"),
        ("  source files", an_image("source")),
        ("records / entropy", against("records", lambda split: sizes.entropy)),
        ("together / source", against("total", lambda split: split.an_image(split.source))),
    ]
    if not any(split.extras for split in sizes.splits.values()):
        lines = [line for line in lines if "masks" not in line[0]]
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
