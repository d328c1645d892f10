"""How fast do batches come? Our loader by codec and residency, against the loaders people use.

    python -m benchmarks.loading TOKENS.npy                                        # prints tables
    python -m benchmarks.loading TOKENS.npy --save benchmarks/results/loading.md   # keeps them

TOKENS is an array of ids [n, h, w] or a store. Everybody gives the same images in batches of 256
in random order: int64 tensors in memory, ours also uint16 numpy arrays, as named. A turn is an
epoch of each, one after the other; told are medians of the turns. A rate counts from the first
batch on, so that no start of worker processes is in it; processor time is that of the whole epoch
and of all processes. SeiT's reader is told twice: its ids alone, and one-hot floats, which is what
the published one gives to the GPU. What others shuffle less than fully, they shuffle as their
documentation does. How long a training step waits is for `benchmarks.waits`. Peers that are not
installed are named and left out: `pip install --group peers`.
"""

import gc
import logging
import os
import platform
import resource
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import tokenstore
from benchmarks.peer_formats import BATCH, Format, Memmap, Reader, SeiT
from benchmarks.peer_libraries import LitData, WebDataset
from benchmarks.peers import Corpus, load
from tokenstore import registry
from tokenstore.loader import TokenLoader

Batches = Callable[[], Iterator[int]]  # an epoch: images of each batch
WORKERS = 2
SEIT = "SeiT reader"


class Epoch(NamedTuple):
    """What an epoch cost: images a second by the wall, processor seconds an image."""

    rate: float
    processor: float


class Items(Dataset[Any]):
    """A reader as a dataset of single images, for torch's DataLoader; with codes, one-hot."""

    def __init__(self, reader: Reader, labels: Any, codes: int | None) -> None:
        self._reader, self._labels, self._codes = reader, labels, codes

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, image: int) -> tuple[torch.Tensor, int]:
        grid = torch.from_numpy(self._reader.one(image).astype(np.int64))
        if self._codes is not None:
            grid = nn.functional.one_hot(grid, self._codes).permute(2, 0, 1).float()
        return grid, int(self._labels[image])


def ours(folder: Path, residency: str, device: str | None) -> Batches:
    """Our loader; it is filled by its first epoch, which is not timed."""
    split = tokenstore.open(folder)["train"]
    loader = TokenLoader(split, batch_size=BATCH, residency=residency, device=device)

    def epoch() -> Iterator[int]:
        for batch in loader:
            yield int(batch.valid.sum())

    return epoch


def in_dataloader(reader: Reader, corpus: Corpus, *, one_hot: bool = False) -> Batches:
    """Single images through torch's DataLoader, shuffled by it."""
    codes = int(corpus.grids.max()) + 1 if one_hot else None

    def epoch() -> Iterator[int]:
        items = Items(reader, corpus.labels, codes)
        for grids, _ in DataLoader(items, BATCH, shuffle=True, num_workers=WORKERS):
            yield len(grids)

    return epoch


def by_litdata(folder: Path) -> Batches:
    """litdata's own dataset and loader, shuffled by them."""
    from litdata import StreamingDataLoader, StreamingDataset

    def epoch() -> Iterator[int]:
        items = StreamingDataset(str(folder), shuffle=True)
        for batch in StreamingDataLoader(items, batch_size=BATCH, num_workers=WORKERS):
            yield len(batch["ids"].long())

    return epoch


def by_webdataset(folder: Path) -> Batches:
    """webdataset with a shuffle buffer of 1,000 and its loader."""
    import webdataset

    shards = sorted(map(str, folder.glob("*.tar")))

    def epoch() -> Iterator[int]:
        items = webdataset.WebDataset(shards, shardshuffle=len(shards), empty_check=False)
        items = items.shuffle(1000).decode().to_tuple("npy", "cls").batched(BATCH)
        for grids, _ in webdataset.WebLoader(items, batch_size=None, num_workers=WORKERS):
            yield len(np.asarray(grids, np.int64))

    return epoch


