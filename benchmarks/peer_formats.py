"""Formats that token corpora are kept in, ours among them, behind one small interface.

Each writes the same grids and labels into a folder and reads them back the way its documentation
recommends; docstrings say with which settings. Libraries are imported where they are used, so that
a start-up measures one library, and one that is not installed is skipped by its name.

    python -m benchmarks.peer_formats parquet FOLDER 1234     # open, read image 1234: for start-ups
"""

import gzip
import importlib.util
import json
import math
import sys
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


def _stacked(images: Iterator[NDArray[Any]]) -> Iterator[Grids]:
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
        yield from _stacked(self.one(image) for image in range(len(self._labels)))

    def one(self, image: int) -> NDArray[np.uint16]:
        ranks, rank = [], 0
        for byte in self._content[self._offsets[image] : self._offsets[image + 1]]:
            rank += byte
            if byte < 255:
                ranks.append(rank)
                rank = 0
        return np.array(ranks, np.uint16).reshape(self._grid)


class Parquet(Format):
    """pyarrow: a fixed-size list of uint16 an image, zstd, row groups of 1,024 images.

    The default row group holds a million rows, all of which a random read would decode.
    """

    name = "parquet zstd"
    needs = "pyarrow"
    GROUP = 1024

    def write(self, folder: Path, grids: Grids, labels: Labels) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        folder.mkdir()
        tokens = math.prod(grids.shape[1:])
        lists = pa.FixedSizeListArray.from_arrays(pa.array(grids.ravel()), tokens)
        table = pa.table({"ids": lists, "label": labels})
        shape = {b"grid": json.dumps(grids.shape[1:]).encode()}
        table = table.replace_schema_metadata(shape)
        path = folder / "data.parquet"
        pq.write_table(table, path, compression="zstd", row_group_size=self.GROUP)

    def open(self, folder: Path) -> Reader:
        return _ParquetReader(folder / "data.parquet", self.GROUP)


class _ParquetReader(Reader):
    def __init__(self, path: Path, group: int) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(path, memory_map=True)
        self._group = group
        self._grid = json.loads(self._file.schema_arrow.metadata[b"grid"])

    def sequential(self) -> Iterator[Grids]:
        for batch in self._file.iter_batches(batch_size=BATCH):
            batch["label"].to_numpy()
            yield batch["ids"].flatten().to_numpy().reshape(-1, *self._grid)

    def one(self, image: int) -> NDArray[np.uint16]:
        return self.batch(np.array([image]))[0]

    def batch(self, images: NDArray[np.int64]) -> Grids:
        out = np.empty((len(images), *self._grid), np.uint16)
        groups = images // self._group
        for group in np.unique(groups).tolist():
            table = self._file.read_row_group(group)
            ids = table["ids"].chunk(0).flatten().to_numpy().reshape(-1, *self._grid)
            rows = np.flatnonzero(groups == group)
            out[rows] = ids[images[rows] - group * self._group]
        return out


class LitData(Format):
    """litdata: `optimize`'s writer without its worker processes, 64 MB chunks, StreamingDataset."""

    needs = "litdata"

    def __init__(self, compression: str | None) -> None:
        self.name = "litdata zstd" if compression else "litdata raw"
        self._compression = compression

    def write(self, folder: Path, grids: Grids, labels: Labels) -> None:
        from litdata.streaming.writer import BinaryWriter

        writer = BinaryWriter(str(folder), chunk_bytes="64MB", compression=self._compression)
        for number, (grid, label) in enumerate(zip(grids, labels.tolist(), strict=True)):
            writer[number] = {"ids": grid, "label": label}
        writer.done()
        writer.merge(1)

    def open(self, folder: Path) -> Reader:
        return _LitDataReader(folder)


class _LitDataReader(Reader):
    def __init__(self, folder: Path) -> None:
        from litdata import StreamingDataset

        self._dataset = StreamingDataset(str(folder))

    def sequential(self) -> Iterator[Grids]:
        yield from _stacked(np.asarray(item["ids"]) for item in self._dataset)

    def one(self, image: int) -> NDArray[np.uint16]:
        return np.asarray(self._dataset[image]["ids"])


