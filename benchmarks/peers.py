"""Our store against the formats that token corpora are kept in: size, writing, reading, start-up.

    python -m benchmarks.peers TOKENS.npy                                      # prints the tables
    python -m benchmarks.peers TOKENS.npy --save benchmarks/results/peers.md   # keeps them

TOKENS is an array of ids [n, h, w] or a store. Each format writes the same tokens and labels, gives
them back, and only if all are equal is it timed: in turns, every format once a turn, the median of
the turns. Tokens are renamed by popularity beforehand, as SeiT's files and our store have them.
Readers deliver uint16 arrays; one process, files warm in the page cache. Every rate is told by the
wall clock and, in brackets, by the processor time of all threads, which other work on the machine
disturbs less. A start-up is a new process that opens the corpus and reads one image. Peers that are
not installed are named and left out: `pip install --group peers`. Which settings each is used with
is told in peer_formats.py and peer_libraries.py.
"""

import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

import tokenstore
from benchmarks.peer_formats import BATCH, Format, Grids, Labels, Reader
from benchmarks.peer_libraries import formats

CLASSES = 1000
SECONDS = 0.5  # of each rate in each turn
RATES = ("write", "sequential", "one", "batch")


class Corpus(NamedTuple):
    """What every format is given."""

    grids: Grids
    labels: Labels

    @property
    def entropy(self) -> float:
        """Order-0 entropy of the ids in bytes an image."""
        counts = np.bincount(self.grids.ravel())
        shares = counts[counts > 0] / counts.sum()
        return float(-(shares * np.log2(shares)).sum()) * self.grids[0].size / 8


class Rate(NamedTuple):
    """Images a second by the wall clock and by the processor time of all threads."""

    wall: float
    processor: float

    def __str__(self) -> str:
        """Both of them."""
        return f"{self.wall:,.0f} ({self.processor:,.0f})"


class Found(NamedTuple):
    """What was measured of a format: rates by column, seconds of a start-up."""

    rates: dict[str, Rate]
    start: float


class Written(NamedTuple):
    """A format whose files are there: folder, bytes an image, open reader."""

    format: Format
    folder: Path
    size: float
    reader: Reader


def load(place: str, images: int | None) -> Corpus:
    """Tokens of a .npy or of all splits of a store, renamed; the labels are drawn at random."""
    if place.endswith(".npy"):
        grids = np.load(place)
    else:
        store = tokenstore.open(place)
        read = [split.read(np.arange(len(split))).ranks for split in store.values()]
        grids = store.ids(np.concatenate(read))
    _, ids, counts = np.unique(grids[:images], return_inverse=True, return_counts=True)
    ranks = np.argsort(np.argsort(-counts, kind="stable")).astype(np.uint16)
    grids = ranks[ids].reshape(-1, *grids.shape[1:])
    return Corpus(grids, np.random.default_rng(0).integers(0, CLASSES, len(grids)))


def write(made: Format, folder: Path, corpus: Corpus) -> Written:
    """Write a corpus, compare what comes back, and leave it open.

    Raises:
        AssertionError: other ids come back.
    """
    made.write(folder, *corpus)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    reader = made.open(folder)
    some = np.random.default_rng(1).integers(0, len(corpus.grids), BATCH)
    assert np.array_equal(np.concatenate(list(reader.sequential())), corpus.grids), made.name
    assert np.array_equal(reader.batch(some), corpus.grids[some]), made.name
    assert np.array_equal(reader.one(int(some[0])), corpus.grids[some[0]]), made.name
    return Written(made, folder, size / len(corpus.grids), reader)


def rate(images: Iterable[int]) -> Rate:
    """Of a series of works, each of which tells its images; for `SECONDS` of processor time."""
    done, wall, processor = 0, time.perf_counter(), time.process_time()
    for some in images:
        done += some
        if time.process_time() - processor > SECONDS:
            break
    return Rate(done / (time.perf_counter() - wall), done / (time.process_time() - processor))


def start(written: Written, image: int) -> float:
    """Seconds of a process that opens the corpus and reads one image."""
    words = ["-m", "benchmarks.peer_libraries", written.format.name, written.folder, image]
    started = time.perf_counter()
    subprocess.run([sys.executable, *map(str, words)], check=True, capture_output=True)
    return time.perf_counter() - started


