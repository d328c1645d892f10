"""Loader: batches of ranks in a true shuffle, exactly once an epoch, resumable on any world size.

It stands between the reader and whoever trains. What comes when is an `order.Order`'s business;
this file cuts that order into global batches, gives each process its rows of them, and knows where
it stands. Where the tokens live meanwhile is for `residency`. It asks nothing of other processes,
so that none can make it wait. torch is imported only when a device is named. It does not augment.

    epoch   = images in shuffled order, positions 0..n-1
    global batch = positions p .. p + batch_size * world_size - 1; row j of it belongs to process
                   j mod world_size, so that padding spreads evenly
"""

import contextlib
import functools
import logging
import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

from tokenstore.errors import CorruptRecord, CorruptStore, Mismatch, UnknownName, UsageError
from tokenstore.fetch_ahead import FetchAhead, fetch_ahead
from tokenstore.loader_state import FULL, LoaderState, Worker
from tokenstore.mixture import AnySplit, mask_shape
from tokenstore.order import Order, Shuffled, Unshuffled, description_of
from tokenstore.placing import LoaderBatch
from tokenstore.residency import RESIDENCIES, Feed, Residency, choose, feed_of
from tokenstore.shard_shuffle import ShardShuffle
from tokenstore.stream import Ahead, Wanted

_LAST = ("pad", "drop")
_SHUFFLES = ("full", "shards", "none")
_ON_ERROR = ("raise", "skip")
_ORDERED_ROWS = 16384  # rows whose order is computed at a time
_AHEAD_BYTES = 32 << 20
_log = logging.getLogger(__name__)


