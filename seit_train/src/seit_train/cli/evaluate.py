"""`seit-train evaluate`: how good a run is, on a store or on pictures."""

import json
from pathlib import Path

import click

from tokenstore.choice import weights_options
from tokenstore.errors import UsageError


@click.command("evaluate", epilog="Example: seit-train evaluate runs/first --images photos --json")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--store", help="Evaluate on a split of this store.")
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Evaluate on the pictures of this folder, through the store's own tokenizer.",
)
@click.option("--split", help="Which split.  [default: val]")
@weights_options
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
def command(
    run: Path,
    store: str | None,
    images: Path | None,
    split: str | None,
    weights: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """Evaluate the best checkpoint of RUN."""
    if (store is None) == (images is None):
        raise UsageError("give either --store STORE or --images DIR: what should RUN be judged on?")
    from seit_train.evaluate.on_images import evaluate_images
    from seit_train.evaluate.on_pictures import evaluate_pictures
    from seit_train.evaluate.on_store import evaluate_store
    from seit_train.evaluate.trained import load_trained

    trained = load_trained(run)
    if images is not None and not trained.task.reads_ranks:
        metrics = evaluate_pictures(trained, images, split)
    elif images is not None:
        metrics = evaluate_images(trained, images, split, weights, config)
    else:
        metrics = evaluate_store(trained, str(store), split or "val")
    if as_json:
        click.echo(json.dumps(metrics))
    else:
        for name, value in metrics.items():
            for row, number in value.items() if isinstance(value, dict) else [("", value)]:
                click.echo(f"{' '.join([name, row]).strip():<16} {number:.6g}")
