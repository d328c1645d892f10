"""The manifest: canonical bytes, and everything a reader refuses."""

import hashlib
import json
import uuid

import pytest

from tests.small_store import Small, write_small_store
from tokenstore.entries import KINDS, Column, ShardEntry, columns_for, label_dtype
from tokenstore.errors import FormatTooNew, ManifestError, NotAStore, PublishRace, StoreError
from tokenstore.manifest import (
    FORMAT,
    counted_splits,
    dump_manifest,
    load_manifest,
    parse_manifest,
    publish,
)
from tokenstore.storage import open_storage


@pytest.fixture(scope="module")
def manifest():
    return write_small_store(f"memory://{uuid.uuid4()}").store.manifest


def edited(manifest, change):
    """The bytes of a manifest whose JSON was changed, with a right hash and canonical form."""
    raw = json.loads(dump_manifest(manifest))
    del raw["hash"]
    change(raw)
    text = json.dumps(raw, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'{text[:-1]},"hash":"{digest}"}}\n'.encode()


def test_the_file_is_canonical_json_and_ends_with_its_own_hash(manifest):
    content = dump_manifest(manifest)
    assert content.endswith(f',"hash":"{manifest.hash}"}}\n'.encode())
    assert content == edited(manifest, lambda raw: None)
    assert parse_manifest(content, "here") == manifest


def test_what_goes_beyond_plain_grids_is_required(manifest):
    assert manifest.requires == ("key", "label", "mask", "meta", "view")
    plain = Small(grid=(2, 2, 2), classes=None, keys=False, extras=False)
    written = write_small_store(f"memory://{uuid.uuid4()}", plain).store.manifest
    assert written.requires == ("channels",)


def test_every_flipped_bit_is_refused(manifest):
    content = dump_manifest(manifest)
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((ManifestError, FormatTooNew)):
            parse_manifest(bytes(damaged), "here")


def test_every_cut_is_refused(manifest):
    content = dump_manifest(manifest)
    for end in range(len(content)):
        with pytest.raises(ManifestError, match="here"):
            parse_manifest(content[:end], "here")


@pytest.mark.parametrize("number", [FORMAT + 1, 7, 10**30])
def test_a_newer_format_is_named_with_both_numbers(manifest, number):
    content = edited(manifest, lambda raw: raw.update(format=number, novelty={"x": 1}))
    with pytest.raises(FormatTooNew, match=f"format {number}, .* reads format {FORMAT}"):
        parse_manifest(content, "here")


def test_an_unknown_requirement_is_named(manifest):
    content = edited(manifest, lambda raw: raw["requires"].append("depth"))
    with pytest.raises(FormatTooNew, match="requires depth"):
        parse_manifest(content, "here")


def _set(path, value):
    def change(raw):
        *parents, last = path
        for step in parents:
            raw = raw[step]
        raw[last] = value

    return change


TRAIN = ("splits", "train")
WRONG = {
    "no format": lambda raw: raw.pop("format"),
    "a format that is true": _set(["format"], False),
    "a negative format": _set(["format"], -1),
    "a member that is missing": lambda raw: raw.pop("source"),
    "a member that is unknown": _set(["colour"], 1),
    "a count that is text": _set([*TRAIN, "count"], "23"),
    "a count that is a fraction": _set([*TRAIN, "count"], 23.0),
    "a count that does not sum up": _set([*TRAIN, "count"], 24),
    "a negative count": _set([*TRAIN, "source_bytes"], -1),
    "a shard without samples": _set([*TRAIN, "shards", 0, "count"], 0),
    "tables out of range": _set([*TRAIN, "shards", 0, "tables"], 2),
    "a hash in capitals": _set(["source", "listing"], "A" * 64),
    "a path out of the store": _set([*TRAIN, "shards", 0, "shard", "name"], "../../etc/passwd"),
    "an absolute path": _set(["vocabulary", "file", "name"], "/etc/passwd"),
    "a hidden file": _set(["vocabulary", "file", "name"], ".vocabulary"),
    "a backslash": _set(["vocabulary", "file", "name"], "a\\b"),
    "a name with a line end": _set(["vocabulary", "file", "name"], "a\n"),
    "a split named as a path": lambda raw: raw["splits"].update({"a/b": raw["splits"]["val"]}),
    "a file listed twice": _set([*TRAIN, "shards", 0, "shard", "name"], "train-000000.index"),
    "a grid of one side": _set(["grid"], [4]),
    "a grid without width": _set(["grid"], [4, 0]),
    "a vocabulary of none": _set(["vocabulary", "size"], 0),
    "tables for more ranks than there are": _set(["table_sets", 0, "vocabulary_size"], 65536),
    "a version without a parent": _set(["version"], 1),
    "a parent of the first version": _set(["parent"], "0" * 64),
    "labels without classes": _set(["classes"], None),
    "columns that do not begin with ranks": lambda raw: raw["splits"]["train"]["columns"].reverse(),
    "a column twice": lambda raw: raw["splits"]["train"]["columns"].append(
        raw["splits"]["train"]["columns"][1]
    ),
    "a column of the wrong kind": _set([*TRAIN, "columns", 1, "kind"], "packed"),
    "a fixed column without a type": _set([*TRAIN, "columns", 1, "dtype"], None),
    "a type for a packed column": _set([*TRAIN, "columns", 2, "dtype"], "<u1"),
    "a requirement that is not needed": _set(
        ["requires"], ["channels", "key", "label", "mask", "meta", "view"]
    ),
    "a requirement that is not listed": _set(["requires"], []),
    "an entropy that is no number": _set(["vocabulary", "entropy"], "NaN"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_manifest_is_refused_that_has(manifest, name):
    with pytest.raises(ManifestError, match="here"):
        parse_manifest(edited(manifest, WRONG[name]), "here")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"format":%d}' % FORMAT]
)
def test_what_is_no_manifest_is_refused(content):
    with pytest.raises(ManifestError, match="here"):
        parse_manifest(content, "here")


@pytest.mark.parametrize("value", [b"1e999", b"-1e999", b'"\\ud800"', b"NaN", b"Infinity"])
def test_values_that_have_no_canonical_form_are_refused(manifest, value):
    content = dump_manifest(manifest).replace(b'"stride":8', b'"stride":' + value)
    with pytest.raises(ManifestError):
        parse_manifest(content, "here")


def test_settings_that_json_cannot_hold_are_not_published(manifest, tmp_path):
    tokenizer = manifest.tokenizer.model_copy(update={"config": {"scale": float("nan")}})
    with pytest.raises(ManifestError, match="holds what JSON cannot"):
        publish(open_storage(tmp_path), manifest.model_copy(update={"tokenizer": tokenizer}))


def test_the_complaint_names_field_value_and_expectation(manifest):
    content = edited(manifest, _set([*TRAIN, "count"], "23"))
    with pytest.raises(ManifestError, match=r"splits\.train\.count is '23': .*integer"):
        parse_manifest(content, "here")


def test_a_second_spelling_of_the_same_json_is_refused(manifest):
    content = dump_manifest(manifest)
    for other in (content[:-1], content + b"\n", content.replace(b",", b", ", 1)):
        with pytest.raises(ManifestError):
            parse_manifest(other, "here")


def test_a_folder_without_a_manifest_is_no_store(tmp_path):
    with pytest.raises(NotAStore, match="run the same command again"):
        load_manifest(open_storage(tmp_path))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotAStore):
        load_manifest(open_storage(tmp_path / "file"))


