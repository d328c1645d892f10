"""Arrays from files of outside: .npy read without a chance to run or to claim anything, and shapes.

numpy would unpickle object arrays if it were allowed to, and reserve what a header claims; here the
header is parsed by numpy, compared with the bytes that are there, and the numbers are viewed.
"""

import io
import math
import tokenize
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenstore.errors import SourceError

# numpy reads a header as Python literals, and damage makes any of these of it.
UNREADABLE = (
    *(ValueError, TypeError, KeyError, EOFError, OverflowError, RecursionError, MemoryError),
    *(SyntaxError, tokenize.TokenError),
)
LARGEST_ID = 1 << 20  # ids are counted in a table
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npy(content: bytes, where: str) -> NDArray[Any]:
    """The array of a .npy file's bytes, as a read-only view where possible.

    Raises:
        SourceError: no .npy, cut short, or one of objects, which only a pickle could restore.
    """
    shape, by_column, dtype, start = _header(content, len(content), where)
    numbers = np.frombuffer(content, dtype, math.prod(shape), start)
    return numbers.reshape(shape[::-1]).T if by_column else numbers.reshape(shape)


def map_npy(file: Path) -> NDArray[Any]:
    """A .npy file as a memory map; see `read_npy`."""
    where = f"'{file}'"
    with file.open("rb") as stream:
        _header(stream.read(1 << 14), file.stat().st_size, where)
    try:
        mapped = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise SourceError(f"{where} is no whole .npy file ({error}). Write it anew.") from error
    array: NDArray[Any] = mapped
    return array


def whole_numbers(array: NDArray[Any], where: str) -> NDArray[np.integer[Any]]:
    """The array itself, if it holds whole numbers.

    Raises:
        SourceError: another dtype.
    """
    if array.dtype.kind not in "iu":
        raise SourceError(
            f"{where} holds {array.dtype}, expected ids: whole numbers such as uint16 or int64. "
            "Save the ids, not the vectors or pictures."
        )
    return array


def square(ids: int, where: str) -> tuple[int, int]:
    """`1024 -> (32, 32)`: the grid of a flat list of ids.

    Raises:
        SourceError: the number is no square.
    """
    side = math.isqrt(ids)
    if not ids or side * side != ids:
        raise SourceError(
            f"{where} has {ids} ids an image, which is no square. Say how they lie with --grid HxW."
        )
    return side, side


def _header(
    content: bytes, size: int, where: str
) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether it goes by columns, dtype, and where the numbers begin.

    Args:
        content: the file's first bytes.
        size: how many bytes the file has.
        where: what an error calls it.
    """
    stream = io.BytesIO(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns of headers that it has to guess at
            shape, by_column, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(f"{where} is no .npy file ({reason}). Save it with numpy.save.") from None
    if dtype.hasobject or dtype.kind == "V":
        raise SourceError(
            f"{where} holds {dtype}: Python objects or records, which are not read here, since "
            "objects run code. Save a plain array of whole numbers."
        )
    start, promised = stream.tell(), math.prod(shape) * dtype.itemsize
    if size - start != promised or min((dtype.itemsize, *shape)) < 0 or not dtype.itemsize:
        raise SourceError(
            f"{where} holds {size - start} bytes of numbers where its header promises {promised} "
            f"({dtype} {list(shape)}). It is damaged; write it anew."
        )
    return shape, by_column, dtype, start
