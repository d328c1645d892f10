"""Files that are loaded whole: what they hold is what the manifest says, or an error names them."""

import hashlib
import uuid

import numpy as np
import pytest
import safetensors.numpy

from tokenstore.entries import FileEntry, TableSet, VocabularyEntry
from tokenstore.errors import CorruptStore, FormatTooNew
from tokenstore.listed import load_codec, load_vocabulary, read_listed
from tokenstore.storage import open_storage
from tokenstore.vocabulary import Vocabulary
from tokenstore.writer import write_vocabulary


@pytest.fixture
def storage():
    return open_storage(f"memory://{uuid.uuid4()}")


def put(storage, content):
    storage.create("file", content)
    digest = hashlib.sha256(content).hexdigest()
    return FileEntry(name="file", bytes=len(content), sha256=digest)


def test_a_file_is_compared_with_its_hash(storage):
    entry = put(storage, b"right")
    assert read_listed(storage, entry) == b"right"
    storage.create("file", b"wrong")
    with pytest.raises(CorruptStore, match="file has 5 bytes and SHA-256"):
        read_listed(storage, entry)
    storage.remove("file")
    with pytest.raises(CorruptStore, match="file is missing"):
        read_listed(storage, entry)


def test_a_vocabulary_fits_the_manifest(storage):
    codebook = np.ones((3, 2), np.float32)
    vocabulary = Vocabulary.from_counts({"train": np.array([1, 2, 3])}, codebook)
    entry = write_vocabulary(storage, vocabulary)
    assert load_vocabulary(storage, entry).ids.tolist() == [2, 1, 0]
    for field, value in (("size", 4), ("dimension", None)):
        wrong = VocabularyEntry.model_validate({**entry.model_dump(), field: value})
        with pytest.raises(CorruptStore, match="holds 3 ids of dimension 2, the manifest says"):
            load_vocabulary(storage, wrong)


def test_tables_that_are_no_tables_are_refused(storage):
    junk = TableSet(codec="zstd", vocabulary_size=9, file=put(storage, b"junk"))
    with pytest.raises(CorruptStore, match="file holds no tables of codec zstd"):
        load_codec(storage, junk, (2, 2))
    dictionary = {"dictionary": np.arange(99, dtype=np.uint8)}
    broken = put(storage, safetensors.numpy.save(dictionary))
    with pytest.raises(CorruptStore, match="dictionary of codec zstd is damaged"):
        load_codec(storage, TableSet(codec="zstd", vocabulary_size=9, file=broken), (2, 2))
    with pytest.raises(CorruptStore, match="codec gzip has no tables"):
        load_codec(storage, TableSet(codec="gzip", vocabulary_size=9, file=broken), (2, 2))


def test_an_unknown_codec_needs_a_newer_version(storage):
    with pytest.raises(FormatTooNew, match="codec 'rot13', this tokenstore has .*zstd"):
        load_codec(storage, TableSet(codec="rot13", vocabulary_size=9, file=None), (2, 2))