def contenders(corpus: Corpus, folder: Path, codecs: list[str]) -> dict[str, Batches]:
    """All that are installed, by name; writes their files."""
    from benchmarks.grid_store import write_grids

    found: dict[str, Batches] = {}
    for codec in codecs:
        write_grids(folder / codec, codec, *corpus)
        for residency in ("stream", "ram"):
            found[f"{codec}, {residency}, numpy"] = ours(folder / codec, residency, None)
        for residency in ("stream", "ram", "device"):
            found[f"{codec}, {residency}, int64"] = ours(folder / codec, residency, "cpu")
    others: dict[str, tuple[Format, Callable[[Format, Path], Batches]]] = {
        "DataLoader + memmap": (Memmap(), lambda made, at: in_dataloader(made.open(at), corpus)),
        "litdata zstd": (LitData("zstd"), lambda made, at: by_litdata(at)),
        "WebDataset": (WebDataset(), lambda made, at: by_webdataset(at)),
        SEIT: (SeiT(), lambda made, at: in_dataloader(made.open(at), corpus)),
        f"{SEIT}, one-hot": (
            SeiT(),
            lambda made, at: in_dataloader(made.open(at), corpus, one_hot=True),
        ),
    }
    for name, (made, batches) in others.items():
        if not made.there():
            click.echo(f"{name}: not installed, left out", err=True)
            continue
        made.write(folder / name, *corpus)
        found[name] = batches(made, folder / name)
    return found


def timed(batches: Batches) -> Epoch:
    """One epoch."""
    gc.collect()
    first, seen, behind_first = 0.0, 0, 0
    own, children = _processor(resource.RUSAGE_SELF), _processor(resource.RUSAGE_CHILDREN)
    for images in batches():
        seen += images
        if not first:
            first = time.perf_counter()
        else:
            behind_first += images
    wall = time.perf_counter() - first
    own = _processor(resource.RUSAGE_SELF) - own
    gc.collect()  # a loader waits for its workers when it goes; only then is their time counted
    children = _processor(resource.RUSAGE_CHILDREN) - children
    return Epoch(behind_first / wall, (own + children) / seen)


def _processor(whose: int) -> float:
    """Seconds used by this process, or by its ended children."""
    used = resource.getrusage(whose)
    return used.ru_utime + used.ru_stime


def table(seen: dict[str, list[Epoch]]) -> list[str]:
    """Medians as a markdown table, with what they are of the SeiT reader's."""
    median = {
        name: Epoch(*(statistics.median(part) for part in zip(*epochs, strict=True)))
        for name, epochs in seen.items()
    }
    base = median[SEIT]
    return [
        f"| loader | images/s | x {SEIT} | processor us an image | {SEIT}'s over it |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {one.rate:,.0f} | {one.rate / base.rate:.1f} | {one.processor * 1e6:.2f} "
            f"| {base.processor / one.processor:.1f} |"
            for name, one in median.items()
        ),
    ]


@click.command()
@click.argument("tokens")
@click.option("--images", default=16384, show_default=True, help="Take only so many.")
@click.option("--turns", default=5, show_default=True, help="Medians are over so many turns.")
@click.option("--save", type=click.Path(path_type=Path), help="Markdown file to write as well.")
def main(tokens: str, images: int, turns: int, save: Path | None) -> None:
    """Compare loaders on TOKENS.

    Example: python -m benchmarks.loading tokens.npy --turns 5
    """
    logging.getLogger("litdata").setLevel(logging.ERROR)
    corpus = load(tokens, images)
    seen: dict[str, list[Epoch]] = defaultdict(list)
    folder = Path(tempfile.mkdtemp())
    try:
        codecs = registry.names("tokenstore.codecs")
        found = contenders(corpus, folder, codecs)
        for batches in found.values():
            timed(batches)  # fills what is to be filled, compiles what is to be compiled
        for turn in range(turns):
            for name, batches in found.items():
                seen[name].append(timed(batches))
            click.echo(f"turn {turn + 1} of {turns}, load {os.getloadavg()[0]:.1f}", err=True)
    finally:
        shutil.rmtree(folder)
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}, Python {platform.python_version()}, torch {torch.__version__}; "
        f"{len(corpus.grids)} grids of {corpus.grids.shape[1:]}, `python -m benchmarks.loading "
        f"{Path(tokens).name} --images {images} --turns {turns}`",
        "",
        *table(seen),
    ]
    click.echo("\n".join(lines))
    if save:
        save.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