def test_a_manifest_that_cannot_be_read_is_a_clear_error(tmp_path):
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(StoreError, match=r"cannot read .*manifest\.json: Is a directory"):
        load_manifest(open_storage(tmp_path))


def test_publishing_again_changes_nothing(manifest, tmp_path):
    storage = open_storage(tmp_path)
    assert publish(storage, manifest) == publish(storage, manifest) == load_manifest(storage)
    assert storage.names() == ["manifest.json", "manifests/000000.json"]
    assert storage.read("manifest.json") == storage.read("manifests/000000.json")


def test_a_lost_race_is_an_error_and_leaves_the_winner(manifest, tmp_path):
    storage = open_storage(tmp_path)
    publish(storage, manifest)
    with pytest.raises(PublishRace, match=r"manifests/000000\.json"):
        publish(storage, manifest.model_copy(update={"preprocess": {"rule": "center-crop"}}))
    assert load_manifest(storage) == manifest


def test_a_manifest_that_contradicts_itself_is_not_published(manifest, tmp_path):
    storage = open_storage(tmp_path)
    with pytest.raises(ManifestError):
        publish(storage, manifest.model_copy(update={"version": 3}))
    assert storage.names() == []


def test_entries_survive_json(manifest):
    shard = manifest.splits["train"].shards[0]
    assert ShardEntry.model_validate(shard.model_dump(mode="json")) == shard


@pytest.mark.parametrize(
    ("classes", "dtype"), [(0, "<u1"), (256, "<u1"), (257, "<u2"), (65536, "<u2"), (65537, "<u4")]
)
def test_labels_take_the_narrowest_width(classes, dtype):
    assert label_dtype(classes) == dtype


def test_columns_stand_in_one_order():
    columns = columns_for(3, keys=True, masks=True, meta=True, views=True)
    assert [column.name for column in columns] == list(KINDS)
    assert [column.name for column in columns_for(None, keys=False)] == ["ranks"]
    assert columns[0] == Column(name="ranks", kind="records")


def test_train_is_counted_unless_it_is_empty(manifest):
    assert counted_splits(manifest) == ("train",)
    empty = manifest.splits["train"].model_copy(update={"count": 0, "shards": ()})
    other = manifest.model_copy(update={"splits": {**manifest.splits, "train": empty}})
    assert counted_splits(other) == ("train", "val")
