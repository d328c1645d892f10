"""Images and masks in folders of their own: what all sources of pairs share.

A layout says which files are a split's images and which its masks, each under a name that both
have; here they become pairs. An image without a mask and a mask without an image are rejects.
Masks say what is where in a picture, so such a corpus has no label an image: its classes are those
of the masks' pixels.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenstore.errors import ImageRejected, SourceError
from tokenstore.sources.base import (
    Item,
    Listing,
    Rejected,
    Source,
    printable,
    reject_repeated_keys,
)
from tokenstore.sources.files import ImageFile, read_file
from tokenstore.sources.masks import MaskRule

Named = tuple[str, ImageFile]  # what image and mask are both called, which is the key, and a file


class SplitFiles(NamedTuple):
    """Images and masks of one split; `expected` tells where the mask of a name should lie."""

    images: tuple[Named, ...]
    masks: tuple[Named, ...]
    expected: str  # "train/masks/{}.png"


class Pairs(Source):
    """A corpus of images with masks.

    Attributes:
        root: folder of the images' paths.
        masks_root: folder of the masks' paths.
        classes: names of the masks' classes.
        rule: what values in mask files mean.
    """

    def __init__(self, roots: tuple[Path, Path], classes: tuple[str, ...], rule: MaskRule) -> None:
        """Use folders of images and of masks, which may be one."""
        self.root, self.masks_root = roots
        self.classes, self.rule = classes, rule

    @abstractmethod
    def files(self) -> Mapping[str, SplitFiles]:
        """Images and masks by split.

        Raises:
            SourceError: the layout is not what it should be.
        """

    def listing(self) -> Listing:
        """See `Source.listing`."""
        splits: dict[str, tuple[Item, ...]] = {}
        rejects: list[Rejected] = []
        found = self.files()
        if not any(files.images for files in found.values()):
            raise SourceError(f"no images in '{self.root}', where {self.kind} has them.")
        for split, files in found.items():
            items, alone = _paired(split, files)
            splits[split], repeated = reject_repeated_keys(split, items)
            rejects += [*alone, *repeated]
        if not any(splits.values()):
            first = rejects[0]
            raise SourceError(
                f"no image in '{self.root}' has a mask: {first.path}: {first.reason}. Give "
                "--masks DIR if the masks lie elsewhere."
            )
        return Listing(splits, self.classes, tuple(rejects), ignore_index=self.rule.ignore_index)

    def read(self, item: Item) -> bytes:
        """See `Source.read`."""
        return read_file(self.root / item.path)

    def load_mask(self, item: Item) -> NDArray[np.uint8] | None:
        """See `Source.load_mask`."""
        try:
            return self.rule.read(read_file(self.masks_root / str(item.mask)))
        except ImageRejected as reason:
            raise ImageRejected(f"its mask: {reason}") from reason


def _paired(split: str, files: SplitFiles) -> tuple[list[Item], list[Rejected]]:
    """Images with their masks, and what stands alone."""
    masks = dict(reversed(files.masks))
    items, rejects = [], []
    for name, file in files.images:
        key, mask = printable(name), masks.get(name)
        if mask is None:
            reason = f"it has no mask: {printable(files.expected.format(name))} is not there"
            rejects.append(Rejected(split, key, printable(file.path), reason))
        else:
            items.append(Item(key, file.path, None, file.size, mask.path, mask.size))
    pictured = {name for name, _ in files.images}
    for name, file in files.masks:
        if name not in pictured:
            path = printable(file.path)
            rejects.append(Rejected(split, printable(name), path, "a mask without an image"))
    return items, rejects


def named(files: Iterable[ImageFile], ending: str | None = None) -> tuple[Named, ...]:
    """Files by their path inside the split without this ending; None: without its last suffix.

    Files that end otherwise are left out.
    """
    if ending is None:
        return tuple((_stem(file.inside), file) for file in files)
    return tuple(
        (file.inside.removesuffix(ending), file) for file in files if file.inside.endswith(ending)
    )


def _stem(path: str) -> str:
    """`"a.b/c.jpg" -> "a.b/c"`."""
    folder, slash, name = path.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)
