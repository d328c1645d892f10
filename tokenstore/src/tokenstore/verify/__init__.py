"""Checking a store: every promise of docs/format.md, tested on the real bytes.

All findings are reported, not only the first: a damaged shard must not hide a missing one. A quick
look (`sample`) checks names, lengths, small files and some records; the full check reads every byte
and decodes every image. Nothing is repaired, and a store that passes needs no other proof.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tokenstore.errors import CorruptStore, ManifestError
from tokenstore.manifest import NAME, counted_splits
from tokenstore.reader import Store
from tokenstore.storage import Storage, open_storage
from tokenstore.verify.files import check_files, check_rejects, check_vocabulary
from tokenstore.verify.findings import Finding, Findings
from tokenstore.verify.growth import check_growth
from tokenstore.verify.images import SplitCheck

Progress = Callable[[int, int], None]

__all__ = ["Finding", "verify_store"]


def verify_store(
    place: Storage | str | Path, *, sample: int | None = None, progress: Progress | None = None
) -> list[Finding]:
    """Check a store.

    Args:
        place: its folder, URL or storage.
        sample: look at only so many images of each split, and do not hash the shards.
        progress: called with the images done and all images to do.

    Returns:
        What is wrong, in the order of the files; empty for a sound store.

    Raises:
        NotAStore: there is no manifest.
        FormatTooNew: the store needs a newer tokenstore.
    """
    storage = place if isinstance(place, Storage) else open_storage(place)
    try:
        store = Store(storage)
    except ManifestError as error:
        return [Finding(NAME, "manifest", "a valid manifest", str(error))]
    findings = Findings()
    check_files(store, findings, hash_shards=sample is None)
    check_vocabulary(store, findings)
    check_rejects(store, findings)
    check_growth(store, findings)
    checks = {name: SplitCheck(split, findings, sample) for name, split in store.splits.items()}
    total, done = sum(check.todo for check in checks.values()), 0
    for check in checks.values():
        for images in check.run():
            done += images
            if progress:
                progress(done, total)
    if sample is None and not findings.all:  # counts over damaged records would be wrong anyway
        _check_counts(store, checks, findings)
    return findings.all


def _check_counts(store: Store, checks: dict[str, SplitCheck], findings: Findings) -> None:
    """The vocabulary's counts are those of the stored ranks."""
    try:
        promised = store.vocabulary.counts
    except CorruptStore:
        return
    counted = (checks[name].counts for name in counted_splits(store.manifest))
    found = sum(counted, start=np.zeros(len(promised), np.int64))
    wrong = np.flatnonzero(found != promised)
    if len(wrong):
        rank = int(wrong[0])
        place = store.manifest.vocabulary.file.name
        what = f"counts of {len(wrong)} ranks, first of rank {rank}"
        findings.add(place, what, int(promised[rank]), int(found[rank]))
