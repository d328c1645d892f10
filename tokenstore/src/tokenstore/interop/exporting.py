"""Exporting: a store becomes a folder of another format, whole or not at all.

The folder is written under a hidden name beside its own and renamed when it is complete. A card
(`tokens.json`) goes with it, so that an import gives the same tokenizer, classes and splits again.
"""

import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tokenstore.errors import UsageError
from tokenstore.interop.base import Outgoing
from tokenstore.interop.importing import find_format
from tokenstore.progress import WorkProgress
from tokenstore.reader import Store, open_store


@dataclass(frozen=True)
class ExportReport:
    """What an export came to: images by split, bytes of all files, and what was left out."""

    place: str
    images: dict[str, int]
    bytes: int
    notes: list[str]


def export_store(
    place: str | Path, kind: str, folder: Path, stream: TextIO | None = None
) -> ExportReport:
    """Write a store in another format.

    Args:
        place: the store.
        kind: name of the format.
        folder: to be made; it must be absent or empty.
        stream: where progress goes; standard error by default.

    Raises:
        UnknownName: no such format.
        UsageError: the folder is taken, or the format cannot hold this store.
        StoreError: the store cannot be read.
    """
    found, store = find_format(kind), open_store(place)
    _refuse_taken(folder)
    splits = tuple(name for name, split in store.items() if len(split))
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        total = sum(len(store[name]) for name in splits)
        with WorkProgress("exporting", total, stream=stream or sys.stderr) as progress:
            outgoing = Outgoing(store, partial, splits, progress.advance, _left_out(store))
            found.export(outgoing)
            for note in outgoing.notes:
                progress.say(note)
        size = sum(file.stat().st_size for file in partial.rglob("*") if file.is_file())
        partial.chmod(0o755)
        partial.replace(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    images = {name: len(store[name]) for name in splits}
    return ExportReport(str(folder), images, size, outgoing.notes)


def _refuse_taken(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"'{folder}' exists. Choose another -o, or delete it first.")


def _left_out(store: Store) -> list[str]:
    """Notes on what no format takes."""
    empty = [name for name, split in store.items() if not len(split)]
    notes = [f"split '{name}' has no image and is left out" for name in empty]
    if any("mask" in split.columns for split in store.values()):
        notes.append("masks are left out: no format here has a place for them")
    return notes
