"""Our tokenizers against the straightforward form of the same models, in the same run.

    python -m benchmarks.tokenize                                      # prints tables
    python -m benchmarks.tokenize --precision bf16 --save benchmarks/results/X.md

Full-size models with random weights. Both forms take the same pictures by turns, and each turn
gives one ratio, so that what else the machine does hits both. `encode` starts from pictures in
memory, `files` from JPEG files: ours reads ahead by the pool of a build, the other form opens one
file after the other. FLOPs are those of the straightforward form's matrix products and convolutions
as torch counts them; the peak is the best square matrix product of the same dtype, measured here.
"""

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain_forms import Tensors, vit_vqgan_ids, vqgan_ids
from tokenstore.build.engine import available_cores
from tokenstore.build.workers import decoding_pool
from tokenstore.choice import best_device
from tokenstore.preprocess import Preprocess
from tokenstore.rates import ImageFiles
from tokenstore.sources import open_source
from tokenstore.tokenizers.base import LoadRequest, Precision
from tokenstore.tokenizers.network import Network, NetworkTokenizer
from tokenstore.tokenizers.vit_vqgan import SHAPES, VitVqgan, VitVqganNetwork
from tokenstore.tokenizers.vqgan import VARIANTS, Vqgan, VqganNetwork

MODELS = ("vit-vqgan", "vqgan-f16-1024")
PEAK_SIDE = {"cpu": 3072, "cuda": 8192}
PHOTO = (375, 500)  # ImageNet's usual size, (H, W)
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}

Ids = torch.Tensor
Pictures = NDArray[np.uint8]  # [n, H, W, 3]
Rows = Iterator[str]
Work = Callable[[], Ids]


@dataclass(frozen=True)
class Task:
    """What is tokenized, and how often."""

    device: str
    batch: int
    images: int
    rounds: int


@dataclass(frozen=True)
class Duel:
    """Seconds of each turn: (wall, processor) of our form and of the other, and equal ids."""

    ours: list[tuple[float, float]]
    plain: list[tuple[float, float]]
    equal: float

    def ratios(self, clock: int) -> list[float]:
        """How many times the other form takes, turn by turn, ascending."""
        pairs = zip(self.ours, self.plain, strict=True)
        return sorted(plain[clock] / ours[clock] for ours, plain in pairs)


def duel(ours: Work, plain: Work, rounds: int) -> Duel:
    """Both by turns, after one turn each that warms up and shows how many ids are equal."""
    equal = float((ours().flatten(1) == plain()).double().mean())
    seconds: dict[Work, list[tuple[float, float]]] = {ours: [], plain: []}
    for number in range(rounds):
        for work in (ours, plain) if number % 2 else (plain, ours):
            wall, processor = time.perf_counter(), time.process_time()
            work()
            spent = (time.perf_counter() - wall, time.process_time() - processor)
            seconds[work].append(spent)
    return Duel(seconds[ours], seconds[plain], equal)


def peak_flops(device: str, precision: str) -> float:
    """FLOP/s of the best of a few square matrix products."""
    side = PEAK_SIDE[torch.device(device).type]
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    left, right = torch.randn((2, side, side), device=device).to(DTYPES[precision])
    best = float("inf")
    for _ in range(6):
        started = time.perf_counter()
        (left @ right)[0, 0].item()
        best = min(best, time.perf_counter() - started)
    torch.backends.cuda.matmul.allow_tf32 = False
    return 2 * side**3 / best


