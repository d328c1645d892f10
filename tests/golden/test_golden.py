"""Frozen bytes: today's reader reads the golden store, and today's writer writes it again."""

import zlib

import numpy as np
import pytest
import zstandard

import tokenstore
from tests.golden.golden_store import (
    CLASSES,
    CODES,
    GOLDEN,
    ids,
    samples,
    shipped_dictionary,
    write_golden,
)
from tokenstore.columns import mask_of
from tokenstore.verify import verify_store

FINGERPRINT = "c34dce64272fd5a424cd5b0a5b8d9a487577a8331b48809fdfca646d44a35756"
VOCABULARY_FINGERPRINT = "754758e8b369fe18b159559821d2de0f5e38d9986ac40658dec2d9649d317970"
# What wrote the compressed bytes; other versions may compress as well, but differently.
WRITTEN_WITH = {"libzstd": (1, 5, 7), "zlib": "1.2.13"}


@pytest.fixture(scope="module")
def store():
    return tokenstore.open(GOLDEN)


def test_the_golden_store_is_the_one_that_was_frozen(store):
    assert store.fingerprint == FINGERPRINT
    assert store.vocabulary_fingerprint == VOCABULARY_FINGERPRINT


@pytest.mark.parametrize(("split", "count"), [("train", 3), ("val", 1)])
def test_every_value_of_the_golden_store_is_read(store, split, count):
    truth = samples(split, count, store.vocabulary)
    batch = store[split].read(np.arange(count), keys=True)
    assert np.array_equal(store.ids(batch.ranks), ids(split, count))
    assert np.array_equal(batch.ranks, truth.ranks)
    assert np.array_equal(batch.labels, truth.labels)
    assert batch.keys == truth.keys
    for i, sample in enumerate(store[split]):
        assert np.array_equal(sample.mask, mask_of(truth.masks[i], ""))
        assert (sample.meta, sample.view) == (truth.meta[i], truth.views[i])
    assert store[split].classes == CLASSES


def test_the_golden_vocabulary_is_read(store):
    assert sorted(store.vocabulary.ids.tolist()) == list(range(CODES))
    rows = store.vocabulary.ids[:, None] * 2 + [0, 1]
    assert np.array_equal(store.codebook, rows.astype(np.float32) / 4)
    assert store.vocabulary.counts.sum() == 3 * 256


def test_verify_finds_nothing_in_the_golden_store():
    assert verify_store(GOLDEN) == []


def test_todays_writer_writes_the_golden_bytes(store, tmp_path):
    here = {"libzstd": zstandard.ZSTD_VERSION, "zlib": zlib.ZLIB_RUNTIME_VERSION}
    if here != WRITTEN_WITH:
        pytest.skip(f"the golden bytes were written with {WRITTEN_WITH}, this machine has {here}")
    write_golden(tmp_path, shipped_dictionary())
    names = store.storage.names()
    assert tokenstore.storage.open_storage(tmp_path).names() == names
    for name in names:
        assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes(), name
