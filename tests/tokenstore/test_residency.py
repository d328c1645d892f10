"""Where tokens live: the same batches from everywhere, bounded, and honest about damage."""

import itertools
import logging
import threading
from dataclasses import replace

import fsspec
import numpy as np
import pytest
import torch

from tests.small_store import Small, write_small_store
from tests.toy_store import ToyStore, write_toy_store
from tokenstore import residency as residencies
from tokenstore.errors import CorruptRecord, CorruptStore, UsageError
from tokenstore.in_memory import RecordsInMemory, bytes_in_memory
from tokenstore.loader import TokenLoader
from tokenstore.mixture import MixedSplit
from tokenstore.order import Shuffled
from tokenstore.placing import OnCpu, packed, place_for, widened
from tokenstore.reader import open_store
from tokenstore.resident import Resident, bytes_resident
from tokenstore.stream import Ahead, read_ahead

SMALL = Small(counts=(("train", 50), ("val", 5)), extras=False)
_seeds = itertools.count()


@pytest.fixture
def small(tmp_path):
    """Each has other tokens: memory is shared by stores of the same fingerprint."""
    return write_small_store(tmp_path / "small", replace(SMALL, seed=next(_seeds))).store


def damage(store, sample):
    """Flip a byte of a record's payload; the store's name for the sample is returned."""
    shards = store["train"].shards
    part = shards.find(np.array([sample])).parts[0]
    start, _ = part.shard.index.locate("ranks", part.samples)
    path = f"{store.url}/{part.shard.name}"
    with open(path, "r+b") as file:  # noqa: PTH123 - a URL of a local folder
        file.seek(int(start[0]))
        byte = file.read(1)[0]
        file.seek(int(start[0]))
        file.write(bytes([byte ^ 0x10]))
    return store["train"].keys([sample])[0]


def loader_of(store, **options):
    return TokenLoader(store["train"], batch_size=8, device="cpu", **options)


@pytest.mark.parametrize("keys", [False, True])
def test_records_in_memory_read_as_the_split_does(small, keys):
    train = small["train"]  # several shards, two codecs
    held = RecordsInMemory(train)
    for rows in ([3], [0, 49, 17, 17, 9], list(range(50))[::-1], list(range(9))):
        ours, theirs = held.read(np.array(rows), keys=keys), train.read(rows, keys=keys)
        assert np.array_equal(ours.ranks, theirs.ranks)
        assert np.array_equal(ours.labels, theirs.labels)
        assert ours.keys == theirs.keys
    out = np.empty((2, *SMALL.grid), np.uint16)
    assert held.read(np.array([4, 2]), out=out).ranks is out


def test_records_in_memory_outlive_their_shards(small, tmp_path):
    train = small["train"]
    expected = train.read(range(50)).ranks
    held = RecordsInMemory(open_store(small.url)["train"])
    for shard in (tmp_path / "small").glob("train-*"):
        shard.unlink()
    assert np.array_equal(held.read(np.arange(50)).ranks, expected)


def test_two_loaders_of_a_machine_share_one_copy(small, monkeypatch):
    first = RecordsInMemory(small["train"])
    monkeypatch.setattr(RecordsInMemory, "_fill", None)  # a second filling would fail
    second = RecordsInMemory(open_store(small.url)["train"])
    assert np.array_equal(first.read(np.arange(9)).ranks, second.read(np.arange(9)).ranks)


def test_records_that_do_not_fit_into_memory_are_refused_with_the_cure(small, monkeypatch):
    monkeypatch.setattr("tokenstore.in_memory.memory_left", lambda: 10)
    with pytest.raises(UsageError, match="residency='stream'"):
        next(iter(loader_of(small, residency="ram")))


@pytest.mark.parametrize("residency", ["stream", "ram", "device"])
def test_a_damaged_record_raises_and_is_named(small, residency):
    damage(small, 11)
    with pytest.raises(CorruptRecord, match="sample 11 of split 'train'"):
        list(loader_of(small, residency=residency))


