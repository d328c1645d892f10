"""Where the time of a build goes, and how near its rate comes to encoding alone.

    python -m benchmarks.build                              # photos of ImageNet's size, pocket
    python -m benchmarks.build --device cuda --workers 16 --images 20000 --part-size 4096
    python -m benchmarks.build --memory 2000,50000          # peak memory of whole builds
    python -m benchmarks.build --save benchmarks/results/X.md

One run measures, on the same files and by the same tokenizer: decoding alone and encoding alone
(pictures in memory), then a build's tokenizing with everything overlapped, then packing. Beside a
GPU the rate of tokenizing is compared with that of encoding alone. On a CPU both stages share the
cores, so processor seconds are: what both take alone against what the whole took, workers and
copies between processes included. `level` is how many of the tasks handed to the workers were done
already when the encoder asked for the next: near 1 the workers wait, near 0 the encoder does.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image

from benchmarks.tokenize import draw_photos
from tokenstore.build.decode import decoding_by
from tokenstore.build.engine import available_cores
from tokenstore.build.pack import Packer, pack
from tokenstore.build.plan import BuildOptions, make_plan
from tokenstore.build.tokenize import Workbench, tokenize_parts
from tokenstore.build.workers import DecodingPool, decoding_pool
from tokenstore.choice import best_device
from tokenstore.sources import open_source
from tokenstore.storage import LocalStorage, open_storage

SAMPLE = 256  # images that each stage is measured on alone
SMALL = (32, 32)  # of the images whose builds show memory


@dataclass(frozen=True)
class Seconds:
    """Of some work: on the clock, and of processors."""

    wall: float
    processor: float


def timed(work: Callable[[], object]) -> Seconds:
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - wall, time.process_time() - processor)


class WatchedPool(DecodingPool):
    """Notes how many of the waiting tasks are done whenever one is taken."""

    def __init__(self, pool: DecodingPool) -> None:
        super().__init__(pool.executor, pool.workers)
        self.waiting: list[Future[Any]] = []
        self.levels: list[float] = []

    def submit(self, work: Any, task: Sequence[Any]) -> Future[Any]:
        future = super().submit(work, task)
        self.waiting.append(future)
        return future

    def result(self, work: Any, task: Sequence[Any], future: Future[Any]) -> list[Any]:
        done = sum(one.done() for one in self.waiting)
        self.levels.append(done / len(self.waiting))
        self.waiting.remove(future)
        return super().result(work, task, future)


class WatchedEncoder:
    """A tokenizer that notes how long it waited for pictures."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self.waited = tokenizer, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def encode_each(self, batches: Iterable[Any]) -> Iterator[Any]:
        def asked() -> Iterator[Any]:
            source, end = iter(batches), object()
            while True:
                began = time.perf_counter()
                batch = next(source, end)
                self.waited += time.perf_counter() - began
                if batch is end:
                    return
                yield batch

        yield from self._tokenizer.encode_each(asked())


class WatchedStorage(LocalStorage):
    """Notes how long files took to be written."""

    seconds = 0.0

    def create(self, name: str, content: bytes) -> None:
        began = time.perf_counter()
        super().create(name, content)
        self.seconds += time.perf_counter() - began


