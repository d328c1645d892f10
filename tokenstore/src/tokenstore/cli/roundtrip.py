"""`tokenstore roundtrip`: originals beside what comes back, to see that a checkpoint is right."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenstore.choice import TokenizerChoice, tokenizer_options
from tokenstore.contact_sheet import contact_sheet, save_picture
from tokenstore.progress import WorkProgress

if TYPE_CHECKING:
    from PIL import Image

    from tokenstore.single_images import Roundtrip


@click.command(
    "roundtrip",
    epilog="Example: tokenstore roundtrip cat.jpg dog.jpg -o sheet.png",
)
@click.argument(
    "images", metavar="IMAGE...", type=click.Path(path_type=Path), nargs=-1, required=True
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="Picture to write.",
)
@tokenizer_options
@click.option("--json", "as_json", is_flag=True, help="Print the PSNR in dB as JSON.")
def command(images: tuple[Path, ...], output: Path, as_json: bool, **choice: Any) -> None:
    """Encode and decode each IMAGE and draw it beside its original, with the PSNR.

    The original is the image as the tokenizer saw it: resized and cut.
    """
    from tokenstore.single_images import decode_again, encode_files

    tokenizer = TokenizerChoice(**choice).load()
    results = []
    with WorkProgress("encoding and decoding", total=len(images)) as progress:
        for result in decode_again(encode_files(images, tokenizer), tokenizer):
            results.append(result)
            progress.advance()
    save_picture(_sheet(results), output)
    mean = sum(result.psnr for result in results) / len(results)
    if as_json:
        facts = [{"path": str(result.path), "psnr": result.psnr} for result in results]
        click.echo(json.dumps({"images": facts, "mean_psnr": mean, "sheet": str(output)}))
    else:
        for result in results:
            click.echo(f"{result.psnr:>8.2f} dB  {result.path}")
        click.echo(f"{mean:>8.2f} dB  mean of {len(results)}")
    click.echo(f"written to {output}", err=True)


def _sheet(results: "Sequence[Roundtrip]") -> "Image.Image":
    """Pairs of original and decoded in reading order, the sheet about as wide as high."""
    columns = math.ceil(math.sqrt(len(results) / 2))
    rows = [results[start : start + columns] for start in range(0, len(results), columns)]
    pictures = [[picture for r in row for picture in (r.picture, r.decoded)] for row in rows]
    captions = [
        [text for r in row for text in (r.path.name, f"decoded, {r.psnr:.2f} dB")] for row in rows
    ]
    return contact_sheet(pictures, captions)
