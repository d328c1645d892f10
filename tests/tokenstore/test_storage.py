"""Files of a store on a disk and behind a URL: whole or absent, and never replaced by accident."""

import errno
import os
import uuid
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore import storage as module
from tokenstore.errors import CorruptStore, StoreError
from tokenstore.storage import RemoteStorage, open_storage


@pytest.fixture(params=["local", "memory"])
def storage(request, tmp_path):
    if request.param == "memory":
        return open_storage(f"memory://{uuid.uuid4()}/store")
    return open_storage(tmp_path / "store")


def test_an_untouched_place_holds_nothing(storage):
    assert storage.names() == []
    assert not storage.exists("a")
    with pytest.raises(FileNotFoundError):
        storage.read("a")
    with pytest.raises(FileNotFoundError):
        storage.size("a")


def test_what_is_created_is_there_and_can_be_replaced(storage):
    storage.create("b/c.bin", b"one")
    storage.create("a", b"")
    storage.create("b/c.bin", b"three")
    assert storage.names() == ["a", "b/c.bin"]
    assert storage.read("b/c.bin") == b"three"
    assert (storage.size("a"), storage.size("b/c.bin")) == (0, 5)
    assert storage.exists("a")
    storage.remove("a")
    assert storage.names() == ["b/c.bin"]


def test_a_new_file_does_not_replace_one(storage):
    storage.create_new("manifests/000000.json", b"first")
    with pytest.raises(FileExistsError):
        storage.create_new("manifests/000000.json", b"second")
    assert storage.read("manifests/000000.json") == b"first"
    assert storage.names() == ["manifests/000000.json"]


def test_a_new_file_needs_no_hard_links(tmp_path, monkeypatch):
    def refused(source, target):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refused)
    storage = open_storage(tmp_path)
    storage.create_new("a", b"first")
    with pytest.raises(FileExistsError):
        storage.create_new("a", b"second")
    assert (storage.names(), storage.read("a")) == (["a"], b"first")


def test_a_streamed_file_appears_at_a_clean_exit_only(storage):
    with storage.writing("a") as file:
        file.write(b"12")
        assert not storage.exists("a")
        file.write(b"34")
    assert storage.read("a") == b"1234"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(storage):
    storage.create("a", b"old")
    with pytest.raises(RuntimeError), storage.writing("a") as file:
        file.write(b"half of the new")
        raise RuntimeError
    assert storage.read("a") == b"old"
    assert storage.names() == ["a"]


def test_ranges_are_fetched_in_the_order_asked(storage):
    storage.create("a", bytes(range(100)))
    starts, ends = np.array([50, 0, 7]), np.array([53, 1, 7])
    fetched = storage.fetch("a", starts, ends)
    parts = [
        fetched.content[s:e].tolist() for s, e in zip(fetched.starts, fetched.ends, strict=True)
    ]
    assert parts == [[50, 51, 52], [0], []]


@settings(deadline=None, max_examples=60)
@given(
    drawn=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 60)), max_size=12),
    gap=st.integers(0, 50),
)
def test_neighbours_are_fetched_together_and_told_apart(drawn, gap):
    content = np.random.default_rng(0).integers(0, 256, 460).astype(np.uint8)
    storage = open_storage(f"memory://{uuid.uuid4()}")
    storage.create("a", content.tobytes())
    starts = np.array([start for start, _ in drawn], np.int64)
    ends = starts + np.array([length for _, length in drawn], np.int64)
    with mock.patch.object(module, "GAP", gap):
        fetched = storage.fetch("a", starts, ends)
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        part = fetched.content[fetched.starts[i] : fetched.ends[i]]
        assert part.tolist() == content[start:end].tolist()


