"""Pictures for the encoder: read, decoded and resized ahead of it, by threads or by processes.

Work is handed out a few images at a time and comes back in the order of the list, so nothing of a
store depends on the kind of the pool, its size or its speed. Threads serve an encoder on the CPU,
which is slower than they are; beside a GPU, where the interpreter is busy feeding it, processes
decode. They start fresh (a copy of a process that uses CUDA cannot work), load no torch, and end
with the build however it ends.
"""

import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from tokenstore.build.pictures import Picture, picture_of
from tokenstore.errors import BuildError, ImageRejected
from tokenstore.preprocess import Preprocess
from tokenstore.sources.base import Item, Source

Decoded = Picture | ImageRejected  # or why there is none
Decode = Callable[[Sequence[Item]], list[Decoded]]

IMAGES_A_TASK = 8  # what handing a task to another process costs is small beside decoding these
BATCHES_AHEAD = 2
TASKS_AHEAD = 2  # a worker: one in its hands, one waiting for it


@dataclass(frozen=True)
class DecodingPool:
    """Threads or processes, and how many."""

    executor: Executor
    workers: int


@contextmanager
def decoding_pool(workers: int, device: str) -> Iterator[DecodingPool]:
    """The pool that suits an encoder on this torch device."""
    if device.startswith("cuda"):
        executor: Executor = worker_processes(workers)
    else:
        executor = ThreadPoolExecutor(workers)
    try:
        yield DecodingPool(executor, workers)
    finally:
        executor.shutdown(cancel_futures=True)


def worker_processes(workers: int) -> ProcessPoolExecutor:
    """Processes that share nothing with this one."""
    methods = multiprocessing.get_all_start_methods()
    method = "forkserver" if "forkserver" in methods else "spawn"
    context = multiprocessing.get_context(method)
    return ProcessPoolExecutor(workers, context, initializer=_begin_worker)


def decoding_by(source: Source, rule: Preprocess) -> Decode:
    """What the workers do: images of this source, resized by this rule."""
    return partial(_decode, source, rule)


def decoded_batches(
    items: Sequence[Item], size: int, decode: Decode, pool: DecodingPool
) -> Iterator[tuple[Sequence[Item], list[Decoded]]]:
    """Runs of `size` items with their pictures, decoded ahead of the run that is asked for.

    Raises:
        BuildError: a worker process died.
    """
    tasks = [items[i : i + IMAGES_A_TASK] for i in range(0, len(items), IMAGES_A_TASK)]
    ahead = max(TASKS_AHEAD * pool.workers, -(-BATCHES_AHEAD * size // IMAGES_A_TASK))
    done = _in_order(tasks, decode, pool.executor, ahead)
    pictures = (picture for task in done for picture in task)
    for start in range(0, len(items), size):
        batch = items[start : start + size]
        yield batch, [next(pictures) for _ in batch]


def _in_order(
    tasks: Sequence[Sequence[Item]], decode: Decode, executor: Executor, ahead: int
) -> Iterator[list[Decoded]]:
    """Results in the order of the tasks, with up to `ahead` more of them in work."""
    waiting: deque[Future[list[Decoded]]] = deque()
    try:
        for task in tasks:
            waiting.append(executor.submit(decode, task))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenExecutor as error:
        raise BuildError(
            "a process that decodes images was killed, perhaps because memory ran out. What is "
            "finished is kept: run the same line again, with fewer --workers."
        ) from error
    finally:
        for future in waiting:
            future.cancel()


def _decode(source: Source, rule: Preprocess, items: Sequence[Item]) -> list[Decoded]:
    return [_decode_one(source, rule, item) for item in items]


def _decode_one(source: Source, rule: Preprocess, item: Item) -> Decoded:
    try:
        return picture_of(source, item, rule)
    except ImageRejected as reason:
        return reason


def _begin_worker() -> None:
    """Leave Ctrl-C to the build, end when it is killed, and stay silent about odd pictures."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.filterwarnings("ignore", module="PIL")
    threading.Thread(target=_end_with_build, daemon=True).start()


def _end_with_build() -> None:
    build = multiprocessing.parent_process()
    if build is not None:
        build.join()
        os._exit(1)
