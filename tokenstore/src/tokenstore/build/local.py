"""The engine of one machine: worker processes decode, and every visible GPU encodes.

With several GPUs each has a thread and a tokenizer of its own, and takes the next part when it is
done with one; all share the workers.
"""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from tokenstore.build.engine import Job, RejectWatch, Running
from tokenstore.build.plan import Part, Slot
from tokenstore.build.tokenize import OnBatch, PartReport, Workbench, tokenize_parts
from tokenstore.build.workers import decoding_pool
from tokenstore.errors import BuildError
from tokenstore.sources.base import Rejected
from tokenstore.storage import Storage

if TYPE_CHECKING:
    from tokenstore.tokenizers.base import Tokenizer

T = TypeVar("T")


def tokenize_here(
    job: Job, slots: Sequence[Slot], staging: Storage, running: Running, watch: RejectWatch
) -> list[PartReport]:
    """Finish these parts on this machine.

    Raises:
        BuildError: images were rejected that must not be.
        InputChanged: an image is not the one that was planned.
    """
    with decoding_pool(running.workers) as pool:
        first = Workbench(job.plan, job.source, job.tokenizer, staging, pool)
        benches = [first, *(replace(first, tokenizer=other) for other in _other_tokenizers(job))]
        parts = map(job.plan.part, slots)
        if len(benches) == 1:
            return list(tokenize_parts(parts, first, watch.see_batch))
        return tokenize_side_by_side(parts, benches, watch.see_batch)


def tokenize_side_by_side(
    parts: Iterator[Part], benches: Sequence[Workbench], on_batch: OnBatch
) -> list[PartReport]:
    """Each bench takes the next part when it has none; the first error ends all of them."""
    shared, stopped, lock = _Shared(parts), threading.Event(), threading.Lock()

    def heard(images: int, rejects: Sequence[Rejected]) -> None:
        if stopped.is_set():
            raise BuildError("another device of this build has failed")
        with lock:
            on_batch(images, rejects)

    def work(bench: Workbench) -> list[PartReport]:
        try:
            return list(tokenize_parts(shared, bench, heard))
        except BaseException:
            stopped.set()
            raise

    with ThreadPoolExecutor(len(benches)) as threads:
        futures = [threads.submit(work, bench) for bench in benches]
        try:
            return [report for future in as_completed(futures) for report in future.result()]
        finally:
            stopped.set()


class _Shared(Iterator[T]):
    """One iterator for several threads."""

    def __init__(self, source: Iterator[T]) -> None:
        self._source, self._lock = source, threading.Lock()

    def __next__(self) -> T:
        with self._lock:
            return next(self._source)


def _other_tokenizers(job: Job) -> "Iterator[Tokenizer]":
    """One for each further GPU, where a build on `cuda` may use them all."""
    device = str(getattr(job.tokenizer, "device", "cpu"))
    if device != "cuda":
        return
    import torch

    for number in range(1, torch.cuda.device_count()):
        yield job.load_on(f"cuda:{number}")
