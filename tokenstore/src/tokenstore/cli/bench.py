"""`tokenstore bench`: how fast a store is here, and what other precisions do to its tokens."""

import json
import os
import platform
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

import tokenstore
from tokenstore.build.engine import available_cores
from tokenstore.build.plan import BuildOptions
from tokenstore.build.workers import decoding_pool
from tokenstore.choice import best_device, weights_options
from tokenstore.progress import WorkProgress
from tokenstore.rates import (
    ImageFiles,
    PrecisionRate,
    Rate,
    precision_rates,
    precisions_on,
    reading_rates,
)
from tokenstore.sources import open_source

if TYPE_CHECKING:
    from tokenstore.reader import Store


@click.command(
    "bench", epilog="Example: tokenstore bench photos.tokenstore --images photos/ --limit 32"
)
@click.argument("store")
@click.option("--split", "split_name", help="Which split is read; train if there is one.")
@click.option("--images", metavar="DIR", help="Tokenize these images, too, with STORE's tokenizer.")
@click.option(
    "--limit",
    metavar="N",
    default=64,
    show_default=True,
    type=click.IntRange(min=1),
    help="At most this many of the images.",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["fp32", "tf32", "bf16"]),
    help="Compare this arithmetic with fp32; may be repeated; all that the device has if absent.",
)
@weights_options
@click.option("--device", help="torch device for --images; cuda where there is one, else cpu.")
@click.option("--json", "as_json", is_flag=True, help="Print the rates as JSON.")
def command(
    store: str, split_name: str | None, images: str | None, as_json: bool, **how: Any
) -> None:
    """Measure how fast STORE is decoded, read at random and loaded on this machine.

    With --images also how fast images become tokens, from files to ids, and which share of the
    tokens is the same in other precisions as in fp32.
    """
    opened = tokenstore.open(store)
    name = split_name or ("train" if "train" in opened.splits else next(iter(opened.splits)))
    split = opened[name]
    reading, precisions = [], []
    with WorkProgress("reading", None, "rates") as progress:
        for rate in reading_rates(split):
            reading.append(rate)
            progress.advance()
    if images is not None:
        precisions = _tokenized(opened, images, how)
    facts = {
        "store": store,
        "split": name,
        "images": len(split),
        "machine": {
            "processor": platform.machine(),
            "cores": available_cores(),
            "load": round(os.getloadavg()[0], 2),
            "python": platform.python_version(),
        },
        "reading": [asdict(rate) for rate in reading],
        "tokenizing": [asdict(rate) for rate in precisions],
    }
    click.echo(json.dumps(facts) if as_json else "\n".join(_lines(facts, reading, precisions)))


def _tokenized(store: "Store", images: str, how: dict[str, Any]) -> list[PrecisionRate]:
    """The images at `images` in each precision; `how` holds the options of the command."""
    device, weights, config = how["device"] or best_device(), how["weights"], how["config"]
    source = open_source(images)
    items = [item for some in source.listing().splits.values() for item in some][: how["limit"]]
    asked = how["precisions"] or precisions_on(device)
    count = len(items) * len({"fp32", *asked})
    with (
        decoding_pool(available_cores()) as pool,
        WorkProgress("tokenizing", count) as progress,
    ):
        if not how["precisions"] and "tf32" not in asked:
            progress.say(f"tf32 is left out: it exists on cuda only, not on '{device}'")
        files = ImageFiles(source, items, pool, BuildOptions.batch_size)
        return list(
            precision_rates(
                lambda precision: store.tokenizer(device, weights, config, precision),
                asked,
                files,
                progress.advance,
            )
        )


def _lines(facts: dict[str, Any], reading: list[Rate], tokenized: list[PrecisionRate]) -> list[str]:
    lines = [f"{facts['store']}, {facts['split']}, {facts['images']:,} images"]
    for rate in reading:
        beside = "" if rate.ratio is None else f"{rate.ratio:>9.3g} of {rate.other}"
        lines.append(f"{rate.name:<28}{rate.images_per_second:>12,.0f} images/s{beside}")
    for found in tokenized:
        name = f"tokenizing files in {found.precision}"
        lines.append(
            f"{name:<28}{found.images_per_second:>12,.1f} images/s{found.ratio:>9.3g} of fp32, "
            f"{found.equal:.3%} of the tokens equal ({found.images:,} images)"
        )
    return lines
