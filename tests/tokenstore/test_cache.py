"""Remote stores through a bounded folder: whole files only, and only its own are ever deleted."""

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest
from filelock import FileLock

import tokenstore
from tests.http_folder import serve
from tests.small_store import Small, copy_in_memory, write_small_store
from tokenstore import retrying
from tokenstore.cache import MARKER, open_cache
from tokenstore.errors import CorruptStore, StoreError, UsageError
from tokenstore.loader import TokenLoader
from tokenstore.shard_shuffle import ShardShuffle
from tokenstore.storage import LocalStorage, RemoteStorage

SHARDS = 6
SMALL = Small(counts=(("train", SHARDS * 40),), grid=(8, 8), shard=40, block=8, extras=False)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A local store of six shards."""
    return write_small_store(tmp_path_factory.mktemp("origin") / "s", SMALL).store


@pytest.fixture
def remote(original):
    """A copy of it in fsspec's memory."""
    return copy_in_memory(original)


@pytest.fixture
def downloads(monkeypatch):
    """Names of the files that were downloaded."""
    names, download = [], RemoteStorage.download

    def counted(storage, name, file):
        names.append(name)
        download(storage, name, file)

    monkeypatch.setattr(RemoteStorage, "download", counted)
    return names


def largest(store):
    return max(file.bytes for file in store.manifest.files())


def held(folder):
    """Bytes of files in a cache."""
    return sum(path.stat().st_size for path in Path(folder).glob("*.file"))


def kept(folder, store):
    """Names in the store of what is in the cache."""
    hashes = {path.name.split(".")[0] for path in Path(folder).glob("*.file")}
    return {file.name for file in store.manifest.files() if file.sha256 in hashes}


def test_what_was_read_once_needs_no_network_again(original, remote, downloads, tmp_path):
    numbers = np.arange(SHARDS * 40)[::-1]
    expected = original["train"].read(numbers, keys=True)
    for _ in range(2):
        store = tokenstore.open(remote, cache=tmp_path / "cache")
        batch = store["train"].read(numbers, keys=True)
        assert np.array_equal(batch.ranks, expected.ranks)
        assert np.array_equal(batch.labels, expected.labels)
        assert batch.keys == expected.keys
    assert len(downloads) == len(set(downloads))
    assert {f"train-{i:06d}.tar" for i in range(SHARDS)} <= set(downloads)


def test_only_shards_that_are_touched_are_fetched(remote, downloads, tmp_path):
    tokenstore.open(remote, cache=tmp_path / "cache")["train"][41]
    assert {name for name in downloads if name.startswith("train")} == {
        "train-000001.tar",
        "train-000001.index",
    }


def test_the_cache_holds_no_more_than_it_may(original, remote, tmp_path):
    capacity = int(2.5 * largest(original))
    train = tokenstore.open(remote, cache=tmp_path / "c", cache_bytes=capacity)["train"]
    rng = np.random.default_rng(0)
    for _ in range(20):
        numbers = rng.integers(0, SHARDS * 40, 10)
        assert np.array_equal(train.read(numbers).ranks, original["train"].read(numbers).ranks)
        assert held(tmp_path / "c") <= capacity


def test_what_was_used_longest_ago_makes_room(original, remote, tmp_path):
    sizes = [s.shard.bytes + s.index.bytes for s in original["train"].entry.shards]
    others = sum(file.bytes for file in original.manifest.files()) - sum(sizes)
    capacity = others + 3 * max(sizes)
    store = tokenstore.open(remote, cache=tmp_path / "c", cache_bytes=capacity)
    for sample in (0, 40, 80, 0, 120):  # shards 0 1 2 0 3
        store["train"].read([sample])
    shards = {name for name in kept(tmp_path / "c", store) if name.endswith(".tar")}
    assert shards == {"train-000000.tar", "train-000002.tar", "train-000003.tar"}


