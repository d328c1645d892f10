"""`tokenstore encode`: the ids of single images."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenstore.choice import TokenizerChoice, tokenizer_options
from tokenstore.progress import WorkProgress

if TYPE_CHECKING:
    from tokenstore.single_images import Encoded


@click.command("encode", epilog="Example: tokenstore encode cat.jpg --image-size 128 --json")
@click.argument(
    "images", metavar="IMAGE...", type=click.Path(path_type=Path), nargs=-1, required=True
)
@tokenizer_options
@click.option("--json", "as_json", is_flag=True, help="Print path, grid and ids as JSON.")
def command(images: tuple[Path, ...], as_json: bool, **choice: Any) -> None:
    """Print the codebook ids of each IMAGE: a line with its name, then one a row of the grid."""
    from tokenstore.single_images import encode_files

    tokenizer = TokenizerChoice(**choice).load()
    with WorkProgress("encoding", total=len(images)) as progress:
        results = []
        for encoded in encode_files(images, tokenizer):
            results.append(encoded)
            progress.advance()
    if as_json:
        click.echo(json.dumps([_facts(encoded) for encoded in results]))
    else:
        for encoded in results:
            click.echo("\n".join(_lines(encoded)))


def _facts(encoded: "Encoded") -> dict[str, Any]:
    grid = list(encoded.ids.shape)
    return {"path": str(encoded.path), "grid": grid, "ids": encoded.ids.tolist()}


def _lines(encoded: "Encoded") -> list[str]:
    grid = encoded.ids.shape
    rows = encoded.ids.reshape(-1, grid[-1]).tolist()
    return [f"{encoded.path} {'x'.join(map(str, grid))}", *(" ".join(map(str, r)) for r in rows)]
