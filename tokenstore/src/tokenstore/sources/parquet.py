"""Parquet files with a column of images, as Hugging Face's datasets have them; local or remote.

* **INPUT** is one file, or a folder (or URL of one) that holds parquet files. Of several the words
  train, val, validation and test in their names, or in those of their folders, tell the splits.
* **Images** are bytes, or a struct with the member `bytes` (and `path`), in the column `image`,
  `img`, `jpg`, `png` or `webp`, or that of `--image-column`.
* **Labels** are in `label`, `class`, `cls`, `target`, `category` or `fine_label`, or
  `--label-column`: class names, or numbers whose names the class file or Hugging Face's notes in
  the file tell.
* **Keys** are in `key`, `__key__` or `id`; else the images' own paths, where each has one of its
  own; else the file's name with the number of the row.
* Other columns of numbers and text become metadata.

Rows come in groups that are read whole, so the groups stay in sequence (`Listing.runs`), and some
are kept in memory. Sizes of images are not known before they are read, and are listed as 0.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from tokenstore.errors import ImageRejected, SourceError
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
from tokenstore.sources.class_file import class_names
from tokenstore.sources.files import SPLITS
from tokenstore.sources.layout import Named, labelled
from tokenstore.sources.places import Place
from tokenstore.sources.rows import LABELS, SPLIT_NAMES, as_label, as_meta, chosen_column

if TYPE_CHECKING:
    import pyarrow

SUFFIX = ".parquet"
IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp")
KEYS = ("key", "__key__", "id")
WINDOW = 1_024  # rows that are shuffled among themselves
GROUPS_KEPT = 16  # more than a window touches, of groups of a hundred


class Columns(NamedTuple):
    """What is where in a file."""

    image: str
    is_struct: bool
    label: str | None
    key: str | None
    meta: tuple[str, ...]


class Parquet(Source):
    """Parquet files with images; see the rules above."""

    kind = "parquet"

    def __init__(self, place: Place, names: Sequence[str], options: SourceOptions) -> None:
        """Read these files at a place."""
        self.place, self.names, self.options = place, tuple(names), options
        self._groups: OrderedDict[str, pyarrow.ChunkedArray] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without what is kept in memory."""
        return (Parquet, (self.place, self.names, self.options))

    @classmethod
    def accepts(cls, place: str, options: SourceOptions) -> bool:
        """A parquet file, or a local folder with such files in it."""
        if place.endswith(SUFFIX):
            return True
        root = Path(place)
        return root.is_dir() and any(f.name.endswith(SUFFIX) for f in Place(place).files())

    @classmethod
    def open(cls, place: str, options: SourceOptions = NOTHING_SAID) -> Self:
        """See `Source.open`."""
        options.refuse_others(cls.kind, "classes", "image_column", "label_column")
        if place.endswith(SUFFIX):
            folder, name = Place(place).parent()
            return cls(folder, (name,), options)
        folder = Place(place)
        names = [file.name for file in folder.files() if file.name.endswith(SUFFIX)]
        if not names:
            raise SourceError(f"no {SUFFIX} file in '{place}'.")
        return cls(folder, names, options)

    def listing(self) -> Listing:
        """See `Source.listing`."""
        splits: dict[str, list[Named]] = {}
        declared: Sequence[str] | None = None
        for name in self.names:
            images, names = self._rows(name)
            declared = declared or names
            splits.setdefault(_split_of(name), []).extend(images)
        if self.options.classes is not None:
            declared = class_names(self.options.classes.read_bytes(), str(self.options.classes))
        if not any(splits.values()):
            raise SourceError(f"no row in the parquet files of '{self.place.url}'.")
        ordered = {split: splits[split] for split in SPLITS if split in splits}
        items, classes = labelled(ordered, declared, self.place.url)
        kept: dict[str, tuple[Item, ...]] = {}
        rejects: list[Rejected] = []
        for split, some in items.items():
            kept[split], repeated = reject_repeated_keys(split, some)
            rejects += repeated
        runs = {split: _runs(some) for split, some in kept.items()}
        return Listing(kept, classes, tuple(rejects), runs=runs, window=WINDOW)

    def read(self, item: Item) -> bytes:
        """See `Source.read`."""
        group, _, row = item.path.rpartition("/")
        try:
            value = self._group(group)[int(row)].as_py()
        except (IndexError, ValueError) as error:
            raise ImageRejected("no such row") from error
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise ImageRejected("its row holds no bytes of an image")
        return content

    def _group(self, path: str) -> "pyarrow.ChunkedArray":
        """The images of a group of rows, "a.parquet/3"; the last ones are kept."""
        with self._lock:  # also so that one thread reads a group and the others wait for it
            if path not in self._groups:
                name, _, number = path.rpartition("/")
                import pyarrow.parquet

                with self.place.open(name) as stream, pyarrow.parquet.ParquetFile(stream) as file:
                    columns = self._columns(file, name)
                    table = file.read_row_group(int(number), columns=[columns.image])
                self._groups[path] = table[columns.image]
                while len(self._groups) > GROUPS_KEPT:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(path)
            return self._groups[path]

    def _rows(self, name: str) -> tuple[list[Named], Sequence[str] | None]:
        """The rows of a file, without their images, and the names of its classes."""
        import pyarrow
        import pyarrow.parquet

        try:
            with self.place.open(name) as stream, pyarrow.parquet.ParquetFile(stream) as file:
                columns = self._columns(file, name)
                path = f"{columns.image}.path" if columns.is_struct else None
                wanted = [columns.label, columns.key, path, *columns.meta]
                known = [column for column in wanted if column is not None]
                named: list[Named] = []
                for group in range(file.num_row_groups):
                    count = file.metadata.row_group(group).num_rows
                    table = file.read_row_group(group, columns=known) if known else None
                    rows = [{}] * count if table is None else table.to_pylist()
                    named += [
                        _named(row, columns, (name, group, place, len(named) + place))
                        for place, row in enumerate(rows)
                    ]
                names = _class_names(file.schema_arrow.metadata, columns.label)
        except (pyarrow.ArrowException, OSError) as error:
            raise SourceError(f"'{self.place.url}/{name}' is no whole parquet: {error}.") from error
        return _with_keys(named, name), names

    def _columns(self, file: Any, name: str) -> Columns:
        import pyarrow.types as kinds

        schema = file.schema_arrow
        image = chosen_column(schema.names, self.options.image_column, IMAGES, name)
        if image is None:
            raise SourceError(
                f"'{name}' has the columns {', '.join(schema.names)}, and none of them is "
                f"{', '.join(IMAGES)}. Name the one with the images: --image-column NAME."
            )
        label = chosen_column(
            schema.names, self.options.label_column, (*LABELS, "fine_label"), name
        )
        key = next((column for column in KEYS if column in schema.names), None)
        plain = [
            field.name
            for field in schema
            if field.name not in (image, label, key)
            and (
                kinds.is_integer(field.type)
                or kinds.is_floating(field.type)
                or kinds.is_string(field.type)
                or kinds.is_boolean(field.type)
            )
        ]
        of_image = schema.field(image).type
        if not kinds.is_struct(of_image):
            return Columns(image, False, label, key, tuple(plain))
        has_path = of_image.get_field_index("path") >= 0
        return Columns(image, has_path, label, key, tuple(plain))


