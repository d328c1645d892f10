"""`tokenstore report`: one HTML page that tells and shows what a store is."""

import json
from pathlib import Path

import click

from tokenstore.choice import weights_options
from tokenstore.errors import UsageError
from tokenstore.progress import WorkProgress
from tokenstore.report import SAMPLE, ReportOptions, report_on
from tokenstore.sources.base import printable
from tokenstore.storage import open_storage


@click.command(
    "report",
    epilog="Example: tokenstore report photos.tokenstore --images photos/ -o report.html",
)
@click.argument("store")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="Page to write.",
)
@click.option(
    "--images",
    metavar="DIR",
    help="The images STORE was built from: they stand beside their reconstructions, with PSNR.",
)
@click.option("--split", help="Which split is measured and shown; train if it holds images.")
@click.option(
    "--sample",
    metavar="N",
    default=SAMPLE,
    show_default=True,
    type=click.IntRange(min=1),
    help="Measure on at most this many images of the split.",
)
@weights_options
@click.option("--json", "as_json", is_flag=True, help="Print what was measured as JSON, too.")
def command(
    store: str,
    output: Path,
    images: str | None,
    split: str | None,
    sample: int,
    weights: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """Write a page about STORE: what it is, what it costs in every form, how it looks.

    The page is one file without links to others. Codecs learn their tables on three quarters of the
    sample and are measured on the last one. Without the tokenizer's weights it has no
    reconstructions and says so.
    """
    # Only now, since listing the commands must not need it.
    from tokenstore.report.page import facts, render

    _check_output(output, store)
    options = ReportOptions(split, images, sample, weights, config)
    with WorkProgress("measuring", None, "steps") as progress:
        report = report_on(store, options, progress.reach)
    name = _name(store)
    open_storage(output.absolute().parent).create(output.name, render(report, name).encode())
    if as_json:
        click.echo(json.dumps(facts(report, name)))
    if report.pictures.detail:
        click.echo(f"without reconstructions: {report.pictures.detail}", err=True)
    click.echo(f"written to {output}", err=True)


def _check_output(output: Path, store: str) -> None:
    """Refuse, before any work, a page that cannot be written or would make the store unsound."""
    from tokenstore.report.templates import refuse_missing_folder

    refuse_missing_folder(output)
    folder = output.resolve().parent
    if "://" not in store and Path(store).resolve() in (folder, *folder.parents):
        raise UsageError(
            f"'{output}' lies inside '{store}', which holds only what its manifest lists. "
            "Write the page beside the store."
        )


def _name(store: str) -> str:
    """What the page calls the store: the last part of its place, so that no path gets about."""
    if "://" in store:
        return printable(store.rstrip("/").rpartition("/")[2])
    return printable(Path(store).resolve().name)
