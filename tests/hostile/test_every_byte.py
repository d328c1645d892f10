"""Flip bits of a store and cut its files anywhere: an error or the right data, and verify sees it.

The store lies in memory, so that thousands of damaged copies can be read in seconds.
"""

import contextlib
import warnings

import numpy as np
import pytest

from tests.small_store import Small, write_small_store
from tokenstore.errors import CorruptStore, TokenstoreError
from tokenstore.reader import Store
from tokenstore.storage import Fetched, Storage
from tokenstore.verify import verify_store

SMALL = Small(counts=(("train", 3), ("val", 1)), grid=(2, 2), codes=4, block=2, shard=3,
              codecs=("zstd",), classes=2, rejects=0)  # fmt: skip


class Copy(Storage):
    """A store in memory, with one file changed."""

    def __init__(self, files):
        self.url, self._files = "copy", files

    def names(self):
        return sorted(self._files)

    def size(self, name):
        return len(self.read(name))

    def read(self, name):
        if name not in self._files:
            raise FileNotFoundError(name)
        return self._files[name]

    def fetch(self, name, starts, ends):
        content = np.frombuffer(self.read(name), np.uint8)
        if ends.max(initial=0) > len(content):
            raise CorruptStore(name)
        return Fetched(content, starts, ends)

    def exists(self, name):
        raise AssertionError(name)

    create = create_new = writing = remove = exists


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    storage = write_small_store(tmp_path_factory.mktemp("store"), SMALL).store.storage
    return {name: storage.read(name) for name in storage.names()}


def everything(storage):
    """All that a reader can ask of a store."""
    store = Store(storage)
    values = [store.codebook.tolist(), store.vocabulary.ids.tolist(), store.fingerprint]
    for name, split in store.items():
        numbers = np.arange(len(split))
        batch = split.read(numbers, keys=True)
        values += [name, batch.ranks.tolist(), batch.labels.tolist(), batch.keys]
        values += [split.meta(numbers), split.views(numbers).tolist()]
        values += [mask.tolist() for mask in split.masks(numbers)]
    return values


def damaged(files, stride, bits):
    """Copies of the store, each with one flipped bit."""
    for name, content in files.items():
        for place in range(0, len(content), stride):
            for bit in bits(place):
                changed = bytearray(content)
                changed[place] ^= 1 << bit
                yield f"{name} byte {place} bit {bit}", {**files, name: bytes(changed)}


def check(copies, sound):
    for what, files in copies:
        with contextlib.suppress(TokenstoreError):
            assert everything(Copy(files)) == sound, what


def test_a_flipped_bit_in_any_byte_is_an_error_or_harmless(files):
    check(damaged(files, 5, lambda place: [place * 7 % 8]), everything(Copy(files)))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["json", "index", "tar", "safetensors"])
def test_every_flipped_bit_is_an_error_or_harmless(files, kind):
    chosen = {name: content for name, content in files.items() if name.endswith(kind)}
    assert chosen
    copies = damaged(chosen, 1, lambda place: range(8))
    check(((what, {**files, **copy}) for what, copy in copies), everything(Copy(files)))


def test_verify_sees_a_flipped_bit_in_any_byte(files):
    assert verify_store(Copy(files)) == []
    unseen = []
    for what, copy in damaged(files, 17, lambda place: [place * 5 % 8]):
        try:
            findings = verify_store(Copy(copy))
        except TokenstoreError:
            continue
        if not findings:
            unseen.append(what)
    assert unseen == []


def test_a_file_cut_anywhere_is_an_error_or_harmless(files):
    sound = everything(Copy(files))
    with warnings.catch_warnings():
        for name, content in files.items():
            for end in range(0, len(content), 11):
                copy = {**files, name: content[:end]}
                with contextlib.suppress(TokenstoreError):
                    assert everything(Copy(copy)) == sound, f"{name} cut at {end}"


def test_a_file_that_is_missing_is_an_error_or_harmless(files):
    sound = everything(Copy(files))
    for name in files:
        copy = {other: content for other, content in files.items() if other != name}
        with contextlib.suppress(TokenstoreError):
            assert everything(Copy(copy)) == sound, f"{name} missing"
        with contextlib.suppress(TokenstoreError):
            assert verify_store(Copy(copy)), f"{name} missing"
