"""A whole split on a device, one or two bytes a token; batches are gathered there.

After the filling a batch costs the host nothing but launching: the numbers of many batches go over
in one copy. With several GPUs each holds all of it. A share of it on each would need every batch to
wait for the other processes; what does not fit whole is for the residency `ram`.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenstore.errors import CorruptRecord
from tokenstore.mixture import AnySplit
from tokenstore.placing import InNumpy, Rows, packed, widened
from tokenstore.stream import Ahead, Batches, OnDamage, Wanted, read_ahead

_FILL_ROWS = 1024  # images sent to the device at a time
_FILL_BYTES = 64 << 20
_ORDERED = 64  # batches whose numbers go to the device together


def bytes_resident(split: AnySplit, mask: tuple[int, int] = (0, 0)) -> int:
    """What the split takes on a device, with masks of this shape."""
    a_token = 1 if split.store.manifest.vocabulary.size <= 256 else 2  # see `placing.packed`
    ranks = a_token * int(np.prod(split.store.manifest.grid))
    return len(split) * (ranks + int(np.prod(mask)) + 8)


class Resident:
    """Ranks, labels and masks of a split on one device, and which records were damaged."""

    def __init__(
        self, split: AnySplit, device: Any, *, skip: bool, mask: tuple[int, int] = (0, 0)
    ) -> None:
        """Fill the device; `mask` is the shape of the masks, (0, 0) to leave them out.

        Raises:
            CorruptRecord: a record is damaged and `skip` is not set.
            CorruptStore: something else of the store is missing or damaged.
        """
        import torch

        self._split, self._device = split, torch.device(device)
        self._damaged: dict[int, CorruptRecord] = {}
        grid, size = split.store.manifest.grid, split.store.manifest.vocabulary.size
        shape, dtype = (len(split), *grid), packed(np.zeros(0, np.uint16), size).dtype
        self._ranks = torch.empty(shape, dtype=dtype, device=device)
        ahead = Ahead(_FILL_ROWS, grid, _FILL_BYTES, skip=skip, mask=mask)
        self._masks = None
        if ahead.masks:
            self._masks = torch.empty((len(split), *mask), dtype=torch.uint8, device=device)
        rows = _in_order(len(split))
        for batch in read_ahead(split, InNumpy(), ahead, rows, self._damaged.__setitem__):
            first, last = int(batch.index[0]), int(batch.index[-1])
            self._ranks[first : last + 1] = packed(batch.ranks, size).to(device)
            if self._masks is not None:
                self._masks[first : last + 1] = torch.from_numpy(batch.masks).to(device)
        labels = split.labels
        self._labels = None if labels is None else torch.from_numpy(labels).to(device)

    def batches(self, wanted: Iterable[Wanted], keys: bool, on_damage: OnDamage) -> Batches:
        """The wanted batches in order; see `stream.read_ahead`."""
        remaining = iter(wanted)
        while some := list(itertools.islice(remaining, _ORDERED)):
            index = np.stack([numbers for numbers, _ in some])
            valid = np.stack([valid for _, valid in some])
            damaged = self._invalidate(index, valid)
            on_device, valid_there = self._sent(index), self._sent(valid)
            for i in range(len(some)):
                for number in damaged[i]:
                    on_damage(number, self._damaged[number])
                named = self._split.keys(index[i]) if keys else None
                rows = self._gathered(on_device[i], valid_there[i], named)
                yield rows.batch(0, len(index[i]))

    def _gathered(self, index: Any, valid: Any, keys: list[str] | None) -> Rows:
        labels = None if self._labels is None else self._labels[index]
        masks = None if self._masks is None else self._masks[index]
        return Rows(widened(self._ranks[index]), labels, valid, index, keys, masks)

    def _invalidate(self, index: NDArray[np.int64], valid: NDArray[np.bool_]) -> list[list[int]]:
        """Mark rows of damaged records, [batches, B]; their numbers, batch by batch."""
        if not self._damaged:
            return [[] for _ in index]
        bad = np.isin(index, list(self._damaged)) & valid
        valid[bad] = False
        return [index[i][bad[i]].tolist() for i in range(len(index))]

    def _sent(self, array: NDArray[Any]) -> Any:
        import torch

        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)


def _in_order(count: int) -> Iterator[Wanted]:
    for first in range(0, count, _FILL_ROWS):
        index = np.arange(first, min(first + _FILL_ROWS, count))
        yield index, np.ones(len(index), np.bool_)
