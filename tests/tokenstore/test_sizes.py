"""The account of a store's bytes adds up to the files on the disk."""

from pathlib import Path

import numpy as np
import pytest

from tests.toy_store import ToyStore, write_toy_store
from tokenstore.sizes import measure


def test_the_parts_of_every_split_add_up_to_its_files(tmp_path: Path) -> None:
    store = write_toy_store(tmp_path / "s")
    sizes = measure(store.storage, store.manifest)
    assert sizes.splits.keys() == {"train", "val"}
    for name, split in sizes.splits.items():
        files = [p for p in (tmp_path / "s").iterdir() if p.name.startswith(name)]
        assert split.total == sum(path.stat().st_size for path in files)
        assert min(split.records, split.framing, split.index, split.keys) > 0
        assert split.an_image(split.total) == split.total / len(store[name])


def test_entropy_is_that_of_the_counts_times_the_tokens_of_a_grid(tmp_path: Path) -> None:
    store = write_toy_store(tmp_path / "s", ToyStore(codes=16, side=4))
    counts = store.vocabulary.counts / store.vocabulary.counts.sum()
    bits = -(counts * np.log2(counts)).sum()
    assert measure(store.storage, store.manifest).entropy == pytest.approx(bits * 16 / 8)


def test_an_empty_split_has_no_bytes_an_image(tmp_path: Path) -> None:
    store = write_toy_store(tmp_path / "s", ToyStore(counts={"train": 8, "val": 0}))
    split = measure(store.storage, store.manifest).splits["val"]
    assert (split.total, split.an_image(split.total)) == (0, 0.0)


def test_the_vocabulary_and_tables_are_counted_once(tmp_path: Path) -> None:
    store = write_toy_store(tmp_path / "s")
    sizes = measure(store.storage, store.manifest)
    listed = {file.name: file.bytes for file in store.manifest.files()}
    shared = sum(size for name, size in listed.items() if name.startswith(("vocab", "tables")))
    assert sizes.vocabulary + sizes.tables == shared
