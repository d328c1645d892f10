"""Folders of image files: class folders, a folder with train/ val/ test/, or one plain folder.

* **Splits.** If every sub-folder that holds images is called train, val or test, those are the
  splits (an empty one too); else the whole folder is the split `train`. Split folders beside other
  folders of images are refused, unless `classes.json` names them as classes.
* **Labels.** In a split whose images all lie in sub-folders, the first sub-folder is the class. A
  split with images directly in its folder has no labels. Classes are in the order of
  `classes.json` (or of the file given), else the sorted union of the class folders of all splits.
* **Files.** Listed are files with an image extension in any case; hidden files and folders are
  passed over. Links are followed, also out of the folder, since subsets of a corpus are often
  folders of links; a link to a folder that contains it is refused.
* **Keys** are the path inside the split without its last suffix (`n01440764/n01440764_10026`).

Files are only listed here, in the byte order of their paths; decoding is in `base`.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Self

from tokenstore.errors import ImageRejected, SourceError
from tokenstore.sources.base import Item, Listing, Rejected, Source, printable, reject_repeated_keys

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
SPLITS = ("train", "val", "test")
CLASS_FILE = "classes.json"


class _File(NamedTuple):
    """An image file: its path below the root, the same below its split's folder, and its bytes."""

    path: str
    inside: str
    size: int

    @property
    def folder(self) -> str | None:
        """The first folder inside the split, None for a file that lies directly in it."""
        first, slash, _ = self.inside.partition("/")
        return first if slash else None


class ImageFolder(Source):
    """A folder of image files; see the rules above."""

    kind = "image-folder"

    def __init__(self, root: Path, classes: tuple[str, ...] | None) -> None:
        """Use `root`; `classes` are the declared names, None where the folders themselves tell."""
        self.root = root
        self.declared = classes

    @classmethod
    def accepts(cls, place: str) -> bool:
        """Any folder."""
        return Path(place).is_dir()

    @classmethod
    def open(cls, place: str, classes: Path | None = None) -> Self:
        """See `Source.open`."""
        root = Path(place)
        if not root.is_dir():
            raise SourceError(f"'{place}' is no folder. Give the folder that holds the images.")
        own = root / CLASS_FILE
        file = classes or (own if own.is_file() else None)
        return cls(root, read_classes(file) if file else None)

    def listing(self) -> Listing:
        """See `Source.listing`."""
        files = self._split_files()
        if not any(files.values()):
            raise SourceError(
                f"no images in '{self.root}': looked for {', '.join(EXTENSIONS)} files "
                "in it and its sub-folders. Give the folder that holds the images."
            )
        labelled = [split for split, found in files.items() if _has_labels(found)]
        folders = {file.folder for split in labelled for file in files[split] if file.folder}
        classes = self._classes(folders)
        labels = {name: label for label, name in enumerate(classes or ())}
        splits: dict[str, tuple[Item, ...]] = {}
        rejects: list[Rejected] = []
        for split, found in files.items():
            items = [_item(file, labels) for file in found]
            splits[split], repeated = reject_repeated_keys(split, items)
            rejects.extend(repeated)
        return Listing(splits, classes, tuple(rejects), tuple(_notes(files)))

    def read(self, item: Item) -> bytes:
        """See `Source.read`."""
        try:
            return (self.root / item.path).read_bytes()
        except OSError as error:
            raise ImageRejected(f"cannot be read ({error.strerror})") from error

    def _split_files(self) -> dict[str, list[_File]]:
        """The image files by split, in the byte order of their paths."""
        entries = _entries(self.root)
        found = [name for name in SPLITS if any(e.name == name and e.is_dir() for e in entries)]
        if not found or set(found) & set(self.declared or ()):
            return {"train": list(_files(self.root, ""))}
        for entry in entries:
            if entry.name not in SPLITS and (_is_image(entry) or _holds_images(entry)):
                raise SourceError(
                    f"'{self.root}' holds {found[0]}/ and also '{printable(entry.name)}', which "
                    f"is no split ({', '.join(SPLITS)}). Move it away, or list all class names in "
                    f"{CLASS_FILE} if '{found[0]}' is a class."
                )
        return {name: list(_files(self.root / name, f"{name}/")) for name in found}

    def _classes(self, folders: set[str]) -> tuple[str, ...] | None:
        if not folders:
            return None
        names = sorted(map(printable, folders))
        if self.declared is None:
            return tuple(names)
        unknown = [name for name in names if name not in self.declared]
        if unknown:
            raise SourceError(
                f"folder '{unknown[0]}' in '{self.root}' is none of the {len(self.declared)} "
                f"classes declared ({', '.join(self.declared[:5])}, ...). Correct the class file, "
                "or point at the folder that holds the class folders."
            )
        return self.declared


