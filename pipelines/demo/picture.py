"""The demo's picture: originals beside what comes back from the store."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont, ImageOps

SIDE = 192
GAP, CAPTION = 10, 20
COLUMNS = 2


class Pair(NamedTuple):
    """An image file, the same image decoded from the store, and what to write below them."""

    original: Path
    decoded: Path
    caption: str


def pairs(shown: Sequence[Pair]) -> Image.Image:
    """Original and decoded side by side, two pairs a row."""
    rows = -(-len(shown) // COLUMNS)
    width, height = 2 * SIDE + 2 * GAP, SIDE + CAPTION + GAP
    sheet = Image.new("RGB", (COLUMNS * width + GAP, rows * height + CAPTION + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column in range(COLUMNS):
        for place, title in enumerate(("original", "decoded from the store")):
            draw.text((GAP + column * width + place * (SIDE + 2), 6), title, "black", font)
    for number, pair in enumerate(shown):
        x = GAP + number % COLUMNS * width
        y = CAPTION + GAP + number // COLUMNS * height
        for place, path in enumerate((pair.original, pair.decoded)):
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image).convert("RGB")
            small = ImageOps.fit(upright, (SIDE, SIDE), Image.Resampling.BICUBIC)
            sheet.paste(small, (x + place * (SIDE + 2), y))
        draw.text((x, y + SIDE + 3), pair.caption, "black", font)
    return sheet
