"""The versions of a store: each keeps what the one before it has, in its place, and adds behind.

So a rank, a label and a sample number mean the same in every version. That the versions follow
each other by hash is checked in `files`.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from tokenstore.errors import TokenstoreError
from tokenstore.listed import load_vocabulary
from tokenstore.manifest import Manifest, load_versions, version_name
from tokenstore.reader import Store
from tokenstore.verify.findings import Findings


def check_growth(store: Store, findings: Findings) -> None:
    """Ids, classes, table sets and shards of every version begin the lists of the next."""
    if not store.manifest.version:
        return
    try:
        versions = [(m, _kept(store, m)) for m in load_versions(store.storage, store.manifest)]
    except TokenstoreError:
        return  # reported with the files
    for (newer, has), (older, had) in pairwise(versions):
        for what, expected in had.items():
            found = has.get(what)
            if found is None or list(found[: len(expected)]) != list(expected):
                place = version_name(newer.version)
                findings.add(place, what, f"to begin as in version {older.version}", "another")


def _kept(store: Store, manifest: Manifest) -> dict[str, Sequence[object]]:
    """What later versions may add to, and not change."""
    ids = load_vocabulary(store.storage, manifest.vocabulary).ids.tolist()
    return dict(_lists(manifest), ids=ids)


def _lists(manifest: Manifest) -> Iterator[tuple[str, Sequence[object]]]:
    yield "classes", manifest.classes or ()
    yield "table sets", manifest.table_sets
    for name, split in manifest.splits.items():
        yield f"shards of '{name}'", split.shards
        yield f"columns of '{name}'", split.columns
