"""`seit-train export`: a run's model as one file that runs elsewhere."""

import dataclasses
import json
from pathlib import Path

import click

from tokenstore.choice import weights_options


@click.command("export", epilog="Example: seit-train export runs/classify -o flowers.onnx")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="File to write: .onnx, or .pt2 for torch.export.",
)
@click.option("--ids", is_flag=True, help="The model alone, from ids of the tokenizer to logits.")
@weights_options
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def command(
    run: Path, output: Path, ids: bool, weights: str | None, config: str | None, as_json: bool
) -> None:
    """Write tokenizer and model of RUN, from pictures to logits, and check what was written."""
    from seit_train.evaluate.on_images import TokenizerFiles
    from seit_train.evaluate.trained import load_trained
    from seit_train.exporting import export

    trained = load_trained(run, "cpu")
    found = export(trained, output, ids, TokenizerFiles(weights, config))
    if as_json:
        click.echo(json.dumps({"file": str(output), **dataclasses.asdict(found)}))
        return
    click.echo(f"file        {output} ({found.bytes:,} bytes)")
    click.echo(f"takes       {found.input}")
    click.echo(f"gives       {found.output}")
    click.echo(f"difference  {found.difference:.3g} at most, between its logits and the run's")
