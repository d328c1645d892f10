"""What a training step costs: images/s, MFU, and what is spent beside the model's own arithmetic.

    python -m benchmarks.step                                        # on the GPU, or on the CPU
    python -m benchmarks.step --model S --batch 16 --steps 4 --profile
    python -m benchmarks.step --save benchmarks/results/X.md

The trainer's own steps, on a store of random grids of the published size (32x32 ids of 391 codes of
32 numbers, 1,000 classes), with full augmentation and optimizer, after steps that warm up and
compile. Of SeiT++'s augmentation TokenAdapt is left out, which belongs to one tokenizer: what it
adds to a step is measured by benchmarks.augment. Data and augmentation are measured alone as well;
on a GPU the loader works beside the step, so their sum is an upper bound of what they cost. The
encoder of MTM is timed alone, with the positions that masks leave it and with all. MFU stands where
the peak of a device is known. `--profile` says which share of a step's time on a CPU goes into
matrix products, and what the rest is.
"""

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

import tokenstore
from benchmarks.grid_store import write_grids
from seit_train.config import make_config
from seit_train.data import TokenBatch
from seit_train.distributed import World
from seit_train.models.masking import MaskConfig
from seit_train.models.stem import StemAdapter
from seit_train.models.vit import TokenViT, VitConfig
from seit_train.precision import Precision, autocast
from seit_train.run import Run, StoreIdentity
from seit_train.trainer import Trainer
from seit_train.utilisation import count_flops, device_peak
from tokenstore.reader import Split
from tokenstore.registry import find

SIDE, CODES, WIDTH, CLASSES = 32, 391, 32, 1000
SIZES = {"Ti": (192, 3), "S": (384, 6), "B": (768, 12)}  # DeiT, Table 1: width, heads
CROP: dict[str, Any] = {"random_resized_crop": {"size": 28}}
COLOURS = [{"emb_noise": {"p": 0.5}}, {"color_adapt": {"p": 0.5}}]
FULL: dict[str, list[dict[str, Any]]] = {
    "classify": [{"eda": {}}, {"one_of": {"p": [0.5, 0.25], "of": COLOURS}}, CROP, {"cutmix": {}}],
    "mtm": [{"one_of": {"p": [0.25], "of": COLOURS[1:]}}, CROP],
}
PRODUCTS = ("mm", "linear", "convolution", "scaled_dot_product", "einsum")
_COUNTED = 4  # images whose operations are counted
_LISTED = 12  # operations of a profile


@dataclass(frozen=True)
class Cost:
    """What a step of one task and model costs; seconds a step, operations an image."""

    task: str
    model: str
    batch: int
    precision: Precision
    step: float
    data: float
    augmentation: float
    flops: float
    peak: float | None

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.batch / self.step

    @property
    def row(self) -> str:
        """A row of the table."""
        achieved = self.rate * self.flops
        mfu = "not known" if self.peak is None else f"{achieved / self.peak:.1%}"
        beside = (self.data + self.augmentation) / self.step
        return (
            f"| {self.task} | ViT-{self.model} | {self.batch} | {self.precision} | "
            f"{self.rate:,.1f} | {1e3 * self.step:,.1f} | {self.flops / 1e9:,.1f} | "
            f"{achieved / 1e12:,.3g} | {mfu} | {self.data / self.step:.1%} | "
            f"{self.augmentation / self.step:.1%} | {beside:.1%} |"
        )


