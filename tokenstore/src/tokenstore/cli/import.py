"""`tokenstore import`: parse, import, print what it came to."""

import json
import re
from pathlib import Path
from typing import Any

import click

from tokenstore.errors import UsageError
from tokenstore.interop.base import ImportRequest
from tokenstore.interop.importing import ImportOptions, ImportReport, import_store
from tokenstore.sizes import measure
from tokenstore.storage import open_storage


class GridOption(click.ParamType):
    """`"32x32" -> (32, 32)`: rows and columns, with planes before them where there are several."""

    name = "HxW"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Read one; raises UsageError where it is no grid."""
        del param, ctx
        if not re.fullmatch(r"[1-9]\d{0,4}(x[1-9]\d{0,4}){1,2}", str(value)):
            raise UsageError(f"--grid '{value}' is no HxW or CxHxW; say 32x32 or 4x16x16")
        return tuple(map(int, str(value).split("x")))


@click.command(
    "import", epilog="Example: tokenstore import npy codes.npy -o photos.tokenstore --grid 16x16"
)
@click.argument("kind", metavar="FORMAT")
@click.argument("place", metavar="INPUT", type=click.Path(path_type=Path))
@click.option("-o", "--output", metavar="STORE", required=True, help="Folder to make.")
@click.option("--codec", default="zstd", show_default=True, help="How ranks become bytes.")
@click.option(
    "--codebook",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Vectors of the codes: .npy, safetensors, or a torch file of one tensor; else one that "
    "lies in INPUT; else the store has none.",
)
@click.option(
    "--labels",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A class number or name an image, in the order of INPUT: .npy, .txt or .json.",
)
@click.option(
    "--grid", type=GridOption(), help="Shape of an image's ids, where INPUT leaves it open."
)
@click.option(
    "--split",
    default="train",
    show_default=True,
    help="Name of the split, where INPUT is not divided into train, val, test.",
)
@click.option("--no-keys", is_flag=True, help="Do not keep the names of the images.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(
    kind: str,
    place: Path,
    output: str,
    codec: str,
    codebook: Path | None,
    labels: Path | None,
    grid: tuple[int, ...] | None,
    split: str,
    no_keys: bool,
    as_json: bool,
) -> None:
    """Make a store of the ids in INPUT, which is of FORMAT seit, npy, webdataset or parquet.

    seit: a *.data.bin.gz with its index beside it, or the folder of released files. npy: an array
    [N, h, w], or a folder of arrays, one an image. webdataset: a tar of .npy with .cls and .json,
    or a folder of them. parquet: a file with a column of lists of ids, or a folder of them. Images
    keep their order. An interrupted import continues when the same line is run again.
    """
    request = ImportRequest(place, split, grid, codebook, labels)
    report = import_store(kind, request, output, ImportOptions(codec, keys=not no_keys))
    if as_json:
        click.echo(json.dumps(_facts(report)))
    else:
        _tell(report)


def _facts(report: ImportReport) -> dict[str, Any]:
    sizes = measure(open_storage(report.place), report.manifest)
    return {
        "store": report.place,
        "new": report.is_new,
        "fingerprint": report.manifest.hash,
        "tokenizer": report.manifest.tokenizer.name,
        "grid": list(report.manifest.grid),
        "splits": {name: split.images for name, split in sizes.splits.items()},
        "bytes": sum(split.total for split in sizes.splits.values()),
        "vocabulary": report.manifest.vocabulary.size,
        "codebook": report.manifest.vocabulary.dimension is not None,
        "notes": report.notes,
    }


def _tell(report: ImportReport) -> None:
    if not report.is_new:
        click.echo(f"{report.place} is whole already, from the same input and options.")
        return
    sizes = measure(open_storage(report.place), report.manifest)
    for name, split in sizes.splits.items():
        click.echo(
            f"{name:<6} {split.images:>10,} images  {split.an_image(split.total):>8,.1f} bytes an "
            f"image (order-0 entropy {sizes.entropy:,.1f})"
        )
    vocabulary = report.manifest.vocabulary
    wide = f"a codebook of width {vocabulary.dimension}" if vocabulary.dimension else "no codebook"
    click.echo(
        f"{report.place} is whole: {vocabulary.size:,} codes, {wide}, "
        f"tokenizer {report.manifest.tokenizer.name}"
    )
