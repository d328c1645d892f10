"""What augmentations cost: a batch of 256 on the device, against the published way, in one run.

    python -m benchmarks.augment                                    # prints a table
    python -m benchmarks.augment --save benchmarks/results/X.md

Random ranks of the published size: 32x32 of 391 codes with 32 numbers each. The published way takes
image after image on the CPU: one-hot ids of 391 channels, crop, bicubic resize to 28x28, product
with the codebook; by plain torch, in one process with as many threads as ours, nothing left out and
nothing tuned. TokenAdapt has its published size and random weights, and takes half of the batch
beside a step of ViT-S on the same device. `roundtrip` decodes and encodes by the pocket tokenizer,
on grids of its own. On a CPU it is processor time that counts, so that others there do not.
"""

import itertools
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from seit_train.augment.base import Codes, Surroundings
from seit_train.augment.compose import Policy
from seit_train.augment.crop import draw_boxes
from seit_train.augment.token_adapt import token_adapt_origin
from seit_train.embed import Codebook
from seit_train.models.stem import StemAdapter
from seit_train.models.token_adapt import TokenAdapt, TokenAdaptConfig
from seit_train.models.vit import TokenViT, VitConfig
from tokenstore.tokenizers import load_tokenizer

SIDE, CODES, WIDTH, CROP = 32, 391, 32, 28
SIZES = {"ViT-S": VitConfig(), "ViT-B": VitConfig(width=768, heads=12)}
RRC: dict[str, Any] = {"random_resized_crop": {"size": CROP}}
POLICIES: dict[str, list[dict[str, Any]]] = {
    "embedding alone": [{"center_crop": {}}],
    "eda": [{"eda": {}}],
    "random_crop": [{"random_crop": {}}],
    "random_resized_crop + embedding": [RRC],
    "emb_noise": [{"emb_noise": {}}],
    "color_adapt": [{"color_adapt": {}}],
    "cutmix": [{"cutmix": {}}],
    "mixup": [{"mixup": {}}],
    "SeiT: eda, rrc, emb_noise, cutmix": [{"eda": {}}, RRC, {"emb_noise": {}}, {"cutmix": {}}],
}


