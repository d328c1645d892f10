"""The demo: images -> tokens -> store -> training, by the commands that a user would type.

Draws a small corpus (or takes a folder of one's own images), builds and verifies a store, trains
masked token modelling and then a classifier from it, and ends with a table and a picture. It calls
the commands and draws; everything else is theirs. Safe to run again: each step finds what is done.

    python -m pipelines.demo.run                      # minutes, on two cores
    python -m pipelines.demo.run --images my_photos   # class folders train a classifier too
    python -m pipelines.demo.run --limit 16           # a trial
    python -m pipelines.demo.run --dry-run            # print the commands, run none

hours     0.09 on two idle cores of a Xeon with AMX, 0.16 with another training on one of them;
          no GPU. On other machines: not measured
disk      0.18 GB: images 0.02, store under 0.01, runs 0.15
expected  252.8 bytes an image in the store, masked loss 14.0% below the unigram entropy, top-1
          52.8% on 400 scenes (chance 12.5%), as measured for the README on 2026-11-21
source    this project; recipe cpu_tiny
"""

import json
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from pipelines.demo.own_images import NoImages, layout_of, original, with_val
from pipelines.demo.picture import Pair, pairs
from pipelines.demo.scenes import CLASSES, Corpus, write_corpus
from pipelines.prepare.links import OtherLayout
from pipelines.steps import TRIAL, TRIAL_BATCH, TRIAL_STEPS

SCENES = Corpus({"train": 250, "val": 50})
IMAGE_SIZE = 128
SEEN = {"mtm": 28_000, "classify": 42_000}  # images a training looks at: minutes on two cores
SMALL = 64  # images; fewer may not fill the recipe's batch
SHOWN = 6
SHORT = ("optim.warmup_steps=0", "loop.log_every=1")  # of a trial


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


def build_words(places: Places, corpus: Path, limit: int | None) -> list[tuple[str, ...]]:
    """The commands that make the store and check it."""
    few = ("--limit", str(limit)) if limit else ()
    size = ("--image-size", str(IMAGE_SIZE))
    build = ("tokenstore", "build", str(corpus), "-o", str(places.store), *size, *few)
    return [build, ("tokenstore", "verify", str(places.store))]


def train_words(places: Places, task: str, images: int, limit: int | None) -> tuple[str, ...]:
    """The command that trains a task, or goes on with it; a trial is two steps of it."""
    start = ("--init", str(places.run("mtm"))) if task == "classify" else ()
    if limit:
        batch = f"batch_size={min(TRIAL_BATCH, images)}"
        settings: tuple[str, ...] = ("epochs=null", f"steps={TRIAL_STEPS}", batch, *SHORT)
    else:
        few = (f"batch_size={images}",) if images < SMALL else ()
        settings = (f"epochs={SEEN[task] / images:.4g}", *few)
    run = ("seit-train", task, str(places.store), "-o", str(places.run(task)))
    return (*run, "--recipe", "cpu_tiny", *start, "--resume", *settings)


def judge_words(places: Places) -> tuple[str, ...]:
    """The command that judges the classifier."""
    store = ("--store", str(places.store))
    return ("seit-train", "evaluate", str(places.run("classify")), *store, "--json")


def best(run: Path) -> dict[str, float]:
    """The best evaluation on val of a run."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    evaluations = [line for line in map(json.loads, lines) if "val_loss" in line]
    return min(evaluations, key=lambda line: float(line["val_loss"]))


def print_commands(places: Places, images: Path | None, limit: int | None) -> None:
    """What would be run, a line each, without making anything.

    Raises:
        NoImages: `images` holds none that could be used.
    """
    if images:
        own = layout_of(images)
        corpus = images if own.has_val else places.corpus
        count, labelled = own.images, own.labelled
        if not own.has_val:
            click.echo(f"# {corpus}: links to {images}, some of each class as val")
    else:
        scenes = wanted_scenes(limit)
        corpus, labelled = places.corpus, True
        count = scenes.counts["train"] * len(CLASSES)
        counts = (f"--{split}={number}" for split, number in scenes.counts.items())
        click.echo(shlex.join(("python", "-m", "pipelines.demo.scenes", str(corpus), *counts)))
    count = min(count, limit or count)
    commands = build_words(places, corpus, limit)
    commands.append(train_words(places, "mtm", count, limit))
    if labelled:
        commands += [train_words(places, "classify", count, limit), judge_words(places)]
    for words in commands:
        click.echo(shlex.join(words))


def wanted_scenes(limit: int | None) -> Corpus:
    """The corpus to draw: all of it, or for a trial as few of each class as will do."""
    if not limit:
        return SCENES
    few = -(-limit // len(CLASSES))
    return replace(SCENES, counts={split: min(few, n) for split, n in SCENES.counts.items()})


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
@click.option("--limit", type=click.IntRange(min=2), help=TRIAL)
@click.option("--dry-run", is_flag=True, help="Print the commands, run none.")
def main(images: Path | None, output: Path | None, limit: int | None, dry_run: bool) -> None:
    """Images, tokens, store, training: the whole way in a few minutes.

    Example: python -m pipelines.demo.run --images my_photos
    """
    name = images.resolve().name if images else "scenes"
    trial = f"-first-{limit}" if limit else ""
    places = Places(output or Path("demo") / f"{name}{trial}")
    try:
        if dry_run:
            print_commands(places, images, limit)
            return
        corpus = with_val(images, places.corpus) if images else places.corpus
    except (NoImages, OtherLayout) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    if not images:
        count = write_corpus(corpus, wanted_scenes(limit))
        click.echo(f"drew {count:,} scenes into {corpus}", err=True)
    run(places, corpus, limit)


def run(places: Places, corpus: Path, limit: int | None) -> None:
    """From the images to the table and the picture."""
    started = time.monotonic()
    for words in build_words(places, corpus, limit):
        call(*words)
    facts: dict[str, Any] = json.loads(call("tokenstore", "info", str(places.store), "--json"))
    count = facts["splits"]["train"]["images"]
    call(*train_words(places, "mtm", count, limit))
    judged = None
    if facts["classes"]:
        call(*train_words(places, "classify", count, limit))
        judged = json.loads(call(*judge_words(places)))
    draw(places, corpus, facts)
    click.echo(f"\n{table(facts, best(places.run('mtm')), judged)}\n")
    if not judged:
        click.echo("no classifier: these images lie in no class folders, so they have no labels")
    if limit:
        click.echo("a trial of a few images and steps: its numbers say nothing about the method")
    click.echo(f"picture  {places.picture}\nstore    {places.store}\nruns     {places.folder}")
    click.echo(f"time     {time.monotonic() - started:,.0f} s")


if __name__ == "__main__":
    main()
