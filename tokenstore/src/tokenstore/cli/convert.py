"""`tokenstore convert`: a store in another form, or some of its samples."""

import json
import time
from pathlib import Path
from typing import Any

import click

from tokenstore.build.engine import Running, available_cores
from tokenstore.operations.convert import ConvertOptions, convert_store
from tokenstore.operations.outcome import Outcome
from tokenstore.operations.selection import Selection

INTEGER = click.IntRange(min=1)


@click.command(
    "convert", epilog="Example: tokenstore convert photos.tokenstore -o small --first 1000"
)
@click.argument("store")
@click.option("-o", "--output", metavar="NEW", required=True, help="Folder to make.")
@click.option("--codec", help="How ranks become bytes; that of STORE if absent.")
@click.option(
    "--shard-size", default=16_384, show_default=True, type=INTEGER, help="Images of one shard."
)
@click.option("--no-keys", is_flag=True, help="Do not keep the names of the images.")
@click.option(
    "--split", "splits", metavar="NAME", multiple=True, help="Take this split only; repeatable."
)
@click.option(
    "--class",
    "--classes",
    "classes",
    metavar="NAME[,NAME...]",
    multiple=True,
    help="Take these classes only; repeatable. Labels then count the classes taken.",
)
@click.option(
    "--list",
    "keys",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Take the images with these keys only: a text file, one a line.",
)
@click.option("--first", metavar="N", type=INTEGER, help="Take the first N of each split only.")
@click.option("--workers", type=INTEGER, help="Threads; one a core if absent.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(store: str, output: str, as_json: bool, **given: Any) -> None:
    """Write STORE anew: with another codec or shard size, without keys, or some of its samples.

    All conditions hold together, and samples keep their order. The vocabulary stays, so models
    trained on STORE fit the new one; its counts become those of the samples taken. An interrupted
    conversion continues when the same line is run again.
    """
    started = time.monotonic()
    classes = tuple(given["classes"])
    selection = Selection(given["splits"], classes, given["keys"], given["first"])
    options = ConvertOptions(
        given["codec"], given["shard_size"], keys=not given["no_keys"], selection=selection
    )
    running = Running(given["workers"] or available_cores())
    outcome = Outcome(convert_store(store, output, options, running), started)
    if as_json:
        click.echo(json.dumps(outcome.facts()))
    else:
        click.echo("\n".join(outcome.lines("converted")))