def _named(row: dict[str, Any], columns: Columns, at: tuple[str, int, int, int]) -> Named:
    """A row as an image; its key is what the row tells, "" where nothing."""
    name, group, place, number = at
    path = f"{name}/{group}/{place}"
    key = row.get(columns.key) if columns.key else None
    if key is None and columns.is_struct:
        key = _stem((row.get(columns.image) or {}).get("path"))
    label = as_label(row[columns.label], f"'{name}', row {number}") if columns.label else None
    meta = as_meta({column: row[column] for column in columns.meta})
    return Named("", Item("" if key is None else str(key), path, None, 0, meta=meta), label)


def _stem(path: str | None) -> str | None:
    if not path:
        return None
    folder, slash, name = path.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)


def _with_keys(images: Sequence[Named], name: str) -> list[Named]:
    """Images with keys of one line; those of the rows only where each has one of its own."""
    own = {image.item.key for image in images}
    if len(own) == len(images) and "" not in own:
        keys = [printable(image.item.key) for image in images]
    else:
        keys = [f"{name.removesuffix(SUFFIX)}/{number:09d}" for number in range(len(images))]
    return [
        image._replace(item=image.item._replace(key=key))
        for image, key in zip(images, keys, strict=True)
    ]


def _class_names(metadata: dict[bytes, bytes] | None, label: str | None) -> Sequence[str] | None:
    """The names that Hugging Face's notes give to a column of labels."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    return names if isinstance(names, list) and all(isinstance(n, str) for n in names) else None


def _runs(items: Sequence[Item]) -> tuple[int, ...]:
    """How many rows in a row come from one group."""
    lengths: list[int] = []
    last = None
    for item in items:
        group = item.path.rpartition("/")[0]
        if group == last:
            lengths[-1] += 1
        else:
            lengths.append(1)
        last = group
    return tuple(lengths)


def _split_of(name: str) -> str:
    """`data/validation-00000-of-00001.parquet -> val`; train where no word tells."""
    words = (SPLIT_NAMES.get(word, word) for word in re.split(r"[^a-z]+", name.lower()))
    return next((word for word in words if word in SPLITS), "train")


PLUGIN = Parquet
