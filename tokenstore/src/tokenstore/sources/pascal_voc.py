"""Pascal VOC's segmentation data (Everingham et al., IJCV 2010), of any year.

    JPEGImages/X.jpg    SegmentationClass/X.png    ImageSets/Segmentation/train.txt, val.txt

The lists say which images belong to which split. Pixel values are 0 (background) to 20; 255, the
border of objects, is ignored. INPUT is the folder `VOC2012`, or a `VOCdevkit` with one year in it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tokenstore.errors import SourceError
from tokenstore.sources.base import NOTHING_SAID, SourceOptions
from tokenstore.sources.files import ImageFile
from tokenstore.sources.masks import MaskRule
from tokenstore.sources.pairs import Named, Pairs, SplitFiles

CLASSES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse "
    "motorbike person pottedplant sheep sofa train tvmonitor"
)
IGNORED = 255
IMAGES, MASKS, LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"


class PascalVoc(Pairs):
    """One year of Pascal VOC; see above."""

    kind = "pascal-voc"

    @classmethod
    def accepts(cls, place: str, options: SourceOptions) -> bool:
        """A folder of this layout, or one that holds just one such folder."""
        return len(_years(Path(place))) == 1

    @classmethod
    def open(cls, place: str, options: SourceOptions = NOTHING_SAID) -> Self:
        """See `Source.open`."""
        options.refuse_others(cls.kind)
        years = _years(Path(place))
        if len(years) != 1:
            raise SourceError(
                f"'{place}' holds {len(years)} folders with {IMAGES}, {MASKS} and {LISTS}, "
                "expected one. Give the folder of one year, such as VOCdevkit/VOC2012."
            )
        names = tuple(CLASSES.split())
        return cls((years[0], years[0]), names, MaskRule(len(names), IGNORED))

    def files(self) -> Mapping[str, SplitFiles]:
        """See `Pairs.files`; other images and masks are of no split, as the data has it."""
        found = {}
        for split in ("train", "val", "test"):
            file = self.root / LISTS / f"{split}.txt"
            if file.is_file():
                names = file.read_text(encoding="utf-8").split()
                found[split] = SplitFiles(
                    tuple(self._file(name, f"{IMAGES}/{name}.jpg") for name in names),
                    tuple(
                        self._file(name, f"{MASKS}/{name}.png")
                        for name in names
                        if (self.root / MASKS / f"{name}.png").is_file()
                    ),
                    f"{MASKS}/{{}}.png",
                )
        return found

    def _file(self, name: str, path: str) -> Named:
        """A listed file; of none that is there the size is 0, and reading rejects it."""
        if "/" in name or name.startswith("."):
            raise SourceError(f"'{self.root / LISTS}' lists '{name}', which is no image's name.")
        file = self.root / path
        return name, ImageFile(path, name, file.stat().st_size if file.is_file() else 0)


def _years(place: Path) -> list[Path]:
    folders = [place, *(sorted(place.glob("VOC[0-9]*")) if place.is_dir() else ())]
    wanted = (IMAGES, MASKS, LISTS)
    return [folder for folder in folders if all((folder / part).is_dir() for part in wanted)]


PLUGIN = PascalVoc