class TokenLoader:
    """Iterates over one process's share of a split; one `for` is (the rest of) one epoch.

    The next `for` is the next epoch. Leaving a loop early and starting a new one goes on behind the
    batches already handed out, as does a loader that was given the state of another.

    Inside `torch.utils.data.DataLoader(loader, batch_size=None)` no workers are needed. With
    workers, each takes its share of the batches; call `set_epoch` before each epoch, or pass
    `persistent_workers=True`, because a fresh worker starts from this object's own epoch and
    position, which then do not advance. `torchdata`'s StatefulDataLoader keeps the workers' states.

    Attributes:
        skipped: how often each damaged sample was left out, by key, or by number without keys.

    Example:
        >>> loader = TokenLoader(store["train"], batch_size=256, device=None)  # doctest: +SKIP
        >>> for batch in loader: ...                                           # doctest: +SKIP
    """

    _worker: Worker | None = None  # whose position this is, inside a DataLoader
    _feed: tuple[Feed, FetchAhead | None] | None = None

    def __init__(  # noqa: PLR0913 - the public contract: all but the split are options
        self,
        split: AnySplit,
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
        masks: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
        prefetch_bytes: int = _AHEAD_BYTES,
    ) -> None:
        """Prepare; nothing is read before the first batch is asked for.

        Args:
            split: what to iterate over.
            batch_size: rows of each batch on this process.
            seed: with the epoch, decides the order.
            rank: number of this process.
            world_size: number of processes that share every global batch.
            device: torch device of the batches; None gives numpy arrays and loads no torch.
            residency: `stream`, `ram`, `device` or `auto`; see `tokenstore.residency`.
            last: `pad` fills the last batch up (`valid` tells), `drop` leaves it out.
            shuffle: the whole split each epoch, a few `shards` at a time, or `none`.
            sampler: another order, which says how long an epoch is, instead of `shuffle`.
            keys: whether batches carry the samples' keys.
            masks: whether they carry the samples' masks, on the device like the ranks.
            on_error: whether damaged records `raise`, or become invalid rows in `skipped`.
            prefetch_bytes: how much may be read before it is asked for; at least one batch is.

        Raises:
            UsageError: a number out of range, or `drop` with an epoch smaller than a global batch.
            UnknownName: a word that an option does not know.
        """
        self.split, self.batch_size, self.seed = split, batch_size, operator.index(seed)
        self.rank, self.world_size, self.device = rank, world_size, device
        self.residency, self.last, self.shuffle = residency, last, shuffle
        self.keys, self.masks, self.on_error = keys, masks, on_error
        self.prefetch_bytes, self.epoch, self.position = prefetch_bytes, 0, 0  # of the next batch
        self.skipped: dict[str, int] = {}
        self.order = self._whole_split() if sampler is None else sampler
        self._refuse_nonsense()
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
        epoch, share, (feed, ahead) = self.epoch, self._share(), self._fed()
        with (
            contextlib.closing(feed(self._wanted(epoch, share), self._skip)) as batches,
            _fetching(ahead, epoch, share) as fetch_near,
        ):
            for start, batch in zip(share, batches, strict=True):
                fetch_near(start)
                if start != share[-1]:
                    self.position = start + share.step
                else:
                    self._finish(epoch)
                yield batch
        if not share:
            self._finish(epoch)

    def set_epoch(self, epoch: int) -> None:
        """Stand at the beginning of an epoch."""
        self.epoch, self.position, self._worker = epoch, 0, None

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, behind the last batch handed out, as JSON-able values.

        Inside a DataLoader's worker the state is that worker's alone, and says so.
        """
        return self._state().as_json()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where another loader stood, whatever its world size and batch size were.

        Raises:
            UsageError: this is no state of a loader, or one of a later version.
            Mismatch: the state comes from another store, seed or order.
        """
        other = LoaderState.from_json(state)
        other.refuse_other(self._state(), len(self.order))
        self.epoch, self.position, self._worker = other.epoch, other.position, other.worker

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_feed": None}  # the copy is filled again where it is needed

    def _refuse_nonsense(self) -> None:
        for what, value, known in (
            ("residency", self.residency, RESIDENCIES),
            ("value of last", self.last, _LAST),
            ("shuffle", self.shuffle, _SHUFFLES),
            ("value of on_error", self.on_error, _ON_ERROR),
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
        if self.masks and "mask" not in self.split.columns:
            raise UsageError(
                f"split '{self.split.name}' of '{self.split.store.url}' has no masks to load. "
                "Build the store from images with masks."
            )
        if self.prefetch_bytes < 0:
            raise UsageError(f"prefetch_bytes is {self.prefetch_bytes}: give 0 or more")
        if self.last == "drop" and len(self.order) < self.global_batch:
            raise UsageError(
                f"split '{self.split.name}' has {len(self.order)} images, fewer than one full "
                f"batch of {self.global_batch}: use a smaller batch, or last='pad'"
            )

    def _state(self) -> LoaderState:
        where = (self.epoch, self.position, self.seed, self.split.store.fingerprint)
        return LoaderState(*where, self._described_order, self._worker)

    @functools.cached_property
    def _described_order(self) -> str:
        plain = self.order == Shuffled(len(self.split), self.seed)
        return FULL if plain else description_of(self.order)

    def _whole_split(self) -> Order:
        if self.shuffle == "none":
            return Unshuffled(len(self.split))
        if self.shuffle == "shards":
            return ShardShuffle(self.split.shard_counts, self.seed)
        return Shuffled(len(self.split), self.seed)

    def _starts(self, position: int) -> range:
        """Positions at which the batches from `position` on begin."""
        images = len(self.order)
        left_over = (images - position) % self.global_batch if self.last == "drop" else 0
        return range(position, images - left_over, self.global_batch)

    def _share(self) -> range:
        """Where the batches that are left begin: all, or those of this worker of a DataLoader.

        The DataLoader takes from its workers in turn, so the order stays that of one process.
        """
        starts, worker = self._starts(self.position), _this_worker()
        if self._worker is not None and self._worker != worker:
            raise Mismatch(
                f"the loader state is that of worker {self._worker[0]} of {self._worker[1]} of a "
                f"DataLoader. Resume with num_workers={self._worker[1]}."
            )
        if worker is None:
            return starts
        number, workers = worker
        share = starts[0 if self._worker else number :: workers]
        self._worker = worker
        return share

    def _finish(self, epoch: int) -> None:
        self.epoch, self.position, self._worker = epoch + 1, 0, None

    def _fed(self) -> tuple[Feed, FetchAhead | None]:
        """What gives batches, filled and kept, and what fetches; decides an `auto` residency."""
        if self._feed is None:
            manifest, skip = self.split.store.manifest, self.on_error == "skip"
            mask = mask_shape(self.split) if self.masks else (0, 0)
            if self.residency == "auto":
                self.residency = choose(self.split, self.device, mask)
            limit, keys = self.prefetch_bytes, self.keys
            ahead = Ahead(self.batch_size, manifest.grid, limit, keys, skip, mask)
            feed = feed_of(self.residency, self.split, self.device, ahead)
            streams = self.residency == "stream"
            self._feed = feed, fetch_ahead(self.split, self.order) if streams else None
        return self._feed

    def _wanted(self, epoch: int, starts: range) -> Iterator[Wanted]:
        """This process's sample numbers and validity, [B] each, batch by batch."""
        images = len(self.order)
        within = np.arange(self.rank, self.global_batch, self.world_size)
        most = max(1, _ORDERED_ROWS // self.batch_size)  # ordered at a time: cheaper by far
        first, many = 0, 1  # but somebody waits for the first
        while first < len(starts):
            positions = np.array(starts[first : first + many])[:, None] + within
            valid = positions < images
            flat = (positions % images).ravel()  # padding repeats the head of the epoch
            index = self.order.at(epoch, flat).reshape(positions.shape)
            yield from zip(index, valid, strict=True)
            first, many = first + many, min(4 * many, most)

    def _skip(self, number: int, error: CorruptRecord) -> None:
        """Count and report a damaged sample that is left out."""
        keys = None
        with contextlib.suppress(CorruptStore):  # the keys may be damaged too
            keys = self.split.keys([number])
        key = keys[0] if keys else str(number)
        self.skipped[key] = self.skipped.get(key, 0) + 1
        _log.warning("sample '%s' is left out: %s", key, error)


@contextlib.contextmanager
def _fetching(
    ahead: FetchAhead | None, epoch: int, share: range
) -> Iterator[Callable[[int], None]]:
    """Fetch for the first batch; what is given is to be told where each batch begins."""
    if ahead is None or not share:
        yield lambda start: None
        return
    try:
        ahead.near(epoch, share[0])
        yield lambda start: ahead.near(epoch, start)
    except BaseException:  # the loop was left
        ahead.stop()
        raise


def _tell_torch() -> None:
    """Let `torch.utils.data.DataLoader` treat a TokenLoader as the iterable dataset that it is."""
    from torch.utils.data import IterableDataset

    IterableDataset.register(TokenLoader)


def _this_worker() -> Worker | None:
    """Which of how many workers of a DataLoader this process is."""
    if "torch" not in sys.modules:
        return None
    from torch.utils.data import get_worker_info

    worker = get_worker_info()
    return None if worker is None else (worker.id, worker.num_workers)
