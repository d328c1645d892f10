"""One broken store for each way a store can be broken: each time an error that names the place."""

import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
import xxhash

import tokenstore
from tests.small_store import Small, write_small_store
from tokenstore import errors
from tokenstore.index import HEADER, page_dtype, seed_of
from tokenstore.manifest import FORMAT, publish
from tokenstore.verify import verify_store


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "photos.tokenstore"
    write_small_store(place)
    return place


def edit(path, change):
    content = bytearray(path.read_bytes())
    path.write_bytes(bytes(change(content) or content))


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path, place=100):
    edit(path, lambda content: content.__setitem__(place, content[place] ^ 4))


def swap(first, second):
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)


def only(folder, pattern):
    (path,) = folder.glob(pattern)
    return path


def newer(folder):
    raw = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**raw, "format": FORMAT + 1}))


def requires_more(folder):
    raw = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**raw, "requires": ["holograms"]}))


def escapes(folder):
    edit(
        folder / "manifest.json",
        lambda content: content.replace(b'"train-000000.tar"', b'"../../x-00000.tar"'),
    )


def foreign_shard(folder):
    """A sound shard and index of the same lengths, name and place, from another store."""
    lengths = [(folder / name).stat().st_size for name in FOREIGN]
    other = folder.parent / "other"
    write_small_store(other, Small(seed=9))
    assert lengths == [(other / name).stat().st_size for name in FOREIGN]
    for name in FOREIGN:
        shutil.copy(other / name, folder / name)


FOREIGN = ("train-000001.tar", "train-000001.index")


def tables_of_another_store(folder):
    path = only(folder, "tables-*.safetensors")
    tables = safetensors.numpy.load(path.read_bytes())
    tables["dictionary"] = tables["dictionary"][::-1].copy()
    path.write_bytes(safetensors.numpy.save(tables))


BROKEN = {
    "no manifest": (lambda f: (f / "manifest.json").unlink(), errors.NotAStore, "photos"),
    "an empty manifest": (
        lambda f: (f / "manifest.json").write_bytes(b""),
        errors.ManifestError,
        r"manifest\.json",
    ),
    "a manifest cut short": (
        lambda f: cut(f / "manifest.json"),
        errors.ManifestError,
        r"manifest\.json",
    ),
    "a flipped bit in the manifest": (
        lambda f: flip(f / "manifest.json"),
        errors.ManifestError,
        r"manifest\.json",
    ),
    "a newer format": (
        newer,
        errors.FormatTooNew,
        f"format {FORMAT + 1}, .* reads format {FORMAT}",
    ),
    "an unknown requirement": (requires_more, errors.FormatTooNew, "holograms"),
    "a name that leaves the store": (escapes, errors.ManifestError, r"\.\./\.\./x-00000"),
    "a missing index": (
        lambda f: (f / "train-000001.index").unlink(),
        errors.CorruptStore,
        r"of its 10 files 1 is missing \(train-000001\.index\)",
    ),
    "an index cut short": (
        lambda f: cut(f / "train-000001.index"),
        errors.CorruptStore,
        r"train-000001\.index",
    ),
    "a flipped bit in an index header": (
        lambda f: flip(f / "train-000001.index", 17),
        errors.CorruptStore,
        r"train-000001\.index: header",
    ),
    "a flipped bit in an index page": (
        lambda f: flip(f / "train-000001.index", 60),
        errors.CorruptStore,
        r"train-000001\.index: page 0",
    ),
    "a missing shard": (
        lambda f: (f / "train-000001.tar").unlink(),
        errors.CorruptStore,
        r"1 is missing \(train-000001\.tar\)",
    ),
    "a shard cut short": (
        lambda f: cut(f / "train-000001.tar"),
        errors.CorruptStore,
        r"train-000001\.tar",
    ),
    "a flipped bit in a record": (
        lambda f: flip(f / "train-000001.tar", 512),
        errors.CorruptRecord,
        r"train-000001\.tar: sample 9 of split 'train'",
    ),
    "swapped shards": (
        lambda f: swap(f / "train-000000.tar", f / "train-000001.tar"),
        errors.CorruptStore,
        r"train-00000\d\.tar",
    ),
    "swapped indexes": (
        lambda f: swap(f / "train-000000.index", f / "train-000001.index"),
        errors.CorruptStore,
        r"train-000000\.index",
    ),
    "a shard of another store": (
        foreign_shard,
        errors.CorruptStore,
        r"train-000001\.index: .* the index of another shard",
    ),
    "a missing vocabulary": (
        lambda f: only(f, "vocabulary-*").unlink(),
        errors.CorruptStore,
        r"1 is missing \(vocabulary-\w+\.safetensors\)",
    ),
    "a flipped bit in the vocabulary": (
        lambda f: flip(only(f, "vocabulary-*"), -3),
        errors.CorruptStore,
        r"vocabulary-\w+\.safetensors",
    ),
}


