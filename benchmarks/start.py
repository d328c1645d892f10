"""How long until the first batch, and until the first one after a resume, with a million images?

    python -m benchmarks.start                                   # prints a table
    python -m benchmarks.start --save benchmarks/results/X.md    # keeps it

The store has a million small grids, since what a start costs grows with images and shards, not
with tokens. Each start is that of a new `tokenstore.open` in a process that has loaded a batch of
another store before: imports and compiled kernels are there. Files are warm in the page cache,
residency is `stream`, which fills nothing. Processor time is told beside the wall clock's.
"""

import os
import platform
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np

import tokenstore
from benchmarks.grid_store import write_grids
from tokenstore.loader import TokenLoader

BATCH = 256
STARTS = 15
GRID = (4, 4)
CODES = 391


def started(folder: Path, state: dict[str, Any] | None) -> tuple[float, float, dict[str, Any]]:
    """Wall and processor ms until the first batch, and a state of this store."""
    wall, processor = time.perf_counter(), time.process_time()
    loader = TokenLoader(tokenstore.open(folder)["train"], batch_size=BATCH, residency="stream")
    if state is not None:
        loader.load_state_dict(state)
    batches = iter(loader)
    next(batches)
    spent = time.perf_counter() - wall, time.process_time() - processor
    return 1e3 * spent[0], 1e3 * spent[1], loader.state_dict()


def write(folder: Path, images: int) -> None:
    """A store of random grids."""
    rng = np.random.default_rng(0)
    grids = rng.integers(0, CODES, (images, *GRID)).astype(np.uint16)
    write_grids(folder, "gzip", grids, rng.integers(0, 1000, images))


def measured(folder: Path, images: int) -> list[str]:
    """Rows of the table: a start, and resumes from anywhere."""
    state, rng = started(folder, None)[2], np.random.default_rng(1)
    lines = []
    for name in ("first batch", "first batch after a resume"):
        spent = []
        for _ in range(STARTS):
            there = {"epoch": 3, "position": int(rng.integers(images - BATCH))}
            spent.append(started(folder, None if name == "first batch" else state | there)[:2])
        walls, processors = zip(*spent, strict=True)
        lines.append(
            f"| {name} | {statistics.median(walls):.1f} | {min(walls):.1f} | {max(walls):.1f} "
            f"| {statistics.median(processors):.1f} |"
        )
    return lines


@click.command()
@click.option("--images", default=1_000_000, show_default=True, help="Images of the store.")
@click.option("--save", type=click.Path(path_type=Path), help="Markdown file to write as well.")
def main(images: int, save: Path | None) -> None:
    """Measure starts.

    Example: python -m benchmarks.start --images 1000000
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "small", 4096)
        write(folder / "large", images)
        started(folder / "small", None)
        shards = len(tokenstore.open(folder / "large")["train"].entry.shards)
        rows = measured(folder / "large", images)
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}, Python {platform.python_version()}; {images:,} images in "
        f"{shards} shards, batches of {BATCH}, `python -m benchmarks.start --images {images}`",
        "",
        "| what | median ms | least | most | median processor ms |",
        "|---|---|---|---|---|",
        *rows,
    ]
    click.echo("\n".join(lines))
    if save:
        save.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
