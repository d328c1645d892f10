"""Lists of images: a CSV, TSV or JSON-lines file with a path a row, and labels.

    path,label,split                {"path": "a/1.jpg", "label": "cat", "photographer": "Ada"}
    a/1.jpg,cat,train               {"path": "a/2.jpg", "label": "dog"}

* **Paths** are relative to the list's folder, or absolute, or URLs. Their column is `path`,
  `file_name`, `file`, `filename`, `image` or `url`, or that of `--image-column`.
* **Labels** are class names or numbers, in `label`, `class`, `cls`, `target` or `category`, or
  `--label-column`. Numbers count in the class file, if there is one.
* **Splits** are in `split`; without that column all is train.
* Other columns are kept as metadata. Keys are the paths without their last suffix.
"""

from collections.abc import Sequence
from pathlib import Path
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
from tokenstore.sources.class_file import CLASS_FILE, class_names
from tokenstore.sources.files import SPLITS
from tokenstore.sources.layout import Named, labelled
from tokenstore.sources.places import Place, is_remote
from tokenstore.sources.rows import SUFFIXES, Described, described, read_rows


class ImageList(Source):
    """A list of images; see the rules above."""

    kind = "image-list"

    def __init__(self, place: Place, name: str, options: SourceOptions) -> None:
        """Read the list of this name at a place."""
        self.place, self.name, self.options = place, name, options

    @classmethod
    def accepts(cls, place: str, options: SourceOptions) -> bool:
        """A file whose name says that it is a table."""
        return place.endswith(SUFFIXES)

    @classmethod
    def open(cls, place: str, options: SourceOptions = NOTHING_SAID) -> Self:
        """See `Source.open`."""
        options.refuse_others(cls.kind, "classes", "image_column", "label_column")
        if not place.endswith(SUFFIXES):
            raise SourceError(f"'{place}' is no list: expected a file {', '.join(SUFFIXES)}.")
        folder, name = Place(place).parent()
        if not folder.is_remote and not Path(folder.url, name).is_file():
            raise SourceError(f"'{place}' does not exist.")
        return cls(folder, name, options)

    def listing(self) -> Listing:
        """See `Source.listing`."""
        rows = read_rows(self.place.read(self.name), self.name)
        columns = (self.options.image_column, self.options.label_column)
        found = described(rows, self.name, *columns) if rows else []
        if not found:
            raise SourceError(f"'{self.place.url}/{self.name}' names no image.")
        splits = {
            split: [self._named(one) for one in found if (one.split or "train") == split]
            for split in SPLITS
            if any((one.split or "train") == split for one in found)
        }
        items, classes = labelled(splits, self._declared(), self.name)
        kept: dict[str, tuple[Item, ...]] = {}
        rejects: list[Rejected] = []
        for split, some in items.items():
            kept[split], repeated = reject_repeated_keys(split, some)
            rejects += repeated
        return Listing(kept, classes, tuple(rejects))

    def read(self, item: Item) -> bytes:
        """See `Source.read`."""
        if is_remote(item.path):
            return Place(item.path).read("")
        return self.place.read(item.path)

    def _named(self, row: Described) -> Named:
        """The size is that of a local file; 0 where it is remote, or not there."""
        here = Path(self.place.url, row.path)
        local = not self.place.is_remote and not is_remote(row.path)
        size = here.stat().st_size if local and here.is_file() else 0
        item = Item(_key(row.path), row.path, None, size, meta=row.meta)
        return Named("", item, row.label)  # no path, since folders are no classes here

    def _declared(self) -> Sequence[str] | None:
        given = self.options.classes
        if given is not None:
            return class_names(given.read_bytes(), str(given))
        own = Path(self.place.url, CLASS_FILE)
        if not self.place.is_remote and own.is_file():
            return class_names(own.read_bytes(), str(own))
        return None


def _key(path: str) -> str:
    """`s3://b/a/1.jpg -> b/a/1`, `/data/1.jpg -> data/1`."""
    folder, slash, name = path.partition("://")[2 if "://" in path else 0].rpartition("/")
    return printable((folder + slash + (name.rpartition(".")[0] or name)).lstrip("/"))


PLUGIN = ImageList
