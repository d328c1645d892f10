"""Accuracy over bytes, for any folder of images: figure 1 and tables 2, 4 and B.5 of SeiT.

    python -m pipelines.storage_tradeoff photos                           # here, on a CPU
    python -m pipelines.storage_tradeoff photos --scores cscores.csv      # one family more
    python -m pipelines.storage_tradeoff imagenet100 --recipe mine.yaml --steps 250000 --gpus 8

The same ViT, with as many steps and the same batches, on

    strong, weak   all pixels, with the recipe's RandAugment and mixing, and with crops and mirror
                   images alone
    uniform        random shares of the pixels, class by class
    cscore         shares with the highest scores of their class, with --scores (docs/sampling.md)
    quality        all pixels as JPEGs of lower quality
    resolution     all pixels as smaller JPEGs, quality 75
    tokens         all tokens of each --tokens, and random shares of those of the first
    pretrained     a tenth of the pixels, after training on shares of all tokens or pixels first

and a table and a picture at the end, accuracy.md and accuracy.png. Families of pixels are augmented
as --augment says. val is never degraded: models on pixels see its files, models on tokens its
tokens. Bytes are those of the train files that a run reads, or of the store (the tokenizer apart);
top-1 is that of the last step, no checkpoint is chosen by val. Shares of tokens and of pixels
are as large, but not of the same images.

hours     2,850 photos of 224 pixels, a ViT of 0.9 M weights, 445 steps of 32, one thread of a Xeon:
          about a minute of processor time for a run on tokens, a minute and a half on pixels; 24
          runs with --scores. ImageNet: not measured
disk      the corpus once more for every quality and resolution, smaller; a run has the size of
          its weights, six times
expected  on ImageNet-1k with ViT-B (SeiT, figure 1): tokens 74.0 top-1 at 1.36 GB, 70.2 at 1.1,
          59.7 at 0.5; all pixels take 140 GB. Here in small: docs/log.md, 2026-11-21
source    SeiT (arXiv 2303.11114); recipe cpu_tiny, sections classify and pixels
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import click

from pipelines.drawing import pyplot
from pipelines.steps import ROOT, TRIAL_BATCH, Request, Step, pipeline, run

RECIPE = "cpu_tiny"
WEAK = ("rand_augment=null", "mixing=[]")
SHARES = ("0.5", "0.2", "0.1", "0.03")
QUALITIES = ("50", "10", "1")
SIDES = ("128", "64", "32")  # pixels of the shorter side
PRETRAINED, FINE_TUNED = ("0.2",), "0.1"
COARSE = ("vqgan-f16-1024", "vqgan-f16-16384", "llamagen-16")  # one code for 16x16 pixels
OWN_WEIGHTS = {"pocket": 3_990_320}  # bytes of what comes with the package
NEVER = 1_000_000  # epochs


class Tokens(NamedTuple):
    """A tokenizer, the side of the pictures it sees, and its weights if they are not its own."""

    name: str
    size: int
    weights: str | None

    @property
    def told(self) -> str:
        """What has to be kept beside its store, once for all stores."""
        size = Path(self.weights).stat().st_size if self.weights else OWN_WEIGHTS.get(self.name)
        return f"{self.name}: " + ("not counted" if size is None else f"{size:,} bytes")


class TokensSpec(click.ParamType):
    """`pocket:128`, or with a file of weights `pocket:128=mine.safetensors`."""

    name = "NAME:SIZE[=WEIGHTS]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Tokens:
        """Read one; a usage error where it is none, or its file is not there."""
        if isinstance(value, Tokens):
            return value
        spec, _, weights = value.partition("=")
        name, _, size = spec.partition(":")
        if not name or not size.isdecimal():
            self.fail(f"'{value}' is no NAME:SIZE[=WEIGHTS], such as pocket:128", param, ctx)
        if weights and not Path(weights).is_file():
            self.fail(f"there is no file '{weights}'", param, ctx)
        return Tokens(name, int(size), str(Path(weights).absolute()) if weights else None)


@dataclass(frozen=True)
class Asked:
    """What a user asks of this pipeline, beside what all have.

    Attributes:
        request: what all have.
        steps: of each training.
        augment: of families of pixels: weak, or strong as the recipe has it.
        tokens: the tokenizers.
        scores: file of scores by key, or None.
    """

    request: Request
    steps: int
    augment: str
    tokens: tuple[Tokens, ...]
    scores: Path | None

    def train(self, task: str, corpus: str, name: str, share: str, *more: str) -> Step:
        """A training of a share of a corpus, as long as all others."""
        least = min(1.0, TRIAL_BATCH / self.request.limit) if self.request.limit else 0.0
        fraction = max(float(share), least)
        settings = (
            f"steps={self.steps}",
            f"optim.warmup_steps={self.steps // 20}",
            f"loop.eval_every_epochs={NEVER}",  # the end is always evaluated
            f"loop.save_every_epochs={1 / fraction:g}",
            f"data.fraction={fraction:g}",
        )
        return self.request.train(task, corpus, f"runs/{name}", RECIPE, *more, *settings)

    def pixels(self, name: str, corpus: str = "images", share: str = "1", *more: str) -> Step:
        """A training on pixels, augmented as all families are."""
        return self.train(
            "pixels", corpus, name, share, *more, *(WEAK if self.augment == "weak" else ())
        )


@dataclass(frozen=True)
class Point:
    """One point of the picture.

    Attributes:
        line: that it belongs to.
        label: what it says beside it.
        steps: that make it, its run last.
        run: whose accuracy it shows.
        stored: the runs that say what has to be stored.
    """

    line: str
    label: str
    steps: tuple[Step, ...]
    run: str
    stored: tuple[str, ...]


Family = Callable[[Asked], Iterator[Point]]


def _point(line: str, label: str, *steps: Step) -> Point:
    """A point of one training."""
    return Point(line, label, steps, steps[-1].name, (steps[-1].name,))


def strong(asked: Asked) -> Iterator[Point]:
    """All pixels, augmented as the recipe has it."""
    yield _point(
        "pixels, strong augmentation", "all", asked.train("pixels", "images", "strong", "1")
    )


def weak(asked: Asked) -> Iterator[Point]:
    """All pixels, with crops and mirror images."""
    step = asked.train("pixels", "images", "weak", "1", *WEAK)
    yield _point("pixels, weak augmentation", "all", step)


def uniform(asked: Asked) -> Iterator[Point]:
    """Random shares of the pixels."""
    for share in SHARES:
        step = asked.pixels(f"uniform-{share}", share=share)
        yield _point("pixels, random share", share, step)


def cscore(asked: Asked) -> Iterator[Point]:
    """The highest scores; none without --scores."""
    for share in SHARES if asked.scores else ():
        scores = f"data.scores={asked.scores}"
        step = asked.pixels(f"cscore-{share}", "images", share, scores)
        yield _point("pixels, highest scores", share, step)


def quality(asked: Asked) -> Iterator[Point]:
    """JPEGs of lower quality."""
    for number in QUALITIES:
        corpus = f"images-quality-{number}"
        written = _reencoded(asked.request, corpus, "--quality", number)
        yield _point(
            "JPEG quality", f"q{number}", written, asked.pixels(f"quality-{number}", corpus)
        )


def resolution(asked: Asked) -> Iterator[Point]:
    """Smaller pictures."""
    for side in SIDES:
        corpus = f"images-side-{side}"
        written = _reencoded(asked.request, corpus, "--side", side)
        step = asked.pixels(f"side-{side}", corpus)
        yield _point("resolution", f"{side} px", written, step)


def tokens(asked: Asked) -> Iterator[Point]:
    """All tokens of each tokenizer, and shares of them."""
    for one in asked.tokens:
        for share in ("1", *(SHARES if one == asked.tokens[0] else ())):
            label = "all" if share == "1" else share
            steps = _on_tokens(asked, one, share)
            yield _point(f"tokens, {one.name} of {one.size} px", label, *steps)


def pretrained(asked: Asked) -> Iterator[Point]:
    """A tenth of the pixels, after shares of the tokens or of the pixels."""
    for share in ("1", *PRETRAINED):
        first = _on_tokens(asked, asked.tokens[0], share)
        last = _fine_tuned(asked, f"tokens-{share}-pixels", first[-1])
        stored = (first[-1].name, last.name)
        label = "all" if share == "1" else share
        yield Point("tokens, then a tenth of the pixels", label, (*first, last), last.name, stored)
    for share in PRETRAINED:
        whole = asked.pixels(f"uniform-{share}", share=share)
        last = _fine_tuned(asked, f"pixels-{share}-pixels", whole)
        # The tenth is a part of every larger share of the same seed: it is stored already.
        yield Point("pixels, then a tenth", share, (whole, last), last.name, (whole.name,))


FAMILIES: dict[str, Family] = {
    f.__name__: f for f in (tokens, weak, strong, uniform, quality, resolution, cscore, pretrained)
}


def _reencoded(request: Request, folder: str, *how: str) -> Step:
    """The corpus with other JPEGs in train."""
    words = ("env", f"PYTHONPATH={ROOT}", "python", "-m", "pipelines.prepare.reencoded", "images")
    limit = ("--limit", str(request.limit)) if request.limit else ()
    return Step(f"write-{folder}", (*words, "-o", folder, *how, *limit), f"{folder}/complete")


def _fine_tuned(asked: Asked, name: str, first: Step) -> Step:
    """A training on a tenth of the pixels that starts from another one."""
    return asked.pixels(name, "images", FINE_TUNED, "--init", f"runs/{first.name}")


def _on_tokens(asked: Asked, tokens: Tokens, share: str) -> tuple[Step, ...]:
    """Build the store of a tokenizer, and train on a share of it."""
    request = replace(
        asked.request, tokenizer=tokens.name, image_size=str(tokens.size), weights=tokens.weights
    )
    store, stride = f"{tokens.name}-{tokens.size}", 16 if tokens.name in COARSE else 8
    # 2x2 windows at stride 1, as SeiT has them for coarse tokens, where stride 2 leaves few.
    stem = ("model.stem=conv2x2-stride1",) if stride == 16 or tokens.size < 16 * stride else ()
    corpus = f"{store}.tokenstore"
    step = asked.train("classify", corpus, f"{store}-{share}", share, *stem)
    return (*request.build("images", corpus), step)


def drawn(asked: Asked, points: list[Point]) -> Step:
    """The table and the picture of all points."""
    title = " ".join(
        (Path(asked.request.recipe or RECIPE).name, f"steps={asked.steps}", *asked.request.settings)
    )
    apart = "; ".join(dict.fromkeys(tokens.told for tokens in asked.tokens))
    words = ["env", f"PYTHONPATH={ROOT}", "python", "-m", "pipelines.accuracy_over_bytes"]
    words += ["-o", "accuracy", "--title", title, "--note", f"Tokenizers apart: {apart}."]
    for point in points:
        runs = (f"runs/{point.run}", ",".join(f"runs/{name}" for name in point.stored))
        words += ["--point", point.line, point.label, *runs]
    return Step("accuracy", tuple(words), "accuracy.png")


def steps(asked: Asked, images: Path, families: tuple[str, ...]) -> list[Step]:
    """From a folder of images to the picture; a step that several points need comes once."""
    points = [point for name in FAMILIES if name in families for point in FAMILIES[name](asked)]
    needed = {step.name: step for point in points for step in point.steps}
    prepared = asked.request.prepare("own", images.absolute())
    return [prepared, *needed.values(), drawn(asked, points)]


@click.command()
@click.argument("images", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--family", "families", multiple=True, type=click.Choice(list(FAMILIES)))
@click.option(
    "--tokens",
    multiple=True,
    default=["pocket:128"],
    show_default=True,
    type=TokensSpec(),
    help="A tokenizer and the side of the pictures it sees; several times.",
)
@click.option(
    "--scores",
    type=click.Path(exists=True, dir_okay=False, path_type=Path, resolve_path=True),
    help="CSV file: key,score of every picture of train.",
)
@click.option("--augment", default="weak", show_default=True, type=click.Choice(["weak", "strong"]))
@click.option("--steps", default=1000, show_default=True, type=click.IntRange(min=20))
@pipeline("storage_tradeoff", without=("tokenizer", "weights", "image_size"))
def main(request: Request, images: Path, families: tuple[str, ...], **asked: Any) -> None:
    """Accuracy against bytes: pixels, fewer, worse and smaller ones, and tokens.

    Example: python -m pipelines.storage_tradeoff photos --family tokens --family weak --dry-run
    """
    if not request.dry_run:
        pyplot()  # refuses before the trainings, not after them
    run(request, steps(Asked(request, **asked), images, families or tuple(FAMILIES)))


if __name__ == "__main__":
    main()
