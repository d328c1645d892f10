"""From arrays of the reader to the batches that a loader hands out: numpy, or on a device.

Ranks cross to a device as they are stored, two bytes a token; what a model wants, int64, is made
there. Towards a GPU, arrays are read into pinned memory and copied on a stream of their own, while
the last batch is computed with. torch is imported where a device is named, and only then.

    reading thread    buffer() -> read into it -> send()   numpy [m, ...] -> something under way
    consumer          receive()                            -> arrays [m, ...] to cut batches from
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LoaderBatch:
    """One process's rows of a global batch: tensors on the device, or numpy arrays without one.

    Attributes:
        ranks: [B, h, w], int64 on a device, uint16 in numpy.
        labels: int64 [B], or None where the split has no labels.
        valid: bool [B]; False on rows that only fill up the last batch with other images again,
            and on rows whose record is damaged where a loader was told to skip those.
        index: int64 [B], sample numbers in the split.
        keys: sample keys where they were asked for.
        masks: uint8 [B, H, W] where they were asked for.
    """

    ranks: Any
    labels: Any
    valid: Any
    index: Any
    keys: list[str] | None
    masks: Any = None


@dataclass(frozen=True)
class Rows:
    """Rows of one or several batches, one after the other; arrays or tensors.

    Attributes:
        ranks: [m, h, w].
        labels: int64 [m] or None.
        valid: bool [m].
        index: int64 [m].
        keys: m of them, or None.
        masks: uint8 [m, H, W] or None.
    """

    ranks: Any
    labels: Any
    valid: Any
    index: Any
    keys: list[str] | None
    masks: Any = None

    def batch(self, start: int, stop: int) -> LoaderBatch:
        """Some of the rows."""
        return LoaderBatch(
            self.ranks[start:stop],
            None if self.labels is None else self.labels[start:stop],
            self.valid[start:stop],
            self.index[start:stop],
            None if self.keys is None else self.keys[start:stop],
            None if self.masks is None else self.masks[start:stop],
        )


class Place(Protocol):
    """Where batches are wanted."""

    def buffer(self, shape: Shape) -> NDArray[np.uint16]:
        """An array to read ranks into."""

    def send(self, rows: Rows) -> Any:
        """Begin to bring rows there, the ranks of which lie in a `buffer`."""

    def receive(self, sent: Any) -> Rows:
        """The rows, to be used by what the calling thread does next."""


def place_for(device: Any) -> Place:
    """The place of a torch device; None is numpy."""
    if device is None:
        return InNumpy()
    import torch

    return OnGpu(device) if torch.device(device).type == "cuda" else OnCpu()


class InNumpy:
    """Arrays stay what they are."""

    def buffer(self, shape: Shape) -> NDArray[np.uint16]:
        """See `Place`."""
        return np.empty(shape, np.uint16)

    def send(self, rows: Rows) -> Rows:
        """See `Place`."""
        return rows

    def receive(self, sent: Rows) -> Rows:
        """See `Place`."""
        return sent


class OnCpu(InNumpy):
    """Torch tensors in ordinary memory, widened by the reading thread."""

    def send(self, rows: Rows) -> Rows:
        """See `Place`."""
        import torch

        labels = None if rows.labels is None else torch.from_numpy(rows.labels)
        ranks = torch.from_numpy(rows.ranks.astype(np.int64))
        valid, index = torch.from_numpy(rows.valid), torch.from_numpy(rows.index)
        masks = None if rows.masks is None else torch.from_numpy(rows.masks)
        return Rows(ranks, labels, valid, index, rows.keys, masks)


class OnGpu:
    """Tensors on a CUDA device."""

    def __init__(self, device: Any) -> None:
        """Make the stream of the copies."""
        import torch

        self._device = torch.device(device)
        self._stream = torch.cuda.Stream(self._device)

    def buffer(self, shape: Shape) -> NDArray[np.uint16]:
        """See `Place`; pinned. torch keeps such blocks and knows when a copy is done with one."""
        import torch

        pinned = torch.empty(shape, dtype=torch.int16, pin_memory=True).numpy()
        buffer: NDArray[np.uint16] = pinned.view(np.uint16)
        return buffer

    def send(self, rows: Rows) -> tuple[Rows, Any]:
        """See `Place`; the event says when all has arrived."""
        import torch

        def copied(array: NDArray[Any]) -> torch.Tensor:
            tensor = torch.from_numpy(array)
            if not tensor.is_pinned():
                tensor = tensor.pin_memory()
            return tensor.to(self._device, non_blocking=True)

        with torch.cuda.stream(self._stream):
            labels = None if rows.labels is None else copied(rows.labels)
            ranks = copied(rows.ranks.view(np.int16))
            masks = None if rows.masks is None else copied(rows.masks)
            there = Rows(ranks, labels, copied(rows.valid), copied(rows.index), rows.keys, masks)
            return there, self._stream.record_event()

    def receive(self, sent: tuple[Rows, Any]) -> Rows:
        """See `Place`; the device waits for the event, this thread does not."""
        import torch

        rows, arrived = sent
        current = torch.cuda.current_stream(self._device)
        current.wait_event(arrived)
        for tensor in (rows.ranks, rows.labels, rows.valid, rows.index, rows.masks):
            if tensor is not None:
                tensor.record_stream(current)  # its memory was made for the other stream
        return replace(rows, ranks=widened(rows.ranks))


def packed(ranks: NDArray[np.uint16], size: int) -> Any:
    """A tensor of ranks below `size` in as few bytes as a device can gather: uint8 or int16."""
    import torch

    if size <= 256:  # what a byte can tell
        return torch.from_numpy(ranks.astype(np.uint8))
    return torch.from_numpy(ranks.view(np.int16))  # torch can do little with uint16


def widened(ranks: Any) -> Any:
    """int64 ranks of a `packed` tensor, uint8 or int16 that holds the bits of uint16."""
    return ranks.long().bitwise_and_(0xFFFF)
