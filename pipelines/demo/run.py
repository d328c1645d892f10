"""The demo: images -> tokens -> store -> training, by the commands that a user would type.

Draws a small corpus (or takes a folder of one's own images), builds and verifies a store, trains
masked token modelling and then a classifier from it, and ends with a table and a picture. It calls
the commands and draws; everything else is theirs. Safe to run again: each step finds what is done.

    python -m pipelines.demo.run                      # minutes, on two cores
    python -m pipelines.demo.run --images my_photos   # class folders train a classifier too
"""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from pipelines.demo.own_images import NoImages, original, with_val
from pipelines.demo.picture import Pair, pairs
from pipelines.demo.scenes import Corpus, write_corpus

SCENES = Corpus({"train": 250, "val": 50})
IMAGE_SIZE = 128
SEEN = {"mtm": 28_000, "classify": 42_000}  # images a training looks at: minutes on two cores
SMALL = 64  # images; fewer may not fill the recipe's batch
SHOWN = 6


@dataclass(frozen=True)
class Places:
    """Where the demo keeps its things, all below one folder."""

    folder: Path

    @property
    def corpus(self) -> Path:
        """Images by split."""
        return self.folder / "images"

    @property
    def store(self) -> Path:
        """The token store."""
        return self.folder / "images.tokenstore"

    @property
    def picture(self) -> Path:
        """Originals beside what the store gives back."""
        return self.folder / "original-and-decoded.png"

    def run(self, task: str) -> Path:
        """The run of a task."""
        return self.folder / task


def call(program: str, *words: str | Path) -> str:
    """Run one of our commands, show it, and give what it prints.

    Its progress and its errors go to standard error as they are; an error ends the demo.
    """
    shown = " ".join(map(str, (program, *words)))
    click.secho(f"\n$ {shown}", err=True, bold=True)
    command = [str(Path(sys.executable).with_name(program)), *map(str, words)]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if ran.returncode:
        click.echo(f"the demo stops: `{shown}` ended with exit code {ran.returncode}", err=True)
        sys.exit(ran.returncode)
    return ran.stdout


def build(places: Places, corpus: Path) -> dict[str, Any]:
    """Build and verify the store; what `tokenstore info` says of it."""
    call("tokenstore", "build", corpus, "-o", places.store, "--image-size", str(IMAGE_SIZE))
    call("tokenstore", "verify", places.store)
    facts: dict[str, Any] = json.loads(call("tokenstore", "info", places.store, "--json"))
    return facts


def train(places: Places, task: str, images: int, *more: str | Path) -> dict[str, float]:
    """Train one task, or go on with it; its best evaluation on val."""
    run = places.run(task)
    words = (task, places.store, "-o", run, "--recipe", "cpu_tiny", *more, "--resume")
    settings = [f"epochs={SEEN[task] / images:.4g}"]
    if images < SMALL:
        settings.append(f"batch_size={images}")
    call("seit-train", *words, *settings)
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    evaluations = [line for line in map(json.loads, lines) if "val_loss" in line]
    return min(evaluations, key=lambda line: float(line["val_loss"]))


def draw(places: Places, corpus: Path, facts: dict[str, Any]) -> None:
    """Write the picture: some images of val beside what comes back from the store."""
    size = facts["splits"]["val"]["bytes_an_image"]["records"]

    def pair(sample: int) -> Pair:
        decoded = places.folder / f"decoded-{sample}.png"
        words = ("show", places.store, str(sample), "--split", "val", "-o", decoded)
        _, _, caption = call("tokenstore", *words).rstrip("\n").partition(" ")
        key = caption.rpartition("  ")[0] if facts["classes"] else caption
        file = original(corpus, "val", key)
        return Pair(file, decoded, f"{key}: {file.stat().st_size:,} -> {size:,.0f} bytes")

    with ThreadPoolExecutor(2) as pool:  # most of the time is two programs starting
        shown = list(pool.map(pair, range(min(SHOWN, facts["splits"]["val"]["images"]))))
    pairs(shown).save(places.picture)
    for drawn in shown:
        drawn.decoded.unlink()


def table(facts: dict[str, Any], mtm: dict[str, float], judged: dict[str, float] | None) -> str:
    """What the demo came to, as lines of text."""
    split = facts["splits"]["train"]
    size = split["bytes_an_image"]
    saved = 1 - mtm["val_loss"] / mtm["val_unigram"]
    lines = [
        ("images to train on", f"{split['images']:,}", ""),
        ("bytes an image, file", f"{size['source']:,.0f}", ""),
        ("bytes an image, store", f"{size['total']:,.1f}", f"{split['total_of_source']:.1%} of it"),
        ("  of these the tokens", f"{size['records']:,.1f}", "with a check each"),
        ("  order-0 entropy", f"{facts['entropy_bytes_an_image']:,.1f}", "of the tokens"),
        ("MTM loss on val", f"{mtm['val_loss']:.3f}", "nats a token"),
        ("  unigram entropy", f"{mtm['val_unigram']:.3f}", f"the loss is {saved:.1%} below it"),
    ]
    if judged:
        chance = 1 / len(facts["classes"])
        lines += [
            ("top-1 on val", f"{judged['top1']:.1%}", f"{judged['n']:,.0f} images"),
            ("  chance", f"{chance:.1%}", f"{len(facts['classes'])} classes"),
        ]
    return "\n".join(f"{what:<24}{value:>10}  {note}".rstrip() for what, value, note in lines)


@click.command()
@click.option("--images", type=click.Path(path_type=Path), help="Your own; else drawn scenes.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Else demo/NAME.")
def main(images: Path | None, output: Path | None) -> None:
    """Images, tokens, store, training: the whole way in a few minutes.

    Example: python -m pipelines.demo.run --images my_photos
    """
    started = time.monotonic()
    name = images.resolve().name if images else "scenes"
    places = Places(output or Path("demo") / name)
    try:
        corpus = with_val(images, places.corpus) if images else places.corpus
    except NoImages as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    if not images:
        click.echo(f"drawing {write_corpus(corpus, SCENES):,} scenes into {corpus}", err=True)
    facts = build(places, corpus)
    count = facts["splits"]["train"]["images"]
    mtm = train(places, "mtm", count)
    judged = None
    if facts["classes"]:
        train(places, "classify", count, "--init", places.run("mtm"))
        run = ("evaluate", places.run("classify"), "--store", places.store, "--json")
        judged = json.loads(call("seit-train", *run))
    draw(places, corpus, facts)
    click.echo(f"\n{table(facts, mtm, judged)}\n")
    if not judged:
        click.echo("no classifier: these images lie in no class folders, so they have no labels")
    click.echo(f"picture  {places.picture}\nstore    {places.store}\nruns     {places.folder}")
    click.echo(f"time     {time.monotonic() - started:,.0f} s")


if __name__ == "__main__":
    main()
