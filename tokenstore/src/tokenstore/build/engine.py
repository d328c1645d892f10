"""What every engine is given and gives back: a job, how to run it, and who hears of rejects.

An engine only decides who calls `tokenize_parts`, where and how often; what comes out is the same
from any of them. `local` is one machine, `ray` a cluster. A stripe (`--part I/N`) is what one task
of a scheduler's array does, by either.
"""

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, TextIO

from tokenstore.build.plan import BuildPlan, Slot
from tokenstore.build.tokenize import PartReport, finished_part
from tokenstore.errors import BuildError, UsageError
from tokenstore.progress import WorkProgress
from tokenstore.sources.base import Rejected
from tokenstore.storage import Storage

if TYPE_CHECKING:
    from tokenstore.sources.base import Source
    from tokenstore.tokenizers.base import Tokenizer

EngineName = Literal["local", "ray"]
READERS = 8  # of finished parts, which are hashed before they are trusted


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Stripe(NamedTuple):
    """Every `of`-th part, from number `number` on."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Stripe":
        """Read `I/N`, with I counted from 0 or from 1: N/N is 0/N.

        Raises:
            UsageError: it is neither.
        """
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and int(number) <= int(of) > 0):
            raise UsageError(f"--part '{text}' is no I/N; say 0/8 to 7/8, or 1/8 to 8/8")
        return cls(int(number) % int(of), int(of))


@dataclass(frozen=True)
class Running:
    """How a build runs; nothing here changes what comes out, only whether it does.

    Attributes:
        workers: decoding processes, and shards packed at a time.
        strict: whether the first reject is an error.
        max_rejects: how many there may be; None allows any number.
        stream: where progress is told.
        engine: who does the work.
        stripe: the parts to do; None does all and makes the store.
        computes: False only plans.
    """

    workers: int = field(default_factory=available_cores)
    strict: bool = False
    max_rejects: int | None = None
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    engine: EngineName = "local"
    stripe: Stripe | None = None
    computes: bool = True

    @property
    def is_here(self) -> bool:
        """Whether this process computes."""
        return self.computes and self.engine == "local"

    def selected(self, slots: Sequence[Slot]) -> list[Slot]:
        """The parts to do: those of the stripe, or all."""
        return list(slots if self.stripe is None else slots[self.stripe.number :: self.stripe.of])


class Job(NamedTuple):
    """A plan with what turns its images into ids; `load_on` gives the tokenizer on a device."""

    plan: BuildPlan
    source: "Source"
    tokenizer: "Tokenizer"
    load_on: "Callable[[str], Tokenizer]"


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

    def see_batch(self, images: int, rejects: Sequence[Rejected]) -> None:
        """Count images as done, and take note of the rejects among them."""
        self.progress.advance(images)
        self.see(rejects)


def found_reports(
    plan: BuildPlan, slots: Sequence[Slot], staging: Storage
) -> dict[str, PartReport]:
    """The reports of those parts that are done and sound, by name."""
    with ThreadPoolExecutor(READERS) as threads:
        found = threads.map(lambda slot: finished_part(slot, plan.hash, staging), slots)
        return {report.name: report for report in found if report is not None}
