"""Cityscapes, fine annotations (Cordts et al., CVPR 2016), with its 19 evaluated classes.

    leftImg8bit/<split>/<city>/X_leftImg8bit.png    gtFine/<split>/<city>/X_gtFine_labelIds.png

The files' 34 label ids become the 19 classes that the benchmark counts ("train ids"); the others
are ignored. In the store the ignore index is 255. Keys are `<city>/X`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tokenstore.errors import SourceError
from tokenstore.sources.base import NOTHING_SAID, SourceOptions
from tokenstore.sources.files import SPLITS, image_files
from tokenstore.sources.masks import MaskRule
from tokenstore.sources.pairs import Pairs, SplitFiles, named

# Label id of each evaluated class, in the order of the train ids.
LABEL_IDS = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
LAST_ID, IGNORED, NO_CLASS = 33, 255, 254
IMAGES, MASKS = "leftImg8bit", "gtFine"
IMAGE_END, MASK_END = "_leftImg8bit.png", "_gtFine_labelIds.png"


class Cityscapes(Pairs):
    """leftImg8bit with gtFine; see above."""

    kind = "cityscapes"

    @classmethod
    def accepts(cls, place: str, options: SourceOptions) -> bool:
        """A folder of this layout."""
        return all((Path(place) / folder).is_dir() for folder in (IMAGES, MASKS))

    @classmethod
    def open(cls, place: str, options: SourceOptions = NOTHING_SAID) -> Self:
        """See `Source.open`."""
        options.refuse_others(cls.kind)
        if not cls.accepts(place, options):
            raise SourceError(f"'{place}' has no {IMAGES}/ and {MASKS}/. Give the folder of both.")
        root, names = Path(place), tuple(LABEL_IDS)
        return cls((root, root), names, MaskRule(len(names), IGNORED, _meaning()))

    def files(self) -> Mapping[str, SplitFiles]:
        """See `Pairs.files`."""
        found = {}
        for split in SPLITS:
            images, masks = f"{IMAGES}/{split}/", f"{MASKS}/{split}/"
            if (self.root / images).is_dir() and (self.root / masks).is_dir():
                found[split] = SplitFiles(
                    named(image_files(self.root / images, images), IMAGE_END),
                    named(image_files(self.root / masks, masks), MASK_END),
                    f"{masks}{{}}{MASK_END}",
                )
        return found


def _meaning() -> bytes:
    """Train id of each label id; ids that Cityscapes does not have stay values of no class."""
    meaning = bytearray([IGNORED] * (LAST_ID + 1)).ljust(256, bytes([NO_CLASS]))
    for number, label_id in enumerate(LABEL_IDS.values()):
        meaning[label_id] = number
    return bytes(meaning)


PLUGIN = Cityscapes
