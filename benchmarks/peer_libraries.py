"""Formats of other projects for peers.py, each used as its documentation recommends.

    python -m benchmarks.peer_libraries "parquet zstd" FOLDER 1234   # open, read image 1234

The command is what `peers` starts to measure a start-up. peer_formats.py has the interface.
"""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peer_formats import (
    BATCH,
    Format,
    Grids,
    Labels,
    Memmap,
    Reader,
    SeiT,
    Tokenstore,
    stacked,
)


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
        yield from stacked(np.asarray(item["ids"]) for item in self._dataset)

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
        yield from stacked(sample["npy"] for sample in self._dataset)

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
        yield from stacked(item["ids"] for item in self._dataset)

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
