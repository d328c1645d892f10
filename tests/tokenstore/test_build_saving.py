"""What `context` would save is what it does save."""

from dataclasses import replace

import pytest

from tests.small_store import Small, write_small_store
from tokenstore.build import saving
from tokenstore.build.saving import context_saving
from tokenstore.reader import Store
from tokenstore.sizes import measure

PLAIN = Small(counts=(("train", 300), ("val", 20)), block=64, shard=200, keys=False, extras=False,
              classes=None, rejects=0, codecs=("zstd",))  # fmt: skip


def saving_of(place, small):
    store = write_small_store(place, small).store
    return context_saving(store, measure(store.storage, store.manifest))


def test_the_saving_is_what_a_store_with_the_codec_saves(tmp_path):
    small = replace(PLAIN, grid=(16, 16), counts=(("train", 900), ("val", 20)), walk=True)
    stores = [
        write_small_store(tmp_path / codec, replace(small, codecs=(codec,))).store
        for codec in ("zstd", "context")
    ]
    sizes = [measure(store.storage, store.manifest) for store in stores]
    now, less = (
        (sum(split.records for split in found.splits.values()) + found.tables) / 920
        for found in sizes
    )
    found = context_saving(stores[0], sizes[0])
    assert found.bytes_an_image == pytest.approx(now - less, rel=0.1)
    assert found.share == pytest.approx((now - less) / now, rel=0.1)
    assert found.bytes_an_image > 10
    assert "% of records and tables:  tokenstore convert" in found.sentence
    assert found.command.endswith("zstd-context.tokenstore --codec context")
    assert context_saving(stores[1], sizes[1]) is None


def test_few_images_get_no_offer(tmp_path):
    assert saving_of(tmp_path, replace(PLAIN, counts=(("train", 200),))) is None


def test_tokens_without_order_get_the_truth(tmp_path):
    found = saving_of(tmp_path, replace(PLAIN, codecs=("rans",)))
    assert found.share < 0.005
    assert found.sentence == "codec context would save next to nothing here"


def test_large_stores_are_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "MOST_IMAGES", 96)
    store = write_small_store(tmp_path, PLAIN).store
    read, asked = Store(store.storage)["train"].read, []
    monkeypatch.setattr("tokenstore.reader.Split.read", lambda self, i: asked.append(i) or read(i))
    context_saving(store, measure(store.storage, store.manifest))
    assert [len(numbers) for numbers in asked] == [96]
    assert (asked[0][0], asked[0][-1]) == (0, 299)
