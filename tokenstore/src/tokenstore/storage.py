"""Named files below one folder: a local directory or an fsspec URL.

Everything the store reads or writes passes through here, so that "atomic", "absent" and "whole"
mean the same on a disk and in a bucket. A name is a relative POSIX path such as
`manifests/000000.json`. A file appears whole under its name or not at all; locally it is also
flushed to the disk, folder entry included. This module knows nothing of what the bytes mean.
"""

import contextlib
import functools
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from tokenstore.disk import flush_folder, is_writing, mapped, write_through, writer_mark
from tokenstore.errors import CorruptStore, StoreError
from tokenstore.retrying import Persistent
from tokenstore.urls import is_remote, refuse_secrets

Bytes = NDArray[np.uint8]
Offsets = NDArray[np.int64]

PARTIAL = ".partial"
GAP = 1 << 15  # bytes between two ranges that are cheaper read than asked for separately
OPEN_MAPS = 512  # a memory map holds a file descriptor, and 1,024 of those is a common limit


class Fetched(NamedTuple):
    """Byte ranges of a file: range i is content[starts[i]:ends[i]], not to be written to."""

    content: Bytes
    starts: Offsets
    ends: Offsets


class Storage(ABC):
    """One folder of named files; see `open_storage`."""

    url: str
    at_hand = False  # whether asking for a file's length costs no request

    @abstractmethod
    def names(self) -> list[str]:
        """All files below the folder, sorted; empty where the folder does not exist."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether a whole file of this name is there."""

    @abstractmethod
    def size(self, name: str) -> int:
        """Bytes of the file.

        Raises:
            FileNotFoundError: there is no such file.
        """

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The whole file. Raises FileNotFoundError where there is none."""

    @abstractmethod
    def fetch(self, name: str, starts: Offsets, ends: Offsets) -> Fetched:
        """Byte ranges of one file, in whatever buffer they come cheapest.

        Args:
            name: the file.
            starts: int64 [n], first byte of each range.
            ends: int64 [n], one past the last byte of each range.

        Raises:
            CorruptStore: a range does not lie in the file.
        """

    def part(self, name: str, start: int, end: int) -> bytes:
        """One range of bytes of a file; raises as `fetch` does."""
        fetched = self.fetch(name, np.array([start]), np.array([end]))
        return fetched.content[int(fetched.starts[0]) : int(fetched.ends[0])].tobytes()

    def download(self, name: str, file: Path) -> None:
        """Copy the whole file to a local one. Raises FileNotFoundError where there is none."""
        file.write_bytes(self.read(name))

    @abstractmethod
    def create(self, name: str, content: bytes) -> None:
        """Write a file, replacing an older one of that name."""

    @abstractmethod
    def create_new(self, name: str, content: bytes) -> None:
        """Write a file that must not be there yet.

        Raises:
            FileExistsError: somebody has written this name already.
        """

    @abstractmethod
    def writing(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """A file to write to; the name appears at a clean exit and not otherwise."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Delete a file that is there."""

    def take(self, other: "Storage", name: str) -> None:
        """Move a file of another storage here, where no file of that name may be yet.

        Raises:
            FileExistsError: there is one.
        """
        self.create_new(name, other.read(name))
        other.remove(name)

    def sweep(self) -> None:
        """Delete what interrupted writers left behind, and nothing of one that is at work."""
        for name in self.names():
            if name.endswith(PARTIAL) and not is_writing(name):
                with contextlib.suppress(FileNotFoundError):  # somebody else sweeps too
                    self.remove(name)


def open_storage(place: str | Path) -> Storage:
    """The storage at a local folder or an fsspec URL; nothing is touched yet."""
    text = str(place)
    return RemoteStorage(text) if is_remote(text) else LocalStorage(text.removeprefix("file://"))