def tree_seconds() -> float:
    """Processor seconds of this process and all that run below it, dead children included."""
    parents, seconds = {}, {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        process = int(place.parent.name)
        parents[process] = int(fields[1])
        seconds[process] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    mine = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return sum(seconds[process] for process in mine if process in seconds)


def measured(folder: Path, options: BuildOptions, workers: int) -> Iterator[str]:
    """Table rows: each stage alone, then the build."""
    source = open_source(str(folder / "photos"))
    tokenizer = options.load()
    plan = make_plan(source.kind, source.listing(), tokenizer, options)
    items = plan.listing.splits["train"]
    some, decode = items[:SAMPLE], decoding_by(source, tokenizer.preprocessing)
    decoded = decode(some[:8])
    tokenizer.encode(np.stack(decoded))
    alone = timed(lambda: decode(some))
    pictures = np.stack(decode(some))
    size = options.batch_size
    batches = [pictures[start : start + size] for start in range(0, len(some), size)]
    encoding = timed(lambda: list(tokenizer.encode_each(batches)))
    yield f"| decoding alone, one process | {len(some) / alone.wall:,.1f} | {ms(alone, some)} |"
    yield f"| encoding alone | {len(some) / encoding.wall:,.1f} | {ms(encoding, some)} |"
    staging, encoder = WatchedStorage(str(folder / "s.building")), WatchedEncoder(tokenizer)
    with decoding_pool(workers) as plain:
        pool = WatchedPool(plain)
        bench = Workbench(plan, source, encoder, staging, pool)
        list(pool.executor.map(len, [[]] * workers))  # the processes start
        before = tree_seconds()
        began = time.perf_counter()
        reports = list(tokenize_parts(plan.parts(), bench))
        whole = Seconds(time.perf_counter() - began, tree_seconds() - before)
    yield f"| tokenizing, all overlapped | {len(items) / whole.wall:,.1f} | {ms(whole, items)} |"
    target = open_storage(folder / "s")
    packing = timed(
        lambda: pack(plan, reports, (staging, target), tokenizer.codebook, Packer(workers))
    )
    yield f"| packing | {len(items) / packing.wall:,.1f} | {ms(packing, items)} |"
    stages = alone.processor / len(some) + encoding.processor / len(some)
    levels = sorted(pool.levels)
    yield ""
    ratio = len(items) / whole.wall / (len(some) / encoding.wall)
    yield f"* end to end / encoding alone: {ratio:.3f}"
    yield (
        "* processor seconds of both stages alone / of the whole: "
        f"{stages * len(items) / whole.processor:.3f}"
    )
    yield (
        f"* the encoder waited for pictures {encoder.waited / whole.wall:.1%} of the time; parts "
        f"were written in {staging.seconds / whole.wall:.1%} of it, meanwhile"
    )
    yield (
        f"* level of decoded tasks: mean {sum(levels) / len(levels):.2f}, lowest tenth "
        f"{levels[len(levels) // 10]:.2f}"
    )


def ms(seconds: Seconds, images: Sequence[object]) -> str:
    return f"{seconds.processor / len(images) * 1e3:,.2f}"


def draw_small(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"{number // 1000:03d}"
        place.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(rng.integers(0, 256, (*SMALL, 3)).astype(np.uint8))
        picture.save(place / f"{number:06d}.jpg")


def peak_memory(folder: Path, images: int) -> tuple[float, float]:
    """MiB that the main process of a whole build held at most, and images a second."""
    place = folder / f"small-{images}"
    draw_small(place, images)
    program = (
        "import resource, sys\n"
        "from tokenstore.cli.build import command\n"
        "command.main(sys.argv[1:], standalone_mode=False)\n"
        "print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    words = [str(place), "-o", str(folder / f"s-{images}"), "--image-size", "32"]
    began = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-c", program, *words, "--batch-size", "256", "--device", "cpu"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - began
    return int(ran.stdout.rpartition("PEAK ")[2]) / 1024, images / seconds


@click.command()
@click.option("--images", default=512, show_default=True, help="Photos that are drawn.")
@click.option("--tokenizer", default="pocket", show_default=True)
@click.option("--image-size", default=256, show_default=True)
@click.option("--batch-size", default=32, show_default=True)
@click.option("--part-size", default=256, show_default=True)
@click.option("--device", help="Else cuda where there is one.")
@click.option("--precision", default="fp32", show_default=True)
@click.option("--workers", type=int, help="Else one a core.")
@click.option("--memory", metavar="N,N", help="Only the peak memory of builds of so many images.")
@click.option("--save", type=click.Path(path_type=Path), help="Markdown file to write as well.")
def main(
    images: int,
    tokenizer: str,
    image_size: int,
    batch_size: int,
    part_size: int,
    device: str | None,
    precision: Any,
    workers: int | None,
    memory: str | None,
    save: Path | None,
) -> None:
    """Measure builds on this machine."""
    workers = workers or available_cores()
    options = BuildOptions(tokenizer, image_size=(image_size, image_size), batch_size=batch_size)
    options = replace(options, device=device or best_device(), precision=precision)
    options = replace(options, part_size=part_size)
    told = [
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}, {options.device}, torch {torch.__version__}, "
        f"{workers} workers, `python -m benchmarks.build {' '.join(sys.argv[1:])}`",
        "",
    ]
    click.echo("\n".join(told))
    with tempfile.TemporaryDirectory() as name:
        for line in _lines(Path(name), images, options, workers, memory):
            told.append(line)
            click.echo(line)
    if save:
        save.write_text("\n".join(told) + "\n", encoding="utf-8")


def _lines(
    folder: Path, images: int, options: BuildOptions, workers: int, memory: str | None
) -> Iterator[str]:
    if memory is not None:
        yield "| images | peak of the main process, MiB | images/s |"
        yield "|---|---|---|"
        for count in map(int, memory.split(",")):
            peak, rate = peak_memory(folder, count)
            yield f"| {count:,} | {peak:,.0f} | {rate:,.1f} |"
        return
    (folder / "photos").mkdir()
    draw_photos(folder / "photos", images)
    yield "| what | images/s | processor ms an image |"
    yield "|---|---|---|"
    yield from measured(folder, options, workers)


if __name__ == "__main__":
    main()
