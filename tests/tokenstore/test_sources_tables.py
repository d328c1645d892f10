"""Lists, metadata tables and parquet: columns, labels by name and number, splits, damage."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tests.toy_images import encoded, picture
from tests.toy_masks import write_file
from tokenstore.errors import SourceError
from tokenstore.sources import open_source
from tokenstore.sources.base import Listing, Source, SourceOptions

PHOTO = encoded(picture(0))


def photos(root: Path, *names: str) -> Path:
    for name in names:
        write_file(root / name, PHOTO)
    return root


def source_of(place: Path, **said: object) -> Source:
    return open_source(str(place), None, SourceOptions(**said))


def told(found: Listing) -> dict[str, list[tuple[str, int | None]]]:
    return {s: [(item.key, item.label) for item in items] for s, items in found.splits.items()}


def test_a_csv_names_paths_labels_splits_and_more(tmp_path: Path) -> None:
    photos(tmp_path, "x/1.jpg", "x/2.jpg", "3.jpg")
    text = (
        "path,label,split,by\nx/1.jpg,cat,train,Ada\nx/2.jpg,dog,train,\n3.jpg,cat,validation,Bo\n"
    )
    source = source_of(write_file(tmp_path / "all.csv", text.encode()))
    found = source.listing()
    assert source.kind == "image-list"
    assert told(found) == {"train": [("x/1", 0), ("x/2", 1)], "val": [("3", 0)]}
    assert found.classes == ("cat", "dog")
    assert json.loads(found.splits["train"][0].meta) == {"by": "Ada"}
    assert source.read(found.splits["val"][0]) == PHOTO


def test_json_lines_with_numbers_take_names_from_the_class_file(tmp_path: Path) -> None:
    photos(tmp_path, "1.jpg", "2.jpg")
    lines = b'{"file_name": "1.jpg", "label": 1}\n\n{"file_name": "2.jpg", "label": 0}\n'
    list_file = write_file(tmp_path / "a.jsonl", lines)
    assert source_of(list_file).listing().classes == ("0", "1")
    write_file(tmp_path / "classes.json", b'["no", "yes"]')
    found = source_of(list_file).listing()
    assert (told(found), found.classes) == ({"train": [("1", 1), ("2", 0)]}, ("no", "yes"))


def test_columns_may_be_named(tmp_path: Path) -> None:
    photos(tmp_path, "1.jpg")
    file = write_file(tmp_path / "a.tsv", b"where\twhat\n1.jpg\tcat\n")
    with pytest.raises(SourceError, match="--image-column"):
        source_of(file).listing()
    found = source_of(file, image_column="where", label_column="what").listing()
    assert (told(found), found.classes) == ({"train": [("1", 0)]}, ("cat",))
    with pytest.raises(SourceError, match="no column 'nothing'"):
        source_of(file, image_column="where", label_column="nothing").listing()


def test_paths_may_be_absolute_or_urls(tmp_path: Path) -> None:
    photos(tmp_path / "far", "1.jpg")
    import fsspec

    fsspec.filesystem("memory").pipe_file("/list-test/2.jpg", PHOTO)
    text = f"path\n{tmp_path}/far/1.jpg\nmemory://list-test/2.jpg\n"
    source = source_of(write_file(tmp_path / "lists/a.csv", text.encode()))
    first, second = source.listing().splits["train"]
    assert second.key == "list-test/2"
    assert source.read(first) == source.read(second) == PHOTO


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (b"path,label\n1.jpg\n", "another number of fields"),
        (b"path,label\n1.jpg,1\n2.jpg,\n", "have a label"),
        (b"path,label\n1.jpg,1\n2.jpg,cat\n", "partly numbers"),
        (b"path,split\n1.jpg,somewhere\n", "is no split"),
        (b"path\n", "names no image"),
        (b"\xff\xfe", "no UTF-8"),
    ],
)
def test_lists_that_contradict_themselves_are_refused(
    tmp_path: Path, text: bytes, wrong: str
) -> None:
    with pytest.raises(SourceError, match=wrong):
        source_of(write_file(tmp_path / "a.csv", text)).listing()


@pytest.mark.parametrize("text", [b"{", b"[1]", b'{"path": 3}', b'{"path": "a", "label": [1]}'])
def test_json_lines_that_are_none_are_refused(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(SourceError):
        source_of(write_file(tmp_path / "a.jsonl", text)).listing()


def test_a_table_beside_images_gives_labels_and_metadata(tmp_path: Path) -> None:
    photos(tmp_path, "train/1.jpg", "train/2.jpg", "train/extra.jpg", "test/3.jpg")
    rows = b"file_name,label,text\n1.jpg,cat,one\n2.jpg,dog,two\nmissing.jpg,dog,none\n"
    write_file(tmp_path / "train/metadata.csv", rows)
    write_file(tmp_path / "test/metadata.csv", b"file_name,label,text\n3.jpg,cat,three\n")
    source = source_of(tmp_path)
    found = source.listing()
    assert source.kind == "metadata-folder"
    assert told(found) == {"train": [("1", 0), ("2", 1)], "test": [("3", 0)]}
    assert json.loads(found.splits["test"][0].meta) == {"text": "three"}
    assert {reject.key: reject.reason for reject in found.rejects} == {
        "missing": "metadata.csv names it, but it is not there",
        "extra": "metadata.csv does not name it",
    }


def parquet_file(path: Path, columns: dict[str, object], names: list[str] | None = None) -> Path:
    table = pyarrow.table(columns)
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        notes = json.dumps({"info": {"features": features}}).encode()
        table = table.replace_schema_metadata({b"huggingface": notes})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path, row_group_size=2)
    return path


def test_hugging_faces_parquet_has_names_for_its_numbers(tmp_path: Path) -> None:
    images = [{"bytes": encoded(picture(i)), "path": f"im_{i}.png"} for i in range(5)]
    columns = {"image": images, "label": [1, 0, 1, 1, 0], "width": [40] * 5}
    parquet_file(tmp_path / "data/train-00000-of-00001.parquet", columns, ["no", "yes"])
    parquet_file(tmp_path / "data/validation-00000-of-00001.parquet", columns, ["no", "yes"])
    source = source_of(tmp_path)
    found = source.listing()
    assert source.kind == "parquet"
    assert told(found)["val"] == [("im_0", 1), ("im_1", 0), ("im_2", 1), ("im_3", 1), ("im_4", 0)]
    assert (found.classes, found.runs["train"]) == (("no", "yes"), (2, 2, 1))
    assert json.loads(found.splits["train"][0].meta) == {"width": 40}
    for item in reversed(found.splits["train"]):
        assert source.read(item) == encoded(picture(int(item.key[-1])))


def test_parquet_of_plain_bytes_takes_keys_from_rows_and_columns_by_name(tmp_path: Path) -> None:
    file = parquet_file(tmp_path / "a.parquet", {"picture": [PHOTO, PHOTO], "kind": ["b", "a"]})
    with pytest.raises(SourceError, match="--image-column"):
        source_of(file).listing()
    found = source_of(file, image_column="picture", label_column="kind").listing()
    assert told(found) == {"train": [("a/000000000", 1), ("a/000000001", 0)]}
    assert found.classes == ("a", "b")


def test_a_parquet_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    file = parquet_file(tmp_path / "a.parquet", {"image": [PHOTO]})
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(SourceError, match="no whole parquet"):
        source_of(file).listing()
