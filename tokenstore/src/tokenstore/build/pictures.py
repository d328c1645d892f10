"""What a listed image becomes: the picture for the encoder, and what a store keeps beside its ids.

Runs where images are decoded, in threads or processes of their own. A mask goes through the crop
and resize of its image, and is compressed here, where work is shared out. Of several views each
is a picture of its own, decoded once.
"""

import json
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenstore.build.views import Views
from tokenstore.columns import json_line, mask_payload
from tokenstore.errors import ImageRejected
from tokenstore.preprocess import Preprocess

if TYPE_CHECKING:
    from PIL import Image

    from tokenstore.sources.base import Item, Source

# What a crop is resized by, which is no longer to be cropped to shape: the rule's own filter.
STRETCHED = {"center-crop-opencv": "squash-bilinear", "squash-bilinear": "squash-bilinear"}
PLAIN = {"crop": [0.0, 0.0, 1.0, 1.0], "flip": False}


class Picture(NamedTuple):
    """Pixels uint8 [H, W, 3]; a mask of the same size as a store keeps it; a JSON object."""

    pixels: NDArray[np.uint8]
    mask: bytes | None = None
    meta: str | None = None
    view: int | None = None


def pictures_of(
    source: "Source", item: "Item", rule: Preprocess, views: Views
) -> tuple[Picture, ...]:
    """Read, decode and resize one image in all its views, and its mask if it has one.

    Raises:
        ImageRejected: one of them cannot be used; the message is the reason.
    """
    image = source.load(item)
    if views.count > 1:
        return tuple(_view(image, item, rule, (views, view)) for view in range(views.count))
    mask = source.load_mask(item)
    if mask is None:
        return (Picture(rule.apply(image), meta=item.meta),)
    if mask.shape != (image.height, image.width):
        height, width = mask.shape
        raise ImageRejected(f"its mask is {width}x{height}, the image {image.width}x{image.height}")
    kept = mask_payload(rule.apply_to_mask(mask))
    return (Picture(rule.apply(image), kept, item.meta),)


def _view(
    image: "Image.Image", item: "Item", rule: Preprocess, which: tuple[Views, int]
) -> Picture:
    views, view = which
    said = {} if item.meta is None else json.loads(item.meta)
    if view == 0:
        return Picture(rule.apply(image), meta=json_line({**said, **PLAIN}), view=0)
    crop = views.crop(item.key, view, (image.height, image.width), rule.size)
    stretched = Preprocess(STRETCHED.get(rule.rule, "squash"), rule.size)
    meta = json_line({**said, **crop.facts(image.width, image.height)})
    return Picture(stretched.apply(crop.of(image)), meta=meta, view=view)
