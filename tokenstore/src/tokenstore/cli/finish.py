"""`tokenstore finish`: the parts of a build become its store."""

import json
import time

import click

from tokenstore.build.engine import Running, available_cores
from tokenstore.build.run import finish_store
from tokenstore.operations.outcome import Outcome


@click.command("finish", epilog="Example: tokenstore finish imagenet.tokenstore --workers 16")
@click.argument("store", metavar="STORE")
@click.option(
    "--workers", type=click.IntRange(min=1), help="Shards made at a time; else one a core."
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(store: str, workers: int | None, as_json: bool) -> None:
    """Pack the parts that `tokenstore build --part I/N` made into STORE.

    All of them must be done (`tokenstore status`). It needs neither the images nor a tokenizer, and
    continues when it was interrupted.
    """
    started = time.monotonic()
    report = finish_store(store, Running(workers or available_cores()))
    outcome = Outcome(report, started)
    if as_json:
        click.echo(json.dumps(outcome.facts()))
    else:
        click.echo("\n".join(outcome.lines("packed")))