def random_network(name: str) -> Network:
    """A full-size network with random values that keep the size of what flows through it."""
    if name in SHAPES:
        network: Network = VitVqganNetwork(SHAPES[name])
    else:
        network = VqganNetwork(VARIANTS[name].shape)
    network.to_empty(device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for value in network.parameters():
            if value.ndim == 1:
                value.zero_()
            else:
                value.normal_(0, (value.numel() / len(value)) ** -0.5)
        for module in network.modules():
            if isinstance(module, nn.LayerNorm | nn.GroupNorm):
                module.weight.fill_(1)
    return network


def tokenizer_of(
    name: str, network: Network, device: str, precision: Precision
) -> NetworkTokenizer:
    kind, rule = (VitVqgan, "squash-bilinear") if name in SHAPES else (Vqgan, "center-crop-opencv")
    request = LoadRequest(
        name, device=device, precision=precision, preprocess=Preprocess(rule, (256, 256))
    )
    return kind(network, None, request)


@dataclass(frozen=True)
class Sides:
    """Both forms of one model on the same files."""

    tokenizer: NetworkTokenizer
    form: Callable[[Tensors, Pictures], Ids]
    tensors: Tensors
    files: ImageFiles

    @property
    def runs(self) -> list[slice]:
        size = self.files.batch_size
        return [slice(start, start + size) for start in range(0, len(self.files.items), size)]

    def opened(self, run: slice = slice(None)) -> Pictures:
        """Pictures one after the other, as a script does it."""
        load, prepare = self.files.source.load, self.tokenizer.preprocess
        return np.stack([prepare(load(item)) for item in self.files.items[run]])

    def encode(self, pictures: Pictures) -> Ids:
        return torch.cat(list(self.tokenizer.encode_each(pictures[run] for run in self.runs)))

    @torch.inference_mode()
    def plain_encode(self, pictures: Pictures) -> Ids:
        return torch.cat([self.form(self.tensors, pictures[run]).cpu() for run in self.runs])

    def from_files(self) -> Ids:
        return torch.from_numpy(self.files.tokenize(self.tokenizer).ids)

    @torch.inference_mode()
    def plain_from_files(self) -> Ids:
        return torch.cat([self.form(self.tensors, self.opened(run)).cpu() for run in self.runs])

    def flops(self, pictures: Pictures) -> int:
        """Of all the pictures."""
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.form(self.tensors, pictures[:1])
        return int(counter.get_total_flops()) * len(pictures)


def draw_photos(folder: Path, count: int) -> None:
    """JPEG files of smooth colours and some noise, as large as ImageNet's."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (15, 20, 3)).astype(np.uint8))
        smooth = np.asarray(coarse.resize(PHOTO[::-1], Image.Resampling.BICUBIC)).astype(int)
        noisy = smooth + rng.integers(-12, 13, smooth.shape)
        picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        picture.save(folder / f"{number:05d}.jpg", quality=90)


def lines(name: str, precisions: tuple[Precision, ...], task: Task, files: ImageFiles) -> Rows:
    """Table rows of one model: each precision against the same straightforward form."""
    network = random_network(name)
    tensors = {key: value.to(task.device, copy=True) for key, value in network.state_dict().items()}
    form = vit_vqgan_ids if name in SHAPES else vqgan_ids
    for precision in precisions:
        tokenizer = tokenizer_of(name, network, task.device, precision)
        files.warm_up(tokenizer)
        sides = Sides(tokenizer, form, tensors, files)
        pictures = sides.opened()
        duels = {
            "encode": duel(
                partial(sides.encode, pictures), partial(sides.plain_encode, pictures), task.rounds
            ),
            "files": duel(sides.from_files, sides.plain_from_files, task.rounds),
        }
        flops, peak = sides.flops(pictures), peak_flops(task.device, precision)
        for what, result in duels.items():
            yield row(f"{name}, {precision}, {what}", result, flops, peak, len(pictures))


def row(what: str, result: Duel, flops: float, peak: float, images: int) -> str:
    wall, processor = result.ratios(0), result.ratios(1)
    ours = statistics.median(wall for wall, _ in result.ours)
    plain = statistics.median(wall for wall, _ in result.plain)
    rate = flops / ours
    return (
        f"| {what} | {statistics.median(wall):.2f} ({wall[0]:.2f} to {wall[-1]:.2f}) "
        f"| {statistics.median(processor):.2f} ({processor[0]:.2f} to {processor[-1]:.2f}) "
        f"| {images / ours:.3g} | {images / plain:.3g} | {rate / 1e9:,.0f} | {peak / 1e9:,.0f} "
        f"| {rate / peak:.0%} | {result.equal:.4%} |"
    )


HEADING = (
    "| model, our precision, from | times the plain form's speed, median (all turns) "
    "| the same in processor time | images/s | plain | GFLOP/s | peak | of it | equal ids |",
    "|---|---|---|---|---|---|---|---|---|",
)


def machine(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{torch.get_num_threads()} threads on {len(names)} x {names[0]}"


@click.command()
@click.option("--model", "models", multiple=True, default=MODELS, type=click.Choice(MODELS))
@click.option("--precision", "precisions", multiple=True, default=("fp32", "bf16"))
@click.option("--device", default=best_device)
@click.option("--batch", default=8, show_default=True, help="Images a batch, of both forms.")
@click.option("--images", default=8, show_default=True, help="Images a turn.")
@click.option("--rounds", default=5, show_default=True, help="Turns of each form.")
@click.option("--save", type=click.Path(path_type=Path), help="Markdown file to write as well.")
def main(
    models: tuple[str, ...],
    precisions: tuple[Precision, ...],
    device: str,
    batch: int,
    images: int,
    rounds: int,
    save: Path | None,
) -> None:
    """Compare with the straightforward form, here and now.

    Example: python -m benchmarks.tokenize --model vit-vqgan --precision fp32
    """
    task = Task(device, batch, images, rounds)
    words = " ".join(f"--{key} {value}" for key, value in vars(task).items())
    text = [
        f"{datetime.now(UTC):%Y-%m-%d}, {machine(device)}, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"`python -m benchmarks.tokenize {words}`",
        "",
        *HEADING,
    ]
    click.echo("\n".join(text))
    workers = available_cores()
    with tempfile.TemporaryDirectory() as folder, decoding_pool(workers) as pool:
        draw_photos(Path(folder), images)
        source = open_source(folder, None, None)
        files = ImageFiles(source, source.listing().splits["train"], pool, batch)
        for name in models:
            for line in lines(name, precisions, task, files):
                text.append(line)
                click.echo(line)
    if save:
        save.write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
