"""`tokenstore show`: samples of a store decoded to a picture or a contact sheet."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

import tokenstore
from tokenstore.choice import weights_options
from tokenstore.contact_sheet import beside, grid_of, save_picture

if TYPE_CHECKING:
    from tokenstore.reader import Batch, Split


@click.command("show", epilog="Example: tokenstore show photos.tokenstore 0 1 2 3 -o sheet.png")
@click.argument("store")
@click.argument("samples", metavar="I...", type=click.IntRange(min=0), nargs=-1, required=True)
@click.option("--split", "split_name", help="Which split; train if there is one.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Picture to write; else ./STORE-SPLIT-I.png.",
)
@weights_options
def command(
    store: str,
    samples: tuple[int, ...],
    split_name: str | None,
    output: Path | None,
    weights: str | None,
    config: str | None,
) -> None:
    """Decode samples number I... of STORE: one as it is, several as a sheet with captions.

    Where there are masks, each stands to the right of its picture, a colour a class.
    """
    from PIL import Image

    opened = tokenstore.open(store)
    name = split_name or ("train" if "train" in opened.splits else next(iter(opened.splits)))
    split = opened[name]
    batch = split.read(samples, keys=True)
    tokenizer = opened.tokenizer(weights=weights, config=config)
    pictures = list(tokenizer.to_uint8(tokenizer.decode(opened.ids(batch.ranks))))
    masks = split.masks(samples)
    if masks is not None:
        pictures = [
            beside(picture, mask, opened.manifest.ignore_index)
            for picture, mask in zip(pictures, masks, strict=True)
        ]
    captions = _captions(split, samples, batch)
    target = output or Path(f"{Path(store).resolve().stem}-{name}-{samples[0]}.png")
    one = len(samples) == 1
    picture = Image.fromarray(pictures[0]) if one else grid_of(pictures, captions)
    save_picture(picture, target)
    for caption in captions:
        click.echo(caption.replace("\n", "  "))
    click.echo(f"written to {target}", err=True)


def _captions(split: "Split", samples: tuple[int, ...], batch: "Batch") -> list[str]:
    """`7 n02979186/n02979186_1234` and below it the class, as far as the split has them."""
    keys = batch.keys or [""] * len(samples)
    names = [""] * len(samples)
    if split.classes and batch.labels is not None:
        names = [split.classes[label] for label in batch.labels.tolist()]
    views = split.views(samples)
    if views is not None:
        keys = [f"{key} view {view}" for key, view in zip(keys, views.tolist(), strict=True)]
    captions = zip(samples, keys, names, strict=True)
    return [f"{sample} {key}\n{name}".strip() for sample, key, name in captions]
