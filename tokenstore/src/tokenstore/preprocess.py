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


def center_crop(image: "Image.Image", size: Size) -> Picture:
    """The largest centred part with the aspect ratio of `size`; PIL's bicubic, antialiased."""
    from PIL import Image

    height, width = size
    scale = min(image.width / width, image.height / height)
    # Never below 0, where the last bit of `scale` is rounded up.
    left = max(0.0, (image.width - width * scale) / 2)
    top = max(0.0, (image.height - height * scale) / 2)
    box = (left, top, image.width - left, image.height - top)
    return np.array(image.resize((width, height), Image.Resampling.BICUBIC, box=box))


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
    covering = _covering(image, size)
    return resize_window(pixels, covering, _centred(covering, size), size)


def center_crop_box(image: "Image.Image", size: Size) -> Picture:
    """Halved by PIL's BOX while it stays twice as large, then bicubic, then cut out (LlamaGen).

    The centre crop of guided diffusion (ADM; Dhariwal and Nichol, arXiv 2105.05233).
    """
    from PIL import Image

    height, width = size
    while image.height >= 2 * height and image.width >= 2 * width:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    covering = _covering(image, size)
    resized = image.resize(covering[::-1], Image.Resampling.BICUBIC)
    top, left = _centred(covering, size)
    return np.array(resized.crop((left, top, left + width, top + height)))


def _covering(image: "Image.Image", size: Size) -> Size:
    """The size to which an image is resized whole so that it just covers `size`.

    A square `size` makes the shorter side exactly that long; any other makes one side fit exactly
    and the other at least. Halves round to the even number.
    """
    scale = max(size[0] / image.height, size[1] / image.width)
    return (round(image.height * scale), round(image.width * scale))


def _centred(covering: Size, size: Size) -> Size:
    """(y, x) of the centred window, rounded towards the upper left."""
    return ((covering[0] - size[0]) // 2, (covering[1] - size[1]) // 2)


RULES: MappingProxyType[str, Callable[["Image.Image", Size], Picture]] = MappingProxyType(
    {
        "center-crop": center_crop,
        "center-crop-box": center_crop_box,
        "center-crop-opencv": center_crop_opencv,
        "squash": squash,
        "squash-bilinear": squash_bilinear,
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
