"""Fetching ahead: while a window of shards is used, the next one comes into the cache.

    window 3 is handed out      its shards are in the cache, or first in the queue
    window 4                    fetched meanwhile, a few files at a time, by threads of their own
    window 5                    not asked for: a cache need not hold more than two

For stores behind a cache whose order goes through them by windows (`shard_shuffle`), at whatever
depth of other orders. A loader says where it stands; whoever reads does not wait for this, and
meets every error again by itself. What is in a window is not decided here.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from tokenstore.cache import CachedStorage
from tokenstore.errors import TokenstoreError
from tokenstore.mixture import AnySplit, parts_of
from tokenstore.order import Order
from tokenstore.reader import Split
from tokenstore.sampling import Repeated, Subset
from tokenstore.shard_shuffle import ShardShuffle

THREADS = 4  # files that are fetched side by side
_log = logging.getLogger("tokenstore.loader")


class _Wanted(NamedTuple):
    """A file of a store that may be kept in its cache."""

    storage: CachedStorage
    name: str


class FetchAhead:
    """The caches of a split's stores, filled a window before they are read. Does not wait."""

    def __init__(self, split: AnySplit, order: Order, windowed: ShardShuffle) -> None:
        """Know the files of an order and the windows within it; `near` begins to fetch."""
        self._files = [
            [_Wanted(part.store.storage, name) for name in (shard.shard.name, shard.index.name)]
            if isinstance(part.store.storage, CachedStorage)
            else []
            for part in parts_of(split)
            for shard in part.entry.shards
        ]
        self._order, self._windowed = order, windowed
        self._begin()

    def _begin(self) -> None:
        """Stand nowhere, with no threads."""
        self._process = os.getpid()
        self._epoch, self._window = -1, -1
        self._lock = threading.Lock()
        self._queue: deque[_Wanted] = deque()
        self._running = 0

    def near(self, epoch: int, position: int) -> None:
        """Fetch what this position of an epoch needs, and the window behind it."""
        if self._process != os.getpid():  # forked: a lock may be held for ever by a thread not here
            self._begin()
        epoch, position, _ = _innermost(self._order, epoch, position)
        if epoch != self._epoch:
            self._ends, self._windows = self._windowed.windows(epoch)
            self._windows += self._windowed.windows(epoch + 1)[1][:1]
            self._epoch, self._window = epoch, -1
        window = int(np.searchsorted(self._ends, position, side="right"))
        if window != self._window:
            self._window = window
            self._fetch(np.concatenate(self._windows[window : window + 2]).tolist())

    def stop(self) -> None:
        """Fetch nothing more than what is on its way."""
        with self._lock:
            self._queue.clear()
        self._window = -1

    def _fetch(self, shards: Iterable[int]) -> None:
        """Queue the files that are not here; those that are shall not make room for them."""
        files = [file for shard in shards for file in self._files[shard]]
        missing = [file for file in files if not file.storage.touched(file.name)]
        with self._lock:
            self._queue = deque(missing)
            begun = min(THREADS - self._running, len(missing))
            self._running += begun
        for _ in range(begun):  # daemons: nobody shall wait for them at the end of a program
            threading.Thread(target=self._work, name="tokenstore-fetch", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._running -= 1
                    return
                file = self._queue.popleft()
            try:
                file.storage.prepare(file.name)
            except TokenstoreError as error:
                _log.warning("cannot fetch ahead, it will be tried again when needed: %s", error)


def fetch_ahead(split: AnySplit, order: Order) -> FetchAhead | None:
    """What fetches ahead for an order of a split, if it comes through a cache with room for it."""
    windowed, parts = _innermost(order, 0, 0)[2], parts_of(split)
    caches = {part.store.cache for part in parts if part.store.cache is not None}
    if not isinstance(windowed, ShardShuffle) or not caches:
        return None
    if len(windowed.counts) != sum(len(part.entry.shards) for part in parts):
        return None  # windows of something else than these shards
    for cache in caches:
        needed = _two_windows([p for p in parts if p.store.cache == cache], windowed.window)
        if needed > cache.capacity:
            _log.warning(
                "cache '%s' holds %s bytes; two windows of %d shards, with what else is read, can "
                "have %s, so the next window is not fetched ahead: give cache_bytes=%d for that",
                *(cache.folder, f"{cache.capacity:,}", windowed.window, f"{needed:,}", needed),
            )
            return None
    return FetchAhead(split, order, windowed)


def _two_windows(parts: Sequence[Split], window: int) -> int:
    """Bytes of the largest shards that two windows can have, and of all that is no shard."""
    shards = [shard for part in parts for shard in part.entry.shards]
    sizes = sorted(shard.shard.bytes + shard.index.bytes for shard in shards)
    manifests = {part.store.fingerprint: part.store.manifest for part in parts}.values()
    others = 0
    for manifest in manifests:
        of_shards = {s.shard for split in manifest.splits.values() for s in split.shards}
        of_shards |= {s.index for split in manifest.splits.values() for s in split.shards}
        others += sum(file.bytes for file in manifest.files() if file not in of_shards)
    return others + sum(sizes[-2 * window :])


def _innermost(order: Order, epoch: int, position: int) -> tuple[int, int, Order]:
    """The order that others choose from or repeat, and the place in it."""
    while isinstance(order, Repeated | Subset):
        if isinstance(order, Repeated):
            epoch, position = order.shown(epoch, position)
        order = order.order
    return epoch, position, order