def _item(file: _File, labels: Mapping[str, int]) -> Item:
    key = printable(str(PurePosixPath(file.inside).with_suffix("")))
    label = labels.get(printable(file.folder)) if file.folder else None
    return Item(key, file.path, label, file.size)


def read_classes(file: Path) -> tuple[str, ...]:
    """Class names in label order from a JSON file.

    Either `{"classes": [{"index": 0, "name": "daisy"}, ...]}`, or a plain list of names.

    Raises:
        SourceError: the file cannot be read or is of neither form.
    """
    try:
        content = json.loads(file.read_bytes())
        entries = content["classes"] if isinstance(content, dict) else content
        if not isinstance(entries, list):
            raise _bad_class_file(file)
        if all(isinstance(entry, dict) for entry in entries):
            entries = sorted(entries, key=lambda entry: entry["index"])
            if [entry["index"] for entry in entries] != list(range(len(entries))):
                raise SourceError(f"class file '{file}': indices are not 0, 1, 2, ... without gap")
            entries = [entry["name"] for entry in entries]
    except OSError as error:
        raise SourceError(f"class file '{file}' cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _bad_class_file(file) from error
    if not all(isinstance(name, str) for name in entries) or len(set(entries)) != len(entries):
        raise _bad_class_file(file)
    return tuple(entries)


def _bad_class_file(file: Path) -> SourceError:
    return SourceError(
        f"class file '{file}' is no list of different class names. Expected "
        '{"classes": [{"index": 0, "name": "daisy"}, ...]} or ["daisy", ...].'
    )


def _has_labels(files: list[_File]) -> bool:
    return bool(files) and all(file.folder for file in files)


def _notes(files: Mapping[str, list[_File]]) -> Iterator[str]:
    """A sentence for each split that loses its labels because of images beside its folders."""
    for split, found in files.items():
        beside = [file for file in found if not file.folder]
        if beside and len(beside) < len(found):
            yield (
                f"{split} has no labels: {len(beside)} of its {len(found)} images lie beside its "
                f"sub-folders, e.g. '{printable(beside[0].path)}'"
            )


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
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


def _files(folder: Path, prefix: str) -> Iterator[_File]:
    """All image files below a folder; `prefix` leads from the root to it."""
    for inside, size in _walk(str(folder), "", ()):
        yield _File(prefix + inside, inside, size)


def _walk(folder: str, inside: str, above: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Path below the folder where the walk began, and bytes, of each image file."""
    real = os.path.realpath(folder)
    if real in above:
        raise SourceError(
            f"folder '{printable(folder)}' is a link to a folder that contains it. Remove the link."
        )
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _walk(entry.path, f"{inside}{entry.name}/", (*above, real))
        elif _is_image(entry):
            yield inside + entry.name, _size(entry)


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Whether a file has an image's name; broken links count, so that a build reports them."""
    name = entry.name.lower()
    return name.endswith(EXTENSIONS) and (entry.is_file() or entry.is_symlink())


def _holds_images(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir() and next(_walk(entry.path, "", ()), None) is not None


def _size(entry: os.DirEntry[str]) -> int:
    """Bytes of a file; 0 for a broken link, which reading will then reject by name."""
    try:
        return entry.stat().st_size
    except OSError:
        return 0


PLUGIN = ImageFolder
