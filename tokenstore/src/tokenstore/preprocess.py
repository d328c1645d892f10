"""Preprocessing: how a picture of any size becomes the uint8 [H, W, 3] that a tokenizer takes.

A rule and a size are part of a store's identity: its manifest carries them, and building, showing
and evaluating apply the same. Each published tokenizer was trained and measured behind one rule;
what a name means here never changes, since stores were made with it. Reading image files is the
sources' business, not this module's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from tokenstore.errors import UnknownName, UsageError
from tokenstore.opencv_resize import resize_window

if TYPE_CHECKING:
    from PIL import Image

Size = tuple[int, int]  # (H, W) in pixels
Picture = NDArray[np.uint8]  # [H, W, 3]
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the original


def center_crop(image: "Image.Image", size: Size) -> Picture:
    """The largest centred part with the aspect ratio of `size`; PIL's bicubic, antialiased."""
    from PIL import Image

    box = _centre_box((image.height, image.width), size)
    return np.array(image.resize(size[::-1], Image.Resampling.BICUBIC, box=box))


def squash(image: "Image.Image", size: Size) -> Picture:
    """The whole image, its aspect ratio given up; PIL's bicubic, antialiased (SeiT)."""
    from PIL import Image

    return np.array(image.resize(size[::-1], Image.Resampling.BICUBIC))


def squash_bilinear(image: "Image.Image", size: Size) -> Picture:
    """As `squash`, with PIL's bilinear, antialiased (ViT-VQGAN's validation)."""
    from PIL import Image

    return np.array(image.resize(size[::-1], Image.Resampling.BILINEAR))


def center_crop_opencv(image: "Image.Image", size: Size) -> Picture:
    """Shrunk to cover `size` by OpenCV's bilinear without antialias, then cut out (taming).

    As albumentations' SmallestMaxSize and CenterCrop do it, pixel for pixel.
    """
    pixels = np.asarray(image)
    covering = _covering(pixels.shape[:2], size)
    return resize_window(pixels, covering, _centred(covering, size), size)


def center_crop_box(image: "Image.Image", size: Size) -> Picture:
    """Halved by PIL's BOX while it stays twice as large, then bicubic, then cut out (LlamaGen).

    The centre crop of guided diffusion (ADM; Dhariwal and Nichol, arXiv 2105.05233).
    """
    from PIL import Image

    height, width = size
    for halved in _halvings((image.height, image.width), size):
        image = image.resize(halved[::-1], Image.Resampling.BOX)
    covering = _covering((image.height, image.width), size)
    resized = image.resize(covering[::-1], Image.Resampling.BICUBIC)
    top, left = _centred(covering, size)
    return np.array(resized.crop((left, top, left + width, top + height)))


def _halvings(original: Size, size: Size) -> list[Size]:
    """The sizes of an image that is halved while it stays at least twice as large as `size`."""
    halved = []
    height, width = original
    while height >= 2 * size[0] and width >= 2 * size[1]:
        height, width = height // 2, width // 2
        halved.append((height, width))
    return halved


def _centre_box(original: Size, size: Size) -> Box:
    """The largest centred part with the aspect ratio of `size`."""
    scale = min(original[1] / size[1], original[0] / size[0])
    # Never below 0, where the last bit of `scale` is rounded up.
    left = max(0.0, (original[1] - size[1] * scale) / 2)
    top = max(0.0, (original[0] - size[0] * scale) / 2)
    return (left, top, original[1] - left, original[0] - top)


def _covering(original: Size, size: Size) -> Size:
    """The size to which an image is resized whole so that it just covers `size`.

    A square `size` makes the shorter side exactly that long; any other makes one side fit exactly
    and the other at least. Halves round to the even number.
    """
    scale = max(size[0] / original[0], size[1] / original[1])
    return (round(original[0] * scale), round(original[1] * scale))


