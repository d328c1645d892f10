"""A bounded folder of files of remote stores, shared by all processes of a machine.

    tokenstore-cache.json      says what this folder is; without it, nothing here is touched
    <sha256>.file              one file of some store, whole and compared with its hash
    <sha256>.<bytes>.partial   one on its way; never read
    <sha256>.lock  room.lock   held while that file is fetched, and while room is made for one

Files are named by their content, so none is ever out of date, and stores that share shards share
them here too. A process may be killed at any moment: what it leaves is a partial file without
anybody at its lock, which the next one deletes. Nothing is deleted but files of these names. A file
is mapped for as long as a batch is read from it, no longer, so what is deleted is soon gone.
"""

import contextlib
import errno
import hashlib
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from tokenstore.disk import mapped
from tokenstore.entries import FileEntry
from tokenstore.errors import CorruptStore, StoreError, TokenstoreError, UsageError
from tokenstore.storage import (
    PARTIAL,
    Bytes,
    Fetched,
    LocalStorage,
    Offsets,
    Storage,
    refuse_beyond,
)

CACHE_BYTES = 20 * 10**9  # of a cache whose size nobody has said
MARKER = "tokenstore-cache.json"
CONTENT = b'{"tokenstore-cache":0}\n'
ROOM = "room.lock"
_HASHED = re.compile(r"(?P<sha256>[0-9a-f]{64})\.(file|lock|(?P<bytes>\d+)\.partial)")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Cache:
    """A cache folder, made by `open_cache`; it holds at most `capacity` bytes of files."""

    folder: Path
    capacity: int

    def content(self, file: FileEntry, origin: Storage) -> Bytes:
        """The bytes of a store's file, fetched if they must be; let go of them soon.

        Raises:
            CorruptStore: the file is missing, or not what the manifest says.
            StoreError: it cannot be fetched, or the cache cannot be written.
        """
        found = self._kept(file)
        if found is not None:
            return found
        try:
            with FileLock(self.folder / f"{file.sha256}.lock"):
                found = self._kept(file)  # another process may have fetched it meanwhile
                return self._fetched(file, origin) if found is None else found
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def touched(self, file: FileEntry) -> bool:
        """Whether a file is here; if so, it is now the last to make room."""
        return self._kept(file) is not None

    def drop_leftovers(self) -> None:
        """Delete partial files whose process is gone."""
        for path in self._files("partial"):
            with contextlib.suppress(Timeout), FileLock(_lock_of(path), blocking=False):
                path.unlink(missing_ok=True)

    def _kept(self, file: FileEntry) -> Bytes | None:
        path = self._path(file)
        try:
            os.utime(path)  # used now
            with path.open("rb") as stream:
                content = mapped(stream)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        return content if len(content) == file.bytes else None

    def _fetched(self, file: FileEntry, origin: Storage) -> Bytes:
        """Fetch, compare, keep; the caller holds the file's lock."""
        partial = self.folder / f"{file.sha256}.{file.bytes}.partial"
        partial.unlink(missing_ok=True)  # of a process that was killed
        try:
            self._reserve(file, partial)
            _download(file, origin, partial)
            with partial.open("rb") as stream:
                _refuse_other_content(stream, file, origin)
                os.fsync(stream.fileno())
                content = mapped(stream)  # before another process may delete the file
            partial.replace(self._path(file))
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return content

    def _reserve(self, file: FileEntry, partial: Path) -> None:
        """Wait until there is room, deleting what was used longest ago, and take it."""
        while True:
            with FileLock(self.folder / ROOM):
                if self._has_room(file.bytes):
                    partial.touch()
                    return
            time.sleep(_POLL_SECONDS)  # all room is taken by files on their way

    def _has_room(self, needed: int) -> bool:
        kept = []
        for path in self._files("file"):
            with contextlib.suppress(FileNotFoundError):
                facts = path.stat()
                kept.append((facts.st_mtime_ns, facts.st_size, path))
        used = sum(size for _, size, _ in kept) + self._reserved()
        if used + needed > self.capacity:
            used -= self._reserved()
            self.drop_leftovers()
            used += self._reserved()
        for _, size, path in sorted(kept):
            if used + needed <= self.capacity:
                break
            path.unlink(missing_ok=True)
            used -= size
        return used + needed <= self.capacity

    def _reserved(self) -> int:
        """Bytes that the files on their way will take."""
        return sum(int(path.name.split(".")[1]) for path in self._files("partial"))

    def _files(self, kind: str) -> list[Path]:
        names = sorted(path.name for path in self.folder.iterdir())
        return [self.folder / n for n in names if n.endswith(f".{kind}") and _HASHED.fullmatch(n)]

    def _path(self, file: FileEntry) -> Path:
        return self.folder / f"{file.sha256}.file"


def open_cache(folder: str | Path, capacity: int) -> Cache:
    """The cache in this folder, made where there is none.

    Raises:
        UsageError: a capacity that is no number of bytes.
        StoreError: the folder cannot be written, or holds anything that no cache has put there.
    """
    if capacity < 1:
        raise UsageError(f"a cache holds at least one byte, got cache_bytes={capacity}")
    place = Path(folder).expanduser().absolute()
    try:
        place.mkdir(parents=True, exist_ok=True)
        _refuse_foreign(place)
        if not (place / MARKER).exists():
            LocalStorage(str(place)).create(MARKER, CONTENT)
        cache = Cache(place, capacity)
        cache.drop_leftovers()
    except OSError as error:
        raise _unwritable(place, error) from error
    return cache


