"""What a run has to keep is counted in files, not estimated."""

import json
from pathlib import Path

import pytest

from seit_train.config import DataConfig
from seit_train.data import training_split
from seit_train.footprint import Footprint, footprint
from seit_train.launch import train
from seit_train.pictures import open_pictures
from tests.pictures import write_pictures
from tests.toy_store import ToyStore, write_toy_store

ALL, HALF = DataConfig(), DataConfig(fraction=0.5)


def bytes_of(folder, *, without):
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files if without not in path.name)


def test_a_store_counts_all_of_its_files_but_those_of_other_splits(store):
    expected = bytes_of(store.url, without="val")
    assert footprint(store["train"], ALL) == Footprint(48, expected)


def test_a_share_of_a_store_keeps_all_that_does_not_grow_with_it(store):
    growing = sum(path.stat().st_size for path in Path(store.url).glob("train*"))
    whole, half = footprint(store["train"], ALL), footprint(store["train"], HALF)
    assert half.images == 24
    assert whole.bytes - half.bytes == pytest.approx(growing / 2, abs=1)


def test_mixed_stores_add_up(store, tmp_path):
    other = write_toy_store(tmp_path / "b", ToyStore({"train": 16}, seed=1))
    data = DataConfig.model_validate({"mix": [{"store": other.url}]})
    found = footprint(training_split(store, data), data)
    one, two = (footprint(each["train"], ALL) for each in (store, other))
    assert found == Footprint(64, one.bytes + two.bytes)


def test_pictures_count_as_their_files(tmp_path):
    folder = write_pictures(tmp_path / "pictures", {"train": 8, "val": 4})
    split = open_pictures(str(folder)).splits["train"]
    assert footprint(split, ALL) == Footprint(8, bytes_of(folder / "train", without="-"))
    half = footprint(split, HALF)
    assert half.images == 4
    assert 0 < half.bytes < footprint(split, ALL).bytes


def test_a_run_tells_what_it_keeps(request_run, store):
    folder = train(request_run("toy", "data.fraction=0.5")).run.folder
    told = json.loads((folder / "footprint.json").read_text())
    assert Footprint(**told) == footprint(store["train"], HALF)
