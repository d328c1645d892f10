"""`tokenstore verify`: every promise of a store, checked."""

import json
from dataclasses import asdict

import click

from tokenstore.progress import WorkProgress
from tokenstore.verify import verify_store


@click.command("verify", epilog="Example: tokenstore verify photos.tokenstore")
@click.argument("store")
@click.option(
    "--sample",
    metavar="N",
    type=click.IntRange(min=1),
    help="A quick look: decode only N images of each split, and do not hash the shards.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def command(ctx: click.Context, store: str, sample: int | None, as_json: bool) -> None:
    """Check every promise of STORE; exit code 1 and the findings if one is broken."""
    with WorkProgress("verifying", None) as progress:
        findings = verify_store(store, sample=sample, progress=progress.reach)
    if as_json:
        click.echo(json.dumps({"store": store, "findings": [asdict(f) for f in findings]}))
    else:
        for finding in findings:
            click.echo(str(finding))
        click.echo(f"{store}: {len(findings)} findings" if findings else f"{store}: sound")
    ctx.exit(1 if findings else 0)
