"""The engine of one machine: parts one after the other.

An engine only decides who calls `tokenize_part`; what comes out is the same from any of them.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from tokenstore.build.plan import Part
from tokenstore.build.tokenize import PartReport, Workbench, finished_part, tokenize_part
from tokenstore.errors import BuildError
from tokenstore.progress import WorkProgress
from tokenstore.sources.base import Rejected


@dataclass
class RejectWatch:
    """Tells of each reject as it comes, and ends a build that meets too many."""

    progress: WorkProgress
    strict: bool
    most: int | None
    seen: int = 0

    def see(self, rejects: Sequence[Rejected]) -> None:
        """Take note of rejects.

        Raises:
            BuildError: any reject in a strict build, or more than the build allows.
        """
        for reject in rejects:
            self.seen += 1
            sentence = f"{reject.path}: {reject.reason}"
            if self.strict:
                raise BuildError(
                    f"{sentence}. Repair or remove it, or build without --strict to leave it out."
                )
            self.progress.say(f"rejected {sentence}")
            if self.most is not None and self.seen > self.most:
                raise BuildError(
                    f"{self.seen} images rejected, more than --max-rejects {self.most} allows. "
                    "Look at the reasons above; what is finished is kept."
                )


def tokenize_parts(
    bench: Workbench, watch: RejectWatch, progress: WorkProgress
) -> list[tuple[Part, PartReport]]:
    """Finish every part of the plan, in order, leaving alone what is finished already."""

    def on_batch(images: int, rejects: Sequence[Rejected]) -> None:
        progress.advance(images)
        watch.see(rejects)

    finished = []
    for part in bench.plan.parts():
        report = finished_part(part, bench.plan.hash, bench.staging)
        if report is None:
            report = tokenize_part(part, bench, on_batch)
        else:
            progress.skip(len(part.items))
            watch.see(report.rejects)
        finished.append((part, report))
    return finished


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
