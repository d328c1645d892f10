"""Preprocessing: how a picture of any size becomes the uint8 [H, W, 3] that a tokenizer takes.

A rule and a size are part of a store's identity: its manifest carries them, and building, showing
and evaluating apply the same. Reading image files is the sources' business, not this module's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from tokenstore.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from PIL import Image

Box = tuple[float, float, float, float]


def cover_box(width: int, height: int, size: tuple[int, int]) -> Box:
    """The largest centred part of an image that has the aspect ratio of `size` (H, W).

    `(400, 200, (256, 256)) -> (100.0, 0.0, 300.0, 200.0)`
    """
    scale = min(width / size[1], height / size[0])
    left, top = (width - size[1] * scale) / 2, (height - size[0] * scale) / 2
    return (left, top, width - left, height - top)


def whole_box(width: int, height: int, size: tuple[int, int]) -> Box:
    """The whole image, whatever `size` is: its aspect ratio is given up."""
    del size
    return (0.0, 0.0, float(width), float(height))


# A rule is the part of the image that is resized (bicubic, antialiased) to the asked size.
RULES: MappingProxyType[str, Callable[[int, int, tuple[int, int]], Box]] = MappingProxyType(
    {"center-crop": cover_box, "squash": whole_box}
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
    size: tuple[int, int]  # (H, W) in pixels

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UnknownName("preprocess rule", self.rule, RULES)
        if len(self.size) != 2 or min(self.size) < 1:
            raise UsageError(f"image size {self.size} is no (height, width) of at least 1 pixel")

    def apply(self, image: "Image.Image") -> NDArray[np.uint8]:
        """Resize an RGB image, uint8 [H, W, 3].

        Raises:
            UsageError: the image is not RGB.
        """
        from PIL import Image

        if image.mode != "RGB":
            raise UsageError(f"preprocessing takes RGB images, got mode {image.mode}")
        height, width = self.size
        box = RULES[self.rule](image.width, image.height, self.size)
        resized = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
        return np.array(resized, dtype=np.uint8)  # a copy: views of a PIL image are read-only

    def as_json(self) -> dict[str, Any]:
        """The settings as they stand in a manifest: `{"rule": "squash", "size": [256, 256]}`."""
        return {"rule": self.rule, "size": list(self.size)}

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> Self:
        """The inverse of `as_json`.

        Raises:
            UsageError: the settings are not of that form.
        """
        try:
            rule, (height, width) = settings["rule"], settings["size"]
            return cls(str(rule), (int(height), int(width)))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f'preprocess settings {settings!r} are not {{"rule": ..., "size": [H, W]}}'
            ) from error
