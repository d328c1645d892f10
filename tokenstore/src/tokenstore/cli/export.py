"""`tokenstore export`: parse, export, print what it came to."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from tokenstore.interop.exporting import export_store


@click.command("export", epilog="Example: tokenstore export photos.tokenstore parquet -o photos_pq")
@click.argument("store")
@click.argument("kind", metavar="FORMAT")
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder to make.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(store: str, kind: str, output: Path, as_json: bool) -> None:
    """Write the ids of STORE as FORMAT seit, npy, webdataset or parquet, with labels and keys.

    OUT is a folder with a file or more a split, the codebook, and tokens.json, by which `tokenstore
    import` gives the same tokenizer, classes and splits again.
    """
    report = export_store(store, kind, output)
    if as_json:
        click.echo(json.dumps(asdict(report)))
        return
    for split, images in report.images.items():
        click.echo(f"{split:<6} {images:>10,} images")
    click.echo(f"{report.place} is written: {report.bytes:,} bytes")
