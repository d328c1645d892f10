"""Shards are WebDataset shards: plain webdataset yields blocks, our stage makes images of them."""

import gc
import pickle

import numpy as np
import pytest

import tokenstore.wds
from tests.small_store import Small, write_small_store
from tokenstore.columns import mask_of
from tokenstore.errors import CorruptRecord, CorruptStore, Mismatch

webdataset = pytest.importorskip("webdataset", reason="needs tokenstore[build]")


# Webdataset leaves the files it reads to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def collected():
    yield
    gc.collect()


@pytest.fixture
def written(tmp_path):
    return write_small_store(tmp_path)


def blocks(store, split="train"):
    shards = [f"{store.url}/{shard.shard.name}" for shard in store[split].entry.shards]
    return webdataset.WebDataset(shards, shardshuffle=False)


def test_plain_webdataset_yields_the_blocks(written):
    found = list(blocks(written.store))
    assert [block["__key__"] for block in found] == ["000000", "000001", "000002"] * 2 + [
        "000000",
        "000001",
    ]
    columns = {"ranks", "label", "key", "mask", "meta", "view"}
    assert all(columns <= block.keys() for block in found)


def test_the_stage_yields_the_images_of_the_split_in_order(written):
    images = list(blocks(written.store).compose(tokenstore.wds.Images(written.store)))
    truth = written.truth["train"]
    assert len(images) == 23
    for i, image in enumerate(images):
        assert np.array_equal(image["ranks"], truth.ranks[i])
        assert np.array_equal(image["mask"], mask_of(truth.masks[i], ""))
        assert image["__key__"] == truth.keys[i]
        assert (image["label"], image["view"]) == (truth.labels[i], truth.views[i])
        assert image["meta"] == truth.meta[i]


def test_images_without_keys_are_numbered(tmp_path):
    store = write_small_store(tmp_path, Small(keys=False, extras=False, classes=None)).store
    images = list(blocks(store, "val").compose(tokenstore.wds.Images(store)))
    assert [image["__key__"] for image in images] == [f"val/{i:09d}" for i in range(5)]


def test_the_stage_survives_pickling(written):
    stage = pickle.loads(pickle.dumps(tokenstore.wds.Images(written.store)))
    assert len(list(stage(blocks(written.store)))) == 23


def test_a_foreign_shard_is_refused(written):
    stage = tokenstore.wds.Images(written.store)
    with pytest.raises(Mismatch, match=r"other\.tar is no shard of"):
        list(stage([{"__url__": "x/other.tar", "__key__": "000000"}]))


def test_a_block_from_another_place_is_refused(written):
    stage = tokenstore.wds.Images(written.store)
    first, second, *_ = blocks(written.store)
    with pytest.raises(CorruptStore, match="'ranks' of block 0 does not match its hash"):
        list(stage([{**first, "ranks": second["ranks"]}]))
    index = written.store["train"].shards.open(0).index
    honest = index.block
    index.block = lambda column, block: honest(column, 1)
    with pytest.raises(CorruptRecord, match="record 0 fails its check"):
        list(stage([{**second, "__key__": "000000"}]))
