"""`tokenstore build`: parse the options, run the build, print what it came to."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from tokenstore.build.engine import Running, Stripe, available_cores
from tokenstore.build.plan import BuildOptions
from tokenstore.build.run import BuildReport, StripeReport, build_store, build_stripe
from tokenstore.build.saving import Saving, context_saving
from tokenstore.choice import tokenizer_options
from tokenstore.progress import WorkProgress
from tokenstore.reader import open_store
from tokenstore.sizes import StoreSizes, measure
from tokenstore.storage import open_storage

COPIED = (
    "tokenizer weights config preprocess image_size device vocabulary source classes masks "
    "ignore_index image_column label_column views codec batch_size precision part_size limit "
    "seed order"
)
INTEGER = click.IntRange(min=1)


@click.command(
    "build", epilog="Example: tokenstore build photos/ -o photos.tokenstore --image-size 128"
)
@click.argument("images", metavar="INPUT")
@click.option(
    "-o", "--output", metavar="STORE", help="Folder to make; ./NAME.tokenstore if absent."
)
@tokenizer_options
@click.option(
    "--vocabulary",
    metavar="STORE",
    help="Search only the codes of STORE and keep its ranks, so that models trained on it fit; "
    "tokenizer and resizing are then those of STORE if not given.",
)
@click.option("--source", metavar="KIND", help="Kind of input; else found by looking at it.")
@click.option(
    "--classes",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Class names in label order (JSON); else classes.json of the input.",
)
@click.option(
    "--masks",
    metavar="DIR",
    help="Folder of the masks, under the names of their images; else found beside them.",
)
@click.option(
    "--ignore-index",
    metavar="N",
    type=click.IntRange(0, 255),
    help="Value of the mask pixels of no class; else that of the class file.",
)
@click.option(
    "--image-column", metavar="NAME", help="Column of a table with the images or their paths."
)
@click.option("--label-column", metavar="NAME", help="Column of a table with the labels.")
@click.option(
    "--views",
    metavar="K",
    default=1,
    show_default=True,
    type=click.IntRange(1, 65_536),
    help="Views of each image: the plain one and K - 1 random resized crops, some of them flipped.",
)
@click.option(
    "--codec",
    metavar="NAME",
    default="zstd",
    show_default=True,
    help="How ranks become bytes: zstd; context, the smallest; rans, the fastest; gzip; or one of "
    "another package.",
)
@click.option(
    "--batch-size",
    default=32,
    show_default=True,
    type=INTEGER,
    help="Images encoded at once.",
)
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    type=click.Choice(["fp32", "tf32", "bf16"]),
    help="Arithmetic of the tokenizer's networks.",
)
@click.option(
    "--engine",
    default="local",
    show_default=True,
    type=click.Choice(["local", "ray"]),
    help="Who does the work: this machine with all its GPUs, or the Ray cluster of RAY_ADDRESS.",
)
@click.option(
    "--part",
    "stripe",
    metavar="I/N",
    help="Tokenize only every N-th part, from I on (0/N to N-1/N, or 1/N to N/N), as a task of an "
    "array does; then `tokenstore finish STORE`.",
)
@click.option(
    "--workers", type=INTEGER, help="Decoding processes of the local engine; one a core if absent."
)
@click.option(
    "--part-size",
    default=16_384,
    show_default=True,
    type=INTEGER,
    help="Images of one part of the work, and of one shard.",
)
@click.option("--limit", type=INTEGER, help="At most this many images of each split.")
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(min=0, max=2**63 - 1),
    help="Seed of the shuffled order.",
)
@click.option(
    "--order",
    default="shuffled",
    show_default=True,
    type=click.Choice(["shuffled", "input"]),
    help="Of the samples in the store.",
)
@click.option("--no-keys", is_flag=True, help="Do not keep the names of the images.")
@click.option("--strict", is_flag=True, help="Make the first reject an error.")
@click.option(
    "--max-rejects",
    metavar="N",
    type=click.IntRange(min=0),
    help="Stop when more images than this are rejected.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(images: str, output: str | None, as_json: bool, **options: Any) -> None:
    """Tokenize the images of INPUT into a store.

    INPUT is a folder of images, with class folders or train/, val/ and test/ in it or without;
    images/ with masks/ beside them; tars or WebDataset shards; parquet; or a list (.csv, .jsonl);
    here or behind a URL. docs/sources.md shows each layout. Interrupted builds continue when the
    same line is run again.
    """
    started = time.monotonic()
    place = output or default_place(images)
    if options["stripe"]:
        _tell_stripe(
            build_stripe(images, place, build_options(options), _running(options)), as_json
        )
        return
    report = build_store(images, place, build_options(options), _running(options))
    seconds = time.monotonic() - started
    sizes = measure(open_storage(place), report.manifest)
    saving = None
    if report.is_new:
        with WorkProgress("trying codec context", total=None):
            saving = context_saving(open_store(place), sizes)
    if as_json:
        click.echo(json.dumps(_facts(report, sizes, seconds, saving)))
    else:
        _tell(report, sizes, seconds, saving)


def default_place(images: str) -> str:
    """`photos/` -> `photos.tokenstore`, in the folder where one is."""
    return f"{Path(images).resolve().name}.tokenstore"


def build_options(given: dict[str, Any]) -> BuildOptions:
    """What the options of the command say of the store."""
    return BuildOptions(
        **{name: given[name] for name in COPIED.split()},
        keys=not given["no_keys"],
    )


def _running(given: dict[str, Any]) -> Running:
    return Running(
        workers=given["workers"] or available_cores(),
        strict=given["strict"],
        max_rejects=given["max_rejects"],
        engine=given["engine"],
        stripe=Stripe.parse(given["stripe"]) if given["stripe"] else None,
    )


def _tell_stripe(report: StripeReport, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(report)))
        return
    click.echo(
        f"{report.parts:,} parts are done: {report.images:,} images, {report.rejects:,} rejects "
        f"({report.tokenized:,} images in this run)"
    )
    click.echo(f"next:  tokenstore status {report.place}   tokenstore finish {report.place}")


def _facts(
    report: BuildReport, sizes: StoreSizes, seconds: float, saving: Saving | None
) -> dict[str, Any]:
    return {
        "store": report.place,
        "new": report.is_new,
        "fingerprint": report.manifest.hash,
        "splits": {name: split.images for name, split in sizes.splits.items()},
        "bytes": sum(split.total for split in sizes.splits.values()),
        "source_bytes": sum(split.source for split in sizes.splits.values()),
        "rejects": report.manifest.rejects.count,
        "seconds": round(seconds, 3),
        "tokenized": report.tokenized,
        "images_per_second": round(report.tokenized / seconds, 2),
        "context_saving": None if saving is None else asdict(saving),
    }


def _tell(report: BuildReport, sizes: StoreSizes, seconds: float, saving: Saving | None) -> None:
    if not report.is_new:
        click.echo(f"{report.place} is whole already, from the same input and options.")
        return
    for name, split in sizes.splits.items():
        click.echo(
            f"{name:<6} {split.images:>10,} images  {split.an_image(split.total):>8,.1f} bytes an "
            f"image (order-0 entropy {sizes.entropy:,.1f}, source files "
            f"{split.an_image(split.source):,.0f})"
        )
    rejects = report.manifest.rejects.count
    click.echo(f"rejects {rejects:>9,}" + (", listed above and in the store" if rejects else ""))
    click.echo(
        f"{report.place} is whole: went through {report.tokenized:,} images in {seconds:,.1f} s "
        f"({report.tokenized / seconds:,.1f} images/s)"
    )
    click.echo(
        f"next:  tokenstore info {report.place}   tokenstore verify {report.place}   "
        f"tokenstore show {report.place} 0 -o first.png"
    )
    if saving is not None:
        click.echo(saving.sentence)
