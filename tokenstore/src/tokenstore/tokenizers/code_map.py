"""Which rows of one codebook are which rows of another: ids of a part become ids of the whole.

SeiT's release holds 391 rows of ViT-VQGAN's codebook and no table of their ids; this finds them.
Rows match where they are equal, or else where they point in the same direction, since the search
compares directions only. What the codebooks belong to is the caller's business.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenstore.errors import Mismatch

COSINE = 1 - 1e-6  # above it two rows are the same code, rescaled and rounded

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class CodeMap:
    """Rows of a part of a codebook as rows of the whole."""

    ids: NDArray[np.int32]  # [A], row of the whole for each row of the part
    equal: int  # how many are equal in every bit; the others point in the same direction


def map_codes(part: Rows, whole: Rows) -> CodeMap:
    """Find every row of a part [A, d] in the whole [K, d].

    Where rows of the whole repeat, the lowest is taken: the search never gives another.

    Raises:
        Mismatch: widths differ, a number is not finite, a row has no match, or two rows have
            the same one.
    """
    _check(part, whole)
    ids = _equal_rows(part, whole)
    alone = np.flatnonzero(ids < 0)
    if len(alone):
        cosines = _unit(part[alone]) @ _unit(whole).T
        nearest, best = cosines.argmax(1), cosines.max(1)
        failed = np.flatnonzero(best <= COSINE)
        if len(failed):
            first = failed[0]
            raise Mismatch(
                f"{len(failed)} of {len(part)} rows are not in the other codebook of {len(whole)}: "
                f"first row {alone[first]}, whose nearest is id {nearest[first]} at cosine "
                f"{best[first]:.6f}, expected > {COSINE:.6f}. They belong to different models."
            )
        ids[alone] = nearest
    _refuse_repeats(ids)
    return CodeMap(ids.astype(np.int32), len(part) - len(alone))


def _check(part: Rows, whole: Rows) -> None:
    for name, rows in (("first", part), ("second", whole)):
        if rows.ndim != 2 or 0 in rows.shape:
            raise Mismatch(f"the {name} codebook is {list(rows.shape)}, expected [codes, numbers]")
        wrong = np.flatnonzero(~np.isfinite(rows).all(1))
        if len(wrong):
            raise Mismatch(
                f"{len(wrong)} of {len(rows)} rows of the {name} codebook hold numbers that are "
                f"not finite, first row {wrong[0]}. Make or fetch it anew."
            )
    if part.shape[1] != whole.shape[1]:
        raise Mismatch(
            f"rows of {part.shape[1]} numbers cannot be rows of a codebook of {whole.shape[1]}: "
            "they belong to different models"
        )


def _equal_rows(part: Rows, whole: Rows) -> NDArray[np.int64]:
    """Lowest equal row for each row, or -1."""
    lowest: dict[bytes, int] = {}
    for number, row in enumerate(whole + 0.0):  # + 0.0: -0.0 equals 0.0 in bytes too
        lowest.setdefault(row.tobytes(), number)
    return np.array([lowest.get(row.tobytes(), -1) for row in part + 0.0], np.int64)


def _unit(rows: Rows) -> NDArray[np.float64]:
    exact = rows.astype(np.float64)
    lengths: NDArray[np.float64] = np.linalg.norm(exact, axis=1, keepdims=True)
    return exact / np.maximum(lengths, np.finfo(np.float64).tiny)


def _refuse_repeats(ids: NDArray[np.int64]) -> None:
    _, first, counts = np.unique(ids, return_index=True, return_counts=True)
    taken = counts[np.searchsorted(np.unique(ids), ids)] > 1
    repeats = np.setdiff1d(np.flatnonzero(taken), first)
    if len(repeats):
        row = int(repeats[0])
        raise Mismatch(
            f"{len(repeats)} of {len(ids)} rows are codes that an earlier row is already: first "
            f"row {row}, which is id {ids[row]} as row {int((ids == ids[row]).argmax())} is. Every "
            "code may occur once only."
        )
