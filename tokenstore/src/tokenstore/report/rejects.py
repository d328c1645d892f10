"""The rejects of a store: which reasons there were, how often, and the first images of the list."""

from collections import Counter
from dataclasses import dataclass

from tokenstore.listed import load_rejects
from tokenstore.manifest import RejectsEntry
from tokenstore.storage import Storage

LISTED = 20  # rejects that are told one by one
REASONS = 50  # reasons that are told one by one


@dataclass(frozen=True)
class Rejects:
    """How many there are, (reason, images) with the commonest first, and the first of the list.

    `first` holds (split, path, reason). `rarer` counts the images whose reasons are not told.
    """

    count: int
    reasons: tuple[tuple[str, int], ...] = ()
    rarer: int = 0
    first: tuple[tuple[str, str, str], ...] = ()


def read_rejects(storage: Storage, entry: RejectsEntry) -> Rejects:
    """Read the list of rejects that a manifest names.

    Raises:
        CorruptStore: it is missing, damaged or no such list.
    """
    if entry.file is None:
        return Rejects(entry.count)
    listed = load_rejects(storage, entry)
    reasons = sorted(Counter(reject.reason for reject in listed).items(), key=_commonest_first)
    return Rejects(
        count=len(listed),
        reasons=tuple(reasons[:REASONS]),
        rarer=sum(images for _, images in reasons[REASONS:]),
        first=tuple((reject.split, reject.path, reject.reason) for reject in listed[:LISTED]),
    )


def _commonest_first(reason: tuple[str, int]) -> tuple[int, str]:
    return -reason[1], reason[0]
