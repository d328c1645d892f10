"""One's own images as `images/train` and `images/val`: a seeded share of each class is val.

A folder that has train/ and val/ already is linked as it is.

    python -m pipelines.prepare.own PHOTOS -o images
"""

from collections.abc import Iterator
from pathlib import Path

import click

from pipelines.demo.own_images import CLASS_FILE, EXTENSIONS, NoImages, parted
from pipelines.prepare.links import COMPLETE, LaidOut, OtherLayout, prepare


def laid_out(images: Path) -> Iterator[LaidOut]:
    """Links to all images, or to the splits that are there.

    Raises:
        OtherLayout: there are no images, or too few to set any aside.
    """
    if not ((images / "train").is_dir() and (images / "val").is_dir()):
        try:
            yield from parted(images, seed=0)
        except NoImages as error:
            raise OtherLayout(str(error)) from error
        return
    yield from (LaidOut(split, images / split) for split in ("train", "val"))
    if (images / CLASS_FILE).is_file():
        yield LaidOut(CLASS_FILE, images / CLASS_FILE)


def is_other(file: Path) -> bool:
    """Whether a file is neither an image by its name nor hidden nor the list of classes."""
    is_ours = file.suffix.lower() in EXTENSIONS or file.name in (CLASS_FILE, COMPLETE)
    return not is_ours and not file.name.startswith(".")


@click.command()
@click.argument("images", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
def main(images: Path, output: Path) -> None:
    """Make a folder of links to the images below IMAGES."""
    prepare(laid_out(images), output)
    others = [path for path in sorted(images.rglob("*")) if path.is_file() and is_other(path)]
    if others:
        click.echo(
            f"left out {len(others):,} files that are no images, such as {others[0]}", err=True
        )


if __name__ == "__main__":
    main()
