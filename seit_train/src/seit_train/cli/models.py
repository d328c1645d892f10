"""`seit-train models`: the models of the papers, and how large they are here."""

import json

import click


@click.command("models", epilog="Example: seit-train models --json")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(as_json: bool) -> None:
    """List the models of the papers, with their parameters and the settings that make them.

    Counted for ImageNet-1k as SeiT stores it: 391 codes, 28x28 of them, 1,000 classes. `trained` is
    all that a run moves; `kept` is what is used afterwards, without heads and decoders. Any other
    size is a matter of the keys model.width, depth and heads.
    """
    from seit_train.catalogue import sizes

    rows = [(*entry, *size) for entry, size in sizes()]
    if as_json:
        names = ("name", "task", "settings", "source", "trained", "kept")
        click.echo(json.dumps([dict(zip(names, row, strict=True)) for row in rows]))
        return
    click.echo(_LINE.format("name", "task", "trained", "kept", "source"))
    for name, task, _, source, trained, kept in rows:
        counts = (f"{number / 1e6:,.1f} M" for number in (trained, kept))
        click.echo(_LINE.format(name, task, *counts, source))


_LINE = "{:<12} {:<11} {:>10} {:>10}  {}"
