"""npy: one array of all images, or a file an image (`npy_images`).

    X.npy                   [N, h, w] or [N, c, h, w]; [N, h*w] with a square grid or with --grid
    FOLDER/train.npy ...    the same, one a split
    FOLDER/**/*.npy         one image a file, see `npy_images`

Beside X.npy lie its labels and keys, if there are any: X.labels.npy, and X.keys.txt, one a line.
Arrays are mapped, never loaded whole. An export is FOLDER/train.npy ... with both beside it.
"""

from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenstore.errors import SourceError
from tokenstore.interop.arrays import map_npy, square, whole_numbers
from tokenstore.interop.base import CHUNK, Chunk, Format, Grid, ImportRequest, Incoming, Outgoing
from tokenstore.interop.card import TokenCard, read_card
from tokenstore.interop.codebook import NAME, codebook_of, write_codebook
from tokenstore.interop.labels import read_labels
from tokenstore.interop.layout import USUAL
from tokenstore.interop.npy_images import open_images

LABELS, KEYS = ".labels.npy", ".keys.txt"


class Npy(Format):
    """Plain arrays; see above."""

    name = "npy"

    @classmethod
    def open(cls, request: ImportRequest) -> Incoming:
        """See `Format.open`."""
        place = request.place
        folder = place if place.is_dir() else place.parent
        card = read_card(folder)
        arrays = _arrays(request, card)
        if not arrays:
            return open_images(request, card)
        asked = request.grid or card.grid
        opened = {split: _open(file) for split, file in arrays.items()}
        grids = {_grid(file, opened[split].shape, asked) for split, file in arrays.items()}
        if len(grids) > 1:
            raise SourceError(
                f"the arrays of '{place}' have grids {sorted(grids)}. All grids of a store are "
                "alike; import them into stores of their own."
            )
        grid = grids.pop()
        return Incoming(
            grid=grid,
            splits={split: _reader(arrays[split], opened[split], grid) for split in arrays},
            card=card,
            codebook=codebook_of(request.codebook, folder / NAME),
            images=sum(map(len, opened.values())),
        )

    @classmethod
    def export(cls, outgoing: Outgoing) -> None:
        """See `Format.export`."""
        store, folder = outgoing.store, outgoing.folder
        for split in outgoing.splits:
            _write_array(outgoing, split)
        lost = {name for split in store.values() for name in split.columns} & {"meta", "view"}
        if lost:
            outgoing.notes.append(f"left out, since arrays have no place for: {sorted(lost)}")
        write_codebook(folder, store.vocabulary)
        TokenCard.of(store.manifest, outgoing.splits).write(folder)


def _arrays(request: ImportRequest, card: TokenCard) -> dict[str, Path]:
    """The arrays of all images, by split; empty for a folder with a file an image."""
    place = request.place
    if place.is_file():
        return {request.split: place}
    if not place.is_dir():
        raise SourceError(f"'{place}' does not exist. Give a .npy file or a folder of them.")
    files = {split: place / f"{split}.npy" for split in card.splits or USUAL}
    return {split: file for split, file in files.items() if file.is_file()}


def _open(file: Path) -> NDArray[np.integer[Any]]:
    """The array, mapped."""
    return whole_numbers(map_npy(file), f"'{file}'")


def _grid(file: Path, shape: tuple[int, ...], asked: Grid | None) -> Grid:
    """How the ids of one image lie in an array of this shape."""
    where = f"'{file}'"
    if len(shape) not in (2, 3, 4) or 0 in shape:
        raise SourceError(
            f"{where} is {list(shape)}, expected ids [images, rows, columns] of at least one image."
        )
    if asked is not None:
        if prod(shape[1:]) != prod(asked):
            raise SourceError(
                f"{where} is {list(shape)}: {prod(shape[1:])} ids an image are no grid "
                f"{'x'.join(map(str, asked))}. Say --grid as they lie."
            )
        return asked
    if len(shape) > 2:
        return shape[1:]
    if shape[0] == shape[1]:
        raise SourceError(
            f"{where} is {list(shape)}: one image, or {shape[0]} of {shape[1]} ids each? Save it "
            "as [images, rows, columns], or say --grid HxW if it is many."
        )
    return square(shape[1], where)


def _reader(
    file: Path, array: NDArray[np.integer[Any]], grid: Grid
) -> Callable[[], Iterator[Chunk]]:
    """What reads the samples of an array, and the labels and keys beside it."""
    label_file, key_file = (file.with_name(f"{file.stem}{end}") for end in (LABELS, KEYS))
    labels = read_labels(label_file) if label_file.is_file() else None
    keys = _keys(key_file) if key_file.is_file() else None
    for found, column in ((label_file, labels), (key_file, keys)):
        if column is not None and len(column) != len(array):
            raise SourceError(
                f"'{found}' has {len(column)} lines, '{file}' {len(array)} images. Give one each."
            )

    def chunks() -> Iterator[Chunk]:
        for first in range(0, len(array), CHUNK):
            some = slice(first, first + CHUNK)
            yield Chunk(
                np.asarray(array[some]).reshape(-1, *grid),
                _where(file, first),
                None if labels is None else labels[some],
                None if keys is None else keys[some],
            )

    return chunks


def _where(file: Path, first: int) -> Callable[[int], str]:
    return lambda i: f"'{file}', image {first + i}"


def _keys(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise SourceError(f"'{file}' is no UTF-8 text of keys, one a line: {error}") from error


def _write_array(outgoing: Outgoing, split: str) -> None:
    store, folder = outgoing.store, outgoing.folder
    shape = (len(store[split]), *store.manifest.grid)
    labels: list[NDArray[np.int64]] = []
    header = {"descr": outgoing.id_dtype.str, "fortran_order": False, "shape": shape}
    has_keys = "key" in store[split].columns
    keys = (folder / f"{split}{KEYS}").open("w", encoding="utf-8") if has_keys else None
    try:
        with (folder / f"{split}.npy").open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            for chunk in outgoing.chunks(split):
                stream.write(np.ascontiguousarray(chunk.ids).tobytes())
                if chunk.labels is not None:
                    labels.append(np.asarray(chunk.labels, np.int64))
                if keys is not None:
                    keys.writelines(f"{key}\n" for key in chunk.keys or ())
    finally:
        if keys is not None:
            keys.close()
    if labels:
        np.save(folder / f"{split}{LABELS}", np.concatenate(labels))


PLUGIN = Npy
