"""seit: the files that SeiT released, and that its code trains from.

    NAME-token.data.bin.gz    one gzip stream: the code of all images, see seit_code.py
    NAME-token.index.npy.gz   gzipped .npy: where each image starts in the stream, and its end
    NAME-label.txt            one class number a line
    codebook.ckpt             one float tensor [codes, width], saved by torch
    synonyms.json             {"id": [nearest ids, nearest first]}

The numbers in the data are rows of codebook.ckpt. SeiT renamed ViT-VQGAN's ids by their popularity
on ImageNet's train set and cut the codebook to the 391 that occur, so its numbers are already
ranks of that set; here they are ids like any tokenizer's, and a store ranks them by its own images.
Its reader takes ids below 510 only. An export writes a store's ids if all are, as those of a
release are, and else its ranks, with the ids in the card; codebook.ckpt has the order of either.
"""

import contextlib
import gzip
import json
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from tokenstore.codecs.escape import escape
from tokenstore.errors import CodecError, SourceError, UsageError
from tokenstore.interop.base import Chunk, Format, ImportRequest, Incoming, Outgoing
from tokenstore.interop.card import TokenCard, read_card
from tokenstore.interop.codebook import codebook_of
from tokenstore.interop.labels import read_labels
from tokenstore.interop.layout import USUAL
from tokenstore.interop.seit_code import Reading, Tally, read_ids
from tokenstore.interop.seit_files import DATA, INDEX, LABEL, Stream, find_files
from tokenstore.progress import WorkProgress

CODEBOOK, SYNONYMS = "codebook.ckpt", "synonyms.json"
LIMIT = 510  # the published reader forgets how many bytes 255 it has seen
READER_IDS = 1024  # and takes images of so many ids only, unless it is told otherwise
SYNONYM_COUNT = 5  # so many are chosen among


class Seit(Format):
    """The released files; see above."""

    name = "seit"

    @classmethod
    def open(cls, request: ImportRequest) -> Incoming:
        """See `Format.open`; reads all data once, to see what its bytes mean."""
        place = request.place
        folder = place if place.is_dir() else place.parent
        card = read_card(folder)
        found = find_files(place, request.split, card.splits or USUAL)
        streams = {split: Stream.open(files) for split, files in found.items()}
        images = sum(map(len, streams.values()))
        tally = Tally(request.grid or card.grid)
        with WorkProgress("looking at", images) as progress:
            for stream in streams.values():
                for _, data, offsets in stream.runs():
                    tally.see(data, offsets[:-1], offsets[1:])
                    progress.advance(len(offsets) - 1)
        reading, grid = tally.decide(f"'{place}'")
        codebook = codebook_of(request.codebook, folder / CODEBOOK)
        ids = None if card.ids is None else np.array(card.ids, np.int64)
        if ids is not None and codebook is not None:
            codebook = codebook.renamed(ids)
        notes = []
        if (folder / SYNONYMS).is_file():
            notes.append(
                f"{SYNONYMS} is not kept: training finds synonyms in the codebook, or in this file "
                "where a recipe names it (eda: {table: FILE})"
            )
        return Incoming(
            grid=grid,
            splits={
                split: _reader(stream, grid, reading, ids) for split, stream in streams.items()
            },
            card=card,
            codebook=codebook,
            images=images,
            notes=notes,
        )

    @classmethod
    def export(cls, outgoing: Outgoing) -> None:
        """See `Format.export`."""
        store, folder = outgoing.store, outgoing.folder
        numbers = _numbers(store.vocabulary.ids)
        if len(numbers) > LIMIT:
            raise UsageError(
                f"'{store.url}' has {len(numbers):,} codes, and SeiT's reader can tell {LIMIT} "
                "apart only. Export it as npy, webdataset or parquet."
            )
        ids = prod(store.manifest.grid)
        if ids != READER_IDS:
            outgoing.notes.append(
                f"SeiT's reader expects {READER_IDS} ids an image; these have {ids}, so tell it"
            )
        for split in outgoing.splits:
            _write_split(outgoing, split, numbers)
        if store.codebook is not None:
            _write_codebook(outgoing, numbers, store.codebook)
        columns = {name for split in outgoing.splits for name in store[split].columns}
        lost = sorted(columns & {"key", "meta", "view"})
        if lost:
            outgoing.notes.append(f"left out, since these files have no place for: {lost}")
        card = TokenCard.of(store.manifest, outgoing.splits)
        if not np.array_equal(numbers, store.vocabulary.ids):
            card = card.model_copy(update={"ids": tuple(store.vocabulary.ids.tolist())})
        card.write(folder)


