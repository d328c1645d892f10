"""Damage a store in every possible way, one way at a time, and read it; a program of its own.

    python -X faulthandler -m tests.hostile.damage STORE NOTE flip tar --stride 1

Every case must raise a TokenstoreError that names the damaged file, or read what was written.
test_every_byte.py starts this as a process, so that a crash of the interpreter or an endless loop
fails the test instead of ending it: NOTE always tells the case at work, and a case that takes
longer than `PATIENCE` ends the process with a traceback.

What makes it fast enough for every single bit: the files lie in memory, and only what depends on
the damaged file is read again. That leaves nothing out. `Memory` notes which bytes a sound reading
touches; as long as a reader sees no difference it does the same as before, so damage to any other
byte cannot change what it returns. Those bytes (padding, tar headers, older manifests) are counted,
not read, and are `verify`'s to find.
"""

import contextlib
import faulthandler
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from tokenstore.errors import CorruptStore, TokenstoreError
from tokenstore.listed import load_codec, load_vocabulary
from tokenstore.manifest import NAME
from tokenstore.reader import Sample, Split, Store
from tokenstore.storage import Fetched, Storage
from tokenstore.verify import verify_store

PATIENCE = 60.0  # seconds; a case takes a millisecond
CASES_A_WATCH = 256  # setting the alarm for each case would cost more than the case

Read = Callable[[], Any]


class Memory(Storage):
    """A store in memory whose files can be exchanged; notes which bytes are looked at."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.url, self.files = "copy", dict(files)
        self.touched = {name: np.zeros(len(content), bool) for name, content in files.items()}

    def names(self):
        return sorted(self.files)

    def size(self, name):
        return len(self._content(name))

    def read(self, name):
        content = self._content(name)
        self.touched[name][:] = True
        return content

    def fetch(self, name, starts, ends):
        content = np.frombuffer(self._content(name), np.uint8)
        if ends.max(initial=0) > len(content):
            raise CorruptStore(f"{self.url}/{name} ends before byte {ends.max()}")
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            self.touched[name][start:end] = True
        return Fetched(content, starts, ends)

    def exists(self, name):
        raise AssertionError(name)

    create = create_new = writing = remove = exists

    def _content(self, name):
        if name not in self.files:
            raise FileNotFoundError(name)
        return self.files[name]


class Case(NamedTuple):
    """One way to damage a file."""

    name: str
    what: str
    content: bytes


def sound_files(folder: Path) -> dict[str, bytes]:
    """The bytes of a store, by name."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def readers(store: Store) -> dict[str, list[Read]]:
    """For each file that a reader opens, the ways to read anew all that depends on it."""
    manifest, storage = store.manifest, store.storage
    found: dict[str, list[Read]] = {
        NAME: [lambda: everything(Store(storage))],
        manifest.vocabulary.file.name: [
            lambda: _vocabulary(load_vocabulary(storage, manifest.vocabulary))
        ],
    }
    for table_set in manifest.table_sets:
        if table_set.file:
            found[table_set.file.name] = [lambda s=table_set: _tables(storage, s, manifest.grid)]
    for name, split in manifest.splits.items():
        first = 0
        for entry in split.shards:
            ways = _ways(store, name, range(first, first + entry.count))
            found[entry.shard.name] = found[entry.index.name] = ways
            first += entry.count
    return found


def _ways(store: Store, split: str, numbers: range) -> list[Read]:
    """Some samples together, and each alone: two paths through the reader; both open it anew."""
    together = slice(numbers.start, numbers.stop)
    alone = [lambda n=number: _values([Split(store, split)[n]]) for number in numbers]
    return [lambda: _values(Split(store, split)[together]), *alone]


def everything(store: Store) -> list[Any]:
    """All that a reader can ask of a store."""
    sets = store.manifest.table_sets
    values: list[Any] = [store.fingerprint, _vocabulary(store.vocabulary)]
    values += [_tables(store.storage, table_set, store.manifest.grid) for table_set in sets]
    return values + [_values(split[:]) for split in store.values()]


def _vocabulary(vocabulary: Any) -> list[Any]:
    codebook = None if vocabulary.codebook is None else vocabulary.codebook.tobytes()
    return [vocabulary.ids.tobytes(), vocabulary.counts.tobytes(), codebook]


