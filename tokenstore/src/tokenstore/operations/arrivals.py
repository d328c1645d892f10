"""A listing of new images, as a store that is there takes them: its splits, its labels, its keys.

Labels go by the names of the classes, not by their numbers in the new corpus. A key that the split
has already makes the new image a reject. What the store cannot take without losing or guessing
something is an error: images without labels for a split that has them, or an unknown class unless
new ones are allowed.
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tokenstore.errors import Mismatch, UsageError
from tokenstore.manifest import label_dtype
from tokenstore.reader import Split, Store
from tokenstore.sources.base import Item, Listing, Rejected, printable

RUN = 1 << 16  # keys of the store in memory at once
APPENDABLE = {"ranks", "label", "key", "mask", "meta", "view"}


@dataclass(frozen=True)
class Door:
    """The store, whether it takes new classes, and whether it passes over what it has."""

    store: Store
    new_classes: bool
    skip_known: bool


def renamed_splits(listing: Listing, split: str | None) -> Listing:
    """All images in this split, where the source tells none of its own.

    Raises:
        UsageError: it does.
    """
    if split is None:
        return listing
    if set(listing.splits) != {"train"}:
        raise UsageError(
            f"--split {split} does not go with images that lie in {', '.join(listing.splits)} "
            "already. Point at the folder of one split."
        )
    rejects = tuple(reject._replace(split=split) for reject in listing.rejects)
    return replace(listing, splits={split: listing.splits["train"]}, rejects=rejects)


def fitted(listing: Listing, door: Door) -> Listing:
    """The listing with the labels of the store, and the classes that it has from now on.

    Raises:
        Mismatch: the store's splits cannot take the images.
    """
    notes = list(listing.notes)
    splits = {}
    for split, items in listing.splits.items():
        if split in door.store:
            _check_columns(door.store[split], items)
            _check_masks(door.store[split], listing)
            if items and items[0].label is not None and "label" not in door.store[split].columns:
                items = tuple(item._replace(label=None) for item in items)
                notes.append(f"{split} of the store has no labels: class folders are not kept")
        splits[split] = items
    classes = _classes(replace(listing, splits=splits), door)
    place = {name: label for label, name in enumerate(classes or ())}
    mine = [place.get(name) for name in listing.classes or ()]
    labelled = {
        split: tuple(
            item if item.label is None else item._replace(label=mine[item.label]) for item in items
        )
        for split, items in splits.items()
    }
    return replace(listing, splits=labelled, classes=classes, notes=tuple(notes))


def without_known_keys(listing: Listing, door: Door, on_images: Callable[[int], None]) -> Listing:
    """The listing without images whose key the store has already: rejects, unless passed over."""
    splits, rejects, notes = dict(listing.splits), list(listing.rejects), list(listing.notes)
    for split in [door.store[name] for name in listing.splits if name in door.store]:
        items = splits[split.name]
        if "key" not in split.columns:
            notes.append(f"{split.name} keeps no keys: images that it has already are not found")
            continue
        known = _known_keys(split, {item.key for item in items}, on_images)
        splits[split.name] = tuple(item for item in items if item.key not in known)
        if not door.skip_known:
            rejects += [_reject(split.name, item) for item in items if item.key in known]
        elif known:
            notes.append(f"{split.name}: passed over {len(known):,} images that the store has")
    return replace(listing, splits=splits, rejects=tuple(rejects), notes=tuple(notes))


def _reject(split: str, item: Item) -> Rejected:
    return Rejected(split, item.key, printable(item.path), "its key is already in the store")


def _check_columns(split: Split, items: Sequence[Item]) -> None:
    cannot = set(split.columns) - APPENDABLE
    if cannot:
        raise Mismatch(
            f"split '{split.name}' of '{split.store.url}' has the column "
            f"{', '.join(sorted(cannot))}, which images alone do not fill. Build a store of the "
            "new images with that column, and merge the two."
        )
    if "label" in split.columns and items and items[0].label is None:
        raise Mismatch(
            f"split '{split.name}' of '{split.store.url}' has labels, but the new images lie in no "
            "class folders. Sort them into folders named for their classes, or append to another "
            "split with --split."
        )


def _check_masks(split: Split, listing: Listing) -> None:
    """Masks say classes by number, so the numbers must mean the same."""
    has, manifest = "mask" in split.columns, split.store.manifest
    if not has and not listing.has_masks:
        return
    ours, theirs = (
        (manifest.classes, manifest.ignore_index),
        (listing.classes, listing.ignore_index),
    )
    if has != listing.has_masks:
        raise Mismatch(
            f"split '{split.name}' of '{split.store.url}' has {'' if has else 'no '}masks, the new "
            f"images have {'none' if has else 'some'}. Append to another split with --split."
        )
    if ours != theirs:
        raise Mismatch(
            f"the masks of '{split.store.url}' have {len(ours[0] or ())} classes and ignore index "
            f"{ours[1]}, those of the new images {len(theirs[0] or ())} and {theirs[1]}, or other "
            "names. Only masks of the same classes, in the same order, can be appended."
        )


def _classes(listing: Listing, door: Door) -> tuple[str, ...] | None:
    """The class names of the new version: those of the store, then new ones in listing order."""
    known, names = door.store.manifest.classes, listing.classes or ()
    if known is None:
        return listing.classes
    used = {i.label for items in listing.splits.values() for i in items if i.label is not None}
    new = [name for label, name in enumerate(names) if label in used and name not in known]
    if new and not door.new_classes:
        near = difflib.get_close_matches(new[0], known, n=1)
        guess = f" Did you mean {near[0]}?" if near else ""
        raise Mismatch(
            f"'{door.store.url}' knows no class '{new[0]}'"
            f"{f' and {len(new) - 1} more' if len(new) > 1 else ''}.{guess} Rename the folder, "
            f"or give --new-classes to add {len(new)} classes behind the {len(known)} it has."
        )
    classes = (*known, *new)
    for split in door.store.values():
        _check_width(split, len(classes))
    return classes


def _check_width(split: Split, classes: int) -> None:
    for column in split.entry.columns:
        if column.name == "label" and np.dtype(label_dtype(classes)) > np.dtype(str(column.dtype)):
            raise Mismatch(
                f"split '{split.name}' of '{split.store.url}' keeps labels as {column.dtype}, too "
                f"narrow for {classes} classes. Build a store of the new images and merge the two."
            )


def _known_keys(split: Split, wanted: set[str], on_images: Callable[[int], None]) -> set[str]:
    """Which of these keys the split has; its keys are read a run at a time."""
    known: set[str] = set()
    opened = Split(split.store, split.name)
    for start in range(0, len(split), RUN):
        keys = opened.keys(np.arange(start, min(start + RUN, len(split)))) or []
        known.update(wanted.intersection(keys))
        on_images(len(keys))
    return known
