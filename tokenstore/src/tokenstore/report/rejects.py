"""The rejects of a store: which reasons there were, how often, and the first images of the list."""

from dataclasses import dataclass

from tokenstore.errors import CorruptStore
from tokenstore.listed import read_listed
from tokenstore.manifest import RejectsEntry
from tokenstore.storage import Storage

COLUMNS = ("split", "key", "path", "reason")
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
    import pyarrow
    import pyarrow.parquet

    content = read_listed(storage, entry.file)
    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(content), columns=[*COLUMNS])
        found = table.column("reason").value_counts().to_pylist()
        rows = table.slice(0, LISTED).to_pylist()
    except (pyarrow.ArrowException, KeyError) as error:
        raise CorruptStore(f"{storage.url}/{entry.file.name} lists no rejects: {error}") from error
    reasons = [(str(reason["values"]), int(reason["counts"])) for reason in found]
    reasons.sort(key=lambda reason: (-reason[1], reason[0]))
    return Rejects(
        count=len(table),
        reasons=tuple(reasons[:REASONS]),
        rarer=sum(images for _, images in reasons[REASONS:]),
        first=tuple((str(row["split"]), str(row["path"]), str(row["reason"])) for row in rows),
    )
