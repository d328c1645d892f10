"""Small generated corpora of images with masks: colours that say which class each pixel is of."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.toy_images import encoded

CLASSES = ("ground", "wall", "sky")
IGNORED = 9
COLOURS = np.zeros((256, 3), np.uint8)
COLOURS[:3] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
COLOURS[IGNORED] = (250, 250, 250)


def mask(seed: int, size: tuple[int, int] = (48, 32)) -> np.ndarray:
    """Blocks of 16 x 16 pixels of one class each, uint8 [H, W]; size is (width, height)."""
    rng = np.random.default_rng(seed)
    blocks = rng.choice([0, 1, 2, IGNORED], (-(-size[1] // 16), -(-size[0] // 16)))
    return blocks.astype(np.uint8).repeat(16, 0).repeat(16, 1)[: size[1], : size[0]]


def picture_of(mask: np.ndarray) -> Image.Image:
    """A picture in the colours of a mask's classes."""
    return Image.fromarray(COLOURS[mask])


def write_file(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_pair(images: Path, masks: Path, values: np.ndarray) -> None:
    """An image and a mask at these paths."""
    write_file(images, encoded(picture_of(values), "PNG"))
    write_file(masks, encoded(Image.fromarray(values), "PNG"))


def write_class_file(folder: Path, ignore_index: int | None = IGNORED) -> Path:
    named = [{"index": i, "name": name} for i, name in enumerate(CLASSES)]
    said = {} if ignore_index is None else {"ignore_index": ignore_index}
    return write_file(folder / "classes.json", json.dumps({"classes": named, **said}).encode())


def write_masked_corpus(root: Path, counts: dict[str, int]) -> Path:
    """`train/images/p0.png` and `train/masks/p0.png`, and classes.json; "" is no split folder."""
    for split, count in counts.items():
        for i in range(count):
            values = mask(100 * len(split) + i)
            pair = root / split / "images" / f"p{i}.png", root / split / "masks" / f"p{i}.png"
            write_pair(*pair, values)
    write_class_file(root)
    return root