@pytest.mark.parametrize("residency", ["stream", "ram", "device"])
@pytest.mark.parametrize("keys", [False, True])
def test_skipping_keeps_the_shape_counts_and_reports_each_key(small, residency, keys, caplog):
    whole = small["train"].read(range(50))
    names = [damage(small, 11), damage(small, 30)]
    loader = loader_of(open_store(small.url), residency=residency, on_error="skip", keys=keys)
    for _ in range(2):
        batches = list(loader)
        assert {len(batch.ranks) for batch in batches} == {8}
        for batch in batches:
            rows = batch.index[batch.valid].numpy()
            assert np.array_equal(batch.ranks[batch.valid].numpy(), whole.ranks[rows])
            assert np.array_equal(batch.labels[batch.valid].numpy(), whole.labels[rows])
            assert (batch.keys is None) is not keys
        seen = torch.cat([batch.index[batch.valid] for batch in batches])
        assert sorted(seen.tolist()) == [i for i in range(50) if i not in (11, 30)]
    assert loader.skipped == dict.fromkeys(names, 2)
    assert sum("is left out" in record.message for record in caplog.records) == 4


def test_a_damaged_index_is_an_error_even_when_records_are_skipped(small, tmp_path):
    index = min((tmp_path / "small").glob("train-*.index"))
    content = bytearray(index.read_bytes())
    content[60] ^= 1
    index.write_bytes(content)
    with pytest.raises(CorruptStore, match=r"page 0"):
        list(loader_of(open_store(small.url), residency="stream", on_error="skip"))


def test_a_shard_deleted_while_training_is_named_and_the_run_resumes(small, tmp_path):
    expected = [batch.index for batch in loader_of(small, residency="stream", shuffle="none")]
    loader = loader_of(open_store(small.url), residency="stream", shuffle="none", prefetch_bytes=0)
    batches, seen = iter(loader), []
    seen.append(next(batches).index)
    shard = max((tmp_path / "small").glob("train-*.tar"))
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(CorruptStore, match=f"{shard.name} is missing"):
        seen.extend(batch.index for batch in batches)
    shard.write_bytes(content)
    again = loader_of(open_store(small.url), residency="stream", shuffle="none")
    again.load_state_dict(loader.state_dict())
    assert torch.equal(torch.cat(seen + [batch.index for batch in again]), torch.cat(expected))


def test_a_vocabulary_of_256_takes_a_byte_a_token_on_the_device(tmp_path):
    few = write_toy_store(tmp_path / "few", ToyStore({"train": 20}))["train"]
    resident = Resident(few, "cpu", skip=False)
    assert resident._ranks.dtype == torch.uint8
    assert bytes_resident(few) == 20 * (8 * 8 + 8)
    many = Small(
        counts=(("train", 3000),), codes=400, block=1024, shard=4000, extras=False, codecs=("gzip",)
    )
    more = write_small_store(tmp_path / "more", many).store
    assert more.manifest.vocabulary.size > 256
    assert Resident(more["train"], "cpu", skip=False)._ranks.dtype == torch.int16
    assert bytes_resident(more["train"]) == 3000 * (2 * 4 * 3 + 8)


