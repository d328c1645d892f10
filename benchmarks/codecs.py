"""How small and how fast is each codec on these tokens? All of them side by side, in one run.

    python -m benchmarks.codecs photos.tokenstore                     # a split of a store
    python -m benchmarks.codecs tokens.npy --held-out split.npz       # grids [n, h, w] of ids
    python -m benchmarks.codecs iid --save benchmarks/results/X.md    # 391 codes of 8.54 bit

Ids become ranks by their popularity in the images that the tables are fitted on; sizes are those of
the others. An image's bytes are its payload, and in the next column what a store adds for its check
and index. Order-0 is the cross-entropy of the held-out tokens under the histogram of the fitted.
Speed is of batches on one core, in processor time (a busy machine slows it all the same), best of
a few runs; "threads" is `decode_many` on all cores, in wall time.
"""

import os
import platform
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from numpy.typing import NDArray

import tokenstore
from tokenstore import registry
from tokenstore.codecs.base import Codec, CodecSpec, Ranks, cores

CHECK_AND_INDEX = 6  # bytes a record: CRC-16 and the index entry
HELD_OUT = 7  # every 7th image, where nothing else says which
MOST_IMAGES = 20_000  # of a store
TIMED_IMAGES = 4096
REPETITIONS = 5


class Tokens(NamedTuple):
    """Ranks of images to fit on and of held-out images, [n, *grid]; how they were parted."""

    fitted: Ranks
    held_out: Ranks
    codes: int
    parted: str

    @property
    def entropy(self) -> float:
        """Order-0 cross-entropy of a held-out image in bytes."""
        counts = np.bincount(self.fitted.ravel(), minlength=self.codes) + 0.5
        bits = -np.log2(counts / counts.sum())[self.held_out]
        return float(bits.mean()) * self.held_out[0].size / 8


def drawn_grids() -> NDArray[np.int64]:
    """1,000 grids of 32 x 32 independent ids: 391 codes, p(i) ~ 1 / (i + c), 8.54 bits a token."""
    low, high, ids = 1e-2, 1e5, np.arange(391)
    shares = np.ones(391) / 391
    for _ in range(60):
        middle = float(np.sqrt(low * high))
        shares = 1 / (ids + middle)
        shares /= shares.sum()
        if -(shares * np.log2(shares)).sum() < 8.54:
            low = middle
        else:
            high = middle
    return np.random.default_rng(0).choice(391, (1000, 32, 32), p=shares)


def load(tokens: str, split: str, held_out: Path | None) -> Tokens:
    """Grids of a store, of a file or drawn, parted and renamed by popularity."""
    if tokens == "iid":
        grids = drawn_grids()
    elif tokens.endswith(".npy"):
        grids = np.load(tokens).astype(np.int64)
    else:
        samples = tokenstore.open(tokens)[split]
        numbers = np.unique(np.linspace(0, len(samples) - 1, MOST_IMAGES).astype(np.int64))
        grids = samples.read(numbers).ranks.astype(np.int64)
    every = np.arange(len(grids))
    train, test = every[every % HELD_OUT > 0], every[every % HELD_OUT == 0]
    parted = f"every {HELD_OUT}th held out"
    if held_out:
        found = np.load(held_out)
        train, test, parted = found["train"], found["test"], f"parted by {held_out.name}"
    codes = int(grids.max()) + 1
    counts = np.bincount(grids[train].ravel(), minlength=codes)
    ranks = np.argsort(np.argsort(-counts, kind="stable")).astype(np.uint16)[grids]
    return Tokens(ranks[train], ranks[test], codes, parted)


def best(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Shortest of a few runs, after one that warms up."""
    work()
    seconds = []
    for _ in range(REPETITIONS):
        started = clock()
        work()
        seconds.append(clock() - started)
    return min(seconds)


def row(name: str, tokens: Tokens, images: int | None) -> str:
    """One line of the table."""
    spec = CodecSpec(tokens.codes, tokens.fitted.shape[1:])
    started = time.process_time()
    codec: Codec = registry.find("tokenstore.codecs", name).fit(tokens.fitted, spec, images)
    fitting = time.process_time() - started
    payload = len(codec.encode(tokens.held_out).data) / len(tokens.held_out)
    record = payload + CHECK_AND_INDEX
    tables = sum(table.nbytes for table in codec.tables().values())
    grids = np.concatenate([tokens.fitted, tokens.held_out])
    grids = np.concatenate([grids] * -(-TIMED_IMAGES // len(grids)))[:TIMED_IMAGES]
    coded, out = codec.encode(grids), np.empty_like(grids)
    where = (coded.data, coded.starts, coded.ends)
    encode = len(grids) / best(lambda: codec.encode(grids), time.process_time)
    decode = len(grids) / best(lambda: codec.decode(*where, out), time.process_time)
    many = len(grids) / best(lambda: codec.decode_many(*where, out), time.perf_counter)
    if not np.array_equal(out, grids):
        raise click.ClickException(f"codec {name} gives other ranks than it was given")
    return (
        f"| `{name}` | {payload:,.1f} | {payload / tokens.entropy:.4f} | {record:,.1f} | "
        f"{record / tokens.entropy:.4f} | {tables:,} | {fitting:.2f} | {encode:,.0f} | "
        f"{decode:,.0f} | {many:,.0f} |"
    )


def table(tokens: Tokens, images: int | None) -> Iterator[str]:
    """The table, line by line."""
    yield (
        "| codec | payload, B | x order-0 | record with check and index, B | x order-0 | tables, B "
        f"| fit, s | encode, images/s | decode, images/s | decode, {cores()} threads |"
    )
    yield "|---" * 10 + "|"
    for name in registry.names("tokenstore.codecs"):
        yield row(name, tokens, images)


@click.command()
@click.argument("tokens", nargs=-1, required=True)
@click.option("--split", default="train", show_default=True, help="Split of a store.")
@click.option("--held-out", type=click.Path(path_type=Path), help="npz with `train` and `test`.")
@click.option("--images", type=int, help="How many images the tables serve; those fitted on.")
@click.option("--save", type=click.Path(path_type=Path), help="Markdown file to write as well.")
def main(
    tokens: tuple[str, ...], split: str, held_out: Path | None, images: int | None, save: Path
) -> None:
    """Measure every codec on TOKENS: stores, .npy files of grids, or `iid`.

    Example: python -m benchmarks.codecs photos.tokenstore
    """
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, load {os.getloadavg()[0]:.1f} at the beginning",
    ]
    click.echo(lines[0])
    for name in tokens:
        found = load(name, split, None if name == "iid" else held_out)
        shape = "x".join(map(str, found.fitted.shape[1:]))
        heading = (
            f"\n## {Path(name).name}: grids of {shape}, {found.codes:,} codes, tables fitted on "
            f"{len(found.fitted):,} images, sizes of {len(found.held_out):,} held-out ones "
            f"({found.parted}); order-0 {found.entropy:,.1f} B an image\n"
        )
        lines.append(heading)
        click.echo(heading)
        for line in table(found, images):
            lines.append(line)
            click.echo(line)
    if save:
        save.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
