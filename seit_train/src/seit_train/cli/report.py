"""`seit-train report`: one HTML page about one or more runs."""

import json
from pathlib import Path

import click

from tokenstore.choice import weights_options
from tokenstore.progress import WorkProgress


@click.command("report", epilog="Example: seit-train report runs/mtm runs/classify -o report.html")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="Page to write.",
)
@click.option(
    "--store",
    "stores",
    multiple=True,
    metavar="STORE",
    help="Where the store of a run is now; may be repeated.  [default: where it was]",
)
@click.option("--split", default="val", show_default=True, help="Which split to look at.")
@click.option(
    "--sample",
    metavar="N",
    default=1024,
    show_default=True,
    type=click.IntRange(min=1),
    help="Predict at most this many images of the split.",
)
@weights_options
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON, too.")
def command(
    runs: tuple[Path, ...],
    output: Path,
    stores: tuple[str, ...],
    split: str,
    sample: int,
    weights: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """Write a page about each RUN: how it went, how it differs from the others, what it sees.

    The page is one file without links to others. A run without checkpoint, or whose store is not at
    hand, gets its curves and a line that says why there is no more.
    """
    from seit_train.report import ReportOptions, report_on
    from seit_train.report.page import facts, render
    from tokenstore.report.templates import refuse_missing_folder
    from tokenstore.storage import open_storage

    refuse_missing_folder(output)
    options = ReportOptions(stores, split, sample, weights, config)
    with WorkProgress("looking", None, "steps") as progress:
        report = report_on(runs, options, progress.reach)
    open_storage(output.absolute().parent).create(output.name, render(report).encode())
    if as_json:
        click.echo(json.dumps(facts(report)))
    for record, look in zip(report.records, report.looks, strict=True):
        for detail in look.details:
            click.echo(f"{record.name}: {detail}", err=True)
    click.echo(f"written to {output}", err=True)
