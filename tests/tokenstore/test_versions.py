"""Versions of a store: found by their hashes, opened by old readers, and only ever added to."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.small_store import Small, write_small_store
from tokenstore.errors import ManifestError, Mismatch
from tokenstore.manifest import Manifest, load_manifest, load_versions, publish
from tokenstore.reader import Store, open_store
from tokenstore.storage import open_storage
from tokenstore.verify import verify_store
from tokenstore.vocabulary import Vocabulary
from tokenstore.writer import write_vocabulary


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return write_small_store(tmp_path / "s").store


def next_version(store: Store, **changes: Any) -> Manifest:
    old = load_manifest(store.storage)
    numbers = {"version": old.version + 1, "parent": old.hash, "hash": None}
    return publish(store.storage, old.model_copy(update={**numbers, **changes}))


def test_versions_come_from_the_newest_to_the_first(store: Store) -> None:
    first = store.manifest
    second = next_version(store, plan="1" * 64)
    third = next_version(store, plan="2" * 64)
    assert list(load_versions(store.storage, third)) == [third, second, first]
    assert list(load_versions(store.storage, first)) == [first]
    assert verify_store(store.storage) == []


def test_a_missing_or_foreign_version_is_an_error(store: Store, tmp_path: Path) -> None:
    second = next_version(store)
    name = tmp_path / "s" / "manifests" / "000000.json"
    other = write_small_store(tmp_path / "o", Small(seed=9)).store
    shutil.copy(Path(other.url) / "manifest.json", name)
    with pytest.raises(ManifestError, match="it is of another store"):
        list(load_versions(store.storage, second))
    name.unlink()
    with pytest.raises(ManifestError, match=r"000000.json is missing"):
        list(load_versions(store.storage, second))


def test_a_pickled_reader_opens_its_own_version(store: Store, tmp_path: Path) -> None:
    pickled = pickle.dumps(store["train"])
    next_version(store)
    next_version(store)
    split = pickle.loads(pickled)
    assert split.store.manifest == store.manifest
    assert open_store(store.url).manifest.version == 2
    shutil.rmtree(tmp_path / "s")
    write_small_store(tmp_path / "s", Small(seed=3))
    with pytest.raises(Mismatch, match="has changed since it was pickled"):
        pickle.loads(pickled)


def regrown(store: Store, ids: list[int]) -> Any:
    old = store.vocabulary
    rows = None if old.codebook is None else old.codebook[: len(ids)]
    vocabulary = Vocabulary(np.array(ids, np.int32), old.counts, rows)
    return write_vocabulary(open_storage(store.url), vocabulary)


def test_verify_finds_what_a_version_took_away_or_moved(store: Store) -> None:
    ids = store.vocabulary.ids.tolist()
    swapped = [ids[1], ids[0], *ids[2:]]
    classes = store.manifest.classes or ()
    next_version(store, vocabulary=regrown(store, swapped), classes=(*classes[1:], classes[0]))
    findings = [f for f in verify_store(store.storage) if f.place == "manifests/000001.json"]
    assert {finding.what for finding in findings} == {"ids", "classes"}
    train = store.manifest.splits["train"]
    last = train.shards[-1]
    shorter = train.model_copy(
        update={"count": train.count - last.count, "shards": train.shards[:-1]}
    )
    next_version(store, splits={"train": shorter})
    findings = [f for f in verify_store(store.storage) if f.place == "manifests/000002.json"]
    whats = {finding.what for finding in findings}
    assert {"shards of 'train'", "shards of 'val'", "columns of 'val'"} <= whats
