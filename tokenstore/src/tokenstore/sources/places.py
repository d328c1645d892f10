"""Where the files of a corpus lie: a local folder, or a URL of s3, gcs, http, hf ... by fsspec.

Remote calls are tried again and finally named (`tokenstore.retrying`). Credentials come from the
environment, as each file system reads them; a URL that holds some is refused, since URLs are
printed. What the files are is for the sources to say.
"""

import functools
import posixpath
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast
from urllib.parse import urlsplit

from tokenstore.errors import ImageRejected, SourceError, StoreError
from tokenstore.retrying import Persistent
from tokenstore.sources.files import entries_of

SECRETS = ("signature", "token", "secret", "credential", "password", "sig=")


class Found(NamedTuple):
    """A file: its POSIX path below the place, and its bytes."""

    name: str
    size: int


def is_remote(place: str) -> bool:
    """Whether a place is a URL and no folder of this machine."""
    return "://" in place and not place.startswith("file://")


class Place:
    """A folder, or one file of it; picklable, and safe to share between threads."""

    def __init__(self, place: str) -> None:
        """Remember the place; nothing is asked of it yet.

        Raises:
            SourceError: the URL holds credentials.
        """
        self.url = place.removeprefix("file://").rstrip("/")
        self.is_remote = is_remote(place)
        if self.is_remote:
            _refuse_secrets(place)

    def __reduce__(self) -> tuple[type["Place"], tuple[str]]:
        """Pickle by URL: the copy connects anew."""
        return (Place, (self.url,))

    def is_file(self) -> bool:
        """Whether the place is one file."""
        if self.is_remote:
            return bool(self._asked(lambda: self._system.isfile(self._path)))
        return Path(self.url).is_file()

    def exists(self) -> bool:
        """Whether anything is there."""
        if self.is_remote:
            return bool(self._asked(lambda: self._system.exists(self._path)))
        return Path(self.url).exists()

    def parent(self) -> tuple["Place", str]:
        """The folder of a file, and the file's name in it."""
        folder, _, name = self.url.rpartition("/")
        return Place(folder or "."), name

    def files(self) -> list[Found]:
        """All files below the folder, hidden ones left out, in the byte order of their names.

        Raises:
            SourceError: the folder cannot be read.
        """
        if not self.is_remote:
            return [Found(name, _local_size(self.url, name)) for name in _walked(self.url)]
        detail = self._asked(lambda: self._system.find(self._path, detail=True))
        skip = len(self._path.rstrip("/")) + 1
        found = [Found(path[skip:], int(facts["size"] or 0)) for path, facts in detail.items()]
        visible = [f for f in found if not any(p.startswith(".") for p in f.name.split("/"))]
        return sorted(visible, key=lambda file: file.name.encode("utf-8", "surrogateescape"))

    def size(self, name: str) -> int:
        """Bytes of a file.

        Raises:
            SourceError: it is not there.
        """
        if not self.is_remote:
            return _local_size(self.url, name)
        return int(self._asked(lambda: self._system.size(self._file(name))))

    def read(self, name: str, start: int = 0, size: int | None = None) -> bytes:
        """A file, or `size` bytes of it from `start`.

        Raises:
            ImageRejected: it cannot be read.
            SourceError: a remote place failed again and again.
        """
        try:
            if self.is_remote:
                end = None if size is None else start + size
                return bytes(self._system.cat_file(self._file(name), start=start, end=end))
            with (Path(self.url) / name).open("rb") as file:
                file.seek(start)
                return file.read() if size is None else file.read(size)
        except StoreError as error:
            raise SourceError(str(error)) from error
        except OSError as error:
            raise ImageRejected(f"cannot be read ({error.strerror or 'not found'})") from error

    def open(self, name: str) -> BinaryIO:
        """A file to read and to seek in.

        Raises:
            SourceError: it cannot be opened.
        """
        if self.is_remote:
            return cast(BinaryIO, self._asked(lambda: self._system.open(self._file(name), "rb")))
        try:
            return (Path(self.url) / name).open("rb")
        except OSError as error:
            raise SourceError(f"'{self.url}/{name}' cannot be read: {error.strerror}.") from error

    def _file(self, name: str) -> str:
        return posixpath.join(self._path, name) if name else self._path

    @functools.cached_property
    def _path(self) -> str:
        return self._connected[1]

    @functools.cached_property
    def _system(self) -> Any:
        return Persistent(self._connected[0], self.url)

    @functools.cached_property
    def _connected(self) -> tuple[Any, str]:
        import fsspec

        try:
            system, path = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise SourceError(f"cannot open '{self.url}': {error}") from error
        return system, path

    def _asked(self, call: Callable[[], Any]) -> Any:
        """What a remote answers; what it refuses is an error of the whole corpus."""
        try:
            return call()
        except (StoreError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise SourceError(f"'{self.url}' cannot be read: {reason}") from error


def _walked(root: str, inside: str = "") -> list[str]:
    names = []
    for entry in entries_of(Path(root) / inside):
        if entry.is_dir(follow_symlinks=False):
            names += _walked(root, f"{inside}{entry.name}/")
        elif entry.is_file():
            names.append(inside + entry.name)
    return names


def _local_size(root: str, name: str) -> int:
    try:
        return (Path(root) / name).stat().st_size
    except OSError as error:
        raise SourceError(f"'{root}/{name}' cannot be read: {error.strerror}.") from error


def _refuse_secrets(url: str) -> None:
    """Refuse a URL with a password or a signature in it; says where, and does not repeat it."""
    parts = urlsplit(url)
    if "@" in parts.netloc and parts.scheme not in ("abfs", "abfss"):
        where = "user and password"
    elif any(word in parts.query.lower() for word in SECRETS):
        where = "a signature or token"
    else:
        return
    raise SourceError(
        f"the {parts.scheme} URL holds {where}, and URLs are printed. Give credentials through the "
        "environment (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN ...)."
    )
