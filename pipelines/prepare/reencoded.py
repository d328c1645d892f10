"""A corpus written anew as smaller JPEGs: of another quality, of fewer pixels, or both.

    python -m pipelines.prepare.reencoded images -o images-q10 --quality 10
    python -m pipelines.prepare.reencoded images -o images-s64 --side 64

IMAGES holds train/ and val/. Pictures of train become JPEGs (4:2:0, as Pillow writes them), shrunk
by Lanczos where their shorter side is longer than --side; val is linked as it is, since what is
stored says nothing about the pictures that a model meets later. Grey pictures stay grey, and a
picture's rotation is applied. The folder takes its name when it is complete; until then it is
FOLDER.making.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageOps

from pipelines.demo.own_images import EXTENSIONS
from pipelines.prepare.links import COMPLETE, OtherLayout, begun

PILLOWS_OWN = 75  # quality


@dataclass(frozen=True)
class Written:
    """How pictures are written.

    Attributes:
        quality: of the JPEGs, 1 to 95.
        side: of the shorter side at most, in pixels; None means as it is.
        limit: pictures of train, one from each part of the listing; None means all.
    """

    quality: int
    side: int | None
    limit: int | None


def reencode(images: Path, folder: Path, how: Written) -> int:
    """Write the corpus; how many pictures of train there are.

    Raises:
        OtherLayout: there is no train/ with pictures, two would get one name, one cannot be read,
            or the folder is another's or was completed in another way.
    """
    if (folder / COMPLETE).exists():
        made = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        if {**made, "count": None} != {**asdict(how), "count": None}:
            raise OtherLayout(f"'{folder}' was written with {made}. Choose another -o.")
        return int(made["count"])
    making = begun(folder)
    files = _chosen(sorted(_pictures(images / "train")), how.limit)
    targets = [making / file.relative_to(images).with_suffix(".jpg") for file in files]
    if not files or len(set(targets)) < len(files):
        raise OtherLayout(f"'{images}/train' has no pictures, or two that differ in suffix alone")
    for place in {target.parent for target in targets}:
        place.mkdir(parents=True)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        for _ in threads.map(_write, files, targets, [how] * len(files)):
            pass
    for name in ("val", "classes.json"):
        if (images / name).exists():
            (making / name).symlink_to((images / name).resolve())
    complete = json.dumps({**asdict(how), "count": len(files)})
    (making / COMPLETE).write_text(complete, encoding="utf-8")
    making.rename(folder)
    return len(files)


def _pictures(folder: Path) -> Iterator[Path]:
    """Picture files at any depth; links to folders are followed."""
    for place, _, names in os.walk(folder, followlinks=True):
        yield from (Path(place) / n for n in names if Path(n).suffix.lower() in EXTENSIONS)


def _chosen(files: Sequence[Path], limit: int | None) -> list[Path]:
    """`limit` of them spread over the list, so that all classes have some; None means all."""
    if limit is None or limit >= len(files):
        return list(files)
    return [files[i] for i in np.linspace(0, len(files) - 1, limit).astype(int)]


def _write(file: Path, target: Path, how: Written) -> None:
    try:
        with Image.open(file) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.mode not in ("L", "RGB"):
                picture = picture.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise OtherLayout(f"'{file}' cannot be read: {error}") from error
    shorter = min(picture.size)
    if how.side is not None and shorter > how.side:
        width, height = (max(1, round(length * how.side / shorter)) for length in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    picture.save(target, quality=how.quality)


@click.command()
@click.argument("images", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
@click.option("--quality", default=PILLOWS_OWN, show_default=True, type=click.IntRange(1, 95))
@click.option("--side", type=click.IntRange(min=1), help="Pixels of the shorter side at most.")
@click.option("--limit", type=click.IntRange(min=1), help="Pictures of train, for a trial.")
def main(images: Path, output: Path, quality: int, side: int | None, limit: int | None) -> None:
    """Write the pictures of IMAGES/train anew, smaller; IMAGES/val is linked."""
    try:
        count = reencode(images, output, Written(quality, side, limit))
    except OtherLayout as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    click.echo(f"{count:,} pictures in {output}")


if __name__ == "__main__":
    main()
