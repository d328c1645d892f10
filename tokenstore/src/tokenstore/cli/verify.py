"""`tokenstore verify`: every promise of a store, checked."""

import json
from dataclasses import asdict

import click

from tokenstore.progress import WorkProgress
from tokenstore.verify import examine


@click.command("verify", epilog="Example: tokenstore verify photos.tokenstore --sample 1000")
@click.argument("store")
@click.option(
    "--sample",
    metavar="N",
    type=click.IntRange(min=1),
    help="A quick look: read only N images, spread over the splits, and do not hash the shards.",
)
@click.option(
    "--seed", default=0, show_default=True, help="Draws the images of --sample; others see others."
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def command(ctx: click.Context, store: str, sample: int | None, seed: int, as_json: bool) -> None:
    """Check every promise of STORE; exit code 1 and all findings if one is broken."""
    with WorkProgress("verifying", None) as progress:
        found = examine(store, sample=sample, seed=seed, progress=progress.reach)
    findings = found.findings
    if as_json:
        facts = {"images": found.images, "checked": found.checked, "not_checked": found.not_checked}
        told = {"store": store, "findings": [asdict(finding) for finding in findings], **facts}
        click.echo(json.dumps(told))
    else:
        for finding in findings:
            click.echo(str(finding))
        click.echo(f"{store}: {len(findings)} findings" if findings else f"{store}: sound")
        if found.not_checked:
            read = f"read {found.checked:,} of {found.images:,} images"
            click.echo(f"a quick look: {read}; not checked: {', '.join(found.not_checked)}")
    ctx.exit(1 if findings else 0)
