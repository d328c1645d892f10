"""Which samples of a split: by class, by key, or a share of it chosen once by seed.

All of these give sample numbers, int64, ascending and distinct, that depend on the store and the
arguments only: every epoch, process and resumed run has the same ones. `sampling.Subset` makes an
order of them.
"""

from collections.abc import Iterable

import numpy as np

from tokenstore.errors import UnknownName, UsageError
from tokenstore.order import Numbers, Permutation, Shuffled, mixed, permuted
from tokenstore.reader import Split
from tokenstore.sampling import OneView

# What a derived seed is for.
_SHARES, _OFFSETS, _STARTS = np.array([5]), np.array([6]), np.array([9])
_SHOWN = 3
_RUN = 1 << 20  # samples whose views are looked at together


def one_view(split: Split, seed: int) -> OneView:
    """An order that shows one view of each image an epoch; reads the split's column of views.

    Example:
        >>> TokenLoader(split, batch_size=256, sampler=one_view(split, 0))  # doctest: +SKIP

    Raises:
        UsageError: the split keeps one view an image, or not all views of each.
    """
    said = split.store.manifest.preprocess.get("views")
    count = said.get("count") if isinstance(said, dict) else None
    views = count if isinstance(count, int) else 1
    whole = views > 1 and len(split) % views == 0
    for first in range(0, len(split) if whole else 0, _RUN):
        numbers = np.arange(first, min(first + _RUN, len(split)))
        found = split.views(numbers)
        whole = whole and found is not None and np.array_equal(found, numbers % views)
    if not whole:
        raise UsageError(
            f"split '{split.name}' of '{split.store.url}' does not keep several views of every "
            "image side by side. Build a store with --views K, or take all samples."
        )
    return OneView(Shuffled(len(split) // views, seed), views, seed)


def samples_of_classes(split: Split, names: Iterable[str]) -> Numbers:
    """All samples of these classes.

    Raises:
        UsageError: the split has no labels.
        UnknownName: the store has no such class.
    """
    labels, classes = split.labels, split.classes
    if labels is None or classes is None:
        raise UsageError(f"split '{split.name}' has no labels, so no classes to choose from it")
    wanted = []
    for name in names:
        if name not in classes:
            raise UnknownName("class", name, classes)
        wanted.append(classes.index(name))
    return np.flatnonzero(np.isin(labels, wanted))


def samples_of_keys(split: Split, keys: Iterable[str]) -> Numbers:
    """The samples with these keys; reads all keys of the split.

    Raises:
        UsageError: the split has no keys, or not all of these.
    """
    wanted, found, samples = set(keys), set[str](), []
    block = split.store.manifest.block
    for first in range(0, len(split), block):
        numbers = np.arange(first, min(first + block, len(split)))
        here = split.keys(numbers)
        if here is None:
            raise UsageError(
                f"split '{split.name}' of '{split.store.url}' was built without keys; choose "
                "samples by number or class"
            )
        chosen = [row for row, key in enumerate(here) if key in wanted]
        found.update(here[row] for row in chosen)
        samples.append(numbers[chosen])
    missing = sorted(wanted - found)
    if missing:
        raise UsageError(
            f"split '{split.name}' of '{split.store.url}' lacks {len(missing)} of {len(wanted)} "
            f"keys: {', '.join(missing[:_SHOWN])}{' ...' if len(missing) > _SHOWN else ''}. A key "
            "is the path of an image in its split without the last suffix."
        )
    return np.concatenate(samples) if samples else np.zeros(0, np.int64)


def samples_of_share(split: Split, share: float, seed: int) -> Numbers:
    """A share of a split, chosen once by seed: the limited-data runs of the papers.

    `round(share * n)` samples, and where there are labels, of each class in proportion. A smaller
    share is a part of every larger one of the same seed.

    Raises:
        UsageError: the share does not lie above 0 and at or below 1, or is less than one image.
    """
    if not 0 < share <= 1:
        raise UsageError(f"a share of a split lies above 0 and at or below 1, got {share}")
    chosen = round(share * len(split))
    if len(split) and not chosen:
        raise UsageError(
            f"{share:g} of the {len(split)} images of split '{split.name}' is less than one image"
        )
    labels = split.labels
    if labels is None:
        labels = np.zeros(len(split), np.int64)
    return np.sort(_stratified(labels, seed)[:chosen])


def _stratified(labels: Numbers, seed: int) -> Numbers:
    """All samples in an order whose every beginning has the classes in proportion.

    Image r of the n of its class, counted in a random order of them, stands at (r + offset) / n;
    offsets are spread evenly over the classes, in a random order of these and from a random start.
    """
    members = np.argsort(labels, kind="stable")
    _, firsts, inverse, counts = np.unique(
        labels[members], return_index=True, return_inverse=True, return_counts=True
    )
    seeds = mixed(seed, _SHARES, inverse)
    within = np.arange(len(members)) - firsts[inverse]
    shuffled = permuted(within, counts[inverse], seeds, np.array([0]))
    number = len(counts)
    spread = Permutation(number, int(mixed(seed, _OFFSETS)[0]), 0).at(np.arange(number))
    start = float(mixed(seed, _STARTS)[0]) / 2**64
    places = (shuffled + (spread[inverse] + start) / max(1, number)) / counts[inverse]
    return members[np.lexsort((spread[inverse], places))]