def _reader(
    stream: Stream, grid: tuple[int, ...], reading: Reading, ids: NDArray[np.int64] | None
) -> Callable[[], Iterator[Chunk]]:
    """What reads the samples of a split; `ids` renames the numbers in the data."""
    file = stream.files.label
    labels = None if file is None else read_labels(file)
    if labels is not None and len(labels) != len(stream):
        raise SourceError(
            f"'{file}' has {len(labels)} labels, '{stream.files.offsets}' {len(stream)} images. "
            "One of them is of another split."
        )

    def chunks() -> Iterator[Chunk]:
        for first, data, offsets in stream.runs():
            where = _where(stream.files.data, first)
            try:
                numbers = read_ids((data, offsets[:-1], offsets[1:]), grid, reading)
            except CodecError as error:
                raise SourceError(
                    f"'{stream.files.data}', behind image {first}: {error}"
                ) from error
            some = None if labels is None else labels[first : first + len(numbers)]
            yield Chunk(_renamed(numbers, ids, where), where, some)

    return chunks


def _renamed(
    numbers: NDArray[np.uint16], ids: NDArray[np.int64] | None, where: Callable[[int], str]
) -> NDArray[np.integer[Any]]:
    if ids is None:
        return numbers
    wrong = np.argwhere(numbers >= len(ids))
    if len(wrong):
        raise SourceError(
            f"{where(int(wrong[0][0]))} holds {numbers[tuple(wrong[0])]}, but the card lists "
            f"{len(ids)} ids. It belongs to other data; remove it to import the numbers as ids."
        )
    renamed: NDArray[np.int64] = ids[numbers]
    return renamed


def _where(file: Path, first: int) -> Callable[[int], str]:
    return lambda i: f"'{file}', image {first + i}"


def _numbers(ids: NDArray[np.int32]) -> NDArray[np.int64]:
    """What is written for each rank: its id if every id can be, else the rank itself."""
    return ids.astype(np.int64) if int(ids.max()) < LIMIT else np.arange(len(ids))


def _write_split(outgoing: Outgoing, split: str, numbers: NDArray[np.int64]) -> None:
    folder, ids = outgoing.folder, outgoing.store.vocabulary.ids
    ends, labels = [np.zeros(1, np.int64)], list[Any]()
    number_of = np.zeros(int(ids.max()) + 1, np.uint16)
    number_of[ids] = numbers
    with _gzip(folder / f"{split}-token{DATA}") as stream:
        for chunk in outgoing.chunks(split):
            data, stops = escape(number_of[chunk.ids])
            stream.write(data.tobytes())
            ends.append(ends[-1][-1] + stops)
            labels += [] if chunk.labels is None else [*chunk.labels]
    with _gzip(folder / f"{split}-token{INDEX}") as stream:
        np.save(stream, np.concatenate(ends))
    if labels:
        lines = "".join(f"{label}\n" for label in labels)
        (folder / f"{split}{LABEL}").write_text(lines, "utf-8")


@contextlib.contextmanager
def _gzip(file: Path) -> Iterator[IO[bytes]]:
    """A gzip file that tells neither time nor name."""
    with file.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as stream:
        yield cast(IO[bytes], stream)


def _write_codebook(
    outgoing: Outgoing, numbers: NDArray[np.int64], codebook: NDArray[np.float32]
) -> None:
    """`codebook.ckpt`, a row a number, and for each number that occurs its synonyms."""
    import torch

    rows = np.zeros((int(numbers.max()) + 1, codebook.shape[1]), np.float32)
    rows[numbers] = codebook
    if len(rows) > len(codebook):
        outgoing.notes.append(
            f"{len(rows) - len(codebook)} ids below {len(rows)} do not occur, so their rows in "
            f"{CODEBOOK} are zeros; take the codebook of the release where you have it"
        )
    torch.save(torch.from_numpy(rows), outgoing.folder / CODEBOOK)
    exact = codebook.astype(np.float64)
    squares = np.square(exact).sum(axis=1)
    distances = squares[:, None] + squares - 2 * exact @ exact.T
    np.fill_diagonal(distances, np.inf)
    count = min(SYNONYM_COUNT, len(codebook) - 1)
    nearest = numbers[np.argsort(distances, axis=1, kind="stable")[:, :count]]
    table = {str(numbers[rank]): nearest[rank].tolist() for rank in np.argsort(numbers)}
    (outgoing.folder / SYNONYMS).write_text(json.dumps(table), "utf-8")


PLUGIN = Seit
