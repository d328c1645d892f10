"""Fetching ahead: the next window of shards comes while this one is used, and no more than that."""

import threading
import time

import fsspec
import numpy as np
import pytest

import tokenstore
from tests.small_store import Small, copy_in_memory, write_small_store
from tokenstore.errors import CorruptStore
from tokenstore.fetch_ahead import _two_windows, fetch_ahead
from tokenstore.loader import TokenLoader
from tokenstore.mixture import MixedSplit
from tokenstore.order import Shuffled
from tokenstore.sampling import Repeated, Subset
from tokenstore.shard_shuffle import ShardShuffle
from tokenstore.storage import RemoteStorage

SHARDS, EACH, WINDOW, BATCH = 12, 16, 2, 8
SMALL = Small(
    counts=(("train", SHARDS * EACH),), grid=(8, 8), shard=EACH, block=8, codecs=("gzip",)
)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_small_store(tmp_path_factory.mktemp("ahead") / "s", SMALL).store


@pytest.fixture
def remote(original):
    return copy_in_memory(original)


class Downloads:
    """A slow network that knows what came over it, and by which threads."""

    def __init__(self, download):
        self.download, self.seconds, self.seen = download, 0.0, []

    def __call__(self, storage, name, file):
        time.sleep(self.seconds)
        self.seen.append((name, threading.current_thread().name.partition("-fetch")[1]))
        self.download(storage, name, file)

    def shards(self, *, ahead=None):
        tars = [(n, bool(t)) for n, t in self.seen if n.endswith(".tar")]
        return [int(n[6:12]) for n, t in tars if ahead is None or t is ahead]


@pytest.fixture
def network(monkeypatch):
    downloads = Downloads(RemoteStorage.download)
    replaced = lambda storage, name, file: downloads(storage, name, file)  # noqa: E731
    monkeypatch.setattr(RemoteStorage, "download", replaced)
    return downloads


def order_of(seed=0):
    return ShardShuffle((EACH,) * SHARDS, seed, WINDOW)


def windows(epoch=0, order=None):
    return [sorted(some.tolist()) for some in (order or order_of()).windows(epoch)[1]]


# Of the next epoch's first window, what the last two of this one have not left in the cache.
NEXT_EPOCH_S = [shard for shard in windows(1)[0] if shard not in np.ravel(windows()[-2:])]


def opened(remote, folder, capacity=None):
    whole = tokenstore.open(remote)["train"]
    needed = _two_windows([whole], WINDOW)
    return tokenstore.open(remote, cache=folder, cache_bytes=capacity or needed)["train"]


def loader_of(train, order=None):
    order = order or order_of()
    options = {"residency": "stream", "prefetch_bytes": 0}  # readers are a batch ahead, no more
    return TokenLoader(train, batch_size=BATCH, sampler=order, **options)


