"""The released files of SeiT on the disk: which belong together, their index, their bytes in runs.

What the bytes mean is for `seit_code`, and what becomes of them for `seit`.
"""

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from tokenstore.errors import SourceError
from tokenstore.interop.arrays import read_npy
from tokenstore.interop.layout import files_below

DATA, INDEX, LABEL = ".data.bin.gz", ".index.npy.gz", "-label.txt"
READ_BYTES = 1 << 22
MOST_BYTES = 1 << 26  # of one image; a longer one is damage
DAMAGED = (OSError, EOFError, zlib.error)


class Files(NamedTuple):
    """The files of one split."""

    data: Path
    offsets: Path
    label: Path | None


@dataclass(frozen=True)
class Stream:
    """The images of one split as they lie in their files."""

    files: Files
    offsets: NDArray[np.int64]

    @classmethod
    def open(cls, files: Files) -> "Stream":
        """Read the index and look whether it can be one."""
        return cls(files, read_index(files.offsets))

    def __len__(self) -> int:
        """How many images."""
        return len(self.offsets) - 1

    def runs(self) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.int64]]]:
        """Number of the first image of a run, its bytes, and n+1 offsets in them."""
        data, first = self.files.data, 0
        try:
            with gzip.open(data, "rb") as stream:
                while first < len(self):
                    last = self._run_end(first)
                    part = self.offsets[first : last + 1]
                    yield first, self._read(cast(BinaryIO, stream), part), part - part[0]
                    first = last
                if stream.read(1):
                    raise SourceError(
                        f"'{data}' goes on behind byte {self.offsets[-1]}, where "
                        f"'{self.files.offsets}' ends. The two do not belong together."
                    )
        except DAMAGED as error:
            raise SourceError(
                f"'{data}' is damaged or cut short near image {first} ({error}). Fetch it anew."
            ) from error

    def _run_end(self, first: int) -> int:
        """The image behind a run of about `READ_BYTES`."""
        end = int(np.searchsorted(self.offsets, self.offsets[first] + READ_BYTES, "right")) - 1
        return min(max(end, first + 1), len(self))

    def _read(self, stream: BinaryIO, part: NDArray[np.int64]) -> NDArray[np.uint8]:
        size = int(part[-1] - part[0])
        content = stream.read(size)
        if len(content) != size:
            raise SourceError(
                f"'{self.files.data}' ends at byte {int(part[0]) + len(content)}, but "
                f"'{self.files.offsets}' goes to byte {self.offsets[-1]}. It was cut short, or the "
                "two do not belong together."
            )
        return np.frombuffer(content, np.uint8)


def read_index(file: Path) -> NDArray[np.int64]:
    """Where images start, and where the last one ends: int64 [images + 1].

    Raises:
        SourceError: no such file, damaged, or offsets that do not grow from 0.
    """
    where = f"'{file}'"
    try:
        with gzip.open(file, "rb") as stream:
            offsets = read_npy(stream.read(), where)
    except FileNotFoundError as error:
        raise SourceError(f"{where} is missing; it belongs beside the data.") from error
    except DAMAGED as error:
        raise SourceError(f"{where} is damaged or cut short ({error}). Fetch it anew.") from error
    if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or len(offsets) < 2:
        raise SourceError(
            f"{where} is {offsets.dtype} {list(offsets.shape)}, expected start offsets: whole "
            "numbers [images + 1]."
        )
    numbers = offsets.astype(np.int64)
    if numbers[0]:
        raise SourceError(f"{where} begins with {numbers[0]}, expected 0. It is of other data.")
    wrong = np.flatnonzero((np.diff(numbers) < 1) | (np.diff(numbers) > MOST_BYTES))
    if len(wrong):
        first = int(wrong[0])
        raise SourceError(
            f"{where}: image {first} goes from byte {numbers[first]} to {numbers[first + 1]}, "
            f"expected 1 to {MOST_BYTES:,} bytes more. The index is unsorted or damaged."
        )
    return numbers


def find_files(place: Path, split: str, known: Sequence[str]) -> dict[str, Files]:
    """The files of each split: a file is `split`, those of a folder say in their names which.

    Raises:
        SourceError: there are none, or two of one split.
    """
    if place.is_file() or not place.exists():
        if not place.is_file() or not place.name.endswith(DATA):
            raise SourceError(f"'{place}' is no file *{DATA}. Give one, or the folder they are in.")
        return {split: _files(place)}
    found: dict[str, Files] = {}
    data = files_below(place, [DATA])
    for file in data:
        told = [word for word in known if re.search(rf"(^|[-_.]){re.escape(word)}[-_.]", file.name)]
        name = max(told, key=len, default=split)
        if name in found:
            raise SourceError(
                f"'{found[name].data}' and '{file}' are both of split '{name}'. Import one of "
                "them by its name, or move it."
            )
        found[name] = _files(file)
    return {name: found[name] for name in (*known, split) if name in found}


def _files(data: Path) -> Files:
    stem = data.name.removesuffix(DATA)
    names = [f"{stem}{LABEL}", f"{stem.removesuffix('-token')}{LABEL}"]
    labels = [data.with_name(name) for name in dict.fromkeys(names)]
    there = [file for file in labels if file.is_file()]
    if len(there) > 1:
        raise SourceError(f"'{there[0]}' and '{there[1]}' both label '{data}'. Remove one.")
    return Files(data, data.with_name(f"{stem}{INDEX}"), there[0] if there else None)