def test_packed_ranks_come_back_whatever_their_size():
    for size in (1, 256, 257, 32769, 65536):
        ranks = np.array([[0, size // 2, size - 1]], np.uint16)
        assert packed(ranks, size).element_size() == (1 if size <= 256 else 2)
        assert np.array_equal(widened(packed(ranks, size)).numpy(), ranks)


class Counting:
    """A split that knows how many rows were read and not yet taken."""

    def __init__(self, split):
        self.split, self.lock, self.rows, self.most = split, threading.Lock(), 0, 0

    def read(self, indices, *, keys=False, masks=False, out=None):
        with self.lock:
            self.rows += len(indices)
            self.most = max(self.most, self.rows)
        return self.split.read(indices, keys=keys, masks=masks, out=out)


@pytest.mark.parametrize("limit", [0, 1000, 5000])
def test_reading_ahead_is_bounded_in_bytes(small, limit):
    source = Counting(small["train"])
    ahead = Ahead(2, SMALL.grid, limit)
    numbers = np.random.default_rng(0).integers(0, 50, (200, 2))
    wanted = ((index, np.ones(2, np.bool_)) for index in numbers)
    for index, batch in zip(numbers, read_ahead(source, OnCpu(), ahead, wanted, None), strict=True):
        assert np.array_equal(batch.index, index)
        source.rows -= 2
    row = 2 * 4 * 3 + 17
    assert source.most <= max(limit // row, 2) + 2 * ahead.together, "those being handed out too"
    assert source.most >= 2


def test_auto_takes_the_device_while_it_fits(small, monkeypatch, caplog):
    train = small["train"]
    with caplog.at_level(logging.INFO, logger="tokenstore.loader"):
        assert residencies.choose(train, "cpu") == "device"
        monkeypatch.setattr(residencies, "device_memory", lambda device: 4 * bytes_resident(train))
        assert residencies.choose(train, "cpu") == "stream"
        assert residencies.choose(train, None) == "stream"
    assert [record.message.rpartition(" ")[2] for record in caplog.records] == [
        "device",
        "stream",
        "stream",
    ]


def test_auto_keeps_a_remote_store_in_memory_while_it_fits(small, monkeypatch):
    remote = fsspec.filesystem("memory")
    for path in sorted(remote.find("/kept")):
        remote.rm(path)
    folder = small.url
    fsspec.filesystem("file").get(folder, folder + "-copy", recursive=True)
    remote.put(folder + "-copy", "/kept", recursive=True)
    train = open_store("memory://kept")["train"]
    assert residencies.choose(train, None) == "ram"
    monkeypatch.setattr(residencies, "memory_left", lambda: 3 * bytes_in_memory(train))
    assert residencies.choose(train, None) == "stream"
    local = small["train"].read(range(50)).ranks
    assert np.array_equal(RecordsInMemory(train).read(np.arange(50)).ranks, local)


def test_an_order_is_computed_a_little_first_and_then_more(small):
    asked = []

    class Watched(Shuffled):
        def at(self, epoch, positions):
            asked.append(len(positions))
            return super().at(epoch, positions)

    list(loader_of(small, residency="stream", sampler=Watched(50, 0)))
    assert asked == [8, 32, 16]


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@needs_gpu
@pytest.mark.parametrize("residency", ["stream", "ram", "device"])
def test_batches_on_a_gpu_are_those_of_the_reader(small, residency):
    loader = TokenLoader(small["train"], batch_size=8, device="cuda", residency=residency)
    for _ in range(3):
        for batch in loader:
            expected = small["train"].read(batch.index.cpu().numpy())
            assert batch.ranks.device.type == "cuda"
            assert batch.ranks.dtype == torch.int64
            assert np.array_equal(batch.ranks.cpu().numpy(), expected.ranks)
            assert np.array_equal(batch.labels.cpu().numpy(), expected.labels)


@needs_gpu
def test_ranks_are_read_into_pinned_memory():
    assert torch.from_numpy(place_for("cuda").buffer((2, 4, 4)).view(np.int16)).is_pinned()


@pytest.mark.parametrize("residency", ["stream", "ram", "device"])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_mixture_of_stores_is_loaded_from_everywhere(tmp_path, residency, on_error):
    parts = [
        write_toy_store(tmp_path / f"{seed}", ToyStore({"train": 20}, seed=seed))["train"]
        for seed in (1, 2)
    ]
    if on_error == "skip":
        damage(parts[1].store, 3)
    mixed = MixedSplit([open_store(part.store.url)["train"] for part in parts])
    loader = TokenLoader(
        mixed, batch_size=8, device="cpu", residency=residency, on_error=on_error, keys=True
    )
    seen = []
    for batch in loader:
        valid = batch.valid.numpy()
        rows = batch.index.numpy()[valid]
        expected = mixed.read(rows, keys=True)
        assert np.array_equal(batch.ranks.numpy()[valid], expected.ranks)
        assert np.array_equal(batch.labels.numpy()[valid], expected.labels)
        seen += rows.tolist()
    assert sorted(seen) == [i for i in range(40) if on_error == "raise" or i != 23]
    assert len(loader.skipped) == (on_error == "skip")
