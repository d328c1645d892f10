"""`seit-train tokenadapt`: learn geometry on tokens, from pictures and their tokenizer."""

from pathlib import Path
from typing import Any

import click

from seit_train.cli.main import training_report
from tokenstore.choice import TokenizerChoice, tokenizer_options

SMALL_FILE = "token_adapt.safetensors"


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
@click.option(
    "--fresh",
    is_flag=True,
    help="Warp the pictures anew at each step: slower, for few images and many epochs.",
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
    fresh: bool,
    limit: int | None,
    recipe: str | None,
    resume: bool,
    **choice: Any,
) -> None:
    """Train a TokenAdapt for a tokenizer on IMAGES; 100 of them already work.

    Pictures are tokenized before and after an augmentation, and the model learns to give the
    second ids from the first. In the end it prints, for each kind of augmentation on held-out
    images, nats a token, the share of ids that are exactly right, and that of warping the grid of
    ids itself. Use it in a recipe: augment: [{token_adapt: {weights: RUN}}]; the weights alone, in
    half precision, are in RUN/token_adapt.safetensors. For pocket one comes with this package:
    {token_adapt: {}}.
    """
    from seit_train.augment.token_adapt import save_small
    from seit_train.evaluate.adapt_sheets import draw_sheets
    from seit_train.launch import TrainRequest, requested_config, train
    from seit_train.pairs import PairRequest, keep_pictures, pair_store

    place = pairs or Path(f"{output.rstrip('/')}.pairs.tokenstore")
    pictures = place.with_name(f"{place.name}.pictures.npy")
    if choice["weights"] is not None:
        overrides += (f"weights={choice['weights']}",)
    if fresh:
        overrides += (f"fresh={{pictures: {pictures}, views: {views}}}",)
    request = TrainRequest("tokenadapt", str(place), Path(output), recipe, overrides, None, resume)
    requested_config(request)  # a mistake in it is told before the pictures are read
    tokenizer = TokenizerChoice(**choice).load()
    asked = PairRequest(images, views, limit)
    store = pair_store(asked, tokenizer, place)
    if fresh:
        keep_pictures(asked, tokenizer, pictures)
    outcome = train(request)
    if outcome.is_first:
        save_small(outcome.run.folder, outcome.run.folder / SMALL_FILE)
        sheets = draw_sheets(outcome.run.folder, store, tokenizer)
        click.echo("\n".join(f"drawn  {sheet}" for sheet in sheets))
        click.echo(kinds_report(outcome.run.folder))
        next_command = f"seit-train evaluate {output} --store {place}"
        click.echo(training_report(outcome, next_command))


def kinds_report(run: Path) -> str:
    """A line for each kind of warp, as the run last judged itself; nothing without a val split."""
    from seit_train.augment.geometry import KINDS
    from seit_train.metrics import read_metrics

    judged = [line for line in read_metrics(run) if "val_loss" in line]
    if not judged:
        return "no val split to judge by"
    last, lines = judged[-1], ["held-out        nats  exact  ids warped as they are"]
    for kind in KINDS:
        figures = [last.get(f"val_{name}_{kind}") for name in ("loss", "exact", "naive")]
        if None not in figures:
            nats, exact, naive = figures
            lines.append(f"{kind:<14} {nats:5.2f} {exact:6.1%} {naive:6.1%}")
    return "\n".join(lines)
