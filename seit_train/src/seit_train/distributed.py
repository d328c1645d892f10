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
        dist.init_process_group("nccl", device_id=device)
    else:
        device = torch.device("cpu")
        dist.init_process_group("gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


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