class CachedStorage(Storage):
    """The files that a manifest lists through a cache, anything else straight from the origin."""

    def __init__(self, origin: Storage, files: Sequence[FileEntry], cache: Cache) -> None:
        """Nothing is fetched yet.

        Raises:
            UsageError: the cache is smaller than the largest of the files.
        """
        self.url = origin.url
        self._origin, self._cache = origin, cache
        self._files = {file.name: file for file in files}
        largest = max(files, key=lambda file: file.bytes)
        if largest.bytes > cache.capacity:
            raise UsageError(
                f"cache_bytes is {cache.capacity:,}, but {self.url}/{largest.name} alone has "
                f"{largest.bytes:,} bytes, and files are kept whole. Give the cache room for "
                "several shards."
            )

    def touched(self, name: str) -> bool:
        """See `Cache.touched`, of a listed file."""
        return self._cache.touched(self._files[name])

    def prepare(self, name: str) -> None:
        """Have a listed file in the cache; raises as `Cache.content` does."""
        self._cache.content(self._files[name], self._origin)

    def names(self) -> list[str]:
        """See `Storage.names`."""
        return self._origin.names()

    def exists(self, name: str) -> bool:
        """See `Storage.exists`."""
        return name in self._files or self._origin.exists(name)

    def size(self, name: str) -> int:
        """See `Storage.size`; of listed files, what the manifest says and each fetch confirms."""
        return self._files[name].bytes if name in self._files else self._origin.size(name)

    def read(self, name: str) -> bytes:
        """See `Storage.read`."""
        if name not in self._files:
            return self._origin.read(name)
        return self._cache.content(self._files[name], self._origin).tobytes()

    def fetch(self, name: str, starts: Offsets, ends: Offsets) -> Fetched:
        """See `Storage.fetch`: the ranges stay where they are in the mapped file."""
        if name not in self._files:
            return self._origin.fetch(name, starts, ends)
        content = self._cache.content(self._files[name], self._origin)
        refuse_beyond(content, ends, f"{self.url}/{name}")
        return Fetched(content, starts, ends)

    def download(self, name: str, file: Path) -> None:
        """See `Storage.download`."""
        self._origin.download(name, file)

    def create(self, name: str, content: bytes) -> None:
        """See `Storage.create`."""
        self._origin.create(name, content)

    def create_new(self, name: str, content: bytes) -> None:
        """See `Storage.create_new`."""
        self._origin.create_new(name, content)

    def writing(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """See `Storage.writing`."""
        return self._origin.writing(name)

    def remove(self, name: str) -> None:
        """See `Storage.remove`."""
        self._origin.remove(name)


def _download(file: FileEntry, origin: Storage, partial: Path) -> None:
    where = f"{origin.url}/{file.name}"
    try:
        origin.download(file.name, partial)
    except FileNotFoundError as error:
        raise CorruptStore(f"{where} is missing; the store is not whole") from error
    except TokenstoreError:
        raise
    except Exception as error:  # each file system of fsspec has errors of its own
        if isinstance(error, OSError) and error.errno in _FULL:
            raise
        reason = str(error) or type(error).__name__
        raise StoreError(f"cannot fetch {where}: {reason}. Run the same again.") from error


def _refuse_other_content(stream: BufferedReader, file: FileEntry, origin: Storage) -> None:
    digest = hashlib.file_digest(stream, "sha256").hexdigest()
    size = stream.tell()
    if (size, digest) != (file.bytes, file.sha256):
        raise CorruptStore(
            f"{origin.url}/{file.name} came with {size} bytes and SHA-256 {digest}, the manifest "
            f"says {file.bytes} and {file.sha256}. If it comes so again, the store is damaged."
        )


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder that somebody uses for anything else."""
    names = sorted(path.name for path in folder.iterdir())
    is_cache = (folder / MARKER).exists()  # asked after the names: its files come after the marker
    foreign = [name for name in names if not _is_own(name, is_cache)]
    if foreign:
        raise StoreError(
            f"'{folder}' holds '{foreign[0]}', which no cache of tokenstore has put there. Give "
            "the cache a folder of its own, an empty or a new one."
        )
    if is_cache and (folder / MARKER).read_bytes() != CONTENT:
        raise StoreError(
            f"'{folder}' is a cache of another version of tokenstore. Give this one a new folder."
        )


def _is_own(name: str, is_cache: bool) -> bool:
    """Whether a cache may have made this name; before its marker, only the marker on its way."""
    if is_cache and (name in (MARKER, ROOM) or _HASHED.fullmatch(name)):
        return True
    return name.startswith(f".{MARKER}.") and name.endswith(PARTIAL)


def _lock_of(partial: Path) -> Path:
    return partial.with_name(f"{partial.name.split('.')[0]}.lock")


def _unwritable(folder: Path, error: OSError) -> StoreError:
    reason = error.strerror or str(error)
    cure = "Free some space" if error.errno in _FULL else "Make it writable"
    return StoreError(
        f"the cache folder '{folder}' cannot be used: {reason}. {cure}, or name another folder."
    )
