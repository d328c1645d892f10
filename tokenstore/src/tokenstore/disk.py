"""What the operating system is asked for so that a local file is mapped, or there for good.

Below `storage`, which says what a whole file is; here are single calls.
"""

import mmap
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray


def mapped(file: BinaryIO) -> NDArray[np.uint8]:
    """The content of an open file, not to be written to; it stays when the file is deleted."""
    if os.fstat(file.fileno()).st_size == 0:
        return np.empty(0, np.uint8)
    return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def write_through(file: BinaryIO, content: bytes) -> None:
    """Write bytes that survive a power cut."""
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Make a new name survive a power cut, not only the bytes under it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
