"""Pictures decoded ahead: in order, within bounds, and alike from threads and from processes."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.toy_images import write_corpus
from tests.toy_tokenizer import ToyTokenizer
from tokenstore.build.decode import (
    IMAGES_A_TASK,
    decoded_batches,
    decoding_by,
)
from tokenstore.build.plan import BuildOptions, make_plan
from tokenstore.build.tokenize import Workbench, tokenize_part
from tokenstore.build.workers import DecodingPool, worker_processes
from tokenstore.errors import ImageRejected
from tokenstore.preprocess import Preprocess
from tokenstore.sources import open_source
from tokenstore.sources.base import Item, Source
from tokenstore.storage import open_storage

RULE = Preprocess("center-crop", (32, 32))
IMAGES = 40


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with worker_processes(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Forty images, of which the fourth is none."""
    folder = write_corpus(tmp_path_factory.mktemp("decode") / "in", {"train": IMAGES})
    source = open_source(str(folder))
    (folder / items_of(source)[3].path).write_bytes(b"no image")
    return source


def items_of(source: Source) -> tuple[Item, ...]:
    return source.listing().splits["train"]


def test_processes_give_the_pictures_and_reasons_of_threads(
    source: Source, processes: ProcessPoolExecutor
) -> None:
    items, decode = items_of(source), decoding_by(source, RULE)
    with ThreadPoolExecutor(1) as threads:
        batches = zip(
            decoded_batches(items, 7, decode, DecodingPool(threads, 1)),
            decoded_batches(items, 7, decode, DecodingPool(processes, 2)),
            strict=True,
        )
        seen = 0
        for (batch, one), (same, other) in batches:
            assert batch == same == items[seen : seen + 7]
            for item, left, right in zip(batch, one, other, strict=True):
                if item == items[3]:
                    assert isinstance(left, ImageRejected)
                    assert isinstance(right, ImageRejected)
                    assert str(left) == str(right) == "no JPEG, PNG, WebP or BMP image"
                else:
                    assert np.array_equal(left[0].pixels, RULE.apply(source.load(item)))
                    assert np.array_equal(left[0].pixels, right[0].pixels)
            seen += len(batch)
    assert seen == IMAGES


def test_a_part_has_the_same_bytes_whoever_decoded_it(
    source: Source, processes: ProcessPoolExecutor, tmp_path: Path
) -> None:
    tokenizer = ToyTokenizer(RULE)
    options = BuildOptions(tokenizer="toy", batch_size=11)
    plan = make_plan(source.kind, source.listing(), tokenizer, options)
    made = []
    with ThreadPoolExecutor(3) as threads:
        pools: list[tuple[Executor, int]] = [(threads, 3), (threads, 1), (processes, 2)]
        for number, (executor, workers) in enumerate(pools):
            staging = open_storage(tmp_path / str(number))
            pool = DecodingPool(executor, workers)
            bench = Workbench(plan, source, tokenizer, staging, pool, clock=float)
            report = tokenize_part(next(plan.parts()), bench)
            assert (report.count, len(report.rejects)) == (IMAGES - 1, 1)
            made.append({name: staging.read(name) for name in staging.names()})
    assert made[0] == made[1] == made[2]


def test_worker_processes_load_no_torch(source: Source, processes: ProcessPoolExecutor) -> None:
    pool = DecodingPool(processes, 2)
    assert len(list(decoded_batches(items_of(source), 8, decoding_by(source, RULE), pool))) == 5
    expression = "{name: name in __import__('sys').modules for name in ('torch', 'PIL')}"
    assert processes.submit(eval, expression).result() == {"torch": False, "PIL": True}


def test_pictures_are_decoded_ahead_but_not_without_bound(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Item] = []
    lock, load = threading.Lock(), source.load

    def counting(item: Item) -> object:
        with lock:
            loaded.append(item)
        return load(item)

    monkeypatch.setattr(source, "load", counting)
    with ThreadPoolExecutor(1) as threads:
        pool = DecodingPool(threads, 1)
        batches = decoded_batches(items_of(source), 4, decoding_by(source, RULE), pool)
        next(batches)
        time.sleep(0.05)
        assert len(loaded) <= 3 * IMAGES_A_TASK  # the one asked for, and two for the one worker
        assert sum(len(batch) for batch, _ in batches) == IMAGES - 4
    assert len(loaded) == IMAGES


@pytest.mark.kill
def test_workers_end_with_a_build_that_is_killed() -> None:
    program = (
        "import os, signal\n"
        "from tokenstore.build.workers import worker_processes\n"
        "print(worker_processes(1).submit(os.getpid).result(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False
    )
    assert ran.returncode == -signal.SIGKILL
    worker = int(ran.stdout)
    for _ in range(100):
        if not _is_alive(worker):
            return
        time.sleep(0.1)
    pytest.fail(f"worker {worker} outlived its build")


def _is_alive(process: int) -> bool:
    """Whether it runs; a dead one that nobody has waited for does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
