"""How many ids does TokenAdapt predict exactly, on photos that nobody learnt from?

    python -m benchmarks.token_adapt IMAGES... [--image-size 128] [--limit 150] [--weights RUN]

Each photo is warped in every way that `seit-train tokenadapt` knows, with the warps that a store of
pairs would use, and tokenized: those ids are the truth. Beside TokenAdapt's stand two others: the
grid of ids warped as it is (naive), and decoding, warping the rounded pictures and encoding
(roundtrip, what SeiT++ calls the honest and slow way). Without --weights it is the TokenAdapt that
ships for `pocket`. All in fp32. Prints one Markdown table a folder.
"""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from seit_train.augment.base import Codes, Surroundings
from seit_train.augment.geometry import KINDS, pair_warps, warp, warp_pictures
from seit_train.augment.token_adapt import load_adapter
from seit_train.models.cross_entropy import cross_entropy
from seit_train.models.token_adapt import Adapter
from tokenstore.preprocess import Preprocess
from tokenstore.sources import open_source
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.base import Tokenizer

AT_ONCE = 8


def photos(folder: str, limit: int) -> list[tuple[object, object]]:
    """Evenly over a folder: pairs of a source and one of its items."""
    source = open_source(folder)
    items = [item for split in source.listing().splits.values() for item in split]
    chosen = np.unique(np.linspace(0, len(items) - 1, min(limit, len(items))).astype(int))
    return [(source, items[number]) for number in chosen]


@torch.no_grad()
def figures(adapter: Adapter, tokenizer: Tokenizer, pictures: Tensor, first: int) -> Tensor:
    """Nats, and shares of exact ids by TokenAdapt, naively and by roundtrip: [kinds, n, 4]."""
    kinds = torch.arange(len(KINDS)).repeat(len(pictures))
    size = pictures.shape[1], pictures.shape[2]
    warps = pair_warps(first * len(KINDS) + torch.arange(len(kinds)), kinds, size)
    repeated = pictures.repeat_interleave(len(KINDS), dim=0)
    before = tokenizer.encode(pictures).repeat_interleave(len(KINDS), dim=0)
    after = tokenizer.encode(warp_pictures(repeated, warps, size))
    grid = before.shape[1], before.shape[2]
    rows = torch.from_numpy(tokenizer.codebook)[before].permute(0, 3, 1, 2)
    sides = adapter.scale * grid[0], adapter.scale * grid[1]
    logits = adapter.restore(warp(adapter.adapt(rows), warps, sides))
    places = torch.zeros(int(adapter.ids.max()) + 1, dtype=torch.int64)
    places[adapter.ids] = torch.arange(len(adapter.ids))
    nats = cross_entropy(logits, places[after])
    decoded = torch.from_numpy(tokenizer.to_uint8(tokenizer.decode(before)))
    ways = [
        adapter.ids[logits.argmax(dim=-1)],
        warp(before[:, None].float(), warps, grid, "nearest")[:, 0].long(),
        tokenizer.encode(warp_pictures(decoded, warps, size)),
    ]
    tokens = torch.stack([nats, *[(ids == after).float() for ids in ways]])
    return tokens.mean(dim=(2, 3)).T.view(len(pictures), len(KINDS), 4).transpose(0, 1)


def table(folder: str, side: int, limit: int, weights: str | None) -> list[str]:
    """One line a kind of warp, means over the photos."""
    preprocess = Preprocess("center-crop", (side, side))
    tokenizer = load_tokenizer("pocket", preprocess=preprocess)
    made_by = {
        "name": tokenizer.name,
        "config": tokenizer.describe(),
        "weights": tokenizer.weights_sha256,
    }
    ids = torch.arange(len(tokenizer.codebook))
    grid = (side // tokenizer.stride, side // tokenizer.stride)
    codes = Codes(made_by, preprocess.as_json(), ids)
    around = Surroundings(grid, torch.from_numpy(tokenizer.codebook), codes)
    adapter, chosen, parts = load_adapter(weights, around), photos(folder, limit), []
    for start in range(0, len(chosen), AT_ONCE):
        some = chosen[start : start + AT_ONCE]
        loaded = np.stack([tokenizer.preprocess(source.load(item)) for source, item in some])
        parts.append(figures(adapter, tokenizer, torch.from_numpy(loaded), start))
    means = torch.cat(parts, dim=1).mean(dim=1).tolist()
    return [
        f"\n{folder}, {len(chosen)} photos at {side}x{side}:\n",
        "| warp | nats | TokenAdapt, exact | naive, exact | roundtrip, exact |",
        "|---|---|---|---|---|",
        *(
            f"| {kind} | {nats:.2f} | {ours:.1%} | {naive:.1%} | {trip:.1%} |"
            for kind, (nats, ours, naive, trip) in zip(KINDS, means, strict=True)
        ),
    ]


@click.command()
@click.argument("images", nargs=-1, required=True)
@click.option("--image-size", default=128, show_default=True)
@click.option("--limit", default=150, show_default=True, help="Photos of each folder.")
@click.option("--weights", help="Run of `seit-train tokenadapt`; else the one that ships.")
@click.option("--save", type=click.Path(path_type=Path), help="Markdown file to append to.")
def main(
    images: tuple[str, ...], image_size: int, limit: int, weights: str | None, save: Path | None
) -> None:
    """Measure here and now.

    Example: python -m benchmarks.token_adapt cls-photos/val images-mixed
    """
    text = [
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, torch "
        f"{torch.__version__}, `python -m benchmarks.token_adapt {' '.join(images)} --image-size "
        f"{image_size} --limit {limit}`"
    ]
    for folder in images:
        text += table(folder, image_size, limit, weights)
    click.echo("\n".join(text))
    if save:
        with save.open("a", encoding="utf-8") as file:
            file.write("\n".join(text) + "\n\n")


if __name__ == "__main__":
    main()
