"""Frozen bytes: today's reader reads the golden stores, and today's writer writes them again."""

import json
import zlib

import numpy as np
import pytest
import zstandard

import tokenstore
from tests.golden import golden_codecs, golden_store
from tests.golden.golden_store import (
    CLASSES,
    CODES,
    FOLDER,
    GOLDEN,
    PAGE,
    PINS,
    folders,
    hashes,
    ids,
    rans_ids,
    samples,
    shipped_dictionary,
    write_example,
)
from tokenstore.columns import mask_of
from tokenstore.registry import names
from tokenstore.verify import verify_store

PINNED = json.loads(PINS.read_text())
STORES = folders(shipped_dictionary())
VOCABULARY_FINGERPRINT = "754758e8b369fe18b159559821d2de0f5e38d9986ac40658dec2d9649d317970"
# What wrote the compressed bytes; other versions may compress as well, but differently.
WRITTEN_WITH = {"libzstd": (1, 5, 7), "zlib": "1.2.13"}


@pytest.fixture(scope="module")
def store():
    return tokenstore.open(GOLDEN)


def test_every_frozen_store_is_pinned_and_has_its_bytes():
    assert {path.name for path in FOLDER.glob("format*")} == set(PINNED)
    for name, pin in PINNED.items():
        assert hashes(FOLDER / name) == pin["files"], name


@pytest.mark.parametrize("name", PINNED)
def test_frozen_stores_are_read_and_sound(name):
    store = tokenstore.open(FOLDER / name)
    assert store.fingerprint == PINNED[name]["fingerprint"]
    assert verify_store(FOLDER / name) == []


def test_every_codec_has_a_frozen_store_of_todays_format():
    opened = [tokenstore.open(FOLDER / name) for name in STORES]
    frozen = {tables.codec for store in opened for tables in store.manifest.table_sets}
    assert frozen == set(names("tokenstore.codecs"))


def test_the_vocabulary_fingerprint_is_the_one_that_was_frozen(store):
    assert store.vocabulary_fingerprint == VOCABULARY_FINGERPRINT


def test_every_rank_of_the_store_with_two_versions_is_read():
    store = tokenstore.open(FOLDER / f"{GOLDEN.name}-rans")
    assert np.array_equal(store.ids(store["train"].read(range(5)).ranks), rans_ids())
    assert store.codebook is None
    assert store.manifest.version == 1
    assert [tables.vocabulary_size for tables in store.manifest.table_sets] == [500, 584]


def test_every_rank_of_the_store_with_channels_is_read():
    store = tokenstore.open(FOLDER / f"{GOLDEN.name}-context")
    ranks = store["train"].read(range(5)).ranks
    assert np.array_equal(ranks, golden_codecs.ranks("context-tail"))
    assert np.array_equal(store.ids(ranks), 7 * ranks.astype(int) % 5003)


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


@pytest.mark.parametrize("name", STORES)
def test_todays_writer_writes_the_golden_bytes(tmp_path, name):
    here = {"libzstd": zstandard.ZSTD_VERSION, "zlib": zlib.ZLIB_RUNTIME_VERSION}
    if name == GOLDEN.name and here != WRITTEN_WITH:
        pytest.skip(f"the golden bytes were written with {WRITTEN_WITH}, this machine has {here}")
    STORES[name](tmp_path)
    assert hashes(tmp_path) == PINNED[name]["files"]


def test_the_example_of_the_page_is_written_anew(tmp_path):
    copy = tmp_path / "format.md"
    copy.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    write_example(copy, bytes(range(40)))
    lines = copy.read_text(encoding="utf-8").splitlines()
    assert "0000  00010203 04050607 08090a0b 0c0d0e0f" in lines
    assert "0020  20212223 24252627" in lines
    write_example(copy, (GOLDEN / "val-000000.index").read_bytes())
    assert copy.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")


def test_frozen_bytes_are_not_written_again(monkeypatch):
    monkeypatch.setattr(golden_store, "FORMAT", 1)
    with pytest.raises(SystemExit, match="is frozen"):
        golden_store.main()
