"""Residency: where the tokens of a split live while a loader hands them out.

    stream   in the store; records are read as they are needed
    ram      records in memory, compressed, one copy for all processes of a machine
    device   ranks on the device, one or two bytes a token; batches are gathered there
    auto     the best of them that fits, said in one line of the log

`choose` decides, `Feed`s do; this module knows how much fits where, not what comes when.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any, Literal

from tokenstore.in_memory import RecordsInMemory, bytes_in_memory
from tokenstore.mixture import AnySplit, MixedSplit, parts_of
from tokenstore.placing import place_for
from tokenstore.resident import Resident, bytes_resident
from tokenstore.shared_memory import memory_left
from tokenstore.stream import Ahead, Batches, OnDamage, Reads, Wanted, read_ahead

Residency = Literal["auto", "stream", "ram", "device"]
Feed = Callable[[Iterable[Wanted], OnDamage], Batches]
RESIDENCIES = ("auto", "stream", "ram", "device")

_COMFORT = 0.25  # `auto` takes at most this share of a memory
_log = logging.getLogger("tokenstore.loader")


def choose(split: AnySplit, device: Any, mask: tuple[int, int] = (0, 0)) -> Residency:
    """The best residency that takes at most a quarter of a memory; says so in the log.

    A store on this machine is streamed where no device can hold it: the page cache keeps it in
    memory, shared by all processes, and nothing has to be read before the first batch.
    `mask` is the shape of the masks that are wanted too, (0, 0) for none.
    """
    if device is not None:
        needed, free = bytes_resident(split, mask), device_memory(device)
        where = f"{free / 1e9:.1f} GB of memory on device {device}"
        if needed < _COMFORT * free:
            return _said(split, "device", f"{needed / 1e6:.1f} MB of ranks, {where}")
    if all(part.store.storage.at_hand for part in parts_of(split)):
        return _said(split, "stream", f"a local store{_too_large(split, device)}")
    needed, free = sum(map(bytes_in_memory, parts_of(split))), memory_left()
    found = f"{needed / 1e6:.1f} MB of records, {free / 1e9:.1f} GB of memory"
    return _said(split, "ram" if needed < _COMFORT * free else "stream", found)


def feed_of(residency: Residency, split: AnySplit, device: Any, ahead: Ahead) -> Feed:
    """What gives batches under a residency other than `auto`; fills what is to be filled.

    Raises:
        UsageError: the records do not fit into memory.
        CorruptStore: something that is read now is missing or damaged.
    """
    if residency == "device":
        resident = Resident(split, device, skip=ahead.skip, mask=ahead.mask)
        return lambda wanted, on_damage: resident.batches(wanted, ahead.keys, on_damage)
    source = _in_memory(split) if residency == "ram" else split
    place = place_for(device)
    return lambda wanted, on_damage: read_ahead(source, place, ahead, wanted, on_damage)


def device_memory(device: Any) -> int:
    """Bytes free on a GPU, or for programs of the machine."""
    import torch

    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return memory_left()


def _in_memory(split: AnySplit) -> Reads:
    if isinstance(split, MixedSplit):
        return split.read_by([RecordsInMemory(part) for part in split.splits])
    return RecordsInMemory(split)


def _too_large(split: AnySplit, device: Any) -> str:
    return "" if device is None else f", {bytes_resident(split) / 1e9:.1f} GB on a device"


def _said(split: AnySplit, residency: Residency, why: str) -> Residency:
    _log.info("split '%s': %s: residency %s", split.name, why, residency)
    return residency
