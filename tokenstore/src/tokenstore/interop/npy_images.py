"""A .npy file an image: in class folders or flat, below train/ val/ test/ or not, or as LlamaGen's.

    FOLDER/**/*.npy          [h, w], [c, h, w] or [h*w]; the key is the path
    FOLDER/*_codes/N.npy     LlamaGen's [1, views, h*w], with the label in FOLDER/*_labels/N.npy

Images come in the byte order of their paths; where all files of a split are called by numbers, in
the order of those, since lists of labels are in that order. Where all files of a split lie in
folders, the first folder is the class. Several views of an image become samples `KEY#VIEW`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenstore.errors import SourceError
from tokenstore.interop.arrays import read_npy, square, whole_numbers
from tokenstore.interop.base import CHUNK, Chunk, Grid, ImportRequest, Incoming
from tokenstore.interop.card import TokenCard
from tokenstore.interop.codebook import NAME, codebook_of
from tokenstore.interop.layout import USUAL, files_below, split_files

CODES, LABELS = "_codes", "_labels"


@dataclass(frozen=True)
class Images:
    """The files of one split.

    Attributes:
        root: the split's folder, which keys start from.
        files: in the order of the samples.
        label_root: folder with a file a label (LlamaGen), or None.
        asked: the grid that the user or the card says, or None.
    """

    root: Path
    files: Sequence[Path]
    label_root: Path | None
    asked: Grid | None

    def shape(self, file: Path, array: NDArray[Any]) -> tuple[int, Grid]:
        """How many views a file has, and of which grid."""
        where = f"'{file}'"
        shape = array.shape
        if self.asked is not None:
            return _views_of(shape, self.asked, where), self.asked
        if self.label_root is not None and len(shape) in (2, 3):
            return prod(shape[:-1]), square(shape[-1], where)
        if len(shape) == 3 and shape[0] == 1 and shape[1] == shape[2]:
            return 1, shape[1:]
        if len(shape) in (2, 3) and shape[0] > 1:
            return 1, shape
        if shape and prod(shape[:-1]) == 1:
            return 1, square(shape[-1], where)
        raise SourceError(
            f"{where} is {list(shape)}, which can be read in several ways: one image of it, or "
            "several views. Say --grid HxW."
        )

    def class_names(self) -> list[str] | None:
        """The first folder of each file; None where some file lies in none."""
        parts = [file.relative_to(self.root).parts for file in self.files]
        return [part[0] for part in parts] if all(len(part) > 1 for part in parts) else None

    def chunks(self) -> Iterator[Chunk]:
        """The samples, some files at a time."""
        names = None if self.label_root else self.class_names()
        for first in range(0, len(self.files), CHUNK):
            files = self.files[first : first + CHUNK]
            yield self._chunk(files, names[first : first + CHUNK] if names else None)

    def _chunk(self, files: Sequence[Path], names: Sequence[str] | None) -> Chunk:
        grids, owners, views = [], [], []
        first: Grid | None = None
        for number, file in enumerate(files):
            array = whole_numbers(read_npy(file.read_bytes(), f"'{file}'"), f"'{file}'")
            count, grid = self.shape(file, array)
            first = first or grid
            if grid != first:
                raise SourceError(
                    f"'{file}' is {list(grid)}, '{files[0]}' {list(first)}. All grids of a store "
                    "are alike; move the others away."
                )
            grids.append(array.reshape(count, *grid))
            owners += [number] * count
            views += list(range(count))
        has_views = len(views) > len(files)
        keys = [self._key(files[owner]) for owner in owners]
        if has_views:
            keys = [f"{key}#{view}" for key, view in zip(keys, views, strict=True)]
        labels: NDArray[np.int64] | Sequence[str] | None = None
        if self.label_root is not None:
            labels = np.array([_label(self._label_file(file)) for file in files])[owners]
        elif names is not None:
            labels = [names[owner] for owner in owners]
        return Chunk(
            ids=np.concatenate(grids),
            where=lambda i: f"'{files[owners[i]]}'",
            labels=labels,
            keys=keys,
            views=np.array(views, np.uint16) if has_views else None,
        )

    def _key(self, file: Path) -> str:
        return file.relative_to(self.root).with_suffix("").as_posix()

    def _label_file(self, file: Path) -> Path:
        return (self.label_root or self.root) / file.relative_to(self.root)


def open_images(request: ImportRequest, card: TokenCard) -> Incoming:
    """Look at a folder with a file an image.

    Raises:
        SourceError: no such file is there, or the first one leaves the grid open.
    """
    place, asked = request.place, request.grid or card.grid
    codes, labels = _llamagen(place)
    found = (
        {request.split: files_below(codes, [".npy"])}
        if codes
        else split_files(place, [".npy"], request.split, card)
    )
    splits = {}
    for split, files in found.items():
        root = codes or (place / split if _is_below(files, place, split, card) else place)
        own = [file for file in files if file not in (request.codebook, request.labels)]
        splits[split] = Images(root, _ordered(own, root), labels, asked)
    first = next(iter(splits.values()))
    file = first.files[0]
    _, grid = first.shape(file, read_npy(file.read_bytes(), f"'{file}'"))
    return Incoming(
        grid=grid,
        splits={split: _reader(images) for split, images in splits.items()},
        card=card,
        codebook=codebook_of(request.codebook, place / NAME),
    )


def _reader(images: Images) -> Callable[[], Iterator[Chunk]]:
    return images.chunks


def _llamagen(place: Path) -> tuple[Path, Path] | tuple[None, None]:
    """The folders of codes and labels, where the input is LlamaGen's."""
    for codes in sorted(place.glob(f"*{CODES}")):
        labels = codes.with_name(codes.name.removesuffix(CODES) + LABELS)
        if codes.is_dir() and labels.is_dir():
            return codes, labels
    return None, None


def _is_below(files: Sequence[Path], place: Path, split: str, card: TokenCard) -> bool:
    """Whether the files of a split lie in a folder of its name."""
    known = split in (card.splits or USUAL)
    return known and all(file.relative_to(place).parts[0] == split for file in files)


def _ordered(files: Sequence[Path], root: Path) -> list[Path]:
    """By number where all names are numbers, else as they come."""
    if all(file.parent == root and file.stem.isdecimal() for file in files):
        return sorted(files, key=lambda file: (int(file.stem), file.stem))
    return list(files)


def _views_of(shape: tuple[int, ...], grid: Grid, where: str) -> int:
    """How many grids an array holds, if its last axes are one grid, whole or flat."""
    for last in (grid, (prod(grid),)):
        if shape[len(shape) - len(last) :] == last:
            return prod(shape[: len(shape) - len(last)])
    raise SourceError(
        f"{where} is {list(shape)}, expected ids that end in {list(grid)} or [{prod(grid)}]. "
        "Say --grid as they lie."
    )


def _label(file: Path) -> int:
    """The one class number in a file."""
    where = f"'{file}'"
    if not file.is_file():
        raise SourceError(f"{where} is missing; each file of codes has its label there.")
    array = whole_numbers(read_npy(file.read_bytes(), where), where)
    if array.size != 1:
        raise SourceError(f"{where} holds {array.size} numbers, expected the label of one image.")
    return int(array.ravel()[0])
