"""parquet: lists of any kind in, fixed-size lists out, and what is refused."""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import tokenstore
from tests.small_store import Small, write_small_store
from tokenstore.errors import SourceError
from tokenstore.interop.base import ImportRequest
from tokenstore.interop.exporting import export_store
from tokenstore.interop.importing import ImportOptions, import_store
from tokenstore.verify import verify_store

IDS = np.random.default_rng(0).integers(0, 40, (7, 4, 4))
FLAT = IDS.reshape(7, 16).tolist()
NESTED = IDS.tolist()


def save(file, columns, metadata=None, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(columns)
    if metadata:
        table = table.replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(table, file, **options)
    return file


def bring_in(place, store, **request):
    report = import_store("parquet", ImportRequest(place, **request), store, ImportOptions())
    return tokenstore.open(store), report


LISTS = {
    "list": pyarrow.array(FLAT, pyarrow.list_(pyarrow.int64())),
    "large list": pyarrow.array(FLAT, pyarrow.large_list(pyarrow.uint16())),
    "fixed": pyarrow.array(FLAT, pyarrow.list_(pyarrow.int32(), 16)),
    "nested": pyarrow.array(NESTED, pyarrow.list_(pyarrow.list_(pyarrow.int16()))),
    "nested fixed": pyarrow.array(NESTED, pyarrow.list_(pyarrow.list_(pyarrow.uint8(), 4), 4)),
}


@pytest.mark.parametrize("kind", LISTS)
def test_lists_of_any_kind_become_a_store(tmp_path, kind):
    file = save(
        tmp_path / "a.parquet",
        {"tokens": LISTS[kind], "label": list(range(7)), "key": [f"k{i}" for i in range(7)]},
        row_group_size=3,
    )
    store, _ = bring_in(file, tmp_path / "s")
    batch = store["train"].read(np.arange(7), keys=True)
    assert np.array_equal(store.ids(batch.ranks), IDS)
    assert batch.labels.tolist() == list(range(7))
    assert batch.keys == [f"k{i}" for i in range(7)]
    assert verify_store(tmp_path / "s") == []


def test_the_grid_stands_in_the_metadata_or_is_asked_for(tmp_path):
    file = save(tmp_path / "a.parquet", {"ids": FLAT}, {"grid": "[2, 8]"})
    assert bring_in(file, tmp_path / "s")[0].manifest.grid == (2, 8)
    assert bring_in(file, tmp_path / "t", grid=(8, 2))[0].manifest.grid == (8, 2)
    planes = np.reshape(IDS, (7, 4, 2, 2)).tolist()
    assert bring_in(save(tmp_path / "b.parquet", {"ids": planes}), tmp_path / "u")[
        0
    ].manifest.grid == (4, 2, 2)


@pytest.mark.parametrize("dictionary", [False, True])
def test_labels_may_be_class_names(tmp_path, dictionary):
    names = pyarrow.array([("pear", "fig")[i % 2] for i in range(7)])
    names = names.dictionary_encode() if dictionary else names
    store, _ = bring_in(save(tmp_path / "a.parquet", {"ids": FLAT, "label": names}), tmp_path / "s")
    assert store.manifest.classes == ("fig", "pear")
    assert store["train"].labels.tolist() == [1, 0, 1, 0, 1, 0, 1]


def test_other_columns_are_left_out_by_name(tmp_path):
    columns = {"ids": FLAT, "other": FLAT, "caption": ["x"] * 7, "meta": ['{"a": 1}'] * 7}
    store, report = bring_in(save(tmp_path / "a.parquet", columns), tmp_path / "s")
    assert report.notes == ["column 'caption' is left out", "column 'other' is left out"]
    assert store["train"].meta([3]) == [{"a": 1}]


def test_a_folder_of_files_is_read_in_order_and_its_splits_kept_apart(tmp_path):
    for name, rows in (("train-00001", slice(2, 4)), ("train-00000", slice(0, 2))):
        save(tmp_path / "in" / f"{name}-of-00002.parquet", {"ids": FLAT[rows]})
    save(tmp_path / "in" / "test" / "x.parquet", {"ids": FLAT[4:]})
    store, _ = bring_in(tmp_path / "in", tmp_path / "s")
    assert np.array_equal(store.ids(store["train"].read(np.arange(4)).ranks), IDS[:4])
    assert np.array_equal(store.ids(store["test"].read(np.arange(3)).ranks), IDS[4:])
    save(tmp_path / "in" / "more.parquet", {"ids": FLAT})
    with pytest.raises(SourceError, match="'more.parquet' belongs to none of them"):
        bring_in(tmp_path / "in", tmp_path / "t")


def test_an_export_is_what_pyarrow_reads(tmp_path):
    store = write_small_store(tmp_path / "s", Small(extras=False)).store
    export_store(store.url, "parquet", tmp_path / "out")
    table = pyarrow.parquet.read_table(tmp_path / "out" / "val.parquet")
    assert table.column_names == ["ids", "label", "key"]
    assert table.schema.field("ids").type == pyarrow.list_(
        pyarrow.field("element", pyarrow.uint16()), 12
    )
    assert json.loads(table.schema.metadata[b"grid"]) == [4, 3]
    ids = np.array(table["ids"].to_pylist()).reshape(-1, 4, 3)
    assert np.array_equal(ids, store.ids(store["val"].read(np.arange(5)).ranks))
    assert table["key"].to_pylist() == store["val"].keys(np.arange(5))


def changed(row, place, value):
    rows = [list(ids) for ids in FLAT]
    rows[row][place] = value
    return rows


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"ids": [*FLAT[:3], FLAT[3][:9], *FLAT[4:]]}, "row 3 has 9 ids, expected 16"),
        ({"ids": changed(2, 5, -7)}, r"row 2: id -7 at \[1, 1\]"),
        ({"ids": changed(2, 5, None)}, "row 2 has an id that is null"),
        ({"ids": [*FLAT[:6], None]}, "row 6 has no 'ids'"),
        ({"ids": FLAT, "key": ["a", *"bcdef", None]}, "row 6 has no 'key'"),
        ({"ids": FLAT, "key": list("abcdea")}, None),
        ({"ids": FLAT, "key": list("abcdefa")}, "key 'a' .* twice: .*row 0 and .*row 6"),
        ({"ids": FLAT, "label": [0.5] * 7}, "labels are double"),
        ({"ids": FLAT, "label": [0, 1, 2, -1, 0, 0, 0]}, "row 3: label -1"),
        ({"ids": FLAT, "meta": ["{}", "[]"] + ["{}"] * 5}, "row 1: 'meta' holds a list"),
        ({"ids": FLAT, "meta": ["{"] * 7}, "row 0: 'meta' is no JSON"),
        ({"ids": FLAT, "view": [0, 1, 2, 3, 4, 5, 70000]}, "views are no numbers"),
        ({"a": FLAT, "b": FLAT}, r"2 columns of lists of whole numbers \(a, b\)"),
        ({"a": [1.5] * 7}, r"0 columns of lists of whole numbers \(its columns: a\)"),
        ({"ids": [[0.5] * 16] * 7}, "0 columns of lists"),
        ({"ids": [[1] * 15] * 7}, "15 ids an image, which is no square"),
        ({"ids": pyarrow.array([], pyarrow.list_(pyarrow.int8()))}, "has no rows"),
    ],
)
def test_a_table_that_is_not_as_it_should_be_is_refused(tmp_path, columns, words):
    if words is None:
        with pytest.raises(pyarrow.ArrowInvalid):  # columns of other lengths are no table
            save(tmp_path / "a.parquet", columns)
        return
    file = save(tmp_path / "a.parquet", columns)
    with pytest.raises(SourceError, match=words) as refused:
        bring_in(file, tmp_path / "s")
    assert "a.parquet" in str(refused.value)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("grid", ["32", "[1]", "[0, 4]", "x", '["a", "b"]'])
def test_a_grid_in_the_metadata_that_is_none_is_refused(tmp_path, grid):
    file = save(tmp_path / "a.parquet", {"ids": FLAT}, {"grid": grid})
    with pytest.raises(SourceError, match=r"Say --grid HxW"):
        bring_in(file, tmp_path / "s")


def test_a_damaged_file_is_refused(tmp_path):
    file = save(tmp_path / "a.parquet", {"ids": FLAT * 100}, compression="zstd")
    whole = file.read_bytes()
    for content in (whole[:-20], whole[:40], b"", b"PAR1"):
        file.write_bytes(content)
        with pytest.raises(SourceError, match=r"a\.parquet'"):
            bring_in(file, tmp_path / "s")
    harmed = bytearray(whole)
    harmed[20:60] = bytes(40)
    file.write_bytes(harmed)
    with pytest.raises(SourceError, match=r"a\.parquet"):
        bring_in(file, tmp_path / "s")
