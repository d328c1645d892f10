"""`seit-train evaluate`: how good a run is, on a store or on pictures."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenstore.choice import weights_options
from tokenstore.errors import UsageError

if TYPE_CHECKING:
    from seit_train.evaluate.gallery import Change, Gallery
    from seit_train.evaluate.trained import Trained


class SeveralCorruptions(click.Command):
    """Takes several values behind one `--corruption`, as in `--corruption a:1-5 b:1-5`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the option before each of them."""
        repeated: list[str] = []
        follows = False
        for word in args:
            if follows and repeated[-1] != "--corruption" and re.fullmatch(r"\w+:[\d,-]+", word):
                repeated.append("--corruption")
            elif not follows or repeated[-1] != "--corruption":
                follows = word == "--corruption"
            repeated.append(word)
        return super().parse_args(ctx, repeated)


@click.command(
    "evaluate",
    cls=SeveralCorruptions,
    epilog="Example: seit-train evaluate runs/first --images photos --json",
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--store", help="Evaluate on a split of this store.")
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Evaluate on the pictures of this folder, through the store's own tokenizer.",
)
@click.option("--split", help="Which split.  [default: val]")
@click.option(
    "--class-map",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Which classes of the run the folders stand for, as JSON or CSV (docs/evaluation.md).",
)
@click.option(
    "--all-classes",
    is_flag=True,
    help="Let the run answer with any of its classes, also with those that no folder stands for.",
)
@click.option(
    "--corruption",
    "corruptions",
    metavar="NAME[:LEVELS]",
    multiple=True,
    help="Corrupt the pictures as ImageNet-C does, e.g. gaussian_noise:1-5; may be repeated.",
)
@click.option("--seed", default=0, show_default=True, help="Of what corruptions draw.")
@weights_options
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
def command(
    run: Path,
    store: str | None,
    images: Path | None,
    split: str | None,
    class_map: Path | None,
    all_classes: bool,
    corruptions: tuple[str, ...],
    seed: int,
    weights: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """Evaluate the best checkpoint of RUN."""
    if (store is None) == (images is None):
        raise UsageError("give either --store STORE or --images DIR: what should RUN be judged on?")
    if images is None and (class_map or all_classes or corruptions):
        raise UsageError("--class-map, --all-classes and --corruption go with --images DIR")
    from seit_train.evaluate.class_map import Scope
    from seit_train.evaluate.corruptions import parse_corruption
    from seit_train.evaluate.on_images import TokenizerFiles, open_gallery
    from seit_train.evaluate.on_pictures import open_pixel_gallery
    from seit_train.evaluate.on_store import evaluate_store
    from seit_train.evaluate.robust import judge_corrupted
    from seit_train.evaluate.tables import written
    from seit_train.evaluate.trained import load_trained

    asked = [parse_corruption(text) for text in corruptions]
    trained, scope = load_trained(run), Scope(class_map, all_classes)
    if images is None:
        metrics = evaluate_store(trained, str(store), split or "val")
    else:
        gallery: Gallery
        if trained.task.reads_ranks:
            files = TokenizerFiles(weights, config)
            gallery = open_gallery(trained, images, split, files, scope)
        else:
            gallery = open_pixel_gallery(trained, images, split, scope)

        def judged(change: "Change | None", what: str) -> dict[str, Any]:
            return _judge(trained, gallery, change, what)

        metrics = judged(None, "evaluating")
        if asked:
            best = trained.task.best_metric.removeprefix("val_")
            metrics["corruptions"] = judge_corrupted(judged, asked, best, seed)
    click.echo(json.dumps(metrics) if as_json else written(metrics))


def _judge(
    trained: "Trained", gallery: "Gallery", change: "Change | None", what: str
) -> dict[str, Any]:
    """The metrics of a run on pictures, with those of masks where it learnt from masks."""
    from seit_train.evaluate.gallery import judge_gallery
    from seit_train.evaluate.on_images import TokenGallery
    from seit_train.evaluate.on_masks import evaluate_masks

    if trained.task.uses_masks and isinstance(gallery, TokenGallery):
        return evaluate_masks(trained, gallery, change, what)
    return judge_gallery(trained, gallery, change, what)
