"""The law of the format (tokenstore/interop/base.py), over every plugin of tokenstore.interop.

A new format is tested by being there; what it cannot hold beside ids and labels is said below.
"""

from pathlib import Path

import numpy as np
import pytest

import tokenstore
from tests.small_store import Small, Written, write_small_store
from tokenstore import registry
from tokenstore.errors import SourceError, UnknownName, UsageError
from tokenstore.interop.base import ImportRequest
from tokenstore.interop.exporting import export_store
from tokenstore.interop.importing import ImportOptions, ImportReport, import_store
from tokenstore.verify import verify_store

LACKS = {"seit": {"key", "meta", "view"}, "npy": {"meta", "view"}, "webdataset": {"view"}}
KINDS = registry.names("tokenstore.interop")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return write_small_store(tmp_path / "first.tokenstore")


def bring_in(kind: str, place: Path, store: Path, **options: object) -> ImportReport:
    return import_store(kind, ImportRequest(place), store, ImportOptions(**options))


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_the_known_formats_are_found() -> None:
    assert {"seit", "npy", "webdataset", "parquet"} <= set(KINDS)


def test_what_goes_out_comes_back(kind: str, written: Written, tmp_path: Path) -> None:
    export_store(written.store.url, kind, tmp_path / "out")
    report = bring_in(kind, tmp_path / "out", tmp_path / "second")
    first, second = written.store, tokenstore.open(tmp_path / "second")
    assert report.is_new and verify_store(tmp_path / "second") == []
    assert list(second) == list(first)
    assert second.manifest.tokenizer == first.manifest.tokenizer
    assert second.manifest.preprocess == first.manifest.preprocess
    assert second.manifest.classes == first.manifest.classes
    assert second.manifest.grid == first.manifest.grid
    assert second.vocabulary_fingerprint == first.vocabulary_fingerprint
    assert np.array_equal(second.codebook, first.codebook)
    for name, split in first.items():
        back, everything = second[name], np.arange(len(split))
        there, here = split.read(everything, keys=True), back.read(everything, keys=True)
        assert np.array_equal(second.ids(here.ranks), first.ids(there.ranks))
        assert np.array_equal(here.labels, there.labels)
        lacks = LACKS.get(kind, set())
        assert set(back.columns) == set(split.columns) - lacks - {"mask"}
        assert "key" in lacks or here.keys == there.keys
        assert "meta" in lacks or back.meta(everything) == split.meta(everything)
        assert "view" in lacks or np.array_equal(back.views(everything), split.views(everything))


@pytest.mark.parametrize(
    "small",
    [
        Small(grid=(2, 3, 3), counts=(("train", 5),), extras=False),
        Small(classes=None, keys=False, extras=False),
        Small(counts=(("val", 3), ("extra", 4)), grid=(1, 9), extras=False),
    ],
    ids=["planes", "ids alone", "no train"],
)
def test_other_stores_come_back_too(kind: str, small: Small, tmp_path: Path) -> None:
    first = write_small_store(tmp_path / "first", small).store
    export_store(first.url, kind, tmp_path / "out")
    bring_in(kind, tmp_path / "out", tmp_path / "second", codec="gzip")
    second = tokenstore.open(tmp_path / "second")
    assert verify_store(tmp_path / "second") == []
    assert {name: len(split) for name, split in second.items()} == dict(small.counts)
    for name, split in first.items():
        ranks = split.read(np.arange(len(split))).ranks
        back = second[name].read(np.arange(len(split)))
        assert np.array_equal(second.ids(back.ranks), first.ids(ranks))
        assert (back.labels is None) == (small.classes is None)


def test_the_same_store_gives_the_same_bytes_and_back(
    kind: str, written: Written, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        export_store(written.store.url, kind, tmp_path / name)
        bring_in(kind, tmp_path / name, tmp_path / f"{name}.tokenstore")
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert files(tmp_path / "one.tokenstore") == files(tmp_path / "two.tokenstore")
    assert not (tmp_path / "one.tokenstore.building").exists()


def test_an_import_that_is_done_says_so(kind: str, written: Written, tmp_path: Path) -> None:
    export_store(written.store.url, kind, tmp_path / "out")
    first = bring_in(kind, tmp_path / "out", tmp_path / "s")
    again = bring_in(kind, tmp_path / "out", tmp_path / "s")
    assert (first.is_new, again.is_new) == (True, False)
    assert first.manifest == again.manifest


def test_a_card_without_a_tokenizer_makes_an_unknown_one(
    kind: str, written: Written, tmp_path: Path
) -> None:
    export_store(written.store.url, kind, tmp_path / "out")
    (tmp_path / "out" / "tokens.json").write_text(
        '{"grid": [4, 3], "splits": ["train", "val"]}', "utf-8"
    )
    bring_in(kind, tmp_path / "out", tmp_path / "s")
    manifest = tokenstore.open(tmp_path / "s").manifest
    assert manifest.tokenizer.name == "unknown"
    assert manifest.tokenizer.weights is not None  # the codebook tells it from others
    assert manifest.preprocess == {}


def test_a_folder_that_is_taken_is_left_alone(kind: str, written: Written, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"exists. Choose another -o"):
        export_store(written.store.url, kind, tmp_path / "out")
    assert files(tmp_path / "out") == {"mine.txt": b"mine"}


def test_a_failed_export_leaves_nothing(
    kind: str, written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(*_: object) -> None:
        raise OSError("no space left")

    before = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr("tokenstore.interop.card.TokenCard.write", break_off)
    with pytest.raises(OSError, match="no space left"):
        export_store(written.store.url, kind, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("there", [False, True], ids=["absent", "empty"])
def test_a_place_without_tokens_is_refused(kind: str, there: bool, tmp_path: Path) -> None:
    if there:
        (tmp_path / "nothing").mkdir()
    with pytest.raises(SourceError, match="nothing'"):
        bring_in(kind, tmp_path / "nothing", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_damaged_card_is_refused(kind: str, written: Written, tmp_path: Path) -> None:
    export_store(written.store.url, kind, tmp_path / "out")
    for text in ('{"grid": [4]}', '{"colour": 1}', "no json", '{"preprocess": {"rule": "squash"}}'):
        (tmp_path / "out" / "tokens.json").write_text(text, "utf-8")
        with pytest.raises(SourceError, match=r"tokens\.json"):
            bring_in(kind, tmp_path / "out", tmp_path / "s")


def test_a_name_that_is_no_format_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"unknown format 'hdf5'.*parquet, seit, webdataset"):
        bring_in("hdf5", tmp_path, tmp_path / "s")
