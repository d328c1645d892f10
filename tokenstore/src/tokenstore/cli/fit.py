"""`tokenstore fit`: train a pocket tokenizer on one's own images."""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

POSITIVE = click.IntRange(min=1)


@click.command(
    "fit", epilog="Example: tokenstore fit photos/ more/ -o mine.safetensors --steps 6000"
)
@click.argument("images", nargs=-1, required=True, metavar="IMAGES...")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Weights to make, e.g. mine.safetensors.",
)
@click.option(
    "--steps",
    default=12_000,
    show_default=True,
    type=POSITIVE,
    help="Batches to learn from; a run that is too short can only be made anew.",
)
@click.option(
    "--batch-size", default=16, show_default=True, type=POSITIVE, help="Crops of one step."
)
@click.option(
    "--crop",
    default=128,
    show_default=True,
    type=POSITIVE,
    metavar="PIXELS",
    help="Side of a training crop, a multiple of 8.",
)
@click.option(
    "--codes", default=1024, show_default=True, type=POSITIVE, help="Size of the codebook."
)
@click.option(
    "--lr",
    "learning_rate",
    default=1e-3,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Highest learning rate.",
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of all that is drawn."
)
@click.option(
    "--precision",
    default="bf16",
    show_default=True,
    type=click.Choice(["bf16", "fp32"]),
    help="fp32 is faster only on processors without bf16 instructions.",
)
@click.option("--device", help="torch device; cuda where there is one, else cpu.")
@click.option("--threads", type=POSITIVE, help="Threads that compute; one a core if absent.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(
    images: tuple[str, ...],
    output: Path,
    codes: int,
    device: str | None,
    threads: int | None,
    as_json: bool,
    **numbers: Any,
) -> None:
    """Train a small VQ tokenizer on the images below the folders IMAGES.

    Of a folder with train/ and val/ only train/ is used. Held-out photos are drawn above their
    reconstructions in FILE.png every now and then. The same line again goes on with an
    interrupted training. Build with the result by --tokenizer pocket --weights FILE.
    """
    import torch

    from tokenstore.fit.config import FitConfig
    from tokenstore.fit.run import fit_tokenizer
    from tokenstore.tokenizers.pocket import PocketConfig

    started = time.monotonic()
    config = FitConfig(network=PocketConfig(codes=codes), **numbers)
    threads = threads or len(os.sched_getaffinity(0))
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    report, is_new = fit_tokenizer(images, output, config, threads, device)
    seconds = time.monotonic() - started
    if as_json:
        facts = {"file": str(output), "new": is_new, **asdict(report), "seconds": round(seconds, 1)}
        click.echo(json.dumps(facts))
        return
    verb = f"is whole after {seconds:,.0f} s" if is_new else "is there already"
    click.echo(f"{output} {verb}: {report.steps:,} steps on {report.photos:,} photos")
    click.echo(
        f"held-out photos at 256x256: PSNR {report.psnr:.2f} dB, {report.codes_used:,} of "
        f"{report.codes:,} codes in use"
    )
    click.echo(f"next:  tokenstore build IMAGES --tokenizer pocket --weights {output}")