class WebDataset(Format):
    """webdataset: tars of .npy and .cls, 10,000 images each; random reads by its sister wids."""

    name = "webdataset .npy"
    needs = "webdataset"
    SHARD = 10_000

    def write(self, folder: Path, grids: Grids, labels: Labels) -> None:
        import webdataset

        folder.mkdir()
        pattern = f"{folder}/train-%06d.tar"
        with webdataset.ShardWriter(pattern, maxcount=self.SHARD, verbose=0) as sink:
            for number, (grid, label) in enumerate(zip(grids, labels.tolist(), strict=True)):
                sink.write({"__key__": f"{number:09d}", "npy": grid, "cls": label})

    def open(self, folder: Path) -> Reader:
        return _WebDatasetReader(sorted(map(str, folder.glob("*.tar"))))


class _WebDatasetReader(Reader):
    def __init__(self, shards: list[str]) -> None:
        import webdataset

        self._dataset = webdataset.WebDataset(shards, shardshuffle=False).decode()
        self._shards = shards
        self._indexed: Any = None

    def sequential(self) -> Iterator[Grids]:
        yield from _stacked(sample["npy"] for sample in self._dataset)

    def one(self, image: int) -> NDArray[np.uint16]:
        ids: NDArray[np.uint16] = self._wids()[image][".npy"]
        return ids

    def _wids(self) -> Any:
        """wids reads plain tars at random, after an index of how many samples each has."""
        if self._indexed is None:
            import tarfile

            import wids

            counts = []
            for shard in self._shards:
                with tarfile.open(shard) as tar:
                    counts.append(len(tar.getnames()) // 2)
            self._indexed = wids.ShardListDataset(
                [{"url": url, "nsamples": n} for url, n in zip(self._shards, counts, strict=True)],
                keep=True,
            )
        return self._indexed


class Streaming(Format):
    """mosaicml-streaming: MDS shards, zstd, default shard size.

    Its reader unpacks each shard to the disk at first use; what is measured afterwards reads the
    unpacked files. Its size is that of the packed ones.
    """

    name = "mosaicml MDS zstd"
    needs = "streaming"

    def write(self, folder: Path, grids: Grids, labels: Labels) -> None:
        from streaming import MDSWriter

        shape = ",".join(map(str, grids.shape[1:]))
        columns = {"ids": f"ndarray:uint16:{shape}", "label": "int"}
        with MDSWriter(out=str(folder), columns=columns, compression="zstd") as out:
            for grid, label in zip(grids, labels.tolist(), strict=True):
                out.write({"ids": grid, "label": label})

    def open(self, folder: Path) -> Reader:
        return _StreamingReader(folder)


class _StreamingReader(Reader):
    def __init__(self, folder: Path) -> None:
        from streaming import StreamingDataset
        from streaming.base.util import clean_stale_shared_memory

        clean_stale_shared_memory()
        self._dataset = StreamingDataset(
            remote=str(folder), local=f"{folder}.unpacked", batch_size=BATCH, shuffle=False
        )

    def sequential(self) -> Iterator[Grids]:
        yield from _stacked(item["ids"] for item in self._dataset)

    def one(self, image: int) -> NDArray[np.uint16]:
        ids: NDArray[np.uint16] = self._dataset[image]["ids"]
        return ids


def formats() -> dict[str, Format]:
    """Ours with every registered codec, then all others, by name."""
    from tokenstore import registry

    ours = [Tokenstore(codec) for codec in registry.names("tokenstore.codecs")]
    others = [Parquet(), LitData("zstd"), LitData(None), SeiT(), WebDataset(), Streaming()]
    return {made.name: made for made in (*ours, *others, Memmap())}


def main() -> None:
    """Open a folder and read one image: what `peers` starts to measure a start-up."""
    name, folder, image = sys.argv[1:]
    formats()[name].open(Path(folder)).one(int(image))


if __name__ == "__main__":
    main()
