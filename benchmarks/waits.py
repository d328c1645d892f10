"""How long does a training step wait for its batch? ViT-S and ViT-B by residency of the loader.

    python -m benchmarks.waits TOKENS.npy                                      # prints a table
    python -m benchmarks.waits TOKENS.npy --save benchmarks/results/waits.md   # keeps it
    python -m benchmarks.waits TOKENS.npy --model vit_b --batch 128            # one, larger

The models are those that `seit-train classify` trains, at their published width and depth, fed by
the stem of SeiT; a step is forward, loss, backward and AdamW, in bfloat16 on a GPU, in float32 on a
CPU. The device has finished before a batch is asked for and is waited for once it is there, so that
nothing hides behind the step: what is told is at least what a run waits. The first step, which
fills the residency and the caches of torch, is not counted.
"""

import os
import platform
import shutil
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import click
import torch
from torch import nn

import tokenstore
from benchmarks.grid_store import write_grids
from benchmarks.peers import load
from seit_train.models.stem import StemAdapter
from seit_train.models.vit import TokenViT, VitConfig
from tokenstore.loader import TokenLoader
from tokenstore.reader import Split

SIZES = {
    "vit_s": VitConfig(width=384, depth=12, heads=6),
    "vit_b": VitConfig(width=768, depth=12, heads=12),
}
RESIDENCIES = ("stream", "ram", "device")
CODE_WIDTH = 32  # of ViT-VQGAN's codebook
CLASSES = 1000


class Waited(NamedTuple):
    """Seconds: a step with its wait, and the wait, each a mean over the steps."""

    step: float
    wait: float


class Classifier(nn.Module):
    """What `seit-train classify` trains, without its augmentations."""

    def __init__(self, name: str, codes: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.codebook = nn.Embedding(codes, CODE_WIDTH).requires_grad_(False)
        config = SIZES[name]
        stem = StemAdapter("conv4x4", config.width, CODE_WIDTH)
        self.vit = TokenViT(stem, grid, config, classes=CLASSES)

    def forward(self, ranks: torch.Tensor) -> torch.Tensor:
        return self.vit(self.codebook(ranks).permute(0, 3, 1, 2))


def measured(split: Split, name: str, residency: str, batch: int, steps: int) -> Waited:
    """A training of so many steps, without the first."""
    manifest = split.store.manifest
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = Classifier(name, manifest.vocabulary.size, manifest.grid).to(device)
    optimizer = torch.optim.AdamW(model.vit.parameters(), 1e-4)
    loader = TokenLoader(
        split, batch_size=batch, device=device, residency=residency, last="drop", seed=0
    )
    batches, waited, started = iter(loader), 0.0, 0.0
    for number in range(steps + 1):
        before = _now(device)
        some = next(batches)
        after = _now(device)
        if number:
            waited += after - before
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = nn.functional.cross_entropy(model(some.ranks), some.labels % CLASSES)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if not number:
            started = _now(device)
    return Waited((_now(device) - started) / steps, waited / steps)


def _now(device: torch.device) -> float:
    """The time at which the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _hardware() -> str:
    """What computed."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} cores, no GPU, load {os.getloadavg()[0]:.1f}"


@click.command()
@click.argument("tokens")
@click.option("--model", "models", type=click.Choice(list(SIZES)), multiple=True, help="Or both.")
@click.option("--codec", default="context", show_default=True, help="Of the store.")
@click.option("--batch", default=8, show_default=True, help="Images of a step.")
@click.option("--steps", default=4, show_default=True, help="Steps that are counted.")
@click.option("--save", type=click.Path(path_type=Path), help="Markdown file to write as well.")
def main(
    tokens: str, models: tuple[str, ...], codec: str, batch: int, steps: int, save: Path | None
) -> None:
    """Train on TOKENS for a moment, and tell how long it waits.

    Example: python -m benchmarks.waits tokens.npy --model vit_s --batch 8
    """
    corpus = load(tokens, max(2048, batch * (steps + 2)))
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {_hardware()}, Python "
        f"{platform.python_version()}, torch {torch.__version__}; {len(corpus.grids)} grids of "
        f"{corpus.grids.shape[1:]}, `python -m benchmarks.waits {Path(tokens).name} "
        f"--codec {codec} --batch {batch} --steps {steps}`",
        "",
        "| model | residency | s a step | ms it waits | share |",
        "|---|---|---|---|---|",
    ]
    click.echo("\n".join(lines))
    folder = Path(tempfile.mkdtemp())
    try:
        write_grids(folder / "store", codec, *corpus)
        split = tokenstore.open(folder / "store")["train"]
        for name in models or SIZES:
            for residency in RESIDENCIES:
                step, wait = measured(split, name, residency, batch, steps)
                lines.append(
                    f"| {name} | {residency} | {step:.3g} | {wait * 1e3:.2f} | {wait / step:.3%} |"
                )
                click.echo(lines[-1])
    finally:
        shutil.rmtree(folder)
    if save:
        save.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
