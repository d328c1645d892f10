"""Tars of outside, read in sequence to their very end, from plain or compressed files.

Python's tarfile takes a damaged header in the midst, or the end of a file that was cut short, for
the end of the archive, and would lose the rest in silence. Here an archive ends with its zeros and
nothing behind them, a compressed file with its checksum. Nothing is unpacked onto the disk.
"""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from tokenstore.errors import SourceError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
MOST_BYTES = 1 << 26  # of a member; a larger one holds no ids of one image
TAR_BLOCK = 512
DAMAGED = (tarfile.TarError, lzma.LZMAError, zlib.error, OSError, EOFError, ValueError)
_OPENERS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7": lzma.open,
}


def members(tar: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each regular file in a tar, in order.

    Raises:
        SourceError: no tar, damaged or cut short, or with a member that is far too large.
    """
    try:
        with _opened(tar) as stream:
            watched = _Watched(stream)
            with tarfile.open(fileobj=watched, mode="r|") as archive:  # type: ignore[call-overload]
                for member in archive:
                    if member.isfile():
                        yield member.name, _content(archive, member, tar)
                watched.check_end(archive.offset, tar)
    except DAMAGED as error:
        raise SourceError(
            f"'{tar}' is no whole tar ({str(error) or 'it ends early'}). Fetch it anew."
        ) from error


def _opened(tar: Path) -> IO[bytes]:
    if not tar.is_file():
        raise SourceError(f"'{tar}' is no file.")
    with tar.open("rb") as stream:
        first = stream.read(2)
    opened: IO[bytes] = _OPENERS.get(first, lambda file: file.open("rb"))(tar)
    return opened


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, tar: Path) -> bytes:
    if member.size > MOST_BYTES:
        raise SourceError(
            f"'{tar}', member '{member.name}' has {member.size:,} bytes, expected the ids of one "
            f"image: at most {MOST_BYTES:,}."
        )
    stream = archive.extractfile(member)
    content = b"" if stream is None else stream.read()
    if len(content) != member.size:
        raise SourceError(f"'{tar}' is cut short in '{member.name}'. Fetch it anew.")
    return content


class _Watched:
    """A stream that remembers its last bytes, so that the end of an archive can be looked at."""

    KEPT = 1 << 16  # more than tarfile reads ahead

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._read = 0
        self._last = b""

    def read(self, size: int) -> bytes:
        """As of a file."""
        content = self._stream.read(size)
        self._read += len(content)
        self._last = (self._last + content)[-self.KEPT :]
        return content

    def check_end(self, offset: int, tar: Path) -> None:
        """Make sure that zeros, and they alone, stand where tarfile saw the end."""
        rest = self._last[offset - (self._read - len(self._last)) :]
        ends = rest[:TAR_BLOCK] == bytes(TAR_BLOCK)
        while rest and ends:
            ends = not rest.strip(b"\0")
            rest = self._stream.read(self.KEPT)
        if not ends:
            raise SourceError(
                f"'{tar}' does not end at byte {offset}, where its last whole member does: it was "
                "cut short, is damaged there, or several tars were joined. Fetch or split it anew."
            )