def read_everything(folder):
    store = tokenstore.open(folder)
    for split in store.values():
        split.read(np.arange(len(split)), keys=True)
        split.masks(np.arange(len(split)))
        split.meta(np.arange(len(split)))
    return store.ids(np.zeros(1, np.uint16)), store.codebook


@pytest.mark.parametrize("case", BROKEN)
def test_reading_refuses(folder, case):
    breaks, kind, place = BROKEN[case]
    breaks(folder)
    with pytest.raises(kind, match=place):
        read_everything(folder)


@pytest.mark.parametrize("case", BROKEN)
def test_verify_reports(folder, case):
    breaks, kind, _ = BROKEN[case]
    breaks(folder)
    if kind in (errors.NotAStore, errors.FormatTooNew):
        with pytest.raises(kind):
            verify_store(folder)
    else:
        assert verify_store(folder)


def test_tables_that_were_damaged_or_exchanged_are_refused(tmp_path):
    small = Small(counts=(("train", 900),), grid=(16, 16), codecs=("zstd",), shard=900, block=1024,
                  extras=False)  # fmt: skip
    write_small_store(tmp_path, small)
    tables_of_another_store(tmp_path)
    with pytest.raises(errors.CorruptStore, match=r"tables-\w+\.safetensors"):
        read_everything(tmp_path)
    only(tmp_path, "tables-*").unlink()
    with pytest.raises(errors.CorruptStore, match=r"1 is missing \(tables-\w+\.safetensors\)"):
        read_everything(tmp_path)


def test_a_store_may_be_moved_and_renamed(folder, tmp_path):
    before = tokenstore.open(folder)["train"][3:7]
    moved = folder.rename(tmp_path / "deeper").rename(tmp_path / "other name")
    after = tokenstore.open(moved)["train"][3:7]
    assert [s.ranks.tolist() for s in after] == [s.ranks.tolist() for s in before]
    assert [s.key for s in after] == [s.key for s in before]
    assert verify_store(moved) == []


