"""Contact sheets: many small pictures with captions on one picture.

`show`, `roundtrip`, `fit` and the demo put images beside each other with it. It draws, and saves
what it drew; it knows no stores and no tokenizers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tokenstore.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image, ImageFont

Picture = NDArray[np.uint8]  # [H, W, 3]

GAP = 8
CAPTION_PIXELS = 13
SMALLEST_CELL = 128
GOLDEN_SHARE = 0.381966  # of a turn


def contact_sheet(
    rows: Sequence[Sequence[Picture]],
    captions: Sequence[Sequence[str]] | None = None,
) -> "Image.Image":
    """Draw rows of pictures, uint8 [H, W, 3], as one RGB image on white.

    Pictures are enlarged by a whole factor to at least 128 pixels, without smoothing, so that what
    is seen is what is there.

    Args:
        rows: the pictures; rows may differ in length, and pictures in size.
        captions: a text for each picture, of one or more lines; too long a line loses its middle.

    Example:
        >>> grey = np.full((64, 64, 3), 128, np.uint8)
        >>> contact_sheet([[grey, grey]], [["left", "right"]]).size
        (280, 165)
    """
    from PIL import Image, ImageDraw, ImageFont

    height, width = _cell([picture for row in rows for picture in row])
    lines = max((text.count("\n") + 1 for row in captions or () for text in row), default=0)
    pitch = height + (CAPTION_PIXELS + 2) * lines + (6 if lines else 0)
    columns = max((len(row) for row in rows), default=0)
    size = (GAP + columns * (width + GAP), GAP + len(rows) * (pitch + GAP))
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(CAPTION_PIXELS)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            x, y = GAP + j * (width + GAP), GAP + i * (pitch + GAP)
            sheet.paste(_enlarged(picture), (x, y))
            text = captions[i][j] if captions else ""
            fitted = "\n".join(_shortened(line, font, width) for line in text.split("\n"))
            draw.multiline_text((x, y + height + 2), fitted, fill="black", font=font, spacing=2)
    return sheet


def grid_of(pictures: Sequence[Picture], captions: Sequence[str]) -> "Image.Image":
    """A contact sheet of pictures in reading order, about as wide as high."""
    columns = max(1, int(np.ceil(np.sqrt(len(pictures)))))
    starts = range(0, len(pictures), columns)
    return contact_sheet(
        [pictures[start : start + columns] for start in starts],
        [captions[start : start + columns] for start in starts],
    )


def beside(picture: Picture, mask: NDArray[np.uint8], ignore_index: int | None = None) -> Picture:
    """A picture with its mask to the right of it, in the colours of `coloured`."""
    drawn = coloured(mask, ignore_index)
    height = max(picture.shape[0], drawn.shape[0])
    halves = [
        np.pad(half, ((0, height - half.shape[0]), (0, 0), (0, 0)), constant_values=255)
        for half in (picture, drawn)
    ]
    return np.concatenate(halves, axis=1)


def coloured(mask: NDArray[np.uint8], ignore_index: int | None = None) -> Picture:
    """A mask [H, W] as a picture: a colour a class, the same in every picture; ignored is white.

    Hues go around by the golden angle, so that classes with near numbers look different.
    """
    classes = np.arange(256)
    hues = (classes * GOLDEN_SHARE) % 1.0
    light = np.where(classes // 6 % 2, 0.6, 0.9)
    phases = (hues[:, None] * 6 + np.array([0, 4, 2])) % 6  # of red, green and blue
    strength = np.clip(np.abs(phases - 3) - 1, 0, 1)
    colours = (255 * light[:, None] * (0.25 + 0.75 * strength)).astype(np.uint8)
    if ignore_index is not None:
        colours[ignore_index] = 255
    picture: Picture = colours[mask]
    return picture


def save_picture(picture: "Image.Image", file: Path) -> None:
    """Write a picture in the format that the file's name says.

    Raises:
        UsageError: no format of that name.
    """
    try:
        picture.save(file)
    except ValueError as error:
        raise UsageError(f"cannot write '{file}': {error}. Name it .png or .jpg.") from error


def _cell(pictures: Sequence[Picture]) -> tuple[int, int]:
    """Height and width that hold every picture after enlarging."""
    if not pictures:
        return SMALLEST_CELL, SMALLEST_CELL
    sizes = np.array([np.multiply(picture.shape[:2], _factor(picture)) for picture in pictures])
    height, width = sizes.max(axis=0)
    return int(height), int(width)


def _factor(picture: Picture) -> int:
    """`[32, 32, 3] -> 4`: the whole factor that makes a picture at least 128 pixels wide."""
    width = int(picture.shape[1])
    return max(1, -(-SMALLEST_CELL // width))


def _enlarged(picture: Picture) -> "Image.Image":
    from PIL import Image

    factor = _factor(picture)
    return Image.fromarray(np.ascontiguousarray(picture.repeat(factor, 0).repeat(factor, 1)))


def _shortened(line: str, font: "ImageFont.ImageFont | ImageFont.FreeTypeFont", width: int) -> str:
    """`"n02979186/n02979186_1234" -> "n02979...86_1234"`: a line that is at most `width` pixels."""
    text = line
    for keep in range(len(line) - 3, 2, -1):
        if font.getlength(text) <= width:
            break
        text = f"{line[: keep // 2]}...{line[len(line) - (keep - keep // 2) :]}"
    return text
