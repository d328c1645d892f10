"""ADE20k as the scene parsing benchmark has it (ADEChallengeData2016; Zhou et al., CVPR 2017).

    images/training/X.jpg       annotations/training/X.png      -> split train
    images/validation/X.jpg     annotations/validation/X.png    -> split val
    objectInfo150.txt           the 150 classes, line by line

A pixel value v of 1 to 150 is class v - 1, and 0 ("other objects") is ignored, as all published
results count. In the store the ignore index is 255.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tokenstore.errors import SourceError
from tokenstore.sources.base import NOTHING_SAID, SourceOptions
from tokenstore.sources.class_file import read_class_file
from tokenstore.sources.files import image_files
from tokenstore.sources.masks import MaskRule
from tokenstore.sources.pairs import Pairs, SplitFiles, named

CLASSES, IGNORED = 150, 255
FOLDERS = {"train": "training", "val": "validation"}
NAMES_FILE = "objectInfo150.txt"


class Ade20k(Pairs):
    """ADEChallengeData2016; see above."""

    kind = "ade20k"

    @classmethod
    def accepts(cls, place: str, options: SourceOptions) -> bool:
        """A folder of this layout."""
        root = Path(place)
        return all((root / f / "training").is_dir() for f in ("images", "annotations"))

    @classmethod
    def open(cls, place: str, options: SourceOptions = NOTHING_SAID) -> Self:
        """See `Source.open`."""
        options.refuse_others(cls.kind, "classes")
        root = Path(place)
        if not cls.accepts(place, options):
            raise SourceError(
                f"'{place}' has no images/training and annotations/training. Give the folder "
                "ADEChallengeData2016."
            )
        names = read_class_file(options.classes).names if options.classes else _names(root)
        if len(names) != CLASSES:
            raise SourceError(f"{len(names)} classes are named for ADE20k, which has {CLASSES}.")
        meaning = bytes([IGNORED, *range(CLASSES)]).ljust(256, bytes([254]))
        return cls((root, root), names, MaskRule(CLASSES, IGNORED, meaning))

    def files(self) -> Mapping[str, SplitFiles]:
        """See `Pairs.files`."""
        found = {}
        for split, folder in FOLDERS.items():
            images, masks = f"images/{folder}/", f"annotations/{folder}/"
            if (self.root / images).is_dir():
                found[split] = SplitFiles(
                    named(image_files(self.root / images, images)),
                    named(image_files(self.root / masks, masks), ".png"),
                    f"{masks}{{}}.png",
                )
        return found


def _names(root: Path) -> tuple[str, ...]:
    """The last column of the list that comes with the data; of several names the first."""
    file = root / NAMES_FILE
    try:
        lines = file.read_text(encoding="utf-8").splitlines()[1:]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"'{file}' cannot be read. It comes with ADE20k; put it there, or give --classes FILE."
        ) from error
    return tuple(line.split("\t")[-1].split(",")[0].strip() for line in lines if line.strip())


PLUGIN = Ade20k
