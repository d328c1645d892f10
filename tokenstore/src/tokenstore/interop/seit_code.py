"""The byte code of SeiT's released files: two ways to read it, and which of them a file means.

An id below 255 is one byte, and 255 announces a larger one. Equation 1 of SeiT gives two bytes,
255 and id - 255, which ends at id 510 (255 255); continued in steps of 255, as this project does,
255 255 0 is id 510 instead. The two differ only where two bytes 255 follow each other, and there
they give different numbers of ids. All images have as many ids as their grid, so counting tells
which one a file means. Ids below 510 are written by `codecs.escape`, which is both at once. Arrays
only; files are for `seit`.
"""

from dataclasses import dataclass, field
from enum import Enum
from math import isqrt, prod

import numpy as np
from numpy.typing import NDArray

from tokenstore.codecs.escape import ESCAPE, unescape
from tokenstore.compiled import compiled
from tokenstore.errors import CodecError, SourceError

Bytes = NDArray[np.uint8]
Offsets = NDArray[np.int64]
LARGEST = 1 << 16


class Reading(Enum):
    """What a byte 255 means: add 255 and read on, or add it to the one byte that follows."""

    STEPS = 0
    PAIRS = 1


@dataclass
class Tally:
    """How many ids each image has by each reading; knows the number if it is always the same."""

    grid: tuple[int, ...] | None
    images: int = 0
    first: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, np.int64))
    odd: dict[Reading, tuple[int, int]] = field(default_factory=dict)

    def see(self, data: Bytes, starts: Offsets, ends: Offsets) -> None:
        """Count the ids of some more images, data[starts[i]:ends[i]]."""
        counts = np.empty((len(starts), 2), np.int64)
        _count(data, starts, ends, counts)
        if not self.images:
            self.first = counts[0]
        for reading in Reading:
            found = counts[:, reading.value]
            wanted = prod(self.grid) if self.grid else self.first[reading.value]
            wrong = np.flatnonzero((found != wanted) | (found < 0))
            if len(wrong) and reading not in self.odd:
                self.odd[reading] = (self.images + int(wrong[0]), int(found[wrong[0]]))
        self.images += len(starts)

    def decide(self, where: str) -> tuple[Reading, tuple[int, ...]]:
        """The reading by which all images have one number of ids, and the grid.

        Raises:
            SourceError: no reading fits, or both do and differ; the message says how to go on.
        """
        fitting = {}
        for reading in (reading for reading in Reading if reading not in self.odd):
            ids = int(self.first[reading.value])
            side = isqrt(ids)
            if self.grid is not None or side * side == ids:
                fitting[reading] = self.grid or (side, side)
        if len(set(fitting.values())) == 1:
            # Both: then no two bytes 255 follow each other anywhere, and both are the same.
            reading = Reading.STEPS if Reading.STEPS in fitting else Reading.PAIRS
            return reading, fitting[reading]
        if fitting:
            told = " or ".join(f"{prod(grid)}" for grid in fitting.values())
            raise SourceError(
                f"{where} can be read as {told} ids an image, depending on what two bytes 255 in "
                "a row mean. Say with --grid HxW which it is."
            )
        raise SourceError(self._complaint(where))

    def _complaint(self, where: str) -> str:
        wanted = prod(self.grid) if self.grid else int(self.first[Reading.STEPS.value])
        if Reading.STEPS not in self.odd:
            return f"{where} has {wanted} ids an image, which is no square. Say --grid HxW."
        image, found = self.odd[Reading.STEPS]
        what = "ends in the midst of an id" if found < 0 else f"has {found} ids"
        return (
            f"{where}: image {image} {what}, expected {wanted}"
            f"{' as --grid says' if self.grid else ' as the first image has'}. Data or index are "
            "damaged, or the index belongs to other data."
        )


def read_ids(
    coded: tuple[Bytes, Offsets, Offsets], grid: tuple[int, ...], reading: Reading
) -> NDArray[np.uint16]:
    """The ids of some images, uint16 [n, *grid].

    Args:
        coded: data, and where each image starts and ends in it.
        grid: shape of one image.
        reading: what `Tally` decided.

    Raises:
        CodecError: an image that is not the code of one grid; names its row.
    """
    data, starts, ends = coded
    out = np.empty((len(starts), *grid), np.uint16)
    if reading is Reading.STEPS:
        unescape(data, starts, ends, LARGEST, out)
        return out
    bad = _read_pairs(data, starts, ends, out.reshape(len(out), prod(grid)))
    if bad >= 0:
        raise CodecError(f"row {bad} is not the code of {prod(grid)} ids of one or two bytes")
    return out


@compiled
def _count(data: Bytes, starts: Offsets, ends: Offsets, out: Offsets) -> None:
    """Ids of each image by steps and by pairs, -1 where it ends in the midst of one."""
    for row in range(len(starts)):
        steps = 0
        pairs = 0
        waits = False
        last = 0
        for byte in data[starts[row] : ends[row]]:
            steps += byte != ESCAPE
            waits = byte == ESCAPE and not waits
            pairs += not waits
            last = byte
        out[row, 0] = -1 if last == ESCAPE else steps
        out[row, 1] = -1 if waits else pairs


@compiled
def _read_pairs(data: Bytes, starts: Offsets, ends: Offsets, out: NDArray[np.uint16]) -> int:
    """The first row that is wrong, or -1."""
    for row in range(len(starts)):
        token = 0
        waits = False
        for byte in data[starts[row] : ends[row]]:
            if byte == ESCAPE and not waits:
                waits = True
                continue
            if token >= out.shape[1]:
                return row
            out[row, token] = byte + ESCAPE if waits else byte
            waits = False
            token += 1
        if waits or token != out.shape[1]:
            return row
    return -1