def settled():
    """Wait until nobody fetches ahead any more."""
    deadline = time.monotonic() + 60
    while any(t.name == "tokenstore-fetch" for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_next_window_comes_while_this_one_is_used_and_no_further_one(remote, network, tmp_path):
    batches = iter(loader_of(opened(remote, tmp_path)))
    per_window = WINDOW * EACH // BATCH
    for number, batch in enumerate(batches):
        settled()
        window = number // per_window
        expected = [shard for some in windows()[: window + 2] for shard in some]
        if window == SHARDS // WINDOW - 1:
            expected += NEXT_EPOCH_S
        assert sorted(network.shards()) == sorted(expected)
        assert set(batch.index // EACH) <= set(windows()[window])


def test_in_a_cache_of_two_windows_each_shard_comes_once_an_epoch(remote, network, tmp_path):
    network.seconds = 0.002
    loader = loader_of(opened(remote, tmp_path))
    seen = np.concatenate([batch.index for batch in loader])
    assert sorted(seen.tolist()) == list(range(SHARDS * EACH))
    settled()
    tars = network.shards()
    assert sorted(tars[:SHARDS]) == list(range(SHARDS))
    assert tars[SHARDS:] == NEXT_EPOCH_S


def test_readers_of_a_later_window_do_not_wait_for_the_network(remote, network, tmp_path):
    loader = loader_of(opened(remote, tmp_path))
    for _ in loader:
        settled()  # a training step that is longer than the fetching of a window
    later = {shard for window in windows()[1:] for shard in window}
    assert later <= set(network.shards(ahead=True))
    assert not later & set(network.shards(ahead=False))


def test_a_cache_too_small_for_two_windows_says_so_and_fetches_nothing_ahead(
    remote, network, tmp_path, caplog
):
    needed = _two_windows([tokenstore.open(remote)["train"]], WINDOW)
    train = opened(remote, tmp_path, needed - 1)
    loader = loader_of(train)
    for _ in range(2):
        seen = np.concatenate([batch.index for batch in loader])
        assert sorted(seen.tolist()) == list(range(SHARDS * EACH))
    (told,) = [record.message for record in caplog.records]
    assert f"not fetched ahead: give cache_bytes={needed}" in told
    assert network.shards(ahead=True) == []


def test_a_loop_that_is_left_fetches_no_more_and_goes_on_later(remote, network, tmp_path):
    network.seconds = 0.05
    loader = loader_of(opened(remote, tmp_path))
    first = next(iter(loader)).index  # the iterator is dropped at once
    settled()
    count = len(network.seen)
    time.sleep(0.1)
    assert len(network.seen) == count
    network.seconds = 0
    rest = [batch.index for batch in loader]
    assert sorted(np.concatenate([first, *rest]).tolist()) == list(range(SHARDS * EACH))


def test_what_cannot_be_fetched_ahead_is_named_by_who_needs_it(remote, tmp_path, caplog):
    later = windows()[-1][0]
    memory = fsspec.filesystem("memory")
    memory.rm(f"{remote.removeprefix('memory:/')}/train-{later:06d}.tar")
    loader = loader_of(opened(remote, tmp_path))
    seen = []
    with pytest.raises(CorruptStore, match=f"train-{later:06d}.tar is missing"):
        seen.extend(batch.index for batch in loader)
    assert len(np.concatenate(seen)) >= SHARDS * EACH - 2 * WINDOW * EACH
    settled()
    assert any("cannot fetch ahead" in record.message for record in caplog.records)


def test_a_forked_process_fetches_by_threads_of_its_own(remote, network, tmp_path):
    ahead = fetch_ahead(opened(remote, tmp_path), order_of())
    ahead._process, ahead._running = -1, 4  # as if another process had been forked
    ahead._lock.acquire()
    ahead.near(0, 0)
    settled()
    assert sorted(network.shards()) == sorted(np.ravel(windows()[:2]))


def test_windows_are_found_inside_of_other_orders(remote, network, tmp_path):
    samples = np.arange(0, SHARDS * EACH, 2)
    inner = ShardShuffle((EACH // 2,) * SHARDS, 3, WINDOW)
    order = Repeated(Subset(samples, inner), 3)
    loader = loader_of(opened(remote, tmp_path), order)
    loader.set_epoch(1)  # its first third is the second third of the inner epoch 0
    position = SHARDS * EACH // 2 // 3 // (WINDOW * EACH // 2)
    next(iter(loader))
    settled()
    near = windows(0, inner)[position : position + 2]
    assert set(network.shards()) <= {shard for window in near for shard in window}


def test_only_windows_of_cached_shards_are_fetched_ahead(original, remote, tmp_path):
    cached = opened(remote, tmp_path / "a", 10**8)
    assert fetch_ahead(original["train"], order_of()) is None
    assert fetch_ahead(cached, Shuffled(len(cached), 0)) is None
    assert fetch_ahead(cached, ShardShuffle((len(cached),), 0)) is None, "not of these shards"
    assert fetch_ahead(cached, order_of()) is not None


def test_of_a_mixture_the_cached_stores_are_fetched(original, remote, network, tmp_path):
    mixed = MixedSplit([original["train"], opened(remote, tmp_path, 10**8)])
    loader = TokenLoader(mixed, batch_size=BATCH, shuffle="shards", residency="stream")
    assert sorted(i for batch in loader for i in batch.index) == list(range(2 * SHARDS * EACH))
    settled()
    assert sorted(network.shards()) == list(range(SHARDS))


def test_windows_tell_where_they_end_and_whose_samples_they_hold():
    order = ShardShuffle((3, 0, 4, 5, 2), seed=1, window=2)
    ends, shards = order.windows(2)
    assert ends.tolist()[-1] == len(order)
    owner = np.repeat(np.arange(5), order.counts)
    start = 0
    for end, some in zip(ends.tolist(), shards, strict=True):
        assert sorted(some) == sorted(set(owner[order.at(2, np.arange(start, end))].tolist()))
        start = end
