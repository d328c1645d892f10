"""Folders of image files in object storage: s3, gcs, http, hf ... through fsspec.

The layout is that of a local folder (`image_folder`): split folders, class folders, `classes.json`.
Images are read one request each; credentials come from the environment.
"""

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
from tokenstore.sources.files import EXTENSIONS
from tokenstore.sources.layout import Named, into_splits, labelled
from tokenstore.sources.places import Place, is_remote


class RemoteFolder(Source):
    """A folder of images behind a URL."""

    kind = "remote-folder"
    general = True

    def __init__(self, place: Place, classes: Path | None) -> None:
        """Use a place; `classes` is a local file with the names of the classes."""
        self.place, self.class_file = place, classes

    @classmethod
    def accepts(cls, place: str, options: SourceOptions) -> bool:
        """Any URL."""
        return is_remote(place)

    @classmethod
    def open(cls, place: str, options: SourceOptions = NOTHING_SAID) -> Self:
        """See `Source.open`."""
        options.refuse_others(cls.kind, "classes")
        return cls(Place(place), options.classes)

    def listing(self) -> Listing:
        """See `Source.listing`."""
        files = self.place.files()
        images = [
            Named(file.name, Item("", file.name, None, file.size))
            for file in files
            if file.name.lower().endswith(EXTENSIONS)
        ]
        if not images:
            raise SourceError(
                f"no images among {len(files):,} files in '{self.place.url}'. Give the folder that "
                "holds them, or name --source tar or parquet if they lie in such files."
            )
        declared = None
        if self.class_file is not None:
            declared = class_names(self.class_file.read_bytes(), str(self.class_file))
        elif CLASS_FILE in {file.name for file in files}:
            declared = class_names(self.place.read(CLASS_FILE), f"{self.place.url}/{CLASS_FILE}")
        splits = {
            split: [_keyed(image) for image in some] for split, some in into_splits(images).items()
        }
        items, classes = labelled(splits, declared, self.place.url)
        kept: dict[str, tuple[Item, ...]] = {}
        rejects: list[Rejected] = []
        for split, some in items.items():
            kept[split], repeated = reject_repeated_keys(split, some)
            rejects += repeated
        return Listing(kept, classes, tuple(rejects))

    def read(self, item: Item) -> bytes:
        """See `Source.read`."""
        return self.place.read(item.path)


def _keyed(image: Named) -> Named:
    folder, slash, name = image.path.rpartition("/")
    key = printable(folder + slash + (name.rpartition(".")[0] or name))
    return image._replace(item=image.item._replace(key=key))


PLUGIN = RemoteFolder
