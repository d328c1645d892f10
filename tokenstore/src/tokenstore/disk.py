"""What the operating system is asked for: a file mapped, or there for good, or still written to.

Below `storage`, which says what a whole file is; here are single calls.
"""

import mmap
import os
import socket
import threading
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


def writer_mark() -> str:
    """`~node7~4711~140245`: who is writing, as it stands in the name of an unfinished file."""
    return f"~{socket.gethostname()}~{os.getpid()}~{threading.get_ident()}"


def is_writing(name: str) -> bool:
    """Whether the writer of an unfinished file may still be at work.

    A process of another machine may: nobody can ask. One of this machine is looked for; a name
    without a mark has no writer.
    """
    fields = name.rsplit("~", 3)
    if len(fields) < 4 or not fields[2].isdecimal():
        return False
    if fields[1] != socket.gethostname():
        return True
    try:
        os.kill(int(fields[2]), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