HEAD = (
    "| task | model | batch | precision | images/s | ms a step | GFLOP an image | TFLOP/s | MFU | "
    "data | augmentation | both |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def write_store(folder: Path, images: int) -> Split:
    """Random grids with labels and a codebook."""
    rng = np.random.default_rng(0)
    grids = rng.integers(0, CODES, (images, SIDE, SIDE)).astype(np.uint16)
    labels = np.arange(images) % CLASSES
    labels[0] = CLASSES - 1  # so that there are as many classes even in few images
    codebook = rng.standard_normal((CODES, WIDTH)).astype(np.float32)
    write_grids(folder, "rans", grids, labels.astype(np.int64), codebook)
    return tokenstore.open(folder)["train"]


def make_trainer(
    task: str, model: str, split: Split, device: torch.device, settings: dict[str, Any]
) -> Trainer:
    """A trainer of the published model of this size, nothing written anywhere."""
    width, heads = SIZES[model]
    vit = {"width": width, "depth": 12, "heads": heads}
    section: dict[str, Any] = {
        "task": task,
        "steps": 1000,
        "lr": 1e-4,
        "augment": FULL[task],
        "model": {"encoder": vit} if task == "mtm" else {**vit, "stem": "conv4x4"},
        "optim": {"clip_norm": 3.0},
        **settings,
    }
    kind = find("seit_train.tasks", task)
    config = make_config(kind.Config, section, origin="benchmarks.step")
    run = Run(Path("nowhere"), config, StoreIdentity.of(split.store))
    return Trainer(run, World(0, 1, device), split, None)


def seconds(
    work: Callable[[], object],
    device: torch.device,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Median of a few turns, each until the device is done."""
    spent = []
    for _ in range(rounds):
        started = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        spent.append(clock() - started)
    return statistics.median(spent)


def measure(trainer: Trainer, model: str, steps: int, warm: int) -> Cost:
    """Time whole steps, then data and augmentation alone."""
    device, config = trainer.world.device, trainer.config
    network, batches = trainer._wrapped(), trainer._endless_batches()
    flops = _flops(trainer, next(batches))

    def step() -> None:
        trainer._train_step(network, next(batches))

    seconds(step, device, warm)
    whole = seconds(step, device, steps)
    batch = next(batches)
    policy = trainer.task.policy.to(device)  # type: ignore[attr-defined]
    targets = None
    if config.task == "classify" and batch.labels is not None:
        targets = torch.nn.functional.one_hot(batch.labels, CLASSES).float()
    policy(batch.ranks, targets, trainer.rng)
    return Cost(
        task=config.task,
        model=model,
        batch=config.batch_size,
        precision=trainer.precision,
        step=whole,
        data=seconds(lambda: next(batches), device, steps),
        augmentation=seconds(lambda: policy(batch.ranks, targets, trainer.rng), device, steps),
        flops=flops,
        peak=device_peak(device, trainer.precision),
    )


def _flops(trainer: Trainer, batch: TokenBatch) -> float:
    few = batch.rows(slice(_COUNTED))
    trainer.rng.manual_seed(0)
    model = trainer.model.train()
    return count_flops(model, lambda: trainer.task.loss(model, few, trainer.rng).loss) / _COUNTED


def profiled(trainer: Trainer, steps: int) -> list[str]:
    """Shares of a step's time on the CPU by operation, as rows; matrix products first."""
    network, batches = trainer.model, trainer._endless_batches()
    trainer._train_step(network, next(batches))
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        for _ in range(steps):
            trainer._train_step(network, next(batches))
    events = sorted(watched.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    products = [event for event in events if any(word in event.key for word in PRODUCTS)]
    share = sum(event.self_cpu_time_total for event in products) / total
    rows = [f"| **matrix products, all** | {share:.1%} | |"]
    for event in [event for event in events if event not in products][:_LISTED]:
        calls = f"{event.count / steps:,.0f}"
        rows.append(f"| {event.key} | {event.self_cpu_time_total / total:.1%} | {calls} |")
    return rows


def encoder_alone(cost: Cost, place: torch.device) -> str:
    """The time of MTM's encoder, forwards and backwards, at the length that masks leave and at all.

    Median of five turns each, on a CPU in processor time; nothing is compiled.
    """
    width, heads = SIZES[cost.model]
    config = VitConfig(width=width, depth=12, heads=heads, drop_path=0.0)
    encoder = TokenViT(StemAdapter("conv2x2", width, WIDTH), (28, 28), config).to(place)
    positions = encoder.pos_embed.shape[1] - 1
    kept = positions - MaskConfig().count_dropped(positions)
    spent, products = [], []
    for length in (kept, positions):
        patches = torch.randn(cost.batch, length, width, device=place)

        def turn(patches: torch.Tensor = patches) -> None:
            with autocast(cost.precision, place):
                loss = encoder.encode(patches).float().mean()
            torch.autograd.grad(loss, list(encoder.blocks.parameters()))

        turn()
        clock = time.perf_counter if place.type == "cuda" else time.process_time
        spent.append(seconds(turn, place, 5, clock))
        tokens = 1 + length
        products.append(12 * tokens * width**2 + 2 * tokens**2 * width)
    few, all_of_them = (f"{1e3 * one:,.1f} ms" for one in spent)
    return (
        f"ViT-{cost.model}'s encoder alone, {cost.batch} images: {few} with {1 + kept} tokens, "
        f"{all_of_them} with {1 + positions}, {spent[0] / spent[1]:.2f} of the time for "
        f"{products[0] / products[1]:.2f} of the products."
    )


def ratios(costs: list[Cost]) -> list[str]:
    """How many times the images/s of classification masked modelling has, by model."""
    rates = {(cost.model, cost.task): cost.rate for cost in costs}
    models = dict.fromkeys(cost.model for cost in costs)
    return [
        f"ViT-{model}: MTM pre-training has {rates[model, 'mtm'] / rates[model, 'classify']:.2f} "
        "times the images/s of classification."
        for model in models
        if (model, "mtm") in rates and (model, "classify") in rates
    ]


@click.command()
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
@click.option(
    "--model", "models", multiple=True, type=click.Choice(list(SIZES)), default=("S", "B")
)
@click.option("--task", "tasks", multiple=True, type=click.Choice(list(FULL)), default=tuple(FULL))
@click.option("--batch", type=int, help="Images a step.  [default: 256 on a GPU, 16 on a CPU]")
@click.option("--steps", default=5, show_default=True, help="Steps measured; the median counts.")
@click.option("--warm", default=2, show_default=True, help="Steps before, for compiling.")
@click.option("--precision", default="auto", show_default=True)
@click.option("--compile", "compiles", default="auto", show_default=True)
@click.option("--profile", "profiles", is_flag=True, help="Also say what a CPU spends its time on.")
@click.option("--save", type=click.Path(path_type=Path), help="Markdown file to write as well.")
def main(
    device: str,
    models: tuple[str, ...],
    tasks: tuple[str, ...],
    batch: int | None,
    steps: int,
    warm: int,
    precision: str,
    compiles: str,
    profiles: bool,
    save: Path | None,
) -> None:
    """Measure steps here and now.

    Example: python -m benchmarks.step --model S --batch 16 --profile
    """
    place = torch.device(device)
    batch = batch or (256 if place.type == "cuda" else 16)
    loop = {"precision": precision, "compile": compiles}
    settings = {"batch_size": batch, "loop": loop}
    kind = torch.cuda.get_device_name(place) if place.type == "cuda" else platform.machine()
    text = [
        f"{datetime.now(UTC):%Y-%m-%d}, {kind}, {torch.get_num_threads()} threads, load "
        f"{os.getloadavg()[0]:.1f}, torch {torch.__version__}, compile {compiles}, "
        f"{steps} steps after {warm}",
        "",
        HEAD,
    ]
    costs, profiles_found = [], []
    click.echo("\n".join(text))
    with tempfile.TemporaryDirectory() as folder:
        split = write_store(Path(folder) / "grids", max(4 * batch, CLASSES))
        for model in models:
            for task in tasks:
                costs.append(
                    measure(make_trainer(task, model, split, place, settings), model, steps, warm)
                )
                text.append(costs[-1].row)
                click.echo(text[-1])
                if profiles:
                    rows = profiled(make_trainer(task, model, split, place, settings), steps)
                    profiles_found.append((f"ViT-{model}, {task}", rows))
    rest = ["", *ratios(costs)]
    rest += [encoder_alone(cost, place) for cost in costs if cost.task == "mtm"]
    for name, rows in profiles_found:
        rest += ["", f"{name}: share of a step's CPU time", "", "| what | share | calls a step |"]
        rest += ["|---|---|---|", *rows]
    click.echo("\n".join(rest))
    if save:
        save.write_text("\n".join([*text, *rest]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
