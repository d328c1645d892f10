"""`verify` finds what is wrong, all of it, and nothing in a sound store."""

import json

import numpy as np
import pytest
import xxhash

from tests.small_store import Small, write_small_store
from tokenstore.errors import FormatTooNew, NotAStore
from tokenstore.index import HEADER, page_dtype, seed_of
from tokenstore.manifest import FileEntry, publish
from tokenstore.reader import Store
from tokenstore.verify import examine, verify_store
from tokenstore.writer import write_vocabulary


@pytest.fixture
def store(tmp_path):
    return write_small_store(tmp_path).store


def edit(store, name, change):
    """Change the bytes of a file in place, keeping its length unless `change` does not."""
    content = bytearray(store.storage.read(name))
    changed = change(content)
    store.storage.create(name, bytes(content if changed is None else changed))


def flip(place):
    def change(content):
        content[place] ^= 0x40

    return change


def republish(store, **changes):
    """Replace the manifest by one that says something else and is right in itself."""
    for name in ("manifest.json", "manifests/000000.json"):
        store.storage.remove(name)
    publish(store.storage, store.manifest.model_copy(update=changes))
    return Store(store.storage)


def found(place, **options):
    return [(f.place.rpartition("/")[2], f.what) for f in verify_store(place, **options)]


@pytest.mark.parametrize(
    "small",
    [
        Small(),
        Small(grid=(2, 3, 3), classes=None, keys=False, extras=False, rejects=0),
        Small(counts=(("train", 0), ("val", 4)), codecs=("gzip",)),
        Small(counts=(("train", 9),), shard=9, block=1),
    ],
)
def test_a_sound_store_has_no_findings(tmp_path, small):
    write_small_store(tmp_path, small)
    assert verify_store(tmp_path) == []
    assert verify_store(str(tmp_path), sample=3) == []