def turn(written: Written, corpus: Corpus, seed: int, folder: Path) -> Found:
    """Everything once."""
    reader, count = written.reader, len(corpus.grids)
    rng = np.random.default_rng(seed)
    singles = rng.integers(0, count, 100_000).tolist()
    batches = rng.integers(0, count, (4096, BATCH))
    rates = {
        "write": rate(written.format.write(folder, *corpus) or count for _ in range(1)),
        "sequential": rate(len(batch) for batch in reader.sequential()),
        "one": rate(reader.one(image).ndim - 1 for image in singles),
        "batch": rate(len(reader.batch(batch)) for batch in batches),
    }
    shutil.rmtree(folder)
    return Found(rates, start(written, singles[0]))


def measure(
    written: list[Written], corpus: Corpus, turns: int, folder: Path, say: Callable[[str], None]
) -> dict[str, Found]:
    """Medians by format."""
    seen: dict[str, list[Found]] = defaultdict(list)
    for number in range(turns):
        for one in written:
            seen[one.format.name].append(turn(one, corpus, number, folder / f"again-{number}"))
        say(f"turn {number + 1} of {turns}, load {os.getloadavg()[0]:.1f}")
    return {name: median(turns) for name, turns in seen.items()}


def median(turns: list[Found]) -> Found:
    """Of every number by itself."""
    rates = {
        column: Rate(
            *map(statistics.median, zip(*(one.rates[column] for one in turns), strict=True))
        )
        for column in RATES
    }
    return Found(rates, statistics.median(one.start for one in turns))


def table(written: list[Written], found: dict[str, Found], entropy: float) -> list[str]:
    """The measurements as a markdown table."""
    lines = [
        "| format | bytes an image | x order-0 | write | sequential | random one | random 256 "
        "| start, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in written:
        rates, seconds = found[one.format.name]
        shown = " | ".join(str(rates[column]) for column in RATES)
        size = f"{one.size:,.1f} | {one.size / entropy:.3f}"
        lines.append(f"| {one.format.name} | {size} | {shown} | {seconds:.2f} |")
    return lines


def ratios(written: list[Written], found: dict[str, Found]) -> list[str]:
    """Ours against the others: their bytes over ours, our rates over theirs."""
    lines = [
        "| against | bytes | write | sequential | random one | random 256 |",
        "|---|---|---|---|---|---|",
    ]
    ours = [one for one in written if one.format.name.startswith("tokenstore")]
    for mine in ours:
        for other in (one for one in written if one not in ours):
            a, b = found[mine.format.name].rates, found[other.format.name].rates
            shown = " | ".join(
                f"{a[column].wall / b[column].wall:.3g} "
                f"({a[column].processor / b[column].processor:.3g})"
                for column in RATES
            )
            names = f"{mine.format.name} : {other.format.name}"
            lines.append(f"| {names} | {other.size / mine.size:.3f} | {shown} |")
    return lines


@click.command()
@click.argument("tokens")
@click.option("--images", type=int, help="Take only so many.")
@click.option("--turns", default=5, show_default=True, help="Medians are over so many turns.")
@click.option("--only", multiple=True, help="Formats by name; all by default.")
@click.option("--save", type=click.Path(path_type=Path), help="Markdown file to write as well.")
def main(
    tokens: str, images: int | None, turns: int, only: tuple[str, ...], save: Path | None
) -> None:
    """Compare formats on TOKENS.

    Example: python -m benchmarks.peers tokens.npy --turns 5
    """
    corpus = load(tokens, images)
    there = {name: made for name, made in formats().items() if not only or name in only}
    absent = [name for name, made in there.items() if not made.there()]
    shape = "x".join(map(str, corpus.grids.shape[1:]))
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f} at the start, Python {platform.python_version()}; "
        f"{len(corpus.grids):,} grids of {shape}, {len(np.unique(corpus.grids)):,} codes, order-0 "
        f"entropy {corpus.entropy:.1f} bytes an image; median of {turns} turns, images a second.",
        f"Not installed: {', '.join(absent) or 'none'}.",
        "",
    ]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        written = []
        for number, (name, made) in enumerate(there.items()):
            if name not in absent:
                click.echo(f"writing and comparing {name}", err=True)
                written.append(write(made, folder / str(number), corpus))
        found = measure(written, corpus, turns, folder, lambda text: click.echo(text, err=True))
    lines += [*table(written, found, corpus.entropy), "", *ratios(written, found)]
    click.echo("\n".join(lines))
    if save:
        save.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
