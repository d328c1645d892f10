"""`seit-train evaluate`: how good a run is, on a store or on pictures."""

import json
import re
from pathlib import Path
from typing import Any

import click

from tokenstore.choice import weights_options
from tokenstore.errors import UsageError


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


class NumberList(click.ParamType):
    """`"0..3" -> (0, 1, 2, 3)`, `"1,2,8" -> (1, 2, 8)`."""

    name = "N,N|N..N"

    def __init__(self, most: int) -> None:
        """Take whole numbers up to `most`."""
        self.most = most

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Read one; raises UsageError where it is neither form."""
        del ctx
        parts = re.fullmatch(r"(\d+)\.\.(\d+)", str(value))
        words = str(value).split(",")
        if parts is not None:
            words = [str(number) for number in range(int(parts[1]), int(parts[2]) + 1)]
        if not words or not all(word.isdecimal() and int(word) <= self.most for word in words):
            option = "" if param is None else f"{param.opts[0]} "
            raise UsageError(
                f"{option}'{value}' is no list of whole numbers up to {self.most}, such as 1,2,4 "
                "or 0..8"
            )
        return tuple(int(word) for word in words)


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
@click.option(
    "--attack",
    type=click.Choice(["apgd-ce", "apgd-dlr", "greedy-ids"]),
    help="Attack pictures by Auto-PGD, or replace ids greedily (classifiers only).",
)
@click.option(
    "--eps",
    type=NumberList(255),
    metavar=NumberList.name,
    default="1,2,4,8",
    show_default=True,
    help="Greatest changes of a pixel in an apgd attack, of 255.",
)
@click.option(
    "--quantiser",
    type=click.Choice(["straight-through", "left-out"]),
    default="straight-through",
    show_default=True,
    help="How apgd gets past the nearest code: by its gradient's stand-in, or without codes.",
)
@click.option("--steps", default=100, show_default=True, help="Gradients of an apgd attack.")
@click.option(
    "--budget",
    type=NumberList(4096),
    metavar=NumberList.name,
    default="1,2,4,8",
    show_default=True,
    help="How many ids greedy-ids may replace.",
)
@click.option("--sample", type=click.IntRange(min=1), help="Draw so many pictures of --images.")
@click.option("--seed", default=0, show_default=True, help="Of what is drawn.")
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
    attack: str | None,
    eps: tuple[int, ...],
    quantiser: str,
    steps: int,
    budget: tuple[int, ...],
    sample: int | None,
    seed: int,
    weights: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """Evaluate the best checkpoint of RUN."""
    if (store is None) == (images is None):
        raise UsageError("give either --store STORE or --images DIR: what should RUN be judged on?")
    if images is None and (class_map or all_classes or corruptions or sample):
        raise UsageError(
            "--class-map, --all-classes, --corruption and --sample go with --images DIR"
        )
    from seit_train.evaluate.adversarial import PictureAttack
    from seit_train.evaluate.class_map import Scope
    from seit_train.evaluate.corruptions import parse_corruption
    from seit_train.evaluate.judged import Asked, judge_folder, judge_store
    from seit_train.evaluate.on_images import TokenizerFiles
    from seit_train.evaluate.tables import written
    from seit_train.evaluate.trained import load_trained

    substitutions = budget if attack == "greedy-ids" else None
    apgd = None
    if attack is not None and substitutions is None:
        apgd = PictureAttack(attack.removeprefix("apgd-"), eps, quantiser, steps, seed)  # type: ignore[arg-type]
    kinds = tuple(parse_corruption(text) for text in corruptions)
    asked = Asked(split, Scope(class_map, all_classes, sample, seed), kinds, apgd, substitutions)
    trained = load_trained(run)
    if images is None:
        metrics = judge_store(trained, str(store), asked)
    else:
        metrics = judge_folder(trained, images, TokenizerFiles(weights, config), asked)
    click.echo(json.dumps(metrics) if as_json else written(metrics))
