"""`tokenstore append`: more images into a store that is there."""

import json
import time
from pathlib import Path
from typing import Any

import click

from tokenstore.build.engine import Running, available_cores
from tokenstore.choice import best_device, weights_options
from tokenstore.operations.append import AppendOptions, append_images
from tokenstore.operations.outcome import Outcome

INTEGER = click.IntRange(min=1)
OPTIONS = (
    "split new_classes skip_known weights config device source classes masks ignore_index "
    "image_column label_column batch_size part_size limit"
)


@click.command("append", epilog="Example: tokenstore append photos.tokenstore new_photos/")
@click.argument("store")
@click.argument("images", metavar="INPUT")
@click.option(
    "--split",
    metavar="NAME",
    help="Split that gets the images, where INPUT has no train/, val/ or test/; else train.",
)
@click.option(
    "--new-classes",
    is_flag=True,
    help="Add classes that STORE does not know behind those it has; else they are an error.",
)
@click.option(
    "--skip-known",
    is_flag=True,
    help="Pass over images whose key STORE has already; else each becomes a reject.",
)
@weights_options
@click.option(
    "--device",
    callback=lambda context, option, value: value or best_device(),
    help="torch device; cuda where there is one, else cpu.",
)
@click.option("--source", metavar="KIND", help="Kind of input; else found by looking at it.")
@click.option(
    "--classes",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Class names of INPUT (JSON); else its classes.json, else its class folders.",
)
@click.option(
    "--masks", metavar="DIR", help="Folder of the masks of INPUT; else found beside its images."
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
    "--batch-size", default=32, show_default=True, type=INTEGER, help="Images encoded at once."
)
@click.option("--workers", type=INTEGER, help="Decoding threads; one a core if absent.")
@click.option(
    "--part-size",
    default=16_384,
    show_default=True,
    type=INTEGER,
    help="Images of one part of the work, and of one new shard.",
)
@click.option("--limit", type=INTEGER, help="At most this many images of each split of INPUT.")
@click.option("--strict", is_flag=True, help="Make the first reject an error.")
@click.option(
    "--max-rejects",
    metavar="N",
    type=click.IntRange(min=0),
    help="Stop when more images than this are rejected.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(store: str, images: str, as_json: bool, **given: Any) -> None:
    """Tokenize the images of INPUT into a new version of STORE.

    Tokenizer, resizing, precision, codec and order are those of STORE. Ids that are new come at the
    end of its vocabulary, and no file of STORE is changed. Labels go by the names of the classes;
    an image whose key STORE has already is a reject. Interrupted, STORE is as it was, and the same
    line continues.
    """
    started = time.monotonic()
    options = AppendOptions(**{name: given[name] for name in OPTIONS.split()})
    workers = given["workers"] or available_cores()
    running = Running(workers, given["strict"], given["max_rejects"])
    outcome = Outcome(append_images(store, images, options, running), started)
    if as_json:
        click.echo(json.dumps(outcome.facts()))
    else:
        version = outcome.report.manifest.version
        click.echo("\n".join(outcome.lines(f"appended as version {version}")))
