"""`seit-train tokenadapt`: learn geometry on tokens, from pictures and their tokenizer."""

from pathlib import Path
from typing import Any

import click

from seit_train.cli.main import training_report
from tokenstore.choice import TokenizerChoice, tokenizer_options


@click.command(
    "tokenadapt",
    epilog="Example: seit-train tokenadapt photos/ -o runs/adapt --image-size 128 --limit 500",
)
@click.argument("images", metavar="IMAGES")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "-o", "--output", required=True, metavar="RUN", help="Folder that the run is written to."
)
@tokenizer_options
@click.option(
    "--pairs",
    type=click.Path(path_type=Path),
    metavar="STORE",
    help="Store of pairs to make, or to use again.  [default: RUN.pairs.tokenstore]",
)
@click.option(
    "--views",
    default=8,
    show_default=True,
    type=click.IntRange(min=7),
    help="Pairs of an image: one of each kind, the others mixed.",
)
@click.option("--limit", type=click.IntRange(min=20), help="Images to use at most.")
@click.option("--recipe", metavar="NAME|FILE", help="Settings to start from.  [default: cpu_tiny]")
@click.option(
    "--resume", is_flag=True, help="Continue the run in RUN; begin it where there is none."
)
def command(
    images: str,
    overrides: tuple[str, ...],
    output: str,
    pairs: Path | None,
    views: int,
    limit: int | None,
    recipe: str | None,
    resume: bool,
    **choice: Any,
) -> None:
    """Train a TokenAdapt for a tokenizer on IMAGES; 100 of them already work.

    Pictures are tokenized before and after an augmentation, and the model learns to give the
    second ids from the first. Use it in a recipe: augment: [{token_adapt: {weights: RUN}}].
    """
    from seit_train.evaluate.adapt_sheets import draw_sheets
    from seit_train.launch import TrainRequest, requested_config, train
    from seit_train.pairs import PairRequest, pair_store

    place = pairs or Path(f"{output.rstrip('/')}.pairs.tokenstore")
    request = TrainRequest("tokenadapt", str(place), Path(output), recipe, overrides, None, resume)
    requested_config(request)  # a mistake in it is told before the pictures are read
    tokenizer = TokenizerChoice(**choice).load()
    store = pair_store(PairRequest(images, views, limit), tokenizer, place)
    outcome = train(request)
    if outcome.is_first:
        sheets = draw_sheets(outcome.run.folder, store, tokenizer)
        click.echo("\n".join(f"drawn  {sheet}" for sheet in sheets))
        next_command = f"seit-train evaluate {output} --store {place}"
        click.echo(training_report(outcome, next_command))