def seconds(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Shortest of a few turns, after one that warms up."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    spent = []
    for turn in range(rounds + 1):
        started = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if turn:
            spent.append(clock() - started)
    return min(spent)


def published_way(ranks: Tensor, codebook: Tensor, rng: torch.Generator) -> Tensor:
    """Resized crops and embedding, image after image, on one-hot ids of K channels."""
    boxes = draw_boxes(ranks, (0.08, 1.0), (3 / 4, 4 / 3), rng).tolist()
    done = []
    for grid, (top, left, height, width) in zip(ranks, boxes, strict=True):
        one_hot = functional.one_hot(grid, len(codebook)).permute(2, 0, 1).float()
        part = one_hot[None, :, top : top + height, left : left + width]
        resized = functional.interpolate(part, (CROP, CROP), mode="bicubic", align_corners=False)
        done.append(torch.einsum("khw,kd->dhw", resized[0], codebook))
    return torch.stack(done)


def batch_rows(batch: int, device: torch.device, rounds: int) -> Iterator[str]:
    """Milliseconds a batch of each policy, and how many times faster than the published way."""
    rng = torch.Generator().manual_seed(0)
    codebook = torch.randn(CODES, WIDTH, generator=rng)
    ranks = torch.randint(CODES, (batch, SIDE, SIDE), generator=rng)
    targets = torch.eye(batch, device=device)
    per_image = seconds(lambda: published_way(ranks, codebook, rng), torch.device("cpu"), 2)
    yield f"| published way: image after image, one-hot, CPU | {per_image * 1e3:,.1f} | 1 |"
    around = Surroundings((SIDE, SIDE), codebook)
    draws, there = torch.Generator(device).manual_seed(0), ranks.to(device)
    for name, entries in POLICIES.items():
        policy = Policy(entries, around, Codebook(codebook, "cosine"), "grid").to(device)
        spent = seconds(lambda p=policy: p(there, targets, draws), device, rounds)
        yield f"| {name} | {spent * 1e3:,.1f} | {per_image / spent:,.0f} |"


def vit(config: VitConfig) -> TokenViT:
    """A classifier of 28x28 grids of the published codebook."""
    stem = StemAdapter("conv4x4", config.width, WIDTH)
    return TokenViT(stem, (CROP, CROP), config, classes=1000).train()


def with_and_without_adapt(device: torch.device) -> tuple[Policy, Policy]:
    """Token-RRC of all images; TokenAdapt of the published size for half of them."""
    rng = torch.Generator().manual_seed(0)
    codebook, ids = torch.randn(CODES, WIDTH, generator=rng), torch.arange(CODES)
    made_by = {"name": "toy", "config": {}, "weights": None}
    around = Surroundings((SIDE, SIDE), codebook, Codes(made_by, {}, ids))
    with tempfile.TemporaryDirectory() as folder:
        file, config = f"{folder}/model.safetensors", TokenAdaptConfig()
        weights = TokenAdapt(config, (SIDE, SIDE), WIDTH, ids).state_dict()
        save_file(weights, file, token_adapt_origin(config, made_by))
        halves = [{"halves": {"first": [{"token_adapt": {"weights": file}}], "rest": [RRC]}}]
        plain, adapted = (
            Policy(entries, around, Codebook(codebook, "cosine"), "grid").to(device)
            for entries in ([RRC], halves)
        )
    return plain, adapted


def step(model: TokenViT, policy: Policy, ranks: Tensor, rng: torch.Generator) -> None:
    """Augment, forward, backward."""
    with torch.autocast(ranks.device.type, torch.bfloat16):
        logits = model(policy(ranks, None, rng).tokens)
        functional.cross_entropy(logits.float(), torch.zeros_like(ranks[:, 0, 0])).backward()


def step_rows(batch: int, device: torch.device, rounds: int) -> Iterator[str]:
    """What TokenAdapt on half of the batch adds to a step of ViT-S, forward and backward."""
    ranks, draws = torch.randint(CODES, (batch, SIDE, SIDE)).to(device), torch.Generator(device)
    model, policies = vit(SIZES["ViT-S"]).to(device), with_and_without_adapt(device)
    plain, adapted = (
        seconds(lambda p=p: step(model, p, ranks, draws), device, rounds) for p in policies
    )
    yield f"| ViT-S step of {batch}, Token-RRC | {plain * 1e3:,.1f} | |"
    yield f"| the same, half by TokenAdapt | {adapted * 1e3:,.1f} | {adapted / plain - 1:+.1%} |"
    yield from roundtrip_row(batch, device, plain)


def operation_rows() -> Iterator[str]:
    """The same as products alone, by torch's counter: what no device and no load can change."""
    ranks, draws = torch.randint(CODES, (2, SIDE, SIDE)), torch.Generator()
    for name, config in SIZES.items():
        counts = []
        for policy in with_and_without_adapt(torch.device("cpu")):
            with FlopCounterMode(display=False) as counter:
                step(vit(config), policy, ranks, draws)
            counts.append(counter.get_total_flops() / len(ranks))
        more = counts[1] / counts[0] - 1
        both = " and ".join(f"{count / 1e9:.1f}" for count in counts)
        yield f"| GFLOP an image of a {name} step, without and with it | {both} | {more:+.1%} |"


def roundtrip_row(batch: int, device: torch.device, plain: float) -> Iterator[str]:
    """What decoding, augmenting and encoding half of the batch adds, by the pocket tokenizer."""
    tokenizer = load_tokenizer("pocket")
    made_by = {"name": "pocket", "config": tokenizer.describe()}
    made_by["weights"] = tokenizer.weights_sha256
    ids = torch.arange(len(tokenizer.codebook))
    codes = Codes(made_by, tokenizer.preprocessing.as_json(), ids)
    around = Surroundings((SIDE, SIDE), torch.from_numpy(tokenizer.codebook), codes)
    policy = Policy([{"roundtrip": {}}], around, None, "ranks")
    ranks = torch.randint(len(ids), (max(1, batch // 2), SIDE, SIDE))
    rng = torch.Generator().manual_seed(0)
    spent = seconds(lambda: policy(ranks, None, rng), torch.device("cpu"), 1)
    where = "" if device.type == "cpu" else " (tokenizer on the CPU)"
    yield f"| roundtrip of half the batch{where} | {spent * 1e3:,.1f} | {spent / plain:+.1%} |"


@click.command()
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
@click.option("--batch", default=256, show_default=True, help="Images a batch.")
@click.option("--step-batch", default=256, show_default=True, help="Images of a ViT-S step.")
@click.option("--rounds", default=5, show_default=True, help="Turns; the shortest counts.")
@click.option("--save", type=click.Path(path_type=Path), help="Markdown file to write as well.")
def main(device: str, batch: int, step_batch: int, rounds: int, save: Path | None) -> None:
    """Measure here and now.

    Example: python -m benchmarks.augment --step-batch 16
    """
    place = torch.device(device)
    kind = torch.cuda.get_device_name(place) if place.type == "cuda" else platform.processor()
    text = [
        f"{datetime.now(UTC):%Y-%m-%d}, {kind or platform.machine()}, {torch.get_num_threads()} "
        f"threads, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, `python -m "
        f"benchmarks.augment --device {device} --batch {batch} --step-batch {step_batch}`"
        + ("; processor time" if place.type == "cpu" else ""),
        "",
        f"Bytes to the device an image: {SIDE * SIDE * 2:,} (uint16 ranks) against "
        f"{CODES * CROP * CROP * 4:,} (float32 one-hot of {CROP}x{CROP}).",
        "",
        "| what | ms a batch | times the published way's speed, or share added to the step |",
        "|---|---|---|",
    ]
    click.echo("\n".join(text))
    parts = batch_rows(batch, place, rounds), step_rows(step_batch, place, rounds)
    for row in itertools.chain(*parts, operation_rows()):
        text.append(row)
        click.echo(row)
    if save:
        save.write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
