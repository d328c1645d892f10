"""Packing: which grids the codec is fitted on, and what the manifest adds up to."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.toy_images import write_corpus
from tests.toy_tokenizer import ToyTokenizer
from tokenstore.build import pack as packing
from tokenstore.build.pack import all_rejects, pack
from tokenstore.build.plan import BuildOptions, make_plan
from tokenstore.build.tokenize import PartReport, Workbench, read_part, tokenize_parts
from tokenstore.build.workers import decoding_pool
from tokenstore.codecs.zstd import Zstd
from tokenstore.errors import BuildError
from tokenstore.preprocess import Preprocess
from tokenstore.reader import open_store
from tokenstore.sources import open_source
from tokenstore.storage import open_storage

OPTIONS = BuildOptions(tokenizer="toy", part_size=4)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    """Ten images in train and three in val, parts of four."""
    source = open_source(str(write_corpus(tmp_path / "in", {"train": 10, "val": 3})))
    tokenizer = ToyTokenizer(Preprocess("center-crop", (32, 32)))
    plan = make_plan(source.kind, source.listing(), tokenizer, OPTIONS)
    with decoding_pool(2) as pool:
        yield Workbench(plan, source, tokenizer, open_storage(tmp_path / "parts"), pool)


@pytest.fixture
def finished(bench: Workbench) -> list[PartReport]:
    return list(tokenize_parts(bench.plan.parts(), bench))


@pytest.mark.parametrize(("wanted", "least", "most"), [(1, 3, 3), (6, 6, 9), (1000, 10, 10)])
def test_the_codec_is_fitted_on_an_even_sample_of_train(
    bench: Workbench,
    finished: list[PartReport],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wanted: int,
    least: int,
    most: int,
) -> None:
    seen = []
    monkeypatch.setattr(packing, "SAMPLE_IMAGES", wanted)
    monkeypatch.setattr(
        Zstd, "fit", classmethod(lambda cls, sample, spec, images: seen.append(sample) or cls(spec))
    )
    target = open_storage(tmp_path / "s")
    pack(bench.plan, finished, (bench.staging, target), bench.tokenizer.codebook)
    train = open_store(tmp_path / "s")["train"].read(range(10)).ranks
    assert least <= len(seen[0]) <= most
    places = [np.flatnonzero((train == grid).all((1, 2)))[0] for grid in seen[0]]
    assert places == sorted(places)
    assert {place // 4 for place in places} == {0, 1, 2}


def test_small_parts_still_give_a_large_sample(
    bench: Workbench, finished: list[PartReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "SAMPLE_PARTS", 1)
    monkeypatch.setattr(packing, "SAMPLE_IMAGES", 9)
    assert len(packing._sample(finished, bench.staging)) >= 9


def test_without_train_the_sample_comes_from_what_there_is(
    bench: Workbench, finished: list[PartReport]
) -> None:
    val = [report for report in finished if report.split == "val"]
    assert len(packing._sample(val, bench.staging)) == 3


def test_the_vocabulary_holds_the_ids_of_all_splits_in_the_order_of_train(
    bench: Workbench, finished: list[PartReport], tmp_path: Path
) -> None:
    target = open_storage(tmp_path / "s")
    pack(bench.plan, finished, (bench.staging, target), bench.tokenizer.codebook)
    contents = {report.name: read_part(report, bench.staging).ids for report in finished}
    train = np.concatenate([ids for name, ids in contents.items() if name.startswith("train")])
    ids, counts = np.unique(train, return_counts=True)
    vocabulary = open_store(tmp_path / "s").vocabulary
    assert set(vocabulary.ids.tolist()) == {int(i) for ids in contents.values() for i in ids.flat}
    expected = ids[np.lexsort((ids, -counts))]
    assert vocabulary.ids[: len(ids)].tolist() == expected.tolist()
    assert np.array_equal(vocabulary.codebook, bench.tokenizer.codebook[vocabulary.ids])


def test_rejects_of_the_listing_come_before_those_of_the_parts(
    bench: Workbench, finished: list[PartReport]
) -> None:
    report = finished[0]
    listed = ("train", "k", "k.png", "twice")
    broken = ("train", "b", "b.jpg", "no image")
    plan = replace(bench.plan, listing=replace(bench.plan.listing, rejects=(listed,)))
    assert all_rejects(plan, [replace(report, rejects=(broken,))]) == [listed, broken]


def test_nothing_left_is_an_error_and_writes_nothing(
    bench: Workbench, finished: list[PartReport], tmp_path: Path
) -> None:
    empty = [replace(report, count=0) for report in finished]
    target = open_storage(tmp_path / "s")
    with pytest.raises(BuildError, match="none of the 13 images"):
        pack(bench.plan, empty, (bench.staging, target), None)
    assert target.names() == []
