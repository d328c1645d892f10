"""Distributed: which of how many processes this is, and the few things that they do together.

torchrun (or SLURM through it) starts the processes and says so in the environment; this file joins
them with plain torch: nccl on GPUs, gloo on CPUs. Without torchrun there is one process and every
function here does nothing. The model is wrapped and the data divided elsewhere.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

_ATTEMPT, _ATTEMPTS = "seit-train/attempt", "seit-train/attempts"  # keys of torchrun's store


@dataclass(frozen=True)
class World:
    """This process among those that train together.

    Attributes:
        rank: number of the process, 0 is the one that writes and talks.
        size: number of processes.
        device: where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and talks."""
        return self.rank == 0


@contextmanager
def joined_world() -> Iterator[World]:
    """Join the other processes for as long as the context lasts, on cuda where there is one."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    if "WORLD_SIZE" not in os.environ:  # torchrun sets it
        yield World(0, 1, torch.device(kind))
        return
    if kind == "cuda":
        device = torch.device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(device)
        _join("nccl", device)
    else:
        device = torch.device("cpu")
        _join("gloo", None)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


def _join(backend: str, device: torch.device | None) -> None:
    """Meet the others under names that no earlier attempt has used.

    torchrun's store outlives its restarts (seen with torch 2.15): who came first after a restart
    could read the address of a process that had died there, and wait for it.
    """
    store, rank, size = next(dist.rendezvous("env://"))
    if rank == 0:
        store.set(_ATTEMPT, str(store.add(_ATTEMPTS, 1)))
    attempt = dist.PrefixStore(store.get(_ATTEMPT).decode(), store)
    dist.init_process_group(backend, store=attempt, rank=rank, world_size=size, device_id=device)
    dist.barrier()
    if rank == 0:  # everybody has read it, and the next attempt must not
        store.delete_key(_ATTEMPT)


def wait_for_all() -> None:
    """Return when every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def sum_over_processes(sums: Tensor) -> Tensor:
    """The elementwise sum of every process's tensor, the same on all of them."""
    if dist.is_initialized():
        sums = sums.clone()
        dist.all_reduce(sums)
    return sums


def any_process(flag: bool, world: World) -> bool:
    """Whether the flag is up in any process: so that all of them stop at the same step."""
    if world.size == 1:
        return flag
    return bool(sum_over_processes(torch.tensor(float(flag), device=world.device)) > 0)
