"""`tokenstore map-codes`: the rows of SeiT's codebook as ids of the full ViT-VQGAN codebook."""

import json
from pathlib import Path

import click
import numpy as np


@click.command(
    "map-codes",
    epilog="Example: tokenstore map-codes codebook.ckpt --to imagenet_vitvq_base.ckpt -o ids.npy",
)
@click.argument("codebook", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "checkpoint",
    required=True,
    type=click.Path(path_type=Path),
    help="Checkpoint of the full ViT-VQGAN.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write the ids here, as int32 .npy."
)
@click.option("--json", "as_json", is_flag=True, help="Print ids and counts as JSON.")
def command(codebook: Path, checkpoint: Path, output: Path | None, as_json: bool) -> None:
    """Find each row of CODEBOOK (a tensor file, as in SeiT's release) in a full checkpoint.

    Prints the id of each row, one a line, unless they are written to a file.
    """
    from tokenstore.tokenizers.checkpoints import read_checkpoint, read_tensor, require_family
    from tokenstore.tokenizers.code_map import map_codes

    whole = read_checkpoint(checkpoint)
    require_family(whole, "vit-vqgan", "vit-vqgan")
    rows = whole.tensors["quantizer.embedding.weight"].numpy()
    found = map_codes(read_tensor(codebook).numpy(), rows)
    if output:
        with output.open("wb") as stream:
            np.save(stream, found.ids)
    if as_json:
        facts = {"ids": found.ids.tolist(), "equal": found.equal, "of": len(rows)}
        click.echo(json.dumps(facts))
    elif output:
        click.echo(f"{len(found.ids)} rows, {found.equal} of them equal, among {len(rows)} codes")
    else:
        click.echo("\n".join(map(str, found.ids)))
