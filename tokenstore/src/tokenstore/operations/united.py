"""What several stores must have in common to become one, and what they have together.

Ranks of two stores of one tokenizer mean different ids, so everything here goes by id, and labels
go by the name of the class. Nothing here reads a shard.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tokenstore.errors import Mismatch, UsageError
from tokenstore.operations.repack import NewSplit
from tokenstore.reader import Store
from tokenstore.vocabulary import Vocabulary

_WHAT = ("tokenizer", "weights", "configuration", "preprocessing", "grid", "codebook dimension")


def check_alike(stores: Sequence[Store]) -> None:
    """Refuse stores whose tokens do not mean the same, or whose splits have other columns.

    Raises:
        UsageError: fewer than two stores, or one of them twice.
        Mismatch: names the difference and both values.
    """
    if len(stores) < 2:
        raise UsageError(f"a merge takes two stores or more, got {len(stores)}")
    first, seen = stores[0], {stores[0].fingerprint: stores[0].url}
    for other in stores[1:]:
        if other.fingerprint in seen:
            raise UsageError(
                f"'{other.url}' is the same store as '{seen[other.fingerprint]}'; name it once"
            )
        seen[other.fingerprint] = other.url
        for what, found, expected in zip(_WHAT, _identity(other), _identity(first), strict=True):
            if found != expected:
                raise Mismatch(
                    f"'{first.url}' and '{other.url}' cannot be merged: their {what} differs, "
                    f"{expected} and {found}. Only stores of one tokenizer, at one size, can."
                )
    _check_masks(stores)
    if first.manifest.tokenizer.weights is None and first.manifest.vocabulary.dimension is None:
        raise Mismatch(
            f"neither weights nor a codebook tell whether '{first.url}' and '{stores[1].url}' are "
            "of one tokenizer, only its name. Make them again with the codebook."
        )
    for split in sorted({name for store in stores for name in store}):
        _check_columns([store for store in stores if split in store], split)


def _identity(store: Store) -> tuple[object, ...]:
    """What the stores of a merge must share, as `_WHAT` calls it."""
    manifest = store.manifest
    tokenizer = manifest.tokenizer
    return (
        tokenizer.name,
        tokenizer.weights,
        tokenizer.config,
        manifest.preprocess,
        list(manifest.grid),
        manifest.vocabulary.dimension,
    )


def _check_masks(stores: Sequence[Store]) -> None:
    """Masks say classes by number, so in all stores the numbers must mean the same."""
    if not any("mask" in split.columns for store in stores for split in store.values()):
        return
    first = stores[0].manifest
    for other in stores[1:]:
        found = other.manifest
        if (found.classes, found.ignore_index) != (first.classes, first.ignore_index):
            raise Mismatch(
                f"'{stores[0].url}' and '{other.url}' cannot be merged: their masks have other "
                "classes, or another ignore index"
            )


def _check_columns(stores: Sequence[Store], split: str) -> None:
    """Samples of one split have the same columns; an empty split goes along with any."""
    filled = [store for store in stores if len(store[split])]
    for other in filled[1:]:
        expected, found = filled[0][split].columns, other[split].columns
        if set(found) != set(expected):
            raise Mismatch(
                f"split '{split}' of '{filled[0].url}' has the columns {', '.join(expected)}, that "
                f"of '{other.url}' {', '.join(found)}. `tokenstore convert` leaves out keys "
                "(--no-keys) or takes some splits only (--split)."
            )


def united_classes(lists: Sequence[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    """`(a, b), (c, a) -> (a, b, c)`; None where no store has classes."""
    if all(names is None for names in lists):
        return None
    return tuple(dict.fromkeys(name for names in lists for name in names or ()))


def united_vocabulary(
    stores: Sequence[Store], splits: Sequence[NewSplit], counts: Sequence[NDArray[np.int64]]
) -> Vocabulary:
    """The ids that occur in any piece, as a store that was built of all images orders them."""
    size = max(int(store.vocabulary.ids.max()) for store in stores) + 1
    found, sums = iter(counts), {}
    for split in splits:
        sums[split.name] = np.zeros(size, np.int64)
        for piece in split.pieces:
            sums[split.name][piece.store.vocabulary.ids] += next(found)
    return Vocabulary.from_counts(sums, _codebook(stores, size))


def _codebook(stores: Sequence[Store], size: int) -> NDArray[np.float32] | None:
    """Rows of all ids of the stores, float32 [size, d] in the order of ids.

    Raises:
        Mismatch: two stores have other vectors for one id, whatever their manifests say.
    """
    dimension = stores[0].manifest.vocabulary.dimension
    if dimension is None:
        return None
    rows, known = np.zeros((size, dimension), np.float32), np.zeros(size, np.bool_)
    for store in stores:
        ids, own = store.vocabulary.ids, store.codebook
        both = known[ids]
        if own is None or not np.array_equal(rows[ids[both]], own[both]):
            raise Mismatch(
                f"'{store.url}' and '{stores[0].url}' have other codebook vectors for the same "
                "ids, so they are not of one tokenizer; verify both"
            )
        rows[ids], known[ids] = own, True
    return rows