def _centred(covering: Size, size: Size) -> Size:
    """(y, x) of the centred window, rounded towards the upper left."""
    return ((covering[0] - size[0]) // 2, (covering[1] - size[1]) // 2)


def _whole_box(original: Size, size: Size) -> Box:
    return (0.0, 0.0, float(original[1]), float(original[0]))


def _covered_box(original: Size, size: Size) -> Box:
    """What is left of an image that is resized whole to cover `size`, and then cut out."""
    covering = _covering(original, size)
    top, left = _centred(covering, size)
    down, across = original[0] / covering[0], original[1] / covering[1]
    box = (left * across, top * down, (left + size[1]) * across, (top + size[0]) * down)
    return (box[0], box[1], min(box[2], original[1]), min(box[3], original[0]))


def _halved_box(original: Size, size: Size) -> Box:
    """As `_covered_box` of the image that halving leaves, in pixels of the original."""
    last = [original, *_halvings(original, size)][-1]
    box = _covered_box(last, size)
    down, across = original[0] / last[0], original[1] / last[1]
    right, bottom = min(box[2] * across, original[1]), min(box[3] * down, original[0])
    return (box[0] * across, box[1] * down, right, bottom)


RULES: MappingProxyType[str, Callable[["Image.Image", Size], Picture]] = MappingProxyType(
    {
        "center-crop": center_crop,
        "center-crop-box": center_crop_box,
        "center-crop-opencv": center_crop_opencv,
        "squash": squash,
        "squash-bilinear": squash_bilinear,
    }
)
# Which part of the original the picture shows: whatever filter a rule has, it only stretches that.
BOXES: MappingProxyType[str, Callable[[Size, Size], Box]] = MappingProxyType(
    {
        "center-crop": _centre_box,
        "center-crop-box": _halved_box,
        "center-crop-opencv": _covered_box,
        "squash": _whole_box,
        "squash-bilinear": _whole_box,
    }
)


@dataclass(frozen=True)
class Preprocess:
    """One way to bring images to one resolution.

    Example:
        >>> from PIL import Image
        >>> Preprocess("center-crop", (64, 96)).apply(Image.new("RGB", (300, 200))).shape
        (64, 96, 3)
    """

    rule: str
    size: Size

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UnknownName("preprocess rule", self.rule, RULES)
        if len(self.size) != 2 or min(self.size) < 1:
            raise UsageError(f"image size {self.size} is no (height, width) of at least 1 pixel")

    def apply(self, image: "Image.Image") -> Picture:
        """Resize an RGB image, uint8 [H, W, 3].

        Raises:
            UsageError: the image is not RGB.
        """
        if image.mode != "RGB":
            raise UsageError(f"preprocessing takes RGB images, got mode {image.mode}")
        return RULES[self.rule](image, self.size)

    def apply_to_mask(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize the mask [H, W] of an image as `apply` does the image, by nearest neighbour."""
        from PIL import Image

        image = Image.fromarray(mask)
        box = BOXES[self.rule]((image.height, image.width), self.size)
        return np.array(image.resize(self.size[::-1], Image.Resampling.NEAREST, box=box))

    def as_json(self) -> dict[str, Any]:
        """The settings as they stand in a manifest: `{"rule": "squash", "size": [256, 256]}`."""
        return {"rule": self.rule, "size": list(self.size)}

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> Self:
        """The inverse of `as_json`.

        Raises:
            UsageError: the settings are not of that form.
        """
        if not settings:
            raise UsageError(
                "the tokens were imported from files that do not say which tokenizer made them, so "
                "they cannot be decoded to pictures, nor pictures become such tokens. Decode "
                "store.ids(ranks) with that tokenizer, or name it in a tokens.json beside the "
                "files (docs/interop.md) and import them again."
            )
        try:
            rule, (height, width) = settings["rule"], settings["size"]
            return cls(str(rule), (int(height), int(width)))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f'preprocess settings {settings!r} are not {{"rule": ..., "size": [H, W]}}'
            ) from error
