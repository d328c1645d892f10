"""Loader: batches of ranks in a true shuffle, exactly once an epoch, resumable on any world size.

It stands between the reader and whoever trains. What comes when is `order.Permutation`'s business;
this file cuts that order into global batches, gives each process its rows of them, and brings the
rows to the device: read in the background (`stream`) or gathered from a copy of the whole split
that lives there (`device`). torch is imported only when a device is named. It does not augment.

    epoch   = images in shuffled order, positions 0..n-1
    global batch = positions p .. p + batch_size * world_size - 1; row j of it belongs to process
                   j mod world_size, so that padding spreads evenly
"""

import contextlib
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tokenstore.errors import Mismatch, UnknownName, UsageError
from tokenstore.order import Order, Shuffled, Unshuffled
from tokenstore.reader import Split
from tokenstore.shard_shuffle import ShardShuffle

Rows = tuple[NDArray[np.int64], NDArray[np.bool_]]
Residency = Literal["auto", "stream", "device"]
_RESIDENCIES = ("auto", "stream", "device")
_LAST = ("pad", "drop")
_SHUFFLES = ("full", "shards", "none")
_READ_AHEAD = 4  # batches in flight: enough to hide one slow read, and a few MB at most
_READ_THREADS = 2
_FILL_ROWS = 4096  # images read at a time while filling the device
_COMFORT = 0.25  # `auto` takes at most this share of a device's memory
_ORDERED_ROWS = 16384  # rows whose order is computed at a time
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoaderBatch:
    """One process's rows of a global batch: tensors on the device, or numpy arrays without one.

    Attributes:
        ranks: [B, h, w], int64 on a device, uint16 in numpy.
        labels: int64 [B], or None where the split has no labels.
        valid: bool [B]; False on rows that only fill up the last batch with other images again.
        index: int64 [B], sample numbers in the split.
        keys: sample keys where they were asked for.
    """

    ranks: Any
    labels: Any
    valid: Any
    index: Any
    keys: list[str] | None


Batches = Generator[LoaderBatch, None, None]


