"""Interval: the steps since the last line of metrics, their means and where their time went.

Reading a number off a GPU makes the host wait, so each step's scalars stay on the device until the
interval ends. The trainer fills it; what is done about a loss that is not finite is decided there.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from seit_train.distributed import World, sum_over_processes


@dataclass(frozen=True)
class StepRecord:
    """What is kept of one step until it is logged; tensors stay on the device, unread.

    Attributes:
        step: its number, from 1.
        index: int64 [B], its samples on this process.
        scalars: 0-d tensors, mean over the step's parts.
    """

    step: int
    index: Tensor
    scalars: Mapping[str, Tensor]


@dataclass
class Interval:
    """The steps since the last line of metrics, and where their time went (seconds)."""

    records: list[StepRecord] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    waited: float = 0.0

    def means(
        self, watched: Sequence[str], world: World
    ) -> tuple[dict[str, float], StepRecord | None]:
        """Mean scalars over steps and processes, and the first step that is not finite, if any.

        Args:
            watched: names of the scalars that have to be finite on every process.
            world: whose processes share every step.
        """
        if not self.records:
            return {}, None
        names = list(self.records[0].scalars)
        rows = [
            torch.stack([record.scalars[name].detach().float() for name in names])
            for record in self.records
        ]
        shared = sum_over_processes(torch.stack(rows).double()) / world.size  # [steps, scalars]
        finite = shared[:, [names.index(name) for name in watched]].isfinite().all(dim=1).tolist()
        bad = None if all(finite) else self.records[finite.index(False)]
        return dict(zip(names, shared.mean(dim=0).tolist(), strict=True)), bad

    def speed(self, images: int) -> dict[str, float]:
        """Images a second over all processes, and the share of time spent waiting for data.

        Args:
            images: of one step, over all processes.
        """
        seconds = time.perf_counter() - self.began
        return {
            "images_per_second": len(self.records) * images / seconds,
            "data_wait": self.waited / seconds,
        }
