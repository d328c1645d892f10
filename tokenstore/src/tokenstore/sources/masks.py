"""Mask files: one channel whose pixel values are classes, decoded and checked without any loss.

Greyscale and palette PNGs are read by their numbers, not by their colours. What does not say one
class a pixel is refused with the reason; nothing is rounded, mapped to the nearest or cut off.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenstore.errors import ImageRejected
from tokenstore.sources.base import opened_image

GREY = 0  # colour type of a PNG
DEPTH_AT, COLOUR_AT = 24, 25  # bytes of its header


@dataclass(frozen=True)
class MaskRule:
    """What the values in mask files mean.

    Attributes:
        classes: how many there are.
        ignore_index: value of pixels that belong to none.
        meaning: class or ignore index of each value that the files have, uint8 [256] as bytes; None
            where the files have these themselves.
    """

    classes: int
    ignore_index: int | None
    meaning: bytes | None = None

    def read(self, data: bytes) -> NDArray[np.uint8]:
        """The mask in a PNG file, uint8 [H, W].

        Raises:
            ImageRejected: it is damaged, has several channels, or holds a value of no class.
        """
        mask = decode_mask(data)
        meaning = np.arange(256) if self.meaning is None else np.frombuffer(self.meaning, np.uint8)
        known = (meaning < self.classes) | (meaning == self.ignore_index)
        wrong = np.flatnonzero(~known & (np.bincount(mask.ravel(), minlength=256) > 0))
        if len(wrong):
            values = np.flatnonzero(known)
            raise ImageRejected(
                f"it holds the value {wrong[0]}, which is none of its {self.classes} classes"
                f"{'' if self.ignore_index is None else ' and not the ignored one'}"
                f" (values {values[0]} to {values[-1]})"
            )
        found: NDArray[np.uint8] = meaning.astype(np.uint8)[mask]
        return found


def decode_mask(data: bytes) -> NDArray[np.uint8]:
    """The numbers in a greyscale or palette PNG, uint8 [H, W].

    Raises:
        ImageRejected: it is no such file, damaged, of absurd size, or holds numbers above 255.
    """
    with opened_image(data, ("PNG",)) as image:
        image.load()
        if len(image.getbands()) != 1:
            raise ImageRejected(
                f"it has the channels {', '.join(image.getbands())}, expected one whose values "
                "are classes"
            )
        numbers = np.asarray(image)
    if numbers.dtype == np.bool_ or data[COLOUR_AT] != GREY:
        return numbers.astype(np.uint8)
    if data[DEPTH_AT] < 8:  # which Pillow stretches to 0..255
        numbers = numbers // (255 // (2 ** data[DEPTH_AT] - 1))
    if numbers.max(initial=0) > 255:
        raise ImageRejected(f"it holds the value {numbers.max()}, above 255")
    return numbers.astype(np.uint8)
