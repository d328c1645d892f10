"""Batches through a device: copied there, computed, and the results copied back, in order.

On cuda two batches are under way: while one is computed, the next is copied from pinned memory by
a stream of its own, and the processor waits for a result only when a batch is queued behind it. On
the CPU there is nothing to copy, and one batch follows the other. What is computed is the caller's
business.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

B = TypeVar("B")
S = TypeVar("S")
R = TypeVar("R")
Compute = Callable[[torch.Tensor], torch.Tensor]
Started = tuple[torch.cuda.Event, torch.Tensor]


def through_device(
    device: torch.device, batches: Iterable[torch.Tensor], compute: Compute
) -> Iterator[torch.Tensor]:
    """What `compute` gives for each batch of the CPU's memory, on the CPU, in order."""
    if device.type != "cuda":
        return map(compute, batches)
    lane = _CudaLane(device, compute)
    return two_under_way(batches, lane.start, lane.finish)


def two_under_way(
    batches: Iterable[B], start: Callable[[B], S], finish: Callable[[S], R]
) -> Iterator[R]:
    """Finish each batch, in order, only after the one behind it was started."""
    waiting: deque[S] = deque()
    for batch in batches:
        waiting.append(start(batch))
        if len(waiting) == 2:
            yield finish(waiting.popleft())
    while waiting:
        yield finish(waiting.popleft())


class _CudaLane:
    """One function on one cuda device, with a stream of its own for the copies to it."""

    def __init__(self, device: torch.device, compute: Compute) -> None:
        self.device, self.compute = device, compute
        self.copying = torch.cuda.Stream(device)

    def start(self, batch: torch.Tensor) -> Started:
        """Queue the copy, the computation and the copy back; wait for none of them."""
        with torch.cuda.stream(self.copying):
            there = batch.pin_memory().to(self.device, non_blocking=True)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self.copying)
        there.record_stream(computing)  # its memory came from the other stream
        result = self.compute(there)
        back = torch.empty_like(result, device="cpu", pin_memory=True)
        back.copy_(result, non_blocking=True)
        done = torch.cuda.Event()
        done.record(computing)
        return done, back

    def finish(self, started: Started) -> torch.Tensor:
        """The result, once it is here, in ordinary memory: pinned memory is scarce."""
        done, back = started
        done.synchronize()
        return back.clone()
