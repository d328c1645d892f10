"""How fast is this machine? Tokenizing, building, random reads, batches and the loader.

    python -m benchmarks.rates                                  # prints a table
    python -m benchmarks.rates --save benchmarks/results/X.md   # keeps it, with the machine

Images are drawn scenes and the tokenizer is pocket, so everything runs anywhere; `tokenstore bench`
measures a store and images of one's own. Each rate is the best of a few repetitions: what the
machine can do when nothing else runs.
"""

import os
import platform
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import numpy as np
import torch

import tokenstore
from pipelines.demo.scenes import CLASSES, Corpus, write_corpus
from tokenstore.build.engine import Running, available_cores
from tokenstore.build.plan import BuildOptions
from tokenstore.build.run import build_store
from tokenstore.preprocess import Preprocess
from tokenstore.rates import Rate, best_seconds, reading_rates
from tokenstore.tokenizers import load_tokenizer


def tokenizing_rates() -> Iterator[Rate]:
    """Encoding and decoding alone, images in memory."""
    for size in (128, 256):
        rule = Preprocess("center-crop", (size, size))
        tokenizer = load_tokenizer("pocket", preprocess=rule)
        images = np.random.default_rng(0).integers(0, 256, (32, size, size, 3)).astype(np.uint8)
        ids = tokenizer.encode(images)
        encode = best_seconds(lambda t=tokenizer, i=images: t.encode(i))  # type: ignore[misc]
        decode = best_seconds(lambda t=tokenizer, i=ids: t.decode(i))  # type: ignore[misc]
        yield Rate(f"pocket encodes {size}x{size}", 32 / encode)
        yield Rate(f"pocket decodes {size}x{size}", 32 / decode)


def store_rates(folder: Path, scenes: int) -> Iterator[Rate]:
    """Building a store of drawn scenes, then reading it."""
    corpus = Corpus({"train": -(-scenes // len(CLASSES))})
    count = write_corpus(folder / "scenes", corpus)
    options = BuildOptions("pocket", image_size=(128, 128))
    started = time.perf_counter()
    build_store(str(folder / "scenes"), str(folder / "store"), options, Running(available_cores()))
    seconds = time.perf_counter() - started
    yield Rate("building from JPEGs at 128x128", count / seconds)
    yield from reading_rates(tokenstore.open(folder / "store")["train"])


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
        "| what | images/s | beside |",
        "|---|---|---|",
    ]
    click.echo("\n".join(lines))
    with tempfile.TemporaryDirectory() as folder:
        for rates in (tokenizing_rates(), store_rates(Path(folder), scenes)):
            for rate in rates:
                beside = "" if rate.ratio is None else f"{rate.ratio:.3g} of {rate.other}"
                lines.append(f"| {rate.name} | {rate.images_per_second:,.0f} | {beside} |")
                click.echo(lines[-1])
    if save:
        save.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