def _tables(storage: Storage, table_set: Any, grid: tuple[int, ...]) -> dict[str, bytes]:
    tables = load_codec(storage, table_set, grid).tables()
    return {name: table.tobytes() for name, table in tables.items()}


def _values(samples: list[Sample]) -> list[Any]:
    values = []
    for sample in samples:
        mask = None if sample.mask is None else sample.mask.tolist()
        ranks = sample.ranks.tobytes()
        values.append((sample.key, ranks, sample.label, mask, sample.meta, sample.view))
    return values


def flips(files: dict[str, bytes], stride: int, touched: dict[str, Any]) -> Iterator[Case]:
    """Every `stride`-th bit of the bytes that `touched` marks, flipped."""
    number = 0
    for name in sorted(files):
        for place in np.flatnonzero(touched[name]).tolist():
            for bit in range(8):
                number += 1
                if number % stride == 0:
                    changed = bytearray(files[name])
                    changed[place] ^= 1 << bit
                    yield Case(name, f"byte {place} bit {bit}", bytes(changed))


def cuts(files: dict[str, bytes], stride: int) -> Iterator[Case]:
    """Files cut at every `stride`-th length."""
    number = 0
    for name in sorted(files):
        for length in range(len(files[name])):
            number += 1
            if number % stride == 0:
                yield Case(name, f"cut to {length} bytes", files[name][:length])


def read_all(storage: Memory, chosen: dict[str, bytes], cases: Iterator[Case]) -> Iterator[Case]:
    """Read what depends on each damaged file; yields the cases as they pass."""
    reads = readers(Store(storage))
    sound = {name: [read() for read in reads[name]] for name in chosen}
    for case in cases:
        storage.files[case.name] = case.content
        for read, data in zip(reads[case.name], sound[case.name], strict=True):
            _read_one(case, read, data)
        storage.files[case.name] = chosen[case.name]
        yield case


def _read_one(case: Case, read: Read, data: Any) -> None:
    try:
        assert read() == data, f"{case.name} {case.what}: other data"
    except TokenstoreError as error:
        stem = case.name.removesuffix(".index").removesuffix(".tar")
        assert stem in str(error), f"{case.name} {case.what}: the error names no place: {error}"


def verify_all(storage: Memory, chosen: dict[str, bytes], cases: Iterator[Case]) -> Iterator[Case]:
    """Let `verify` look at each damaged store; yields the cases as they pass."""
    for case in cases:
        storage.files[case.name] = case.content
        with contextlib.suppress(TokenstoreError):  # a newer format, for example
            assert verify_store(storage), f"{case.name} {case.what}: not seen"
        storage.files[case.name] = chosen[case.name]
        yield case


def watched(cases: Iterator[Case], note: Path) -> int:
    """Run through the cases, the one at work always in the note; how many there were."""
    count = 0
    descriptor = os.open(note, os.O_CREAT | os.O_WRONLY)
    for case in cases:
        if count % CASES_A_WATCH == 0:
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
        os.pwrite(descriptor, f"after {case.name} {case.what}".ljust(120).encode(), 0)
        count += 1
    faulthandler.cancel_dump_traceback_later()
    os.close(descriptor)
    return count


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("note", type=click.Path(path_type=Path))
@click.argument("how", type=click.Choice(["flip", "cut", "verify"]))
@click.argument("kind")
@click.option("--stride", default=1, help="Take every so-manieth case.")
def main(folder: Path, note: Path, how: str, kind: str, stride: int) -> None:
    """Damage the files of STORE whose names end in KIND; prints how many ways there were."""
    files = sound_files(folder)
    storage = Memory(files)
    everything(Store(storage))  # marks what a reader touches
    touched = {name: marks.copy() for name, marks in storage.touched.items()}
    chosen = {name: content for name, content in files.items() if name.endswith(kind)}
    if how == "verify":
        whole = {name: np.ones(len(content), bool) for name, content in chosen.items()}
        ran = verify_all(storage, chosen, flips(chosen, stride, whole))
    else:
        chosen = {name: content for name, content in chosen.items() if touched[name].any()}
        cases = cuts(chosen, stride) if how == "cut" else flips(chosen, stride, touched)
        ran = read_all(storage, chosen, cases)
    click.echo(watched(ran, note))


if __name__ == "__main__":
    main()