def test_a_cache_smaller_than_a_shard_is_refused(original, remote, tmp_path):
    size = largest(original)
    with pytest.raises(UsageError, match=rf"alone has {size:,} bytes"):
        tokenstore.open(remote, cache=tmp_path / "c", cache_bytes=size - 1)
    tokenstore.open(remote, cache=tmp_path / "c", cache_bytes=size)["train"].read([5])
    with pytest.raises(UsageError, match="at least one byte"):
        tokenstore.open(remote, cache=tmp_path / "c", cache_bytes=0)


def test_a_folder_with_other_files_is_refused_and_left_alone(remote, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match=r"holds 'thesis.tex'.*folder of its own"):
        tokenstore.open(remote, cache=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_files_that_only_look_like_a_cache_s_are_refused(remote, tmp_path):
    (tmp_path / f"{'0' * 64}.file").write_text("no marker beside it")
    with pytest.raises(StoreError, match="which no cache of tokenstore has put there"):
        tokenstore.open(remote, cache=tmp_path)


def test_a_stray_file_in_a_cache_is_refused_and_never_deleted(original, remote, tmp_path):
    store = tokenstore.open(remote, cache=tmp_path, cache_bytes=largest(original))
    (tmp_path / "notes.txt").write_text("mine")
    for sample in range(0, SHARDS * 40, 40):  # evicts again and again
        store["train"].read([sample])
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(StoreError, match="holds 'notes.txt'"):
        tokenstore.open(remote, cache=tmp_path)


def test_a_cache_of_another_version_is_refused(remote, tmp_path):
    (tmp_path / MARKER).write_text('{"tokenstore-cache":1}\n')
    with pytest.raises(StoreError, match="another version"):
        tokenstore.open(remote, cache=tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(remote, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be used: .*name another folder"):
        tokenstore.open(remote, cache=tmp_path / "file" / "cache")


def test_a_full_disk_is_named_and_leaves_nothing(remote, tmp_path, monkeypatch):
    def full(storage, name, file):
        file.write_bytes(b"some of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    train = tokenstore.open(remote, cache=tmp_path)["train"]
    monkeypatch.setattr(RemoteStorage, "download", full)
    with pytest.raises(StoreError, match=r"No space left on device. Free some space"):
        train.read([0])
    assert list(tmp_path.glob("*.partial")) == []


def test_a_folder_that_cannot_be_written_any_more_is_named(remote, tmp_path, monkeypatch):
    train = tokenstore.open(remote, cache=tmp_path)["train"]
    loader = TokenLoader(train, batch_size=16, residency="stream", prefetch_bytes=0)

    def refused(lock, **_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    words = rf"'{tmp_path}' cannot be used: Permission denied. Make it writable"
    with monkeypatch.context() as patched, pytest.raises(StoreError, match=words):
        patched.setattr(FileLock, "acquire", refused)
        list(loader)
    assert sum(int(batch.valid.sum()) for batch in loader) == SHARDS * 40


def test_bytes_that_are_not_the_manifest_s_are_refused_and_not_kept(remote, tmp_path):
    memory, name = fsspec.filesystem("memory"), f"{remote[len('memory://') :]}/train-000002.tar"
    content = bytearray(memory.cat_file(f"/{name}"))
    content[600] ^= 1
    memory.pipe_file(f"/{name}", bytes(content))
    train = tokenstore.open(remote, cache=tmp_path)["train"]
    with pytest.raises(CorruptStore, match=r"train-000002.tar came with .* the manifest says"):
        train.read([80])
    assert "train-000002.tar" not in kept(tmp_path, train.store)
    assert list(tmp_path.glob("*.partial")) == []
    assert train.read([0]).ranks.shape == (1, 8, 8)


def test_a_missing_shard_is_named(remote, tmp_path):
    RemoteStorage(remote).remove("train-000003.tar")
    with pytest.raises(CorruptStore, match=r"train-000003.tar is missing"):
        tokenstore.open(remote, cache=tmp_path)["train"].read([120])


def test_a_cached_file_that_was_cut_is_fetched_anew(original, remote, tmp_path):
    store = tokenstore.open(remote, cache=tmp_path)
    store["train"].read([0])
    file = original["train"].entry.shards[0].shard
    os.truncate(tmp_path / f"{file.sha256}.file", 10)
    expected = original["train"].read([1]).ranks
    assert np.array_equal(store["train"].read([1]).ranks, expected)


def test_leftovers_are_deleted_but_not_files_on_their_way(remote, tmp_path):
    tokenstore.open(remote, cache=tmp_path)
    dead, alive = (tmp_path / f"{digit * 64}.7.partial" for digit in "0a")
    dead.write_bytes(b"half")
    alive.write_bytes(b"half")
    with FileLock(tmp_path / f"{'a' * 64}.lock"):
        tokenstore.open(remote, cache=tmp_path)
        assert (dead.exists(), alive.exists()) == (False, True)


def test_a_leftover_of_the_very_file_is_no_hindrance(original, remote, tmp_path):
    file = max(original.manifest.files(), key=lambda file: file.bytes)
    store = tokenstore.open(remote, cache=tmp_path, cache_bytes=file.bytes)
    (tmp_path / f"{file.sha256}.{file.bytes}.partial").write_bytes(b"half")
    assert len(store.storage.read(file.name)) == file.bytes


def test_a_file_waits_for_room_that_another_is_taking(original, remote, tmp_path):
    store = tokenstore.open(remote, cache=tmp_path, cache_bytes=largest(original))
    taken = tmp_path / f"{'b' * 64}.{largest(original)}.partial"
    with ThreadPoolExecutor(1) as pool:
        with FileLock(tmp_path / f"{'b' * 64}.lock"):
            taken.touch()
            reading = pool.submit(store["train"].read, [0])
            time.sleep(0.2)
            assert not reading.done()
        assert reading.result(timeout=20).ranks.shape == (1, 8, 8)
    assert not taken.exists()


def test_threads_share_a_cache_that_holds_one_file(original, remote, tmp_path):
    store = tokenstore.open(remote, cache=tmp_path, cache_bytes=largest(original))
    expected = original["train"].read(np.arange(SHARDS * 40)).ranks

    def check(seed):
        rng = np.random.default_rng(seed)
        for _ in range(5):
            numbers = rng.integers(0, SHARDS * 40, 6)
            assert np.array_equal(store["train"].read(numbers).ranks, expected[numbers])

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(check, range(3)))
    assert held(tmp_path) <= largest(original)


def test_a_folder_in_which_another_process_is_making_the_cache_is_no_foreign_one(
    monkeypatch, tmp_path
):
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("os.getpid", lambda: 4711)
        making = LocalStorage(str(tmp_path)).writing(MARKER)
        making.__enter__()
    assert [path.name.split("~")[2] for path in tmp_path.iterdir()] == ["4711"]
    assert open_cache(tmp_path, 10).capacity == 10
    making.__exit__(InterruptedError, InterruptedError(), None)  # the other one is stopped
    assert [path.name for path in tmp_path.iterdir()] == [MARKER]


def test_a_store_pickles_with_its_cache(remote, downloads, tmp_path):
    store = tokenstore.open(remote, cache=tmp_path, cache_bytes=10**7)
    store["train"].read([0])
    before = len(downloads)
    copy = pickle.loads(pickle.dumps(store["train"]))
    assert copy.store.cache == store.cache == open_cache(tmp_path, 10**7)
    copy.read([1])
    assert len(downloads) == before


def test_a_local_store_can_be_cached_too(original, tmp_path):
    store = tokenstore.open(original.url, cache=tmp_path)
    assert np.array_equal(store["train"].read([7]).ranks, original["train"].read([7]).ranks)
    assert "train-000000.tar" in kept(tmp_path, store)


def test_a_shuffle_by_shards_fetches_each_shard_once_an_epoch(
    original, remote, tmp_path, downloads
):
    pair = 2 * max(s.shard.bytes + s.index.bytes for s in original["train"].entry.shards)
    others = sum(f.bytes for f in original.manifest.files() if not f.name.startswith("train"))
    store = tokenstore.open(remote, cache=tmp_path, cache_bytes=others + 2 * pair)
    order = ShardShuffle((40,) * SHARDS, seed=0, window=2)
    loader = TokenLoader(store["train"], batch_size=16, sampler=order)
    seen = np.concatenate([batch.index for batch in loader])
    assert sorted(seen.tolist()) == list(range(SHARDS * 40))
    tars = [name for name in downloads if name.endswith(".tar")]
    assert len(tars) == len(set(tars)) == SHARDS


@pytest.fixture
def http(original, tmp_path, monkeypatch):
    """The store behind http."""
    pytest.importorskip("aiohttp", reason="fsspec reads http with aiohttp, which is not installed")
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    shutil.copytree(original.url, tmp_path / "served")
    with serve(tmp_path / "served") as place:
        yield place


def test_a_store_streams_over_http_with_and_without_a_cache(original, http, tmp_path):
    numbers = [3, 200, 41]
    expected = original["train"].read(numbers).ranks
    assert np.array_equal(tokenstore.open(http.url)["train"].read(numbers).ranks, expected)
    assert not any(name.endswith(".tar") for name in http.gets)
    assert "train-000005.tar" in http.ranges
    for _ in range(2):
        store = tokenstore.open(http.url, cache=tmp_path / "cache")
        assert np.array_equal(store["train"].read(numbers).ranks, expected)
    assert sorted(name for name in http.gets if name.endswith(".tar")) == [
        "train-000000.tar",
        "train-000001.tar",
        "train-000005.tar",
    ]


def test_a_server_in_trouble_is_tried_again_and_named(http, tmp_path, monkeypatch):
    monkeypatch.setattr(retrying.time, "sleep", lambda seconds: None)
    store = tokenstore.open(http.url, cache=tmp_path / "cache")
    http.status = 503
    with pytest.raises(StoreError, match=r"failed 6 times .*503.*train-000000\.\w+.*run the same"):
        store["train"].read([0])


READ_ALL = """
import sys, numpy as np, tokenstore
train = tokenstore.open(sys.argv[1], cache=sys.argv[2])["train"]
print(int(train.read(np.arange(len(train))).ranks.sum()))
"""


def reading(http, folder):
    command = [sys.executable, "-c", READ_ALL, http.url, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_that_share_a_cache_fetch_each_file_once(original, http, tmp_path):
    http.chunk_seconds = 0.002  # long enough for both to want the same file
    both = [reading(http, tmp_path / "cache") for _ in range(2)]
    printed = [process.communicate(timeout=100) for process in both]
    expected = int(original["train"].read(np.arange(SHARDS * 40)).ranks.sum())
    for out, err in printed:
        assert out.strip() == str(expected), err
    listed = [name for name in http.gets if name != "manifest.json"]
    assert len(listed) == len(set(listed))


@pytest.mark.kill
@pytest.mark.parametrize("after", [1, 5, 8])
def test_a_process_can_be_killed_while_it_fetches(original, http, tmp_path, after):
    http.chunk_seconds = 0.05
    process = reading(http, tmp_path / "cache")
    deadline = time.monotonic() + 60
    while len(http.gets) < after and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    http.chunk_seconds = 0
    after_kill = reading(http, tmp_path / "cache")
    expected = int(original["train"].read(np.arange(SHARDS * 40)).ranks.sum())
    out, err = after_kill.communicate(timeout=100)
    assert out.strip() == str(expected), err
    assert list((tmp_path / "cache").glob("*.partial")) == []
