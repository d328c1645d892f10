"""`seit-train sample`: pictures that a masked model draws by itself."""

from pathlib import Path

import click

from tokenstore.choice import weights_options
from tokenstore.contact_sheet import grid_of, save_picture


@click.command("sample", epilog="Example: seit-train sample runs/mage -o drawn.png --count 36")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Picture to write, a sheet of all that was drawn.",
)
@click.option(
    "--count", default=16, show_default=True, type=click.IntRange(min=1), help="How many to draw."
)
@click.option(
    "--iterations",
    default=20,
    show_default=True,
    type=click.IntRange(min=1),
    help="Steps from nothing to a picture; more are slower and mostly better.",
)
@click.option(
    "--temperature",
    default=6.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Noise on what is settled first: more makes pictures more different, and worse.",
)
@click.option("--seed", default=0, show_default=True, help="Another one draws others.")
@weights_options
def command(
    run: Path,
    output: Path,
    count: int,
    iterations: int,
    temperature: float,
    seed: int,
    weights: str | None,
    config: str | None,
) -> None:
    """Draw pictures with the model of RUN, a run of `seit-train mtm`, by parallel decoding.

    Ranks are drawn first, as MAGE does it, and the tokenizer of the store makes pictures of them.
    """
    from seit_train.evaluate.samples import draw_pictures
    from seit_train.models.sampler import SamplerConfig

    sampler = SamplerConfig(iterations=iterations, temperature=temperature)
    pictures = draw_pictures(run, count, sampler, seed, weights, config)
    save_picture(grid_of(list(pictures), [str(number) for number in range(count)]), output)
    click.echo(str(output))
