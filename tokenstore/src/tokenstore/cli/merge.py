"""`tokenstore merge`: several stores of one tokenizer into one."""

import json
import time

import click

from tokenstore.build.engine import Running, available_cores
from tokenstore.operations.merge import MergeOptions, merge_stores
from tokenstore.operations.outcome import Outcome

INTEGER = click.IntRange(min=1)


@click.command("merge", epilog="Example: tokenstore merge a.tokenstore b.tokenstore -o both")
@click.argument("stores", nargs=-1, required=True)
@click.option("-o", "--output", metavar="STORE", required=True, help="Folder to make.")
@click.option("--codec", help="How ranks become bytes; that of the first store if absent.")
@click.option(
    "--shard-size", default=16_384, show_default=True, type=INTEGER, help="Images of one shard."
)
@click.option("--workers", type=INTEGER, help="Threads; one a core if absent.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(
    stores: tuple[str, ...],
    output: str,
    codec: str | None,
    shard_size: int,
    workers: int | None,
    as_json: bool,
) -> None:
    """Make one store of STORES, which stay as they are.

    They must be of one tokenizer, resizing and grid. Samples follow each other in the order of the
    stores, split by split; the vocabulary is ordered anew, by the counts of all; labels go by the
    names of the classes. Of two samples of a split with one key the later is a reject. An
    interrupted merge continues when the same line is run again.
    """
    started = time.monotonic()
    options = MergeOptions(codec, shard_size)
    running = Running(workers or available_cores())
    outcome = Outcome(merge_stores(stores, output, options, running), started)
    if as_json:
        click.echo(json.dumps(outcome.facts()))
    else:
        click.echo("\n".join(outcome.lines("merged")))
