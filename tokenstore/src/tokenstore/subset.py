"""Which samples of a split: by class, by key, or a share of it chosen once by seed or by scores.

All of these give sample numbers, int64, ascending and distinct, that depend on the store and the
arguments only: every epoch, process and resumed run has the same ones. `sampling.Subset` makes an
order of them.
"""

import csv
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenstore.errors import UnknownName, UsageError
from tokenstore.order import Numbers, Permutation, Shuffled, mixed, permuted
from tokenstore.reader import Split
from tokenstore.sampling import OneView

# What a derived seed is for.
_SHARES, _OFFSETS, _STARTS = np.array([5]), np.array([6]), np.array([9])
_SHOWN = 3
_KEYS = 1 << 16  # keys read at a time
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
    for first, here in key_runs(split):
        chosen = [row for row, key in enumerate(here) if key in wanted]
        found.update(here[row] for row in chosen)
        samples.append(first + np.array(chosen, np.int64))
    missing = sorted(wanted - found)
    if missing:
        raise UsageError(
            f"split '{split.name}' of '{split.store.url}' lacks {len(missing)} of {len(wanted)} "
            f"keys: {_some(missing)}. A key is the path of an image in its split without "
            "the last suffix."
        )
    return np.concatenate(samples) if samples else np.zeros(0, np.int64)


def key_runs(split: Split) -> Iterator[tuple[int, list[str]]]:
    """All keys of a split: (number of the first sample, keys), so many samples at a time.

    Raises:
        UsageError: the split has no keys.
    """
    for first in range(0, len(split), _KEYS):
        keys = split.keys(np.arange(first, min(first + _KEYS, len(split))))
        if keys is None:
            raise UsageError(
                f"split '{split.name}' keeps no keys, so none of its images is found by one. "
                "Choose by split, class or number, or build the store without --no-keys."
            )
        yield first, keys


def samples_of_share(
    split: Split, share: float, seed: int, scores: Mapping[str, float] | None = None
) -> Numbers:
    """A share of a split, chosen once by seed: the limited-data runs of the papers.

    `round(share * n)` samples, and where there are labels, of each class in proportion. A smaller
    share is a part of every larger one of the same seed.

    Args:
        split: of a store, or of pictures.
        share: above 0, at most 1.
        seed: decides which.
        scores: by key; then those with the highest scores of their class are chosen, as by the
            C-scores in figure 1 of SeiT, and the seed decides between equal ones.

    Raises:
        UsageError: the share does not lie above 0 and at or below 1, or is less than one image; or
            not every sample has a score.
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
    values = np.zeros(len(split)) if scores is None else _scores_of(split, scores)
    return np.sort(_stratified(labels, seed, values)[:chosen])


def read_scores(file: str) -> dict[str, float]:
    """Scores by key, from a CSV file with the columns `key` and `score`.

    Raises:
        UsageError: there is no such file, it has other columns, a score is no number, or a key
            stands there twice.
    """
    scores: dict[str, float] = {}
    try:
        with Path(file).open(encoding="utf-8", newline="") as lines:
            rows = csv.DictReader(lines)
            if not {"key", "score"} <= set(rows.fieldnames or ()):
                raise UsageError(
                    f"'{file}' has the columns {', '.join(rows.fieldnames or ()) or 'of no table'}."
                    " Scores are a CSV file whose first line is key,score."
                )
            for row in rows:
                key, score = row["key"], _number(row["score"])
                if key is None or score is None or key in scores:
                    raise UsageError(
                        f"'{file}', line {rows.line_num}: '{key},{row['score']}' is no key with a "
                        "finite number, or the key stands there before. Mend the line."
                    )
                scores[key] = score
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"scores '{file}' cannot be read: {error}") from error
    return scores


def _number(text: str | None) -> float | None:
    """`"0.5" -> 0.5`; None for what is no finite number."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _scores_of(split: Split, scores: Mapping[str, float]) -> NDArray[np.float64]:
    """Float64 [n], the scores of all samples of a split."""
    keys = [key for _, run in key_runs(split) for key in run]
    missing = [key for key in keys if key not in scores]
    if missing:
        raise UsageError(
            f"the scores lack {len(missing)} of the {len(keys)} images of split '{split.name}': "
            f"{_some(missing)}. A key is the path of an image in its split without the last suffix."
        )
    return np.array([scores[key] for key in keys])


def _some(keys: list[str]) -> str:
    """`["a", "b", "c", "d"] -> "a, b, c ..."`."""
    return f"{', '.join(keys[:_SHOWN])}{' ...' if len(keys) > _SHOWN else ''}"


def _stratified(labels: Numbers, seed: int, scores: NDArray[np.float64]) -> Numbers:
    """All samples in an order whose every beginning has the classes in proportion.

    Image r of the n of its class, counted by falling score and in a random order of equal ones,
    stands at (r + offset) / n; offsets are spread evenly over the classes, in a random order of
    these and from a random start.
    """
    members = np.argsort(labels, kind="stable")
    _, firsts, inverse, counts = np.unique(
        labels[members], return_index=True, return_inverse=True, return_counts=True
    )
    seeds = mixed(seed, _SHARES, inverse)
    within = np.arange(len(members)) - firsts[inverse]
    shuffled = permuted(within, counts[inverse], seeds, np.array([0]))
    ranked = np.empty_like(within)
    ranked[np.lexsort((shuffled, -scores[members], inverse))] = within
    number = len(counts)
    spread = Permutation(number, int(mixed(seed, _OFFSETS)[0]), 0).at(np.arange(number))
    start = float(mixed(seed, _STARTS)[0]) / 2**64
    places = (ranked + (spread[inverse] + start) / max(1, number)) / counts[inverse]
    return members[np.lexsort((spread[inverse], places))]