class TokenLoader:
    """Iterates over one process's share of a split; one `for` is (the rest of) one epoch.

    The next `for` is the next epoch. Leaving a loop early and starting a new one goes on behind the
    batches already handed out, as does a loader that was given the state of another.

    Inside `torch.utils.data.DataLoader(loader, batch_size=None)` no workers are needed. With
    workers, each takes its share of the batches; pass `persistent_workers=True`, because a fresh
    worker starts from this object's own epoch and position, which then do not advance.

    Example:
        >>> loader = TokenLoader(store["train"], batch_size=256, device=None)  # doctest: +SKIP
        >>> for batch in loader: ...                                           # doctest: +SKIP
    """

    def __init__(  # noqa: PLR0913 - the public contract: all but the split are options
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: Any = None,
        residency: Residency = "auto",
        last: Literal["pad", "drop"] = "pad",
        shuffle: Literal["full", "shards", "none"] = "full",
        sampler: Order | None = None,
        keys: bool = False,
    ) -> None:
        """Prepare; nothing is read before the first batch is asked for.

        Args:
            split: what to iterate over.
            batch_size: rows of each batch on this process.
            seed: with the epoch, decides the order.
            rank: number of this process.
            world_size: number of processes that share every global batch.
            device: torch device of the batches; None gives numpy arrays and loads no torch.
            residency: `stream` reads records as needed, `device` keeps the whole split on the
                device, `auto` takes `device` where a quarter of its memory is enough. Numpy
                batches are always streamed.
            last: `pad` fills the last batch up (`valid` tells), `drop` leaves it out.
            shuffle: `full` shuffles the whole split anew each epoch, `shards` a few shards at a
                time (for remote stores, see `shard_shuffle`), `none` keeps the split's order.
            sampler: another order, which says itself how long an epoch is; then `shuffle` and
                `seed` mean nothing to the order.
            keys: whether batches carry the samples' keys.

        Raises:
            UsageError: a number out of range, or `drop` with a split smaller than a global batch.
            UnknownName: a residency, `last` or `shuffle` that does not exist.
        """
        self.split, self.batch_size, self.seed = split, batch_size, seed
        self.rank, self.world_size, self.device = rank, world_size, device
        self.residency, self.last, self.shuffle, self.keys = residency, last, shuffle, keys
        self.epoch, self.position = 0, 0  # of the next batch; position counts images
        self._resident: _Resident | None = None
        self._refuse_nonsense()
        self.order = sampler if sampler is not None else self._whole_split()
        self._refuse_too_small()
        if device is not None or "torch" in sys.modules:
            _tell_torch()

    @property
    def global_batch(self) -> int:
        """Images of one batch over all processes."""
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        """Batches of a whole epoch, the same on every process."""
        return len(self._starts(0))

    def __iter__(self) -> Iterator[LoaderBatch]:
        """The batches left in this epoch; afterwards the loader stands at the next one."""
        epoch, starts = self.epoch, self._starts(self.position)
        share = _worker_share(starts)
        with contextlib.closing(self._batches(epoch, share)) as batches:
            for start, batch in zip(share, batches, strict=True):
                if start != share[-1]:
                    self.position = start + self.global_batch
                else:
                    self.epoch, self.position = epoch + 1, 0
                yield batch
        if not share:
            self.epoch, self.position = epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, behind the last batch handed out, as JSON-able values."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "seed": self.seed,
            "fingerprint": self.split.store.fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where another loader stood, whatever its world size and batch size were.

        Raises:
            Mismatch: the state comes from another store or another seed.
        """
        mine = self.state_dict()
        if state["fingerprint"] != mine["fingerprint"]:
            raise Mismatch(
                f"the loader state belongs to store {state['fingerprint'][:12]}, this store is "
                f"{mine['fingerprint'][:12]}. Resume with the store of the run, or start a new run."
            )
        if state["seed"] != mine["seed"]:
            raise Mismatch(
                f"the loader state has seed {state['seed']}, this loader {mine['seed']}: another "
                f"order. Make the loader with seed={state['seed']} to resume."
            )
        self.epoch, self.position = int(state["epoch"]), int(state["position"])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_resident": None}  # the copy is filled again where it is needed

    def _refuse_nonsense(self) -> None:
        for what, value, known in (
            ("residency", self.residency, _RESIDENCIES),
            ("value of last", self.last, _LAST),
            ("shuffle", self.shuffle, _SHUFFLES),
        ):
            if value not in known:
                raise UnknownName(what, value, known)
        if self.batch_size < 1 or not 0 <= self.rank < self.world_size:
            raise UsageError(
                f"batch_size {self.batch_size}, rank {self.rank} of {self.world_size}: a batch has "
                "at least one row and ranks count from 0 to world_size - 1"
            )
        if self.device is None and self.residency == "device":
            raise UsageError("residency 'device' needs a device, got None: pass device='cpu', say")

    def _refuse_too_small(self) -> None:
        if self.last == "drop" and len(self.order) < self.global_batch:
            raise UsageError(
                f"split '{self.split.name}' has {len(self.order)} images, fewer than one full "
                f"batch of {self.global_batch}: use a smaller batch, or last='pad'"
            )

    def _whole_split(self) -> Order:
        if self.shuffle == "none":
            return Unshuffled(len(self.split))
        if self.shuffle == "shards":
            counts = tuple(shard.count for shard in self.split.entry.shards)
            return ShardShuffle(counts, self.seed)
        return Shuffled(len(self.split), self.seed)

    def _starts(self, position: int) -> range:
        """Positions at which the batches from `position` on begin."""
        images = len(self.order)
        left_over = (images - position) % self.global_batch if self.last == "drop" else 0
        return range(position, images - left_over, self.global_batch)

    def _batches(self, epoch: int, starts: range) -> Batches:
        if self._is_resident():
            resident = self._resident or _Resident(self.split, self.device)
            self._resident = resident
            for index, valid in self._rows(epoch, starts):
                keys = self.split.keys(index) if self.keys else None
                yield resident.gather(index, valid, keys)
        else:
            yield from _read_ahead(self._read, self._rows(epoch, starts))

    def _rows(self, epoch: int, starts: range) -> Iterator[Rows]:
        """This process's sample numbers and validity, [B] each, batch by batch."""
        images = len(self.order)
        within = np.arange(self.rank, self.global_batch, self.world_size)
        batches = max(1, _ORDERED_ROWS // self.batch_size)  # ordered at a time: cheaper by far
        for first in range(0, len(starts), batches):
            positions = np.array(starts[first : first + batches])[:, None] + within
            valid = positions < images
            flat = (positions % images).ravel()  # padding repeats the head of the epoch
            index = self.order.at(epoch, flat).reshape(positions.shape)
            yield from zip(index, valid, strict=True)

    def _read(self, index: NDArray[np.int64], valid: NDArray[np.bool_]) -> LoaderBatch:
        batch = self.split.read(index, keys=self.keys)
        if self.device is None:
            return LoaderBatch(batch.ranks, batch.labels, valid, index, batch.keys)
        import torch

        def place(array: NDArray[Any]) -> torch.Tensor:
            tensor = torch.from_numpy(array)
            if torch.device(self.device).type == "cuda":
                tensor = tensor.pin_memory()
            return tensor.to(self.device, non_blocking=True)

        ranks = _widen(place(batch.ranks.view(np.int16)))
        labels = None if batch.labels is None else place(batch.labels)
        return LoaderBatch(ranks, labels, place(valid), place(index), batch.keys)

    def _is_resident(self) -> bool:
        """Whether the split lives on the device; `auto` decides here, once, and says so."""
        if self.device is None:
            return False
        if self.residency == "auto":
            needed, memory = _bytes_resident(self.split), _memory(self.device)
            self.residency = "device" if needed < _COMFORT * memory else "stream"
            _log.info(
                "split '%s': %.1f MB of ranks, %.1f GB of memory on device %s: residency %s",
                *(self.split.name, needed / 1e6, memory / 1e9, self.device, self.residency),
            )
        return self.residency == "device"


class _Resident:
    """A whole split on a device, two bytes a token; batches are gathered there."""

    def __init__(self, split: Split, device: Any) -> None:
        import torch

        shape = (len(split), *split.store.manifest.grid)
        self.device = device
        self.ranks = torch.empty(shape, dtype=torch.int16, device=device)
        for start in range(0, len(split), _FILL_ROWS):
            rows = np.arange(start, min(start + _FILL_ROWS, len(split)))
            ranks = split.read(rows).ranks.view(np.int16)
            self.ranks[start : start + len(rows)] = torch.from_numpy(ranks).to(device)
        labels = split.labels
        self.labels = None if labels is None else torch.as_tensor(labels).to(device)

    def gather(
        self, index: NDArray[np.int64], valid: NDArray[np.bool_], keys: list[str] | None
    ) -> LoaderBatch:
        import torch

        rows = torch.from_numpy(index).to(self.device)
        labels = None if self.labels is None else self.labels[rows]
        ranks = _widen(self.ranks[rows])
        return LoaderBatch(ranks, labels, torch.from_numpy(valid).to(self.device), rows, keys)


def _widen(ranks: Any) -> Any:
    """int16 tensor that holds uint16 bits -> int64 ranks: two bytes a token cross to the device."""
    return ranks.long() & 0xFFFF


def _read_ahead(read: Callable[..., LoaderBatch], rows: Iterable[Rows]) -> Batches:
    """Batches in the order of the rows, read a few ahead in the background."""
    pool = ThreadPoolExecutor(_READ_THREADS, thread_name_prefix="tokenstore-read")
    pending: deque[Future[LoaderBatch]] = deque()
    try:
        for index, valid in rows:
            pending.append(pool.submit(read, index, valid))
            if len(pending) >= _READ_AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _bytes_resident(split: Split) -> int:
    return len(split) * (2 * int(np.prod(split.store.manifest.grid)) + 8)


def _memory(device: Any) -> int:
    """Bytes free on a GPU, or built into the machine."""
    import torch

    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _tell_torch() -> None:
    """Let `torch.utils.data.DataLoader` treat a TokenLoader as the iterable dataset that it is."""
    from torch.utils.data import IterableDataset

    IterableDataset.register(TokenLoader)


def _worker_share(starts: range) -> range:
    """All batches, or those of this process where it is one of a DataLoader's workers.

    The DataLoader takes from its workers in turn, so the order stays that of one process.
    """
    if "torch" not in sys.modules:
        return starts
    from torch.utils.data import get_worker_info

    worker = get_worker_info()
    return starts if worker is None else starts[worker.id :: worker.num_workers]
