"""The shards of a split as one run of samples: who lies where, and who is to blame."""

import numpy as np
import pytest

import tokenstore
import tokenstore.wds
from tests.small_store import Small, write_small_store
from tokenstore.codecs.base import Payloads
from tokenstore.codecs.gzip import Gzip
from tokenstore.errors import CorruptRecord
from tokenstore.verify import verify_store


@pytest.fixture
def written(tmp_path):
    return write_small_store(tmp_path)


def test_a_batch_is_sorted_by_shard_and_keeps_its_rows(written):
    found = written.store["train"].shards.find(np.array([20, 0, 8, 9, 17, 0]))
    names = [part.shard.name for part in found.parts]
    assert names == ["train-000000.tar", "train-000001.tar", "train-000002.tar"]
    assert [part.rows.tolist() for part in found.parts] == [[1, 2, 5], [3, 4], [0]]
    assert [part.samples.tolist() for part in found.parts] == [[0, 8, 0], [0, 8], [2]]


def test_only_the_shards_that_are_asked_for_are_opened(written):
    train = tokenstore.open(written.store.url)["train"]
    for name in ("train-000000.tar", "train-000001.tar"):
        written.store.storage.remove(name)
    assert len(train.read([18, 22]).ranks) == 2


def test_a_batch_over_shards_of_two_codecs_is_in_order(written):
    rows = np.random.default_rng(0).permutation(23)
    batch = written.store["train"].read(rows)
    assert np.array_equal(batch.ranks, written.truth["train"].ranks[rows])


@pytest.fixture
def undecodable(tmp_path, monkeypatch):
    """A store whose record of sample 3 is right by its check and no gzip member."""
    encode = Gzip.encode

    def encode_badly(self, ranks):
        payloads = encode(self, ranks)
        parts = np.split(payloads.data, payloads.ends[:-1])
        return Payloads.joined([b"nonsense", *(part.tobytes() for part in parts[1:])])

    monkeypatch.setattr(Gzip, "encode", encode_badly)
    small = Small(counts=(("train", 7),), codecs=("gzip",), block=3, shard=7)
    write_small_store(tmp_path, small)
    return tmp_path


def test_a_record_that_its_codec_refuses_is_named(undecodable):
    split = tokenstore.open(undecodable)["train"]
    assert len(split.read([1, 2, 4, 5]).ranks) == 4
    with pytest.raises(CorruptRecord, match=r"sample 3 of split 'train' cannot be decoded: row 0"):
        split.read([1, 2, 3, 4])


def test_verify_names_every_record_that_its_codec_refuses(undecodable):
    places = [finding.place for finding in verify_store(undecodable)]
    assert places == [f"train-000000.tar: sample {sample}" for sample in (0, 3, 6)]


def test_webdataset_readers_are_told_of_it_too(undecodable):
    store = tokenstore.open(undecodable)
    content = store["train"].shards.open(0)
    block = {c: content.block_bytes(c, 1) for c in store["train"].columns}
    stage = tokenstore.wds.Images(store)
    with pytest.raises(CorruptRecord, match="'ranks' of block 1 cannot be decoded"):
        list(stage([{"__url__": "train-000000.tar", "__key__": "000001", **block}]))
