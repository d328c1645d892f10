"""Draws docs/picture.png, the README's picture: original | decoded | bytes.

Draws scenes of the demo (nothing here was photographed), builds a store of them by the command a
user would type, and shows one as a file, as the store gives it back, and two squares whose areas
are to each other as the bytes of both. Only the README uses it; the demo has a picture of its own.

python -m docs.make_picture            minutes on one core; the corpus goes into a temporary folder
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import tokenstore
from pipelines.demo.scenes import Corpus, write_corpus

PICTURE = Path(__file__).with_name("picture.png")
SIDE, GAP, CAPTION = 256, 12, 26
SCENES = Corpus({"train": 100, "val": 4}, size=SIDE)
SHOWN = "sailboat/sailboat_0001"
FILE_INK, RECORD_INK = (176, 190, 197), (216, 67, 21)


def build(folder: Path) -> tuple[Path, Path]:
    """A folder of scenes and the store that `tokenstore build` makes of it."""
    corpus, store = folder / "scenes", folder / "scenes.tokenstore"
    write_corpus(corpus, SCENES)
    command = [str(Path(sys.executable).with_name("tokenstore")), "build", str(corpus)]
    subprocess.run([*command, "-o", str(store), "--image-size", str(SIDE)], check=True)
    return corpus, store


def record_bytes(split: tokenstore.Split, number: int) -> int:
    """How many bytes the record of a sample has, its check included."""
    (part,) = split.shards.find(np.array([number])).parts
    payloads, _ = part.shard.records("ranks", part.samples)
    return len(payloads)


def squares(file: int, record: int) -> Image.Image:
    """Two squares in the corner of a tile, whose areas are to each other as the bytes are."""
    tile = Image.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(tile)
    draw.rectangle((0, 0, SIDE - 1, SIDE - 1), fill=FILE_INK)
    side = round(SIDE * (record / file) ** 0.5)
    draw.rectangle((0, SIDE - side, side - 1, SIDE - 1), fill=RECORD_INK)
    return tile


def sheet(tiles: list[Image.Image], captions: list[str]) -> Image.Image:
    """The tiles side by side, each with a line below it."""
    width = len(tiles) * SIDE + (len(tiles) - 1) * GAP
    drawn = Image.new("RGB", (width, SIDE + CAPTION), "white")
    draw, font = ImageDraw.Draw(drawn), ImageFont.load_default(15)
    for number, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        left = number * (SIDE + GAP)
        drawn.paste(tile, (left, 0))
        draw.text((left, SIDE + 5), caption, "black", font)
    return drawn


def main() -> None:
    """Write docs/picture.png."""
    with tempfile.TemporaryDirectory() as folder:
        corpus, place = build(Path(folder))
        store = tokenstore.open(str(place))
        split = store["val"]
        keys = split.keys(range(len(split))) or []
        number = keys.index(SHOWN)
        decoded: NDArray[np.uint8] = store.decode(split.read([number]).ranks)[0]
        file = corpus / "val" / f"{SHOWN}.jpg"
        size, record = file.stat().st_size, record_bytes(split, number)
        with Image.open(file) as original:
            tiles = [original.convert("RGB"), Image.fromarray(decoded), squares(size, record)]
        captions = [
            f"original: JPEG, {size:,} bytes",
            f"decoded: {record:,} bytes in the store",
            f"bytes: {record / size:.1%} of the file",
        ]
        sheet(tiles, captions).save(PICTURE, optimize=True)
    print(f"{PICTURE}: {PICTURE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
