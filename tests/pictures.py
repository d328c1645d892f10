"""Folders of small pictures for tests: each class has a colour, which a model can learn at once."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (180, 180, 60))


def write_pictures(folder: Path, counts: dict[str, int], side: int = 40) -> Path:
    """`counts` pictures a split, dealt to four class folders in turn."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for number in range(count):
            label = number % len(COLOURS)
            place = folder / split / f"class{label}"
            place.mkdir(parents=True, exist_ok=True)
            noise = rng.integers(-30, 30, (side, side + number % 5, 3))
            pixels = (np.array(COLOURS[label]) + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{number:03d}.png")
    return folder
