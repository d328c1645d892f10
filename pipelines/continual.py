"""Continual learning: figure 4 of SeiT, tokens against pixels in a memory of so many bytes.

    python -m pipelines.continual photos                                     # here, on a CPU
    python -m pipelines.continual imagenet100 --tasks 10 --memory 1000000,10000000 \
        --tokenizer vit-vqgan --weights vitvq.ckpt --image-size 256 data.replay.passes=50

photos/ holds train/ and val/ with class folders. The classes come in tasks, one after the other;
half of every batch is drawn from a reservoir of what was seen before (experience replay), which
holds as many records as fit: of tokens, or JPEG files. The same reduced ResNet-18 learns from both.
Drawn is the accuracy over all classes after the last task, over the bytes; forgetting stands in the
table. There is no trial: a task is learnt whole.

hours     on 2,850 photos of 224x224, tokens at 128x128, with data.replay.passes=2, on cores that
          others kept busy: 0.07 to 0.08 a run of tokens, 0.17 to 0.20 one of pixels
disk      store and about 10 MB a run
expected  on them, 10 classes, one seed, top-1 with 30,000 and 300,000 bytes of memory, after 5
          tasks: tokens 21.2 and 27.2%, pixels 14.7 and 21.2%; after 2: 30.7, 34.2; 27.0, 28.5%.
          ImageNet-100: not measured by this project
source    SeiT (arXiv 2303.11114), figure 4: ImageNet-100, 10 tasks; recipe continual_tiny
"""

from itertools import product
from pathlib import Path

import click

from pipelines.drawing import pyplot
from pipelines.steps import ROOT, Request, Step, pipeline, run

RECIPE = "continual_tiny"
STORE = "images.tokenstore"


class Numbers(click.ParamType):
    """Whole numbers with commas between them."""

    name = "N,N,..."

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """`"2,5" -> (2, 5)`."""
        try:
            return tuple(int(word) for word in str(value).split(","))
        except ValueError:
            self.fail(f"'{value}' is no list of whole numbers such as 2,5", param, ctx)


def steps(
    request: Request, images: Path, tasks: tuple[int, ...], memory: tuple[int, ...], seeds: int
) -> list[Step]:
    """A store, a run for each combination, and the figure of all."""
    place = images.absolute()
    size = () if request.image_size else ("--image-size", "128")
    found = [*request.build(place, STORE, *size)]
    runs = []
    for count, seed, room in product(tasks, range(seeds), memory):
        for kind, task, data in (("tokens", "classify", STORE), ("pixels", "pixels", str(place))):
            name = f"runs/{kind}-{count}-{room}-{seed}"
            more = (f"epochs={count}", f"data.replay.memory={room}", f"seed={seed}")
            found.append(request.train(task, data, name, RECIPE, *more))
            runs.append(name)
    python = ("env", f"PYTHONPATH={ROOT}", "python", "-m", "pipelines.continual_figure")
    figure = (*python, *runs, "-o", "continual")
    return [*found, Step("figure", figure, "continual.png")]


@click.command()
@click.argument("images", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--tasks", default="5,2", show_default=True, type=Numbers(), help="How many.")
@click.option(
    "--memory", default="30000,300000", show_default=True, type=Numbers(), help="How many bytes."
)
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(min=1))
@pipeline("continual", tokenizer="pocket", without=("limit",))
def main(
    request: Request, images: Path, tasks: tuple[int, ...], memory: tuple[int, ...], seeds: int
) -> None:
    """Continual learning with a memory of bytes: tokens against pixels.

    Example: python -m pipelines.continual photos --tasks 5 --memory 100000
    """
    if not request.dry_run:
        pyplot()  # refuses before the trainings, not after them
    run(request, steps(request, images, tasks, memory, seeds))


if __name__ == "__main__":
    main()