def test_a_run_of_neighbours_is_one_request(monkeypatch):
    storage = open_storage(f"memory://{uuid.uuid4()}")
    storage.create("a", bytes(100_000))
    asked = []
    fetch = storage._fs.cat_ranges
    monkeypatch.setattr(
        storage._fs,
        "cat_ranges",
        lambda paths, *rest, **more: asked.append(len(paths)) or fetch(paths, *rest, **more),
    )
    starts = np.arange(0, 1000, 10)
    storage.fetch("a", starts, starts + 10)
    storage.fetch("a", np.array([90_000, 5]), np.array([90_001, 9]))
    assert asked == [1, 2]


def test_a_range_beyond_the_end_is_refused(storage):
    storage.create("a", b"123")
    with pytest.raises(CorruptStore, match="a ends before byte 4"):
        storage.fetch("a", np.array([0, 1]), np.array([1, 4]))


def test_an_empty_file_can_be_fetched_from(storage):
    storage.create("a", b"")
    assert len(storage.fetch("a", np.array([0]), np.array([0])).content) == 0


def test_a_file_written_again_is_fetched_anew(storage):
    storage.create("a", b"old")
    storage.fetch("a", np.array([0]), np.array([3]))
    storage.create("a", b"newer")
    fetched = storage.fetch("a", np.array([0]), np.array([5]))
    assert fetched.content[fetched.starts[0] : fetched.ends[0]].tobytes() == b"newer"


def test_leftovers_of_killed_writers_are_swept_away(tmp_path):
    storage = open_storage(tmp_path)
    storage.create("b/whole", b"1")
    (tmp_path / "b" / ".torn.4711.partial").write_bytes(b"2")
    storage.sweep()
    assert storage.names() == ["b/whole"]


def test_a_local_file_url_is_a_folder(tmp_path):
    open_storage(f"file://{tmp_path}").create("a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1"


def test_an_unknown_protocol_is_a_clear_error():
    with pytest.raises(StoreError, match="cannot open 'nosuch://bucket'"):
        open_storage("nosuch://bucket")


def test_many_mapped_files_do_not_exhaust_the_descriptors(tmp_path):
    storage = open_storage(tmp_path)
    for i in range(600):
        (tmp_path / f"{i}").write_bytes(b"%d" % i)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for i in range(600):
        storage.fetch(f"{i}", np.array([0]), np.array([1]))
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 520


def test_a_file_is_taken_from_another_storage_and_never_replaces_one(storage, tmp_path):
    other = open_storage(tmp_path / "other")
    for _ in range(2):
        other.create("a/b", b"new")
        if not storage.exists("a/b"):
            storage.take(other, "a/b")
            assert not other.exists("a/b")
    with pytest.raises(FileExistsError):
        storage.take(other, "a/b")
    assert (storage.names(), storage.read("a/b"), other.names()) == (["a/b"], b"new", ["a/b"])


def test_taking_needs_no_hard_links(tmp_path, monkeypatch):
    def refused(source, target):
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", refused)
    here, other = open_storage(tmp_path / "here"), open_storage(tmp_path / "other")
    other.create("a", b"new")
    here.take(other, "a")
    assert (here.names(), here.read("a"), other.names()) == (["a"], b"new", [])


def test_a_full_disk_leaves_no_part_of_a_new_file(tmp_path, monkeypatch):
    def full(file, content):
        file.write(content[:1])
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(module, "write_through", full)
    storage = open_storage(tmp_path)
    with pytest.raises(OSError, match="full"):
        storage.create_new("a", b"first")
    assert storage.names() == []


def test_a_part_of_a_file_is_its_bytes_and_must_lie_in_it(storage):
    storage.create("a", b"abcdef")
    assert storage.part("a", 2, 5) == b"cde"
    assert storage.part("a", 0, 6) == b"abcdef"
    with pytest.raises(CorruptStore, match="ends before byte 7"):
        storage.part("a", 2, 7)


def test_a_file_system_that_is_not_installed_is_named_with_the_cure(monkeypatch):
    def missing(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(StoreError, match=r"Install s3fs .*tokenstore\[remote\]"):
        RemoteStorage("s3://bucket/store")
