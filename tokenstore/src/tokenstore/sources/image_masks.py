"""Folders of images with folders of masks beside them: `<split>/images/X.*`, `<split>/masks/X.png`.

* **Splits** are the folders train, val and test that hold a folder `images`; without any, the
  folders `images` and `masks` of the corpus itself are the split `train`.
* **Masks elsewhere.** With `--masks DIR` the images lie as above or as in any folder of images, and
  the mask of an image lies in DIR under the same relative name: `train/a/X.jpg` has
  `DIR/train/a/X.png`, or below a folder `masks` or `images` of `DIR/train` if there is one.
* **Classes** and ignore index are those of `classes.json`, or of `--classes` and `--ignore-index`.
* **Keys** are the path below `images` without its last suffix.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tokenstore.errors import SourceError
from tokenstore.sources.base import NOTHING_SAID, SourceOptions, printable
from tokenstore.sources.class_file import CLASS_FILE, class_file
from tokenstore.sources.files import SPLITS, entries_of, holds_images, image_files
from tokenstore.sources.masks import MaskRule
from tokenstore.sources.pairs import Pairs, SplitFiles, named

IMAGES, MASKS = "images", "masks"


class ImageMasks(Pairs):
    """Images and masks in folders beside each other; see the rules above."""

    kind = "image-masks"

    @classmethod
    def accepts(cls, place: str, options: SourceOptions) -> bool:
        """Any folder if masks are named, else one that has images/ and masks/ in it."""
        root = Path(place)
        if options.masks is not None:
            return root.is_dir()
        folders = [root, *(root / split for split in SPLITS)]
        return any((f / IMAGES).is_dir() and (f / MASKS).is_dir() for f in folders)

    @classmethod
    def open(cls, place: str, options: SourceOptions = NOTHING_SAID) -> Self:
        """See `Source.open`."""
        options.refuse_others(cls.kind, "classes", "masks", "ignore_index")
        root, masks = Path(place), Path(options.masks or place)
        for folder in (root, masks):
            if not folder.is_dir():
                raise SourceError(f"'{folder}' is no folder. Give a folder of images, and masks.")
        declared = class_file(root, options.classes)
        if declared is None:
            raise SourceError(
                f"'{place}' does not name the classes of its masks. Put a {CLASS_FILE} into it, or "
                "give --classes FILE and, for a value of no class, --ignore-index N."
            )
        ignored = declared.ignore_index if options.ignore_index is None else options.ignore_index
        return cls((root, masks), declared.names, MaskRule(len(declared.names), ignored))

    def files(self) -> Mapping[str, SplitFiles]:
        """See `Pairs.files`."""
        beside = self.root == self.masks_root
        splits = [split for split in SPLITS if (self.root / split / IMAGES).is_dir()]
        if not splits and not beside and not (self.root / IMAGES).is_dir():
            splits = [split for split in SPLITS if (self.root / split).is_dir()]
        if splits:
            self._refuse_strangers(splits)
            return {split: self._split(f"{split}/") for split in splits}
        return {"train": self._split("")}

    def _split(self, prefix: str) -> SplitFiles:
        """Images and masks of the split whose folder is at `prefix`, "" or "train/"."""
        images = _first_folder(self.root, prefix, (IMAGES,))
        masks = _first_folder(self.masks_root, prefix, (MASKS, IMAGES))
        if masks == images and self.root == self.masks_root:
            masks = f"{prefix}{MASKS}/"
        found = image_files(self.masks_root / masks, masks)
        return SplitFiles(
            named(image_files(self.root / images, images)),
            named(file for file in found if file.path.lower().endswith(".png")),
            f"{masks}{{}}.png",
        )

    def _refuse_strangers(self, splits: list[str]) -> None:
        """Refuse images beside the splits; they would be left out in silence."""
        for entry in entries_of(self.root):
            strange = entry.name not in splits and holds_images(entry)
            if strange and Path(entry.path) != self.masks_root:
                raise SourceError(
                    f"'{self.root}' holds {splits[0]}/ and also images in '"
                    f"{printable(entry.name)}', which is no split with a folder {IMAGES}/ in it. "
                    "Move it away."
                )


def _first_folder(root: Path, prefix: str, names: tuple[str, ...]) -> str:
    """`prefix` with the first of these folders that is in it, or without any."""
    for name in names:
        if (root / prefix / name).is_dir():
            return f"{prefix}{name}/"
    return prefix


PLUGIN = ImageMasks
