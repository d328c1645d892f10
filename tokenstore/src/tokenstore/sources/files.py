"""Image files of a local folder: found by walking it, in the byte order of their paths.

What several sources of folders share. Listed are files with an image extension in any case; hidden
files and folders are passed over. Links are followed, also out of the folder, since subsets of a
corpus are often folders of links; a link to a folder that contains it is refused. What a path means
(split, class, key) is for each source to say.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tokenstore.errors import ImageRejected, SourceError
from tokenstore.sources.base import printable

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
SPLITS = ("train", "val", "test")


class ImageFile(NamedTuple):
    """An image file: its path below the root, the same below its split's folder, and its bytes."""

    path: str
    inside: str
    size: int

    @property
    def folder(self) -> str | None:
        """The first folder inside the split, None for a file that lies directly in it."""
        first, slash, _ = self.inside.partition("/")
        return first if slash else None


def read_file(path: Path) -> bytes:
    """The bytes of a listed file.

    Raises:
        ImageRejected: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageRejected(f"cannot be read ({error.strerror})") from error


def entries_of(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in a folder, hidden entries left out, in the byte order of the names."""
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise SourceError(
            f"folder '{printable(str(folder))}' cannot be read: {error.strerror}. "
            "Check its permissions."
        ) from error
    return sorted(entries, key=lambda entry: os.fsencode(entry.name))


def image_files(folder: Path, prefix: str) -> Iterator[ImageFile]:
    """All image files below a folder; `prefix` leads from the root to it."""
    for inside, size in _walk(str(folder), "", ()):
        yield ImageFile(prefix + inside, inside, size)


def _walk(folder: str, inside: str, above: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Path below the folder where the walk began, and bytes, of each image file."""
    real = os.path.realpath(folder)
    if real in above:
        raise SourceError(
            f"folder '{printable(folder)}' is a link to a folder that contains it. Remove the link."
        )
    for entry in entries_of(folder):
        if entry.is_dir():
            yield from _walk(entry.path, f"{inside}{entry.name}/", (*above, real))
        elif is_image(entry):
            yield inside + entry.name, _size(entry)


def is_image(entry: os.DirEntry[str]) -> bool:
    """Whether a file has an image's name; broken links count, so that a build reports them."""
    name = entry.name.lower()
    return name.endswith(EXTENSIONS) and (entry.is_file() or entry.is_symlink())


def holds_images(entry: os.DirEntry[str]) -> bool:
    """Whether there is an image file anywhere in a folder."""
    return entry.is_dir() and next(_walk(entry.path, "", ()), None) is not None


def _size(entry: os.DirEntry[str]) -> int:
    """Bytes of a file; 0 for a broken link, which reading will then reject by name."""
    try:
        return entry.stat().st_size
    except OSError:
        return 0
