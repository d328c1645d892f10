"""Small generated corpora for tests: photos in every form that a source must be able to read."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
ORIENTATION = 0x0112


def picture(seed: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    """A smooth RGB picture, different for each seed; size is (width, height)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    """The bytes of an image file."""
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def halves(left: tuple[int, int, int], right: tuple[int, int, int]) -> Image.Image:
    """A 32x16 picture of two colours side by side."""
    image = Image.new("RGB", (32, 16), left)
    image.paste(right, (16, 0, 32, 16))
    return image


def write_corpus(
    root: Path,
    splits: dict[str, int],
    classes: tuple[str, ...] = ("apple", "pear"),
    name: Callable[[int], str] = "photo_{:03d}.jpg".format,
) -> Path:
    """Class folders below split folders: `train/apple/photo_000.jpg`; "" as split is the root."""
    for split, count in splits.items():
        for i in range(count):
            path = root / split / classes[i % len(classes)] / name(i)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(picture(len(split) * 1000 + i)))
    return root