def test_progress_counts_every_image_once(store):
    calls = []
    verify_store(store.storage, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (28, 28)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    calls.clear()
    verify_store(store.storage, sample=7, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (6, 6)


def test_a_finding_reads_as_a_sentence(store):
    store.storage.create("notes.txt", b"hello")
    (finding,) = verify_store(store.storage)
    assert str(finding) == (
        "notes.txt: file: expected only what the manifest lists, found a file that it does not"
    )


def test_all_findings_are_reported_not_only_the_first(store):
    shard = store["train"].shards.open(0)
    edit(store, "train-000000.tar", flip(shard.index.block("ranks", 1).base))
    store.storage.remove("val-000000.index")
    store.storage.create("extra", b"")
    edit(store, "train-000002.tar", lambda content: content[:-1])
    places = [place for place, _ in found(store.storage)]
    assert places.index("val-000000.index") < places.index("extra")
    assert {"train-000000.tar", "train-000002.tar", "train-000000.tar: sample 4"} <= set(places)


@pytest.mark.parametrize("column", ["ranks", "label", "key", "mask", "meta", "view"])
def test_a_wrong_byte_in_a_column_is_found_where_it_is(store, column):
    part = store["train"].shards.open(1).index.block(column, 2)
    edit(store, "train-000001.tar", flip(part.base))
    whats = found(store.storage)
    assert ("train-000001.tar", "SHA-256") in whats
    assert (f"train-000001.tar: 000002.{column}", "xxh3-64") in whats
    if column in ("ranks", "mask"):
        assert ("train-000001.tar: sample 17", f"check of '{column}'") in whats
    else:
        assert (f"train-000001.tar: block 2: {column}", "reading") in whats


def test_the_quick_look_sees_lengths_and_sampled_records(store):
    part = store["train"].shards.open(0).index.block("ranks", 0)
    edit(store, "train-000000.tar", flip(part.base))
    edit(store, "train-000001.tar", lambda content: content + b"\0")
    edit(store, "train-000002.tar", flip(-1))  # the end of a tar is none of its business
    whats = found(store.storage, sample=28)
    assert whats[0] == ("train-000001.tar", "length")
    assert ("train-000000.tar: sample 0", "check of 'ranks'") in whats
    assert {place for place, _ in whats} == {
        "train-000000.tar: sample 0", "train-000001.tar"
    }  # fmt: skip


def test_the_quick_look_reads_the_same_images_each_time_and_others_with_another_seed(store):
    for number in range(3):
        shard = store["train"].shards.open(number)
        for block in range(shard.index.blocks):
            edit(store, f"train-00000{number}.tar", flip(shard.index.block("ranks", block).base))
    seen = [found(store.storage, sample=14, seed=seed) for seed in (0, 0, 1, 2)]
    assert seen[0] == seen[1]
    assert len({tuple(some) for some in seen}) > 1
    assert 0 < len(seen[0]) < 8 == len(found(store.storage, sample=28))


def test_the_quick_look_sees_every_split_and_says_what_it_left_out(store):
    seen = examine(store.storage, sample=1)
    assert (seen.images, seen.checked) == (28, 2)
    assert "SHA-256 of shards and indexes" in seen.not_checked
    whole = examine(store.storage)
    assert (whole.images, whole.checked, whole.not_checked) == (28, 28, ())


def test_the_quick_look_opens_no_more_shards_than_it_must(tmp_path):
    small = Small(counts=(("train", 300),), shard=3, extras=False)
    store = write_small_store(tmp_path, small).store
    opened = []
    fetch = store.storage.fetch
    store.storage.fetch = lambda name, *ranges: opened.append(name) or fetch(name, *ranges)
    assert verify_store(store.storage, sample=5) == []
    assert len({name for name in opened if name.endswith(".tar")}) <= 5


def test_framing_of_the_tar_is_checked(store):
    part = store["train"].shards.open(0).index.block("label", 0)
    edit(store, "train-000000.tar", flip(part.base - 512))
    edit(store, "train-000001.tar", flip(part.base + part.size))
    edit(store, "train-000002.tar", flip(-1))
    whats = found(store.storage)
    assert ("train-000000.tar: 000000.label", "tar header") in whats
    assert ("train-000002.tar", "end of the tar") in whats
    assert "padding" in {what for _, what in whats}


def test_manifests_of_all_versions_are_checked(store):
    edit(store, "manifests/000000.json", flip(30))
    assert found(store.storage)[0] == ("000000.json", "reading")
    store.storage.remove("manifests/000000.json")
    assert found(store.storage)[0] == ("000000.json", "file")


def test_a_manifest_of_another_version_in_its_place_is_found(tmp_path):
    store = write_small_store(tmp_path / "a").store
    other = write_small_store(tmp_path / "b", Small(seed=1)).store
    store.storage.create("manifests/000000.json", other.storage.read("manifest.json"))
    assert ("000000.json", "hash") in found(store.storage)


def test_a_damaged_manifest_is_the_finding(store):
    edit(store, "manifest.json", flip(40))
    assert found(store.storage) == [("manifest.json", "manifest")]


def test_a_damaged_manifest_hides_no_other_damage(store):
    edit(store, "manifest.json", flip(40))
    store.storage.remove("val-000000.tar")
    edit(store, "train-000001.index", flip(100))
    places = {place for place, _ in found(store.storage)}
    assert {"manifest.json", "val-000000.tar", "train-000001.index"} <= places
    edit(store, "manifests/000000.json", flip(40))
    assert found(store.storage) == [("manifest.json", "manifest"), ("000000.json", "reading")]


def test_many_damages_at_once_are_each_named(store):
    """One of every kind in one store; the store is small, so they stand close together."""
    first, second = (store["train"].shards.open(number) for number in (0, 1))
    edit(store, "train-000000.tar", flip(first.index.block("ranks", 0).base))
    edit(store, "train-000000.tar", flip(first.index.block("mask", 1).base))
    edit(store, "train-000000.tar", flip(first.index.block("key", 1).base))
    edit(store, "train-000000.tar", flip(first.index.block("label", 2).base - 512))
    edit(store, "train-000001.index", flip(60))
    edit(store, "train-000001.tar", flip(second.index.block("ranks", 2).base))
    edit(store, "train-000002.tar", lambda content: content[:-1])
    edit(store, "manifests/000000.json", flip(30))
    edit(store, store.manifest.rejects.file.name, flip(8))
    store.storage.remove("val-000000.index")
    store.storage.create("train-000009.tar", b"")
    assert set(found(store.storage)) >= {
        ("train-000000.tar", "SHA-256"),
        ("train-000000.tar: sample 0", "check of 'ranks'"),
        ("train-000000.tar: sample 4", "check of 'mask'"),
        ("train-000000.tar: block 1: key", "reading"),
        ("train-000000.tar: 000002.label", "tar header"),
        ("train-000001.index", "SHA-256"),
        ("train-000001.tar: ranks of sample 9", "reading"),
        ("train-000001.tar: sample 17", "check of 'ranks'"),
        ("train-000002.tar", "length"),
        ("train-000002.tar", "reading"),
        ("000000.json", "reading"),
        (store.manifest.rejects.file.name, "SHA-256"),
        ("val-000000.index", "file"),
        ("val-000000.tar", "reading"),
        ("train-000009.tar", "file"),
    }


def test_no_store_and_a_newer_store_are_errors(tmp_path, store):
    with pytest.raises(NotAStore):
        verify_store(tmp_path / "nothing")
    raw = json.loads(store.storage.read("manifest.json"))
    store.storage.create("manifest.json", json.dumps({**raw, "format": 5}).encode())
    with pytest.raises(FormatTooNew):
        verify_store(store.storage)


def test_a_vocabulary_that_does_not_count_the_ranks_is_found(tmp_path):
    written = write_small_store(tmp_path)
    store, vocabulary = written.store, written.vocabulary
    counts = vocabulary.counts.copy()
    counts[[0, 1]] += [1, -1]
    wrong = type(vocabulary)(vocabulary.ids, counts, vocabulary.codebook)
    store.storage.remove(store.manifest.vocabulary.file.name)
    republish(store, vocabulary=write_vocabulary(store.storage, wrong))
    ((place, what),) = found(store.storage)
    assert place.startswith("vocabulary-")
    assert what == "counts of 2 ranks, first of rank 0"


def test_numbers_of_the_manifest_that_the_files_belie_are_found(store):
    entropy = store.manifest.vocabulary.model_copy(update={"entropy": 1.25})
    rejects = store.manifest.rejects.model_copy(update={"count": 7})
    republish(store, vocabulary=entropy, rejects=rejects, classes=("only", "two"))
    whats = {what for _, what in found(store.storage)}
    assert whats == {"entropy", "rejects", "label", "mask"}


def test_names_that_do_not_carry_their_hash_are_found(store):
    entry = store.manifest.vocabulary.file
    store.storage.create("vocabulary-plain.safetensors", store.storage.read(entry.name))
    store.storage.remove(entry.name)
    renamed = FileEntry(name="vocabulary-plain.safetensors", bytes=entry.bytes, sha256=entry.sha256)
    vocabulary = store.manifest.vocabulary.model_copy(update={"file": renamed})
    republish(store, vocabulary=vocabulary)
    assert found(store.storage) == [("vocabulary-plain.safetensors", "name")]


def test_equal_keys_are_found(tmp_path, monkeypatch):
    from tests import small_store

    made = small_store._samples

    def with_twins(name, ranks, small, rng):
        samples = made(name, ranks, small, rng)
        if name == "train":
            samples.keys[17] = samples.keys[2]
        return samples

    monkeypatch.setattr(small_store, "_samples", with_twins)
    write_small_store(tmp_path)
    (finding,) = verify_store(tmp_path)
    assert finding.place == "split 'train': samples 2 and 17"
    assert finding.found == "'ordner ä/train_002, view 0' twice"


def test_an_index_that_is_right_in_itself_but_not_of_its_shard_is_found(store):
    """Shift one record's end: every hash of the index is right, the record is not."""
    split = store["train"]
    entry = split.entry.shards[0]
    dtype = page_dtype(split.entry.columns, 4)
    content = bytearray(store.storage.read(entry.index.name))
    page = np.frombuffer(content, dtype, 1, HEADER.itemsize)
    page["ranks.ends"][0, 0] += 1
    page["check"] = xxhash.xxh3_64_intdigest(page.tobytes()[8:], seed_of(entry.shard.sha256))
    store.storage.create(entry.index.name, bytes(content))
    whats = found(store.storage)
    assert ("train-000000.index", "SHA-256") in whats
    assert ("train-000000.tar: sample 0", "check of 'ranks'") in whats
    assert ("train-000000.tar: sample 1", "check of 'ranks'") in whats
