"""What a listed image becomes: the picture for the encoder, and what a store keeps beside its ids.

Runs where images are decoded, in threads or processes of their own. A mask goes through the crop
and resize of its image, and is compressed here, where work is shared out.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenstore.columns import mask_payload
from tokenstore.errors import ImageRejected
from tokenstore.preprocess import Preprocess

if TYPE_CHECKING:
    from tokenstore.sources.base import Item, Source


class Picture(NamedTuple):
    """Pixels uint8 [H, W, 3], and the mask of the same size as a store keeps it."""

    pixels: NDArray[np.uint8]
    mask: bytes | None = None


def picture_of(source: "Source", item: "Item", rule: Preprocess) -> Picture:
    """Read, decode and resize one image, and its mask if it has one.

    Raises:
        ImageRejected: one of them cannot be used; the message is the reason.
    """
    image = source.load(item)
    mask = source.load_mask(item)
    if mask is None:
        return Picture(rule.apply(image))
    if mask.shape != (image.height, image.width):
        height, width = mask.shape
        raise ImageRejected(f"its mask is {width}x{height}, the image {image.width}x{image.height}")
    return Picture(rule.apply(image), mask_payload(rule.apply_to_mask(mask)))