def test_a_half_copied_store_says_how_much_of_it_is_missing(folder, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(folder, half)
    for name in ("train-000001.tar", "train-000002.index", "train-000002.tar"):
        (half / name).unlink()
    cut(half / "val-000000.tar")
    size = (half / "val-000000.tar").stat().st_size
    with pytest.raises(errors.CorruptStore) as raised:
        tokenstore.open(half)
    assert str(raised.value) == (
        f"'{half}' is not whole: of its 10 files 3 are missing (train-000001.tar, "
        "train-000002.tar, train-000002.index) and 1 is of another length (val-000000.tar with "
        f"{size} of {size + 7} bytes). Copy them again from where it came from."
    )
    found = {finding.place for finding in verify_store(half)}
    assert found >= {"train-000001.tar", "train-000002.tar", "train-000002.index", "val-000000.tar"}
    (half / "manifest.json").unlink()
    with pytest.raises(errors.NotAStore, match="the copy is not complete"):
        tokenstore.open(half)


def test_a_store_of_which_most_is_missing_names_ten_files_and_counts_the_rest(tmp_path):
    write_small_store(tmp_path, Small(shard=1, extras=False))
    for path in tmp_path.glob("train-*"):
        path.unlink()
    with pytest.raises(
        errors.CorruptStore, match=r"46 are missing \(train-000000\.tar, .* 36 more\)"
    ):
        tokenstore.open(tmp_path)


def test_a_missing_file_of_a_remote_store_is_named_when_it_is_needed(tmp_path):
    place = f"memory://{tmp_path.name}"
    store = write_small_store(place).store
    store.storage.remove("train-000001.tar")
    train = tokenstore.open(place)["train"]
    assert len(train.read([0, 20]).ranks) == 2
    with pytest.raises(errors.CorruptStore, match=r"train-000001\.tar is missing"):
        train.read([9])


def test_a_table_file_of_another_store_is_refused_even_if_the_manifest_lists_it(tmp_path):
    """The check of a record covers the tables that it was written with."""
    small = Small(counts=(("train", 900),), grid=(16, 16), codecs=("zstd",), shard=900, block=1024,
                  extras=False)  # fmt: skip
    store = write_small_store(tmp_path / "a", small).store
    other = write_small_store(tmp_path / "b", replace(small, seed=5)).store
    table_set = other.manifest.table_sets[0]
    assert table_set.file != store.manifest.table_sets[0].file
    shutil.copy(tmp_path / "b" / table_set.file.name, tmp_path / "a")
    forged = store.manifest.table_sets[0].model_copy(update={"file": table_set.file})
    for name in ("manifest.json", "manifests/000000.json"):
        store.storage.remove(name)
    publish(store.storage, store.manifest.model_copy(update={"table_sets": (forged,)}))
    with pytest.raises(errors.CorruptRecord, match=r"train-000000\.tar: sample 7 of split 'train'"):
        tokenstore.open(tmp_path / "a")["train"].read([7])
    assert any("sample 7" in finding.place for finding in verify_store(tmp_path / "a"))


@pytest.mark.parametrize("longer", ["than its block", "than its shard"])
def test_a_record_that_is_longer_than_it_can_be_is_refused(folder, longer):
    """The index says so, and all its hashes fit."""
    store = tokenstore.open(folder)
    entry = store.manifest.splits["train"].shards[1]
    path = folder / entry.index.name
    content = bytearray(path.read_bytes())
    columns = store.manifest.splits["train"].columns
    page = np.frombuffer(content, page_dtype(columns, store.manifest.block), 1, HEADER.itemsize)
    more = 8 if longer == "than its block" else entry.shard.bytes
    page["ranks.ends"][0, -1] += more
    if longer == "than its shard":
        page["ranks.size"] += more
    page["check"] = xxhash.xxh3_64_intdigest(page.tobytes()[8:], seed_of(entry.shard.sha256))
    path.write_bytes(content)
    with pytest.raises(errors.CorruptStore, match=r"train-000001\.index: page 0"):
        store["train"].read([9])
    assert any(finding.place == "train-000001.index" for finding in verify_store(folder))


def test_a_record_in_the_place_of_its_neighbour_is_refused(tmp_path):
    """Equal lengths, so that the index still fits: only the sample number in the check differs."""
    small = Small(counts=(("train", 4),), codes=9, codecs=("zstd",), keys=False, extras=False)
    store = write_small_store(tmp_path, small).store
    part = store["train"].shards.open(0).index.block("ranks", 0)
    ends = [0, *part.ends.tolist()]
    lengths = [b - a for a, b in itertools.pairwise(ends)]
    first, second = next((i, j) for i in range(4) for j in range(i) if lengths[i] == lengths[j])
    content = bytearray((tmp_path / "train-000000.tar").read_bytes())
    a, b = (slice(part.base + ends[i], part.base + ends[i + 1]) for i in (first, second))
    content[a], content[b] = content[b], content[a]
    (tmp_path / "train-000000.tar").write_bytes(content)
    with pytest.raises(errors.CorruptRecord, match=f"sample {second} of split 'train'"):
        tokenstore.open(tmp_path)["train"].read([second])


def test_a_damaged_record_read_alone_is_refused_by_its_name(folder):
    flip(folder / "train-000001.tar", 512)
    train = tokenstore.open(folder)["train"]
    with pytest.raises(errors.CorruptRecord, match=r"train-000001\.tar: sample 9 of split 'train'"):
        train[9]
    assert train[8].key != train[10].key


def test_a_link_out_of_the_store_is_no_way_in(folder, tmp_path):
    """What a file holds is compared with its hash, wherever it lies."""
    shard = folder / "train-000000.tar"
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * shard.stat().st_size)
    shard.unlink()
    shard.symlink_to(secret)
    with pytest.raises(errors.CorruptRecord):
        read_everything(folder)
