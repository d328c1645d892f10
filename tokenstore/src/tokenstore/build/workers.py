"""The processes that decode pictures: how they start and end, and what happens when one dies.

They start fresh (a copy of a process that uses CUDA cannot work), load no torch, leave signals to
the build and end with it, however it ends. A decoder that brings down its process costs one image:
what the dead process had in its hands is done again in a process of its own, image by image, and
the image that kills that one too is a reject. What decoding is, is the business of `decode`.
"""

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from tokenstore.errors import BuildError, ImageRejected

T = TypeVar("T")
Work = Callable[[Sequence[T]], list[Any]]  # a picture for each, or an ImageRejected

PRELOADED = ["tokenstore.build.decode", "PIL.Image"]  # by the process that the workers are forks of
ATTEMPTS_ALONE = 2  # somebody else may have killed the first
CRASHED = "its decoder crashed the process that ran it"


class DecodingPool:
    """Somebody who decodes, and how many of them; a pool that a crash broke is replaced."""

    def __init__(self, executor: Executor, workers: int) -> None:
        """Use `executor`, which has this many workers."""
        self.executor, self.workers = executor, workers
        self._lock = threading.Lock()

    def submit(self, work: Work[T], task: Sequence[T]) -> Future[list[Any]]:
        """Have a task done some time."""
        with self._lock:
            try:
                return self.executor.submit(work, task)
            except BrokenExecutor:
                self.executor.shutdown()
                self.executor = worker_processes(self.workers)
                return self.executor.submit(work, task)

    def result(self, work: Work[T], task: Sequence[T], future: Future[list[Any]]) -> list[Any]:
        """What came of a task; one that a crash took along is done again, apart from the others.

        Raises:
            BuildError: no process can be kept alive at all.
        """
        try:
            return future.result()
        except BrokenExecutor:
            return _done_apart(work, task)

    def close(self) -> None:
        """End the workers, and drop what waits for them."""
        self.executor.shutdown(cancel_futures=True)


@contextmanager
def decoding_pool(workers: int) -> Iterator[DecodingPool]:
    """A pool of processes, ended at the end of the context."""
    pool = DecodingPool(worker_processes(workers), workers)
    try:
        yield pool
    finally:
        pool.close()


def worker_processes(workers: int) -> ProcessPoolExecutor:
    """Processes that share nothing with this one."""
    methods = multiprocessing.get_all_start_methods()
    method = "forkserver" if "forkserver" in methods else "spawn"
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(PRELOADED)
    environment = dict(os.environ)
    return ProcessPoolExecutor(workers, context, initializer=_begin_worker, initargs=(environment,))


def _done_apart(work: Work[T], task: Sequence[T]) -> list[Any]:
    """The results of a task, done where a crash hurts nobody else."""
    whole = _in_own_process(work, task)
    if whole is not None:
        return whole
    done: list[Any] = []
    for item in task:
        alone = None
        for _ in range(ATTEMPTS_ALONE):
            alone = alone or _in_own_process(work, [item])
        done.append(alone[0] if alone else ImageRejected(CRASHED))
    return done


def _in_own_process(work: Work[T], task: Sequence[T]) -> list[Any] | None:
    """Results of a process that ends afterwards, or None if it died on the way."""
    with worker_processes(1) as process:
        try:
            process.submit(os.getpid).result()
        except BrokenExecutor as error:
            raise BuildError(
                "processes that decode images die as soon as they start, perhaps because memory "
                "ran out. What is finished is kept: run the same line again, with fewer --workers."
            ) from error
        try:
            return process.submit(work, task).result()
        except BrokenExecutor:
            return None


def _begin_worker(environment: Mapping[str, str]) -> None:
    """Leave signals to the build, end when it is killed, and stay silent about odd pictures.

    `environment` is the build's. A fork server that is older than it would give its own, and the
    credentials of a remote are nowhere else.
    """
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a scheduler sends it to every process of a job
    warnings.filterwarnings("ignore", module="PIL")
    threading.Thread(target=_end_with_build, daemon=True).start()


def _end_with_build() -> None:
    build = multiprocessing.parent_process()
    if build is not None:
        build.join()
        os._exit(1)
