"""`tokenstore status`: how far a build has come."""

import json

import click

from tokenstore.build.status import BuildStatus, build_status

MOST = 10  # names that are told


@click.command("status", epilog="Example: tokenstore status photos.tokenstore")
@click.argument("store", metavar="STORE")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(store: str, as_json: bool) -> None:
    """Tell what of a build is done, missing and rejected, how fast it goes and how long still.

    STORE is where the store will be; the build may be running, here or elsewhere, or interrupted.
    """
    status = build_status(store)
    if as_json:
        facts = {
            "store": status.place,
            "whole": status.whole,
            "parts": status.parts,
            "parts_done": status.parts - len(status.missing),
            "missing": list(status.missing),
            "images": status.images,
            "images_done": status.done,
            "rejects": [reject._asdict() for reject in status.rejects],
            "parts_packed": status.packed,
            "images_per_second": status.rate,
            "seconds_left": status.seconds_left,
        }
        click.echo(json.dumps(facts))
    else:
        _tell(status)


def _tell(status: BuildStatus) -> None:
    if status.whole:
        click.echo(f"{status.place} is whole: {status.images:,} images in {status.parts:,} shards")
        return
    done = status.parts - len(status.missing)
    share = status.done / max(1, status.images)
    click.echo(f"done     {done:,} of {status.parts:,} parts, {status.packed:,} packed")
    click.echo(f"images   {status.done:,} of {status.images:,} ({share:.1%})")
    click.echo(f"missing  {_some(status.missing)}")
    click.echo(f"rejects  {_some([f'{r.path}: {r.reason}' for r in status.rejects])}")
    if status.rate is not None and status.seconds_left is not None:
        click.echo(f"rate     {status.rate:,.1f} images/s, {status.seconds_left:,.0f} s left")
    if not status.missing:
        click.echo(f"next:  tokenstore finish {status.place}")


def _some(names: tuple[str, ...] | list[str]) -> str:
    told = "; ".join(names[:MOST]) + ("; ..." if len(names) > MOST else "")
    return f"{len(names):,}" + (f"  ({told})" if told else "")
