"""What peers.py asks of a format, and the formats that need no library: ours, SeiT's, a map.

Each writes the same grids and labels into a folder and reads them back; docstrings say how.
Libraries are imported where they are used, so that a start-up measures one library, and one that is
not installed is skipped by its name. peer_libraries.py has the formats of other projects.
"""

import gzip
import importlib.util
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Grids = NDArray[np.uint16]  # [n, h, w]
Labels = NDArray[np.int64]  # [n]

BATCH = 256


class Reader(ABC):
    """An open corpus; images come with their labels, which are read and thrown away."""

    @abstractmethod
    def sequential(self) -> Iterator[Grids]:
        """All images in order, up to `BATCH` at a time."""

    @abstractmethod
    def one(self, image: int) -> NDArray[np.uint16]:
        """One image by number, uint16 [h, w]."""

    def batch(self, images: NDArray[np.int64]) -> Grids:
        """Images by number, uint16 [n, h, w]."""
        return np.stack([self.one(image) for image in images.tolist()])


class Format(ABC):
    """A way to keep grids and labels on disk."""

    name: str
    needs: ClassVar[str] = "numpy"  # the module that must be importable

    def there(self) -> bool:
        """Whether its library is installed."""
        return importlib.util.find_spec(self.needs) is not None

    @abstractmethod
    def write(self, folder: Path, grids: Grids, labels: Labels) -> None:
        """Make the folder, which does not exist."""

    @abstractmethod
    def open(self, folder: Path) -> Reader:
        """Open what `write` made."""


def stacked(images: Iterator[NDArray[Any]]) -> Iterator[Grids]:
    """Single images as batches."""
    waiting = []
    for image in images:
        waiting.append(image)
        if len(waiting) == BATCH:
            yield np.stack(waiting)
            waiting = []
    if waiting:
        yield np.stack(waiting)


class Tokenstore(Format):
    """Our store with one codec, `--no-keys`, everything else as `tokenstore build` does it."""

    needs = "tokenstore"

    def __init__(self, codec: str) -> None:
        self.name = f"tokenstore {codec}"
        self._codec = codec

    def write(self, folder: Path, grids: Grids, labels: Labels) -> None:
        from benchmarks.grid_store import write_grids

        write_grids(folder, self._codec, grids, labels)

    def open(self, folder: Path) -> Reader:
        import tokenstore

        return _StoreReader(tokenstore.open(folder))


class _StoreReader(Reader):
    def __init__(self, store: Any) -> None:
        self._split = store["train"]

    def sequential(self) -> Iterator[Grids]:
        for first in range(0, len(self._split), BATCH):
            numbers = np.arange(first, min(first + BATCH, len(self._split)))
            yield self._split.read(numbers).ranks

    def one(self, image: int) -> NDArray[np.uint16]:
        ranks: NDArray[np.uint16] = self._split[image].ranks
        return ranks

    def batch(self, images: NDArray[np.int64]) -> Grids:
        ranks: Grids = self._split.read(images).ranks
        return ranks


class Memmap(Format):
    """Plain uint16 and int64 files, mapped: what one would do by hand."""

    name = "memmap uint16"

    def write(self, folder: Path, grids: Grids, labels: Labels) -> None:
        folder.mkdir()
        np.save(folder / "ids.npy", grids)
        np.save(folder / "labels.npy", labels)

    def open(self, folder: Path) -> Reader:
        return _MemmapReader(folder)


class _MemmapReader(Reader):
    def __init__(self, folder: Path) -> None:
        self._ids = np.load(folder / "ids.npy", mmap_mode="r")
        self._labels = np.load(folder / "labels.npy", mmap_mode="r")

    def sequential(self) -> Iterator[Grids]:
        for first in range(0, len(self._ids), BATCH):
            np.array(self._labels[first : first + BATCH])
            yield np.array(self._ids[first : first + BATCH])

    def one(self, image: int) -> NDArray[np.uint16]:
        int(self._labels[image])
        return np.array(self._ids[image])

    def batch(self, images: NDArray[np.int64]) -> Grids:
        np.array(self._labels[images])
        return np.array(self._ids[images])


class SeiT(Format):
    """The released files of SeiT: one gzip stream of escape codes, offsets, labels as text.

    The published escape code ends at rank 509; here it is continued as in our byte codecs. The
    reader unzips everything at its start and turns bytes into ranks in a Python loop, as the
    published one does.
    """

    name = "SeiT files"
    needs = "tokenstore"  # for the escape code

    def write(self, folder: Path, grids: Grids, labels: Labels) -> None:
        from tokenstore.codecs.escape import escape

        folder.mkdir()
        escaped, ends = escape(grids)
        (folder / "data.bin.gz").write_bytes(gzip.compress(escaped.tobytes(), 6))
        with gzip.open(folder / "index.npy.gz", "wb") as file:
            np.save(file, np.append(0, ends))
        (folder / "label.txt").write_text("\n".join(map(str, labels.tolist())))
        (folder / "grid.json").write_text(json.dumps(grids.shape[1:]))

    def open(self, folder: Path) -> Reader:
        return _SeiTReader(folder)


class _SeiTReader(Reader):
    def __init__(self, folder: Path) -> None:
        self._content = gzip.decompress((folder / "data.bin.gz").read_bytes())
        with gzip.open(folder / "index.npy.gz") as file:
            self._offsets = np.load(file).tolist()
        self._labels = [int(line) for line in (folder / "label.txt").read_text().split()]
        self._grid = json.loads((folder / "grid.json").read_text())

    def sequential(self) -> Iterator[Grids]:
        yield from stacked(self.one(image) for image in range(len(self._labels)))

    def one(self, image: int) -> NDArray[np.uint16]:
        ranks, rank = [], 0
        for byte in self._content[self._offsets[image] : self._offsets[image + 1]]:
            rank += byte
            if byte < 255:
                ranks.append(rank)
                rank = 0
        return np.array(ranks, np.uint16).reshape(self._grid)
