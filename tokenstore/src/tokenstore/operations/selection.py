"""Which samples of a store a conversion takes: of some splits, some classes, a list, the first N.

All conditions hold together. The samples keep the order of the store. What a selection names must
be there: a class or a key that the store does not have is an error that tells the nearest.
"""

import difflib
import hashlib
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenstore.errors import UnknownName, UsageError
from tokenstore.reader import Split, Store
from tokenstore.subset import key_runs

CANDIDATES = 4096  # keys among which the nearest to a wrong one is looked for


Numbers = NDArray[np.int64]
OnImages = Callable[[int], None]


@dataclass(frozen=True)
class Selection:
    """What to take; empty or None means no condition. `keys` is a file with one key a line."""

    splits: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    keys: Path | None = None
    first: int | None = None

    def as_facts(self) -> dict[str, Any]:
        """The selection as JSON, the list by its hash."""
        listed = None if self.keys is None else "\n".join(sorted(read_keys(self.keys)))
        return {
            "splits": sorted(self.splits),
            "classes": sorted(self.classes),
            "keys": None if listed is None else hashlib.sha256(listed.encode()).hexdigest(),
            "first": self.first,
        }


def named_classes(selection: Selection, store: Store) -> Selection:
    """The selection with each class by itself: `cat,dog` is two, unless it is the name of one.

    Raises:
        UnknownName: the store has no such class.
        UsageError: it has none at all, or the pixels of masks count them.
    """
    known, names = store.manifest.classes, []
    if selection.classes and any("mask" in split.columns for split in store.splits.values()):
        raise UsageError(
            f"images of '{store.url}' cannot be chosen by class: its classes are those of "
            "its masks, which a choice would number anew. Choose by --list or --first."
        )
    for name in selection.classes:
        if known is None:
            raise UsageError(f"'{store.url}' has no classes, so none is called '{name}'")
        names += [name] if name in known else [one.strip() for one in name.split(",")]
    for name in names:
        if name not in (known or ()):
            raise UnknownName("class", name, known or ())
    return replace(selection, classes=tuple(names))


def select(
    store: Store, selection: Selection, on_images: OnImages = lambda images: None
) -> dict[str, Numbers | None]:
    """Numbers of the samples to take, int64 ascending, for each split to take; None means all.

    Raises:
        UnknownName: a split that the store does not have.
        UsageError: a key that no split has, or a condition that a split cannot meet.
    """
    splits = [store[name] for name in selection.splits] or list(store.splits.values())
    chosen: dict[str, Numbers | None] = {split.name: None for split in splits}
    if selection.classes:
        known = store.manifest.classes or ()
        labels = np.array([known.index(name) for name in selection.classes])
        chosen = {split.name: _of_classes(split, labels) for split in splits}
    if selection.keys is not None:
        listed = _of_keys(splits, read_keys(selection.keys), on_images)
        chosen = {name: _both(chosen[name], numbers) for name, numbers in listed.items()}
    if selection.first is not None:
        most = selection.first
        chosen = {s.name: _first(chosen[s.name], len(s), most) for s in splits}
    return chosen


def taken_classes(store: Store, selection: Selection) -> tuple[str, ...] | None:
    """Classes of what is taken: those selected, in the store's order, or all."""
    classes = store.manifest.classes
    if not selection.classes or classes is None:
        return classes
    return tuple(name for name in classes if name in selection.classes)


def read_keys(file: Path) -> Set[str]:
    """The keys of a list: one a line, UTF-8, empty lines passed over.

    Raises:
        UsageError: the file cannot be read, or names no key.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the list '{file}' cannot be read: {error}") from error
    keys = {line for line in lines if line.strip()}
    if not keys:
        raise UsageError(f"the list '{file}' names no key; expected one a line")
    return keys


def _of_classes(split: Split, labels: NDArray[np.int64]) -> Numbers:
    if split.labels is None:
        raise UsageError(
            f"split '{split.name}' of '{split.store.url}' has no labels, so a class selects "
            "nothing there. Take other splits only, with --split."
        )
    return np.flatnonzero(np.isin(split.labels, labels))


def _of_keys(splits: list[Split], wanted: Set[str], on_images: OnImages) -> dict[str, Numbers]:
    """Numbers of the samples with one of these keys; each must occur in some split."""
    found: dict[str, Numbers] = {}
    missing = set(wanted)
    for split in splits:
        numbers: list[int] = []
        for start, keys in key_runs(Split(split.store, split.name)):
            numbers += [start + place for place, key in enumerate(keys) if key in wanted]
            missing.difference_update(keys)
            on_images(len(keys))
        found[split.name] = np.array(numbers, np.int64)
    if missing:
        raise _unknown_key(min(missing), len(missing), splits)
    return found


def _unknown_key(key: str, missing: int, splits: list[Split]) -> UsageError:
    """The first of the missing keys, and the nearest of those that share its folder or its name."""
    folder, _, name = key.rpartition("/")
    stem = name.rpartition(".")[0] or name
    near: list[str] = []
    other: list[str] = []
    for split in splits:
        for _, keys in key_runs(Split(split.store, split.name)):
            near += [k for k in keys if k.rpartition("/")[0] == folder or stem in k]
            other += keys[: max(CANDIDATES - len(other), 0)]
    candidates = dict.fromkeys(near[:CANDIDATES] + other)
    close = difflib.get_close_matches(key, candidates, n=3, cutoff=0.5)
    guess = f" Did you mean {' or '.join(repr(one) for one in close)}?" if close else ""
    more = f" (and {missing - 1:,} more of the list)" if missing > 1 else ""
    names = ", ".join(split.name for split in splits)
    return UsageError(
        f"no image of {names} has the key '{key}'{more}.{guess} A key is the path inside the "
        "split without its last suffix."
    )


def _both(numbers: Numbers | None, others: Numbers) -> Numbers:
    return others if numbers is None else np.intersect1d(numbers, others, assume_unique=True)


def _first(numbers: Numbers | None, count: int, most: int) -> Numbers | None:
    if numbers is not None:
        return numbers[:most]
    return None if most >= count else np.arange(most)
