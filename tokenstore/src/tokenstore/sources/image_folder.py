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

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Self

from tokenstore.errors import SourceError
from tokenstore.sources.base import (
    NOTHING_SAID,
    Item,
    Listing,
    Rejected,
    Source,
    SourceOptions,
    printable,
    reject_repeated_keys,
)
from tokenstore.sources.class_file import CLASS_FILE, class_file
from tokenstore.sources.files import (
    EXTENSIONS,
    SPLITS,
    ImageFile,
    entries_of,
    holds_images,
    image_files,
    is_image,
    read_file,
)


class ImageFolder(Source):
    """A folder of image files; see the rules above."""

    kind = "image-folder"
    general = True

    def __init__(self, root: Path, classes: tuple[str, ...] | None) -> None:
        """Use `root`; `classes` are the declared names, None where the folders themselves tell."""
        self.root = root
        self.declared = classes

    @classmethod
    def accepts(cls, place: str, options: SourceOptions) -> bool:
        """Any folder."""
        return Path(place).is_dir()

    @classmethod
    def open(cls, place: str, options: SourceOptions = NOTHING_SAID) -> Self:
        """See `Source.open`."""
        options.refuse_others(cls.kind, "classes")
        root = Path(place)
        if not root.is_dir():
            raise SourceError(f"'{place}' is no folder. Give the folder that holds the images.")
        declared = class_file(root, options.classes)
        return cls(root, None if declared is None else declared.names)

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
        return read_file(self.root / item.path)

    def _split_files(self) -> dict[str, list[ImageFile]]:
        """The image files by split, in the byte order of their paths."""
        entries = entries_of(self.root)
        found = [name for name in SPLITS if any(e.name == name and e.is_dir() for e in entries)]
        if not found or set(found) & set(self.declared or ()):
            return {"train": list(image_files(self.root, ""))}
        for entry in entries:
            if entry.name not in SPLITS and (is_image(entry) or holds_images(entry)):
                raise SourceError(
                    f"'{self.root}' holds {found[0]}/ and also '{printable(entry.name)}', which "
                    f"is no split ({', '.join(SPLITS)}). Move it away, or list all class names in "
                    f"{CLASS_FILE} if '{found[0]}' is a class."
                )
        return {name: list(image_files(self.root / name, f"{name}/")) for name in found}

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


def _item(file: ImageFile, labels: Mapping[str, int]) -> Item:
    key = printable(str(PurePosixPath(file.inside).with_suffix("")))
    label = labels.get(printable(file.folder)) if file.folder else None
    return Item(key, file.path, label, file.size)


def _has_labels(files: list[ImageFile]) -> bool:
    return bool(files) and all(file.folder for file in files)


def _notes(files: Mapping[str, list[ImageFile]]) -> Iterator[str]:
    """A sentence for each split that loses its labels because of images beside its folders."""
    for split, found in files.items():
        beside = [file for file in found if not file.folder]
        if beside and len(beside) < len(found):
            yield (
                f"{split} has no labels: {len(beside)} of its {len(found)} images lie beside its "
                f"sub-folders, e.g. '{printable(beside[0].path)}'"
            )


PLUGIN = ImageFolder
