"""Folders of images with a table, as Hugging Face's `imagefolder` has them.

    photos/train/metadata.csv       file_name,label,text
    photos/train/0001.png           0001.png,cat,A cat on a mat
    photos/train/0002.png

`metadata.csv`, `metadata.tsv` or `metadata.jsonl` lies in each split's folder, or in the folder
itself, with the column `file_name` relative to its own folder. Its label column gives the labels;
without one the folders of the images do. All other columns become metadata. An image that the table
does not name, and a row without its image, are rejects.
"""

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
from tokenstore.sources.class_file import class_file
from tokenstore.sources.files import SPLITS, ImageFile, image_files, read_file
from tokenstore.sources.layout import Named, labelled
from tokenstore.sources.rows import SUFFIXES, Described, described, read_rows

TABLES = tuple(f"metadata{suffix}" for suffix in SUFFIXES)


class MetadataFolder(Source):
    """A folder of images with a table; see above."""

    kind = "metadata-folder"

    def __init__(self, root: Path, options: SourceOptions) -> None:
        """Use a folder."""
        self.root, self.options = root, options

    @classmethod
    def accepts(cls, place: str, options: SourceOptions) -> bool:
        """A folder with a table in it, or in one of its split folders."""
        return bool(_tables(Path(place)))

    @classmethod
    def open(cls, place: str, options: SourceOptions = NOTHING_SAID) -> Self:
        """See `Source.open`."""
        options.refuse_others(cls.kind, "classes", "image_column", "label_column")
        if not _tables(Path(place)):
            raise SourceError(f"'{place}' has no {' or '.join(TABLES)} in it or in its splits.")
        return cls(Path(place), options)

    def listing(self) -> Listing:
        """See `Source.listing`."""
        tables = _tables(self.root)
        rejects: list[Rejected] = []
        splits: dict[str, list[Named]] = {}
        for folder, table in tables.items():
            rows = read_rows((self.root / folder / table).read_bytes(), table)
            columns = (self.options.image_column, self.options.label_column)
            said = {row.path: row for row in described(rows, table, *columns)} if rows else {}
            files = {f.inside: f for f in image_files(self.root / folder, folder)}
            split = folder.rstrip("/") or None
            for path, row in said.items():
                where = split or row.split or "train"
                if path in files:
                    splits.setdefault(where, []).append(_named(files[path], row))
                else:
                    reason = f"{table} names it, but it is not there"
                    rejects.append(Rejected(where, _key(path), printable(path), reason))
            for path in files.keys() - said.keys():
                where = split or "train"
                reason = f"{table} does not name it"
                rejects.append(Rejected(where, _key(path), printable(folder + path), reason))
        if not any(splits.values()):
            raise SourceError(f"no image in '{self.root}' is named by its {TABLES[0]}.")
        declared = class_file(self.root, self.options.classes)
        ordered = {split: splits[split] for split in SPLITS if split in splits}
        names = None if declared is None else declared.names
        items, classes = labelled(ordered, names, str(self.root))
        kept = {}
        for split, some in items.items():
            kept[split], repeated = reject_repeated_keys(split, some)
            rejects += repeated
        rejects.sort(key=lambda reject: (reject.split, reject.path))
        return Listing(kept, classes, tuple(rejects))

    def read(self, item: Item) -> bytes:
        """See `Source.read`."""
        return read_file(self.root / item.path)


def _tables(root: Path) -> dict[str, str]:
    """The name of the table by folder, "" or "train/"."""
    folders = [folder for folder in ("", *(f"{s}/" for s in SPLITS)) if (root / folder).is_dir()]
    found: dict[str, str] = {}
    for folder in folders:
        for table in TABLES:
            if (root / folder / table).is_file():
                found.setdefault(folder, table)
    return found


def _named(file: ImageFile, row: Described) -> Named:
    return Named(
        file.inside, Item(_key(file.inside), file.path, None, file.size, meta=row.meta), row.label
    )


def _key(path: str) -> str:
    return printable(str(PurePosixPath(path).with_suffix("")))


PLUGIN = MetadataFolder
