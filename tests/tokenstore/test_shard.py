"""Shards: plain tars with deterministic bytes, read back record by record."""

import io
import subprocess
import tarfile

import numpy as np
import pytest

from tests.small_store import Small, write_small_store
from tokenstore.errors import CodecError, CorruptRecord, CorruptStore
from tokenstore.manifest import columns_for
from tokenstore.shard import ColumnBytes, ShardWriter


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_small_store(tmp_path_factory.mktemp("store") / "s")


def test_tar_lists_the_blocks_column_by_column(written):
    tar = f"{written.store.url}/train-000001.tar"
    listed = subprocess.run(["tar", "tf", tar], capture_output=True, text=True, check=True)
    columns = ("ranks", "label", "key", "mask", "meta", "view")
    assert listed.stderr == ""
    assert listed.stdout.split() == [f"00000{b}.{c}" for b in range(3) for c in columns]


def test_members_have_no_owner_and_no_time(written):
    with tarfile.open(f"{written.store.url}/train-000000.tar") as tar:
        for member in tar:
            assert (member.mode, member.uid, member.gid, member.mtime) == (0o644, 0, 0, 0)
            assert (member.uname, member.gname, member.type) == ("", "", tarfile.REGTYPE)


def test_the_tar_ends_with_two_zero_blocks(written):
    content = written.store.storage.read("val-000000.tar")
    assert len(content) % 512 == 0
    assert content[-1024:] == bytes(1024)


def test_writing_the_same_twice_gives_the_same_bytes(written, tmp_path):
    again = write_small_store(tmp_path / "other")
    assert again.store.fingerprint == written.store.fingerprint
    for name in written.store.storage.names():
        assert again.store.storage.read(name) == written.store.storage.read(name)


def test_every_column_is_read_back(written):
    for name, truth in written.truth.items():
        for number in range(len(written.store[name].entry.shards)):
            shard = written.store[name].shards.open(number)
            count = written.store[name].entry.shards[number].count
            samples = np.random.default_rng(0).permutation(count)
            rows = samples + shard.first
            assert shard.fixed("label", samples).tolist() == truth.labels[rows].tolist()
            assert shard.fixed("view", samples).tolist() == truth.views[rows].tolist()
            assert shard.strings("key", samples) == [truth.keys[row] for row in rows]


def test_a_damaged_record_names_shard_sample_and_split(written, tmp_path):
    store = write_small_store(tmp_path).store
    part = store["train"].shards.open(1).index.block("ranks", 1)
    tar = tmp_path / "train-000001.tar"
    content = bytearray(tar.read_bytes())
    content[part.base + int(part.ends[1])] ^= 0x10
    tar.write_bytes(content)
    shard = type(store)(store.storage)["train"].shards.open(1)
    shard.records("ranks", np.array([4, 5, 7]))
    with pytest.raises(
        CorruptRecord, match=r"train-000001\.tar: sample 15 of split 'train': its 'ranks'"
    ):
        shard.records("ranks", np.array([4, 6]))
    with pytest.raises(CorruptStore, match="'ranks' of block 1 does not match its hash"):
        shard.block_bytes("ranks", 1)


@pytest.mark.parametrize("change", [b"", b"\0"])
def test_a_shard_of_another_length_is_refused(tmp_path, change):
    store = write_small_store(tmp_path).store
    tar = tmp_path / "train-000000.tar"
    tar.write_bytes(tar.read_bytes() + change if change else tar.read_bytes()[:-1])
    with pytest.raises(CorruptStore, match=r"train-000000\.tar has \d+ bytes, the manifest says"):
        store["train"].read([0])
    tar.unlink()
    with pytest.raises(CorruptStore, match=r"train-000000\.tar is missing"):
        store["train"].read([0])


def test_a_block_too_large_for_its_offsets_is_refused():
    class Huge(bytes):
        def __len__(self):
            return 2**32

    writer = ShardWriter(io.BytesIO(), columns_for(None, keys=False), 4, 0)
    with pytest.raises(CodecError, match="choose a smaller block"):
        writer.append([ColumnBytes(Huge(), None)])


def test_a_shard_of_one_image_is_whole(tmp_path):
    small = Small(counts=(("train", 1),), shard=1, block=1)
    written = write_small_store(tmp_path, small)
    assert np.array_equal(written.store["train"][0].ranks, written.truth["train"].ranks[0])
