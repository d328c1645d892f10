"""How fast is this machine? Tokenizing, building, random reads, batches and the loader.

    python -m benchmarks.rates                                  # prints a table
    python -m benchmarks.rates --save benchmarks/results/X.md   # keeps it, with the machine

Images are drawn scenes and the tokenizer is pocket, so everything runs anywhere. Each rate is the
best of a few repetitions: what the machine can do when nothing else runs.
"""

import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch

import tokenstore
from pipelines.demo.scenes import CLASSES, Corpus, write_corpus
from tokenstore.build.local import available_cores
from tokenstore.build.plan import BuildOptions
from tokenstore.build.run import Running, build_store
from tokenstore.loader import TokenLoader
from tokenstore.preprocess import Preprocess
from tokenstore.tokenizers import load_tokenizer

BATCH = 256
REPETITIONS = 3


class Rate(NamedTuple):
    """One line of the table."""

    what: str
    value: float
    unit: str


def best_seconds(work: Callable[[], object]) -> float:
    """Shortest of a few runs, after one that warms up."""
    work()
    seconds = []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def tokenizing_rates() -> Iterator[Rate]:
    """Encoding and decoding alone, images in memory."""
    for size in (128, 256):
        rule = Preprocess("center-crop", (size, size))
        tokenizer = load_tokenizer("pocket", preprocess=rule)
        images = np.random.default_rng(0).integers(0, 256, (32, size, size, 3)).astype(np.uint8)
        ids = tokenizer.encode(images)
        encode = best_seconds(lambda t=tokenizer, i=images: t.encode(i))  # type: ignore[misc]
        decode = best_seconds(lambda t=tokenizer, i=ids: t.decode(i))  # type: ignore[misc]
        yield Rate(f"pocket encodes {size}x{size}", 32 / encode, "images/s")
        yield Rate(f"pocket decodes {size}x{size}", 32 / decode, "images/s")


def store_rates(folder: Path, scenes: int) -> Iterator[Rate]:
    """Building a store of drawn scenes, then reading it."""
    corpus = Corpus({"train": -(-scenes // len(CLASSES))})
    count = write_corpus(folder / "scenes", corpus)
    options = BuildOptions("pocket", image_size=(128, 128))
    started = time.perf_counter()
    build_store(str(folder / "scenes"), str(folder / "store"), options, Running(available_cores()))
    seconds = time.perf_counter() - started
    yield Rate("building from JPEGs at 128x128", count / seconds, "images/s")
    train = tokenstore.open(folder / "store")["train"]
    rng = np.random.default_rng(0)
    some = rng.integers(count, size=500).tolist()
    seconds = best_seconds(lambda: [train[i] for i in some])
    yield Rate("reading single samples at random", len(some) / seconds, "images/s")
    batches = [rng.integers(count, size=BATCH) for _ in range(20)]
    seconds = best_seconds(lambda: [train.read(batch) for batch in batches])
    yield Rate(f"reading batches of {BATCH} at random", 20 * BATCH / seconds, "images/s")
    loader = TokenLoader(train, batch_size=BATCH, seed=0, device="cpu", residency="stream")
    seconds = best_seconds(lambda: [batch.ranks for batch in loader])
    yield Rate("loader, streaming to the CPU", count / seconds, "images/s")


@click.command()
@click.option("--scenes", default=2048, show_default=True, help="Images of the store to read.")
@click.option("--save", type=click.Path(path_type=Path), help="Markdown file to write as well.")
def main(scenes: int, save: Path | None) -> None:
    """Measure this machine.

    Example: python -m benchmarks.rates --scenes 2048
    """
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"`python -m benchmarks.rates --scenes {scenes}`",
        "",
        "| what | rate |",
        "|---|---|",
    ]
    click.echo("\n".join(lines))
    with tempfile.TemporaryDirectory() as folder:
        for rates in (tokenizing_rates(), store_rates(Path(folder), scenes)):
            for rate in rates:
                lines.append(f"| {rate.what} | {rate.value:,.0f} {rate.unit} |")
                click.echo(lines[-1])
    if save:
        save.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