class LocalStorage(Storage):
    """A folder of this machine."""

    at_hand = True

    def __init__(self, folder: str) -> None:
        """Remember the folder; it is made by the first write."""
        self.url = folder
        self._folder = Path(folder)
        self._map = functools.lru_cache(OPEN_MAPS)(self._open_map)

    def names(self) -> list[str]:
        """See `Storage.names`."""
        files = (path for path in self._folder.rglob("*") if not path.is_dir())
        return sorted(path.relative_to(self._folder).as_posix() for path in files)

    def exists(self, name: str) -> bool:
        """See `Storage.exists`."""
        return (self._folder / name).is_file()

    def size(self, name: str) -> int:
        """See `Storage.size`."""
        return (self._folder / name).stat().st_size

    def read(self, name: str) -> bytes:
        """See `Storage.read`."""
        return (self._folder / name).read_bytes()

    def fetch(self, name: str, starts: Offsets, ends: Offsets) -> Fetched:
        """See `Storage.fetch`: the ranges stay where they are in the mapped file."""
        content = self._map(name)
        refuse_beyond(content, ends, f"{self.url}/{name}")
        return Fetched(content, starts, ends)

    def part(self, name: str, start: int, end: int) -> bytes:
        """See `Storage.part`; without arrays, since single images are read through it."""
        content = self._map(name)
        if end > len(content):
            raise _too_short(f"{self.url}/{name}", end)
        return content[start:end].tobytes()

    def create(self, name: str, content: bytes) -> None:
        """See `Storage.create`."""
        with self.writing(name) as file:
            file.write(content)

    def create_new(self, name: str, content: bytes) -> None:
        """See `Storage.create_new`."""
        partial, path = self._write_partial(name, content), self._folder / name
        try:
            os.link(partial, path)  # unlike a rename, a link refuses to replace
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            with path.open("xb") as file:
                write_through(file, content)
        finally:
            partial.unlink()
        flush_folder(path.parent)

    def take(self, other: Storage, name: str) -> None:
        """See `Storage.take`; a link, so that nothing half-written is ever here."""
        if isinstance(other, LocalStorage):
            path, source = self._folder / name, other._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, path)
            except FileExistsError:
                raise
            except OSError:  # another file system, or one without hard links
                super().take(other, name)
                return
            flush_folder(path.parent)
            source.unlink()
        else:
            super().take(other, name)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """See `Storage.writing`."""
        partial = self._partial(name)
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._folder / name)
            self._map.cache_clear()
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        flush_folder(partial.parent)

    def remove(self, name: str) -> None:
        """See `Storage.remove`."""
        (self._folder / name).unlink()

    def _open_map(self, name: str) -> Bytes:
        with (self._folder / name).open("rb") as file:
            return mapped(file)

    def _write_partial(self, name: str, content: bytes) -> Path:
        partial = self._partial(name)
        try:
            with partial.open("wb") as file:
                write_through(file, content)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return partial

    def _partial(self, name: str) -> Path:
        """`a/b.tar` -> FOLDER/a/.b.tar.~node7~4711~0.partial, its folder made."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.with_name(f".{path.name}.{writer_mark()}{PARTIAL}")


class RemoteStorage(Storage):
    """A folder behind an fsspec URL; uploads of object stores are atomic by themselves."""

    def __init__(self, url: str) -> None:
        """Find the file system of the URL, which must hold no credentials: it is printed."""
        import fsspec

        refuse_secrets(url)
        self.url = url.rstrip("/")
        try:
            system, self._folder = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            raise StoreError(
                f"cannot open '{url}': {error}. `pip install 'tokenstore[remote]'` brings it."
            ) from error
        except ValueError as error:
            raise StoreError(f"cannot open '{url}': {error}") from error
        self._fs = Persistent(system, self.url)

    def names(self) -> list[str]:
        """See `Storage.names`."""
        self._fs.invalidate_cache(self._folder)
        skip = len(self._folder.rstrip("/")) + 1
        return sorted(path[skip:] for path in self._fs.find(self._folder))

    def exists(self, name: str) -> bool:
        """See `Storage.exists`; not by `isfile`, to which a network that fails is an absence."""
        try:
            return bool(self._fs.info(self._path(name))["type"] == "file")
        except FileNotFoundError:
            return False

    def size(self, name: str) -> int:
        """See `Storage.size`."""
        return int(self._fs.size(self._path(name)))

    def read(self, name: str) -> bytes:
        """See `Storage.read`."""
        return bytes(self._fs.cat_file(self._path(name)))

    def fetch(self, name: str, starts: Offsets, ends: Offsets) -> Fetched:
        """See `Storage.fetch`: a request for each run of neighbours, side by side if possible."""
        if not len(starts):
            return Fetched(np.empty(0, np.uint8), starts, ends)
        order = np.argsort(starts)
        reached = np.maximum.accumulate(ends[order])
        begins = np.append(True, starts[order][1:] > reached[:-1] + GAP)
        firsts, lasts = starts[order][begins], reached[np.append(begins[1:], True)]
        paths = [self._path(name)] * len(firsts)
        parts = self._fs.cat_ranges(paths, firsts.tolist(), lasts.tolist(), on_error="raise")
        for part, first, last in zip(parts, firsts, lasts, strict=True):
            if len(part) != last - first:
                raise _too_short(f"{self.url}/{name}", int(last))
        moved = np.cumsum(lasts - firsts) - lasts  # from a place in the file to one in `content`
        shift = np.empty_like(starts)
        shift[order] = moved[np.cumsum(begins) - 1]
        return Fetched(np.frombuffer(b"".join(parts), np.uint8), starts + shift, ends + shift)

    def download(self, name: str, file: Path) -> None:
        """See `Storage.download`; in pieces, whatever its size."""
        self._fs.get_file(self._path(name), str(file))

    def create(self, name: str, content: bytes) -> None:
        """See `Storage.create`."""
        self._fs.makedirs(self._parent(name), exist_ok=True)
        self._fs.pipe_file(self._path(name), content)

    def create_new(self, name: str, content: bytes) -> None:
        """See `Storage.create_new`."""
        self._fs.makedirs(self._parent(name), exist_ok=True)
        self._fs.pipe_file(self._path(name), content, mode="create")

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """See `Storage.writing`; collected on the local disk and uploaded by the clean exit."""
        self._fs.makedirs(self._parent(name), exist_ok=True)
        with tempfile.NamedTemporaryFile() as file:
            yield cast(BinaryIO, file)
            file.flush()
            self._fs.put_file(file.name, self._path(name))

    def remove(self, name: str) -> None:
        """See `Storage.remove`."""
        self._fs.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._folder.rstrip('/')}/{name}"

    def _parent(self, name: str) -> str:
        return self._path(name).rpartition("/")[0]


def refuse_beyond(content: Bytes, ends: Offsets, where: str) -> None:
    """Refuse ranges that end behind the content of a file."""
    if ends.max(initial=0) > len(content):
        raise _too_short(where, int(ends.max()))


def _too_short(where: str, end: int) -> CorruptStore:
    return CorruptStore(f"{where} ends before byte {end}; it was cut short")
