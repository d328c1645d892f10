"""How far a build has come, read from its staging folder while it runs or after it was stopped."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tokenstore.build.plan import Slot
from tokenstore.build.stored_plan import is_planned, read_plan
from tokenstore.build.tokenize import PartReport, reported_part
from tokenstore.manifest import NAME as MANIFEST
from tokenstore.manifest import load_manifest
from tokenstore.sources.base import Rejected
from tokenstore.storage import open_storage

READERS = 16
RECENT = 3600.0  # seconds: the rate is that of the last hour before the last part was finished


@dataclass(frozen=True)
class BuildStatus:
    """A build: what is done, what is missing, what was rejected, how fast, how long still.

    Attributes:
        place: of the store.
        whole: whether the store is there; nothing is missing then.
        parts: of the plan.
        missing: names of the parts that are not done.
        images: of the plan.
        done: images that are tokenized or rejected.
        rejects: what was refused while listing and in the parts that are done.
        packed: parts that are shards already.
        rate: images a second, by all who work on it; None where nothing was finished.
    """

    place: str
    whole: bool
    parts: int
    missing: tuple[str, ...]
    images: int
    done: int
    rejects: tuple[Rejected, ...]
    packed: int
    rate: float | None

    @property
    def seconds_left(self) -> float | None:
        """Until all parts are tokenized, if it goes on as before."""
        left = self.images - self.done
        return left / self.rate if self.rate else None if left else 0.0


def build_status(place: str | Path) -> BuildStatus:
    """Look at a build; a part counts as done by its sidecar, nothing is hashed.

    Raises:
        BuildError: nothing was ever planned there.
        NotAStore: nor is there a store.
    """
    place = str(place).rstrip("/").removesuffix(".building")
    target, staging = open_storage(place), open_storage(f"{place}.building")
    if target.exists(MANIFEST) and not is_planned(staging):
        manifest = load_manifest(target)
        images = sum(split.count for split in manifest.splits.values())
        parts = sum(len(split.shards) for split in manifest.splits.values())
        return BuildStatus(place, True, parts, (), images, images, (), parts, None)
    plan = read_plan(staging)
    slots = plan.slots()
    with ThreadPoolExecutor(READERS) as threads:
        found = list(threads.map(lambda slot: reported_part(slot, plan.hash, staging), slots))
    done = [(slot, report) for slot, report in zip(slots, found, strict=True) if report]
    reports = [report for _, report in done]
    receipts = [name for name in staging.names() if name.startswith("packed/")]
    missing = [slot.name for slot, report in zip(slots, found, strict=True) if report is None]
    return BuildStatus(
        place=place,
        whole=target.exists(MANIFEST),
        parts=len(slots),
        missing=tuple(missing),
        images=plan.images(),
        done=sum(slot.count for slot, _ in done),
        rejects=(*plan.outline.rejects, *(r for report in reports for r in report.rejects)),
        packed=len(receipts),
        rate=recent_rate(done),
    )


def recent_rate(done: Sequence[tuple[Slot, PartReport]]) -> float | None:
    """Images a second over the parts that ended in the last hour before the last one ended."""
    latest = max((report.ended for _, report in done), default=-math.inf)
    recent = [(slot, report) for slot, report in done if report.ended > latest - RECENT]
    began = min((report.began for _, report in recent), default=latest)
    images = sum(slot.count for slot, _ in recent)
    return images / (latest - began) if latest > began else None
