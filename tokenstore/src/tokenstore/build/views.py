"""Views: several crops of every image, drawn once and stored beside each other.

View 0 is the plain image, as a store of one view has it. Views 1 .. K - 1 are random resized crops
(Szegedy et al., arXiv 1409.4842) of the picture, half of them mirrored. Which part of an image a
view shows is a pure function of seed, key and number of the view; it is kept with the view as

    meta = {"crop": [left, top, right, bottom], "flip": false}   shares of width and height

The views of an image are neighbours in the store: samples K i .. K i + K - 1 are those of image i.
"""

from dataclasses import dataclass
from math import exp, log, sqrt
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import xxhash

if TYPE_CHECKING:
    from PIL import Image

SCALES = (0.08, 1.0)  # of the area
RATIOS = (3 / 4, 4 / 3)  # of the stored picture's own
TRIES = 10


class Crop(NamedTuple):
    """Part of a picture, in whole pixels of it, and whether it is mirrored."""

    left: int
    top: int
    right: int
    bottom: int
    flip: bool

    def of(self, image: "Image.Image") -> "Image.Image":
        """Cut it out."""
        from PIL import Image

        cut = image.crop(self[:4])
        return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flip else cut

    def facts(self, width: int, height: int) -> dict[str, Any]:
        """What a store tells of it."""
        sides = np.array(self[:4]) / (width, height, width, height)
        return {"crop": sides.round(6).tolist(), "flip": self.flip}


@dataclass(frozen=True)
class Views:
    """How many views of each image there are, and the seed of their crops."""

    count: int = 1
    seed: int = 0

    def as_json(self) -> dict[str, Any]:
        """What a manifest tells beside rule and size; nothing of one view."""
        if self.count == 1:
            return {}
        drawn = {"scale": list(SCALES), "ratio": list(RATIOS), "flip": 0.5}
        return {"views": {"count": self.count, "seed": self.seed, **drawn}}

    @classmethod
    def of(cls, preprocess: dict[str, Any]) -> Self:
        """The inverse of `as_json`, of a manifest's or a plan's `preprocess`."""
        said = preprocess.get("views")
        return cls() if said is None else cls(said["count"], said["seed"])

    def crop(self, key: str, view: int, original: tuple[int, int], size: tuple[int, int]) -> Crop:
        """What view 1 .. K - 1 of an image shows.

        Args:
            key: of the image.
            view: number of the view.
            original: (H, W) of the picture in pixels.
            size: (H, W) of the stored pictures; crops have their aspect ratio, times 3/4 to 4/3.
        """
        rng = np.random.default_rng([xxhash.xxh3_64_intdigest(key.encode(), self.seed), view])
        height, width = original
        low, high = (log(ratio * size[1] / size[0]) for ratio in RATIOS)
        for _ in range(TRIES):
            area, ratio = height * width * rng.uniform(*SCALES), exp(rng.uniform(low, high))
            across, down = round(sqrt(area * ratio)), round(sqrt(area / ratio))
            if 0 < across <= width and 0 < down <= height:
                break
        else:  # so narrow a picture that no draw fits: its middle, as wide as may be
            across = max(1, min(width, round(height * exp(high))))
            down = max(1, min(height, round(width / exp(low))))
        left, top = rng.integers(width - across + 1), rng.integers(height - down + 1)
        flip = bool(rng.integers(2))
        return Crop(int(left), int(top), int(left) + across, int(top) + down, flip)


ONE_VIEW = Views()
