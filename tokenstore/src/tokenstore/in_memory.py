"""The records of a split in memory, one copy for all processes of the machine: residency `ram`.

They are checked once, when the memory is filled; a batch is then decoded straight from it, without
touching the store, its index or another copy. A record that fails its check is left out, and
whoever asks for it is sent to the store, whose reader names it. What is kept:

    stops <i8 [n+1]   payload i is payloads[stops[i]:stops[i+1]]
    label <i8 [n]     zeros where the split has no labels
    sound u1 [n]      whether record i has passed its check
    payloads u1 [..]  as the codecs want them, without checks
"""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from tokenstore.codecs.base import Ranks
from tokenstore.errors import CodecError, UsageError
from tokenstore.reader import Batch, Split
from tokenstore.shared_memory import Bytes, SharedMemory, memory_left

Numbers = NDArray[np.int64]

_FILL_ROWS = 4096  # records copied at a time


def bytes_in_memory(split: Split) -> int:
    """At most so many bytes does the split take in memory."""
    shards = sum(shard.shard.bytes for shard in split.entry.shards)
    return 8 * (len(split) + 1) + 9 * len(split) + shards


class RecordsInMemory:
    """A split whose records lie in memory; reads batches as the split itself does. Thread-safe."""

    def __init__(self, split: Split) -> None:
        """Share the memory of another process of this machine, or fill it.

        Raises:
            UsageError: the records do not fit into what memory is left.
            CorruptStore: a shard or an index is missing or damaged.
        """
        self._split = split
        store = split.store
        self._memory = SharedMemory(
            f"{store.fingerprint} {split.name}", bytes_in_memory(split), self._fill
        )
        self._stops, self._sound, self._labels, self._payloads = self._laid_out(
            self._memory.content
        )
        shards = split.entry.shards
        self._firsts = np.cumsum([0, *(shard.count for shard in shards)], dtype=np.int64)
        self._tables = np.array([shard.tables for shard in shards], np.int64)

    def read(
        self,
        indices: Numbers,
        *,
        keys: bool = False,
        masks: bool = False,
        out: Ranks | None = None,
    ) -> Batch:
        """As `Split.read`, of sample numbers int64 [n] that are not negative.

        Masks and keys are read from the store.
        """
        read = partial(self._split.read, indices, keys=keys, masks=masks)
        if not self._sound[indices].all():
            return read(out=out)  # names the record that is damaged
        if out is None:
            out = np.empty((len(indices), *self._split.store.manifest.grid), np.uint16)
        try:
            self._decode(indices, out)
        except CodecError:
            return read(out=out)  # likewise
        drawn = self._split.shards.find(indices).mask_array() if masks else None
        return Batch(out, self.labels_of(indices), self.keys(indices) if keys else None, drawn)

    def labels_of(self, indices: Numbers) -> Numbers | None:
        """See `Split.labels_of`."""
        return None if self._labels is None else self._labels[indices]

    def keys(self, indices: Numbers) -> list[str] | None:
        """See `Split.keys`; keys are read from the store."""
        return self._split.keys(indices)

    def _decode(self, indices: Numbers, out: Ranks) -> None:
        starts, ends = self._stops[indices], self._stops[indices + 1]
        codec = self._split.store.codec
        tables = np.unique(self._tables)
        if len(tables) == 1:
            codec(int(tables[0])).decode(self._payloads, starts, ends, out)
            return
        of_row = self._tables[np.searchsorted(self._firsts, indices, side="right") - 1]
        for number in np.unique(of_row).tolist():
            rows = np.flatnonzero(of_row == number)
            grids = np.empty((len(rows), *out.shape[1:]), np.uint16)
            codec(number).decode(self._payloads, starts[rows], ends[rows], grids)
            out[rows] = grids

    def _fill(self, memory: Bytes) -> None:
        if len(memory) > (left := memory_left()):
            raise UsageError(
                f"the records of split '{self._split.name}' take {len(memory) / 1e9:.1f} GB, this "
                f"machine has {left / 1e9:.1f} GB left: use residency='stream'"
            )
        stops, sound, labels, payloads = self._laid_out(memory)
        at, image = 0, 0
        for number, entry in enumerate(self._split.entry.shards):
            shard = self._split.shards.open(number)
            for first in range(0, entry.count, _FILL_ROWS):
                samples = np.arange(first, min(first + _FILL_ROWS, entry.count))
                content, ends, wrong = shard.gather("ranks", samples)
                payloads[at : at + len(content)] = content
                stops[image + 1 : image + 1 + len(samples)] = at + ends
                sound[image : image + len(samples)] = ~wrong
                if labels is not None:
                    labels[image : image + len(samples)] = shard.fixed("label", samples)
                at, image = at + len(content), image + len(samples)

    def _laid_out(self, memory: Bytes) -> tuple[Numbers, NDArray[np.bool_], Numbers | None, Bytes]:
        """Stops, soundness, labels and payloads: views of the memory."""
        count = len(self._split)
        stops = memory[: 8 * (count + 1)].view(np.int64)
        at = stops.nbytes
        labels = memory[at : at + 8 * count].view(np.int64)
        at += labels.nbytes
        sound = memory[at : at + count].view(np.bool_)
        labelled = labels if "label" in self._split.columns else None
        return stops, sound, labelled, memory[at + count :]
