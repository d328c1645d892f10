"""Checking a store: every promise of docs/format.md, tested on the real bytes.

All findings are reported, not only the first: a damaged shard must not hide a missing one. A quick
look (`sample`) checks names, lengths, small files and some images, and says what it left out; the
full check reads every byte and decodes every image. Nothing is repaired, and a store that passes
needs no other proof.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenstore.errors import CorruptStore, ManifestError, TokenstoreError
from tokenstore.manifest import NAME, Manifest, counted_splits, load_manifest, parse_manifest
from tokenstore.order import Permutation
from tokenstore.reader import Split, Store
from tokenstore.storage import Storage, open_storage
from tokenstore.verify.files import check_files, check_rejects, check_vocabulary
from tokenstore.verify.findings import Finding, Findings
from tokenstore.verify.images import SplitCheck

Progress = Callable[[int, int], None]
Samples = NDArray[np.int64]

QUICK_LOOK_LEAVES_OUT = (
    "the other images",
    "SHA-256 of shards and indexes",
    "tar framing",
    "the vocabulary's counts",
    "keys that occur twice",
)

__all__ = ["Finding", "Verification", "examine", "verify_store"]


@dataclass(frozen=True)
class Verification:
    """What is wrong, how many images the store has, how many were checked, what was not."""

    findings: list[Finding]
    images: int
    checked: int
    not_checked: tuple[str, ...] = ()


def verify_store(
    place: Storage | str | Path,
    *,
    sample: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Finding]:
    """What is wrong with a store, in the order of the files; empty for a sound one.

    Takes the arguments of `examine` and raises what it raises.
    """
    return examine(place, sample=sample, seed=seed, progress=progress).findings


def examine(
    place: Storage | str | Path,
    *,
    sample: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Verification:
    """Check a store.

    Args:
        place: its folder, URL or storage.
        sample: read only so many images, spread over the splits, and do not hash the shards.
        seed: draws those images.
        progress: called with the images done and all images to do.

    Raises:
        NotAStore: there is no manifest.
        FormatTooNew: the store needs a newer tokenstore.
    """
    storage = place if isinstance(place, Storage) else open_storage(place)
    findings = Findings()
    manifest = _manifest(storage, findings)
    if manifest is None:
        return Verification(findings.all, 0, 0)
    store = Store(storage, manifest)
    check_files(store, findings, hash_shards=sample is None)
    check_vocabulary(store, findings)
    check_rejects(store, findings)
    chosen = {} if sample is None else _drawn(store.splits, sample, seed)
    checks = {
        name: SplitCheck(split, findings, chosen.get(name)) for name, split in store.splits.items()
    }
    total, done = sum(check.todo for check in checks.values()), 0
    for check in checks.values():
        for images in check.run():
            done += images
            if progress:
                progress(done, total)
    if sample is None and not findings.all:  # counts over damaged records would be wrong anyway
        _check_counts(store, checks, findings)
    images = sum(map(len, store.values()))
    left_out = () if sample is None else QUICK_LOOK_LEAVES_OUT
    return Verification(findings.all, images, done, left_out)


def _drawn(splits: Mapping[str, Split], images: int, seed: int) -> dict[str, Samples]:
    """Sample numbers by split, sorted: each split in proportion, at least one if it has any."""
    total = max(sum(map(len, splits.values())), 1)
    drawn = {}
    for name, split in splits.items():
        share = min(len(split), max(1, images * len(split) // total))
        drawn[name] = np.sort(Permutation(len(split), seed, 0).at(np.arange(share)))
    return drawn


def _manifest(storage: Storage, findings: Findings) -> Manifest | None:
    """The manifest; if it is damaged that is a finding, and the newest sound version stands in."""
    try:
        return load_manifest(storage)
    except ManifestError as error:
        findings.add(NAME, "manifest", "a valid manifest", error)
    for name in sorted(storage.names(), reverse=True):
        if re.fullmatch(r"manifests/\d{6}\.json", name):
            try:
                return parse_manifest(storage.read(name), name)
            except TokenstoreError as error:
                findings.error(name, error)
    return None


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
