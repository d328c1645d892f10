"""`tokenstore append` from outside: new images in a store that is there, with a toy tokenizer."""

import errno
import json
import pickle
import shutil
import signal
import subprocess
import sys
import uuid
from collections import Counter, namedtuple
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from click.testing import CliRunner, Result

import tokenstore
from tests.stopping import Stopped, stopping
from tests.toy_images import encoded, picture, write_corpus
from tests.toy_tokenizer import ToyTokenizer
from tokenstore.cli.main import main
from tokenstore.operations import append as appending
from tokenstore.sources.base import decode_image
from tokenstore.storage import LocalStorage
from tokenstore.tokenizers import load_tokenizer
from tokenstore.verify import verify_store

Usage = namedtuple("Usage", "total used free")


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def done(*words: object) -> Result:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result


def refused(*words: object) -> str:
    """What a refused command says: exit code 2, one line, nothing on stdout."""
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert isinstance(result.exception, SystemExit)
    return result.stderr.strip().splitlines()[-1]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def write_pictures(root: Path, seeds: dict[str, int]) -> Path:
    """Photos by path: `{"train/apple/a.jpg": 3}`."""
    for name, seed in seeds.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(seed)))
    return root


def rejects_of(store: tokenstore.Store) -> list[dict[str, str]]:
    entry = store.manifest.rejects.file
    if entry is None:
        return []
    return pyarrow.parquet.read_table(Path(store.url) / entry.name).to_pylist()


@pytest.fixture(autouse=True)
def _toy(toy_tokenizer: str) -> None:
    pass


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A store of ten images in train and four in val, in parts of four; two classes."""
    corpus = write_corpus(tmp_path / "photos", {"train": 10, "val": 4})
    done("build", corpus, "-o", tmp_path / "s", "--tokenizer", "toy", "--part-size", 4)
    return tmp_path / "s"


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """Five new images of the same classes for train, two for val."""
    train = {f"train/{'pear' if i % 2 else 'apple'}/new_{i}.jpg": 100 + i for i in range(5)}
    val = {f"val/pear/new_{i}.jpg": 200 + i for i in range(2)}
    return write_pictures(tmp_path / "more", train | val)


# --- what the new version holds


def test_new_images_stand_behind_the_old_ones_with_ids_labels_and_keys(
    place: Path, more: Path
) -> None:
    old = {name: split[:] for name, split in tokenstore.open(place).items()}
    told = done("append", place, more, "--part-size", 3)
    assert "7 images appended as version 1" in told.stdout
    store, tokenizer = tokenstore.open(place), load_tokenizer("toy")
    assert verify_store(store.storage) == []
    assert [len(split) for split in store.values()] == [15, 6]
    for name, split in store.items():
        for before, now in zip(old[name], split[: len(old[name])], strict=True):
            assert (before.key, before.label) == (now.key, now.label)
            assert np.array_equal(before.ranks, now.ranks)
        fresh = split[len(old[name]) :]
        assert {s.key for s in fresh} == {
            str(p.relative_to(more / name).with_suffix("")) for p in (more / name).rglob("*.jpg")
        }
        for sample in fresh:
            image = decode_image((more / name / f"{sample.key}.jpg").read_bytes())
            ids = tokenizer.encode(tokenizer.preprocess(image)[None]).numpy()[0]
            assert np.array_equal(store.ids(sample.ranks), ids)
            assert store.manifest.classes[sample.label] == sample.key.partition("/")[0]


def test_no_file_of_the_old_version_changes(place: Path, more: Path) -> None:
    before = tree(place)
    done("append", place, more)
    after = tree(place)
    newest = after.pop("manifest.json")
    assert {name: after[name] for name in before if name != "manifest.json"} == {
        name: content for name, content in before.items() if name != "manifest.json"
    }
    assert after["manifests/000001.json"] == newest
    assert json.loads(newest)["parent"] == json.loads(before["manifest.json"])["hash"]
    assert not Path(f"{place}.building").exists()


def test_old_ids_keep_their_ranks_and_new_ones_follow_by_count(place: Path, more: Path) -> None:
    old = tokenstore.open(place).vocabulary.ids.tolist()
    done("append", place, more)
    store = tokenstore.open(place)
    ids = store.vocabulary.ids.tolist()
    assert ids[: len(old)] == old
    assert len(ids) > len(old)
    ranks = store["train"].read(range(15)).ranks
    counted = Counter(store.ids(ranks).ravel().tolist())
    assert store.vocabulary.counts.tolist() == [counted[i] for i in ids]
    assert ids[len(old) :] == sorted(ids[len(old) :], key=lambda i: (-counted[i], i))
    assert np.array_equal(store.codebook, load_tokenizer("toy").codebook[ids])


def test_a_grown_vocabulary_brings_tables_and_one_that_covers_all_does_not(
    place: Path, more: Path, tmp_path: Path
) -> None:
    done("append", place, more)
    grown = tokenstore.open(place).manifest
    assert [t.vocabulary_size for t in grown.table_sets][-1] == grown.vocabulary.size
    assert grown.splits["train"].shards[-1].tables == len(grown.table_sets) - 1 == 1
    same = write_pictures(tmp_path / "same", {"train/apple/again.jpg": 100})
    done("append", place, same)
    assert tokenstore.open(place).manifest.table_sets == grown.table_sets
    assert verify_store(place) == []


def test_counts_become_those_of_train_once_there_is_a_train_split(
    tmp_path: Path, more: Path
) -> None:
    corpus, place = write_corpus(tmp_path / "photos", {"val": 4}), tmp_path / "s"
    done("build", corpus, "-o", place, "--tokenizer", "toy")
    done("append", place, more)
    store = tokenstore.open(place)
    counts = np.bincount(store["train"].read(range(5)).ranks.ravel(), minlength=len(store.codebook))
    assert store.vocabulary.counts.tolist() == counts.tolist()
    assert list(store) == ["train", "val"]
    assert verify_store(place) == []


def test_version_follows_version(place: Path, more: Path, tmp_path: Path) -> None:
    done("append", place, more)
    second = write_pictures(tmp_path / "second", {"train/pear/second.jpg": 300})
    done("append", place, second)
    store = tokenstore.open(place)
    assert store.manifest.version == 2
    assert len(store["train"]) == 16
    assert store["train"][15].key == "pear/second"
    assert verify_store(place) == []
    assert "whole already" in done("append", place, more).stdout
    assert tokenstore.open(place).manifest.version == 2


def test_the_build_that_made_the_store_still_calls_it_done(place: Path, more: Path) -> None:
    done("append", place, more)
    corpus = place.with_name("photos")
    words = ("build", corpus, "-o", place, "--tokenizer", "toy", "--part-size", 4)
    assert "whole already" in done(*words).stdout
    assert tokenstore.open(place).manifest.version == 1


def test_a_store_of_drawn_scenes_takes_more_by_its_own_weights(
    scene_corpus: Path, scene_store: Path, tmp_path: Path
) -> None:
    place = Path(shutil.copytree(scene_store, tmp_path / "s"))
    first = min((scene_corpus / "train").iterdir())
    fresh = tmp_path / "fresh" / "train" / first.name
    fresh.mkdir(parents=True)
    for image in sorted(first.iterdir())[:2]:
        shutil.copy(image, fresh / f"again_{image.name}")
    facts = json.loads(done("append", place, tmp_path / "fresh", "--json").stdout)
    assert (facts["images"], facts["version"], facts["new"]) == (2, 1, True)
    assert verify_store(place) == []
    train = tokenstore.open(place)["train"]
    keys = train.keys(range(len(train)))
    for i in (32, 33):
        twin = keys.index(keys[i].replace("again_", ""))
        assert np.array_equal(train[i].ranks, train[twin].ranks)
        assert train[i].label == train[twin].label


# --- the same bytes, however it was reached


def test_workers_do_not_change_a_byte(place: Path, more: Path, tmp_path: Path) -> None:
    for workers in (1, 3):
        shutil.copytree(place, tmp_path / f"w{workers}")
        done("append", tmp_path / f"w{workers}", more, "--workers", workers, "--part-size", 2)
    assert tree(tmp_path / "w1") == tree(tmp_path / "w3")


def test_stopped_before_any_write_the_store_is_as_it_was_and_the_same_line_continues(
    place: Path, more: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (more / "train" / "apple" / "broken.jpg").write_bytes(b"no image")
    words = ("--part-size", 3, "--batch-size", 2)
    before, whole = tree(place), tmp_path / "whole"
    shutil.copytree(place, whole)
    done("append", whole, more, *words)
    after, stops = 0, 0
    while True:
        stopped = Path(shutil.copytree(place, tmp_path / f"stopped-{after}"))
        with stopping(monkeypatch, after):
            result = run("append", stopped, more, *words)
        if result.exit_code == 0:
            break
        assert isinstance(result.exception, Stopped)
        found = tree(stopped)
        assert {name: found[name] for name in before} == before, f"before write {after}"
        assert len(tokenstore.open(stopped)["train"]) == 10
        done("append", stopped, more, *words)
        assert tree(stopped) == tree(whole), f"stopped before write {after}"
        assert not Path(f"{stopped}.building").exists()
        after, stops = after + 1, stops + 1
    assert stops > 12  # parts with sidecars, vocabulary, tables, rejects, shards, the manifest


@pytest.mark.kill
@pytest.mark.parametrize("syncs", [2, 7, 14, 22, 27])
def test_a_killed_append_leaves_the_store_whole_and_continues(
    place: Path, more: Path, tmp_path: Path, syncs: int
) -> None:
    program = f"""
import os, signal
from tokenstore.cli.main import main
flush, count = os.fsync, 0
def killing(descriptor):
    global count
    count += 1
    if count > {syncs}:
        os.kill(os.getpid(), signal.SIGKILL)
    flush(descriptor)
os.fsync = killing
main()
"""
    whole = Path(shutil.copytree(place, tmp_path / "whole"))
    words = ["append", str(place), str(more), "--part-size", "3"]
    killed = subprocess.run([sys.executable, "-c", program, *words], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(tokenstore.open(place)["train"]) == 10
    unlisted = [f for f in verify_store(place) if f.expected != "only what the manifest lists"]
    assert unlisted == []
    done("append", place, more, "--part-size", 3)
    done("append", whole, more, "--part-size", 3)
    assert tree(place) == tree(whole)


def test_a_store_behind_a_url_grows_and_converts_as_a_folder_does(
    place: Path, more: Path, tmp_path: Path
) -> None:
    url = f"memory://{uuid.uuid4()}/s"
    corpus = tmp_path / "photos"
    done("build", corpus, "-o", url, "--tokenizer", "toy", "--part-size", 4)
    for store in (url, place):
        done("append", store, more)
    assert tokenstore.open(url).fingerprint == tokenstore.open(place).fingerprint
    assert verify_store(url) == []
    done("convert", url, "-o", f"{url}-gzip", "--codec", "gzip")
    assert verify_store(f"{url}-gzip") == []


# --- the same images again


def test_the_same_line_again_says_done_and_changes_nothing(place: Path, more: Path) -> None:
    done("append", place, more)
    before = {p: p.stat().st_mtime_ns for p in place.rglob("*")}
    assert "whole already" in done("append", place, more).stdout
    assert json.loads(done("append", place, more, "--json").stdout)["new"] is False
    assert {p: p.stat().st_mtime_ns for p in place.rglob("*")} == before
    assert not Path(f"{place}.building").exists()


def test_images_that_are_all_there_are_refused_untouched(place: Path, more: Path) -> None:
    done("append", place, more)
    before = tree(place.parent)
    assert "images of all 7 keys already" in refused("append", place, more, "--batch-size", 3)
    assert tree(place.parent) == before


def test_an_image_with_a_known_key_is_a_reject(place: Path, more: Path) -> None:
    write_pictures(more, {"train/apple/photo_000.jpg": 999})
    told = done("append", place, more)
    assert "rejected train/apple/photo_000.jpg: its key is already in the store" in told.stderr
    store = tokenstore.open(place)
    assert len(store["train"]) == 15
    assert [(r["split"], r["key"]) for r in rejects_of(store)] == [("train", "apple/photo_000")]
    assert verify_store(place) == []


def test_rejects_of_all_versions_are_listed_and_strict_refuses_one(
    place: Path, more: Path, tmp_path: Path
) -> None:
    (more / "train" / "apple" / "text.jpg").write_bytes(b"no image")
    assert "text.jpg" in refused("append", place, more, "--strict")
    assert tokenstore.open(place).manifest.version == 0
    done("append", place, more)
    second = write_pictures(tmp_path / "second", {"train/pear/new_1.jpg": 1, "train/pear/x.jpg": 2})
    done("append", place, second)
    keys = [r["key"] for r in rejects_of(tokenstore.open(place))]
    assert keys == ["apple/text", "pear/new_1"]


def test_skip_known_passes_over_what_is_there(place: Path, more: Path) -> None:
    grown = place.with_name("photos")
    shutil.copytree(more, grown, dirs_exist_ok=True)
    told = done("append", place, grown, "--skip-known", "--strict")
    assert "train: passed over 10 images" in told.stderr
    store = tokenstore.open(place)
    assert [len(split) for split in store.values()] == [15, 6]
    assert rejects_of(store) == []
    assert "whole already" in done("append", place, grown, "--skip-known", "--limit", 99).stdout


def test_a_store_without_keys_refuses_the_images_that_it_was_made_of(
    tmp_path: Path, more: Path
) -> None:
    corpus, place = write_corpus(tmp_path / "photos", {"train": 4}), tmp_path / "s"
    done("build", corpus, "-o", place, "--tokenizer", "toy", "--no-keys")
    assert "these very images" in refused("append", place, corpus)
    assert "keeps no keys" in done("append", place, more).stderr
    assert "these very images" in refused("append", place, more, "--batch-size", 3)
    assert tokenstore.open(place)["train"][0].key is None
    assert verify_store(place) == []


# --- splits and classes


def test_images_without_split_folders_go_to_train_or_where_they_are_sent(
    place: Path, tmp_path: Path
) -> None:
    plain = write_pictures(tmp_path / "plain", {"apple/a.jpg": 1, "pear/b.jpg": 2})
    done("append", place, plain)
    done("append", place, plain, "--split", "val")
    done("append", place, plain, "--split", "test")
    store = tokenstore.open(place)
    assert {name: len(split) for name, split in store.items()} == {"train": 12, "val": 6, "test": 2}
    assert store["test"].labels.tolist() == [
        ["apple", "pear"].index(sample.key.partition("/")[0]) for sample in store["test"]
    ]
    assert verify_store(place) == []


def test_split_does_not_go_with_split_folders(place: Path, more: Path) -> None:
    before = tree(place.parent)
    assert "lie in train, val already" in refused("append", place, more, "--split", "val")
    assert tree(place.parent) == before


def test_labels_go_by_name_and_unknown_classes_are_an_error_with_the_cure(
    place: Path, tmp_path: Path
) -> None:
    fruits = write_pictures(tmp_path / "fruits", {"aple/x.jpg": 1, "fig/y.jpg": 2, "pear/z.jpg": 3})
    before = tree(place.parent)
    told = refused("append", place, fruits)
    assert "knows no class 'aple' and 1 more. Did you mean apple?" in told
    assert "--new-classes" in told
    assert tree(place.parent) == before
    done("append", place, fruits, "--new-classes")
    store = tokenstore.open(place)
    assert store.manifest.classes == ("apple", "pear", "aple", "fig")
    named = {s.key: store.manifest.classes[s.label] for s in store["train"][10:]}
    assert named == {"aple/x": "aple", "fig/y": "fig", "pear/z": "pear"}
    assert verify_store(place) == []


def test_more_classes_than_the_labels_can_count_are_refused(place: Path, tmp_path: Path) -> None:
    many = write_pictures(tmp_path / "many", {f"c{i:03d}/x.jpg": 1 for i in range(255)})
    told = refused("append", place, many, "--new-classes")
    assert "labels as <u1, too narrow for 257 classes" in told


def test_images_without_labels_are_refused_where_the_split_has_some(
    place: Path, tmp_path: Path
) -> None:
    plain = write_pictures(tmp_path / "plain", {"a.jpg": 1})
    assert "lie in no class folders" in refused("append", place, plain)
    done("append", place, plain, "--split", "test")
    assert tokenstore.open(place)["test"].labels is None


def test_class_folders_are_not_kept_where_the_split_has_no_labels(
    more: Path, tmp_path: Path
) -> None:
    plain, place = write_pictures(tmp_path / "plain", {"a.jpg": 1}), tmp_path / "s"
    done("build", plain, "-o", place, "--tokenizer", "toy")
    assert "class folders are not kept" in done("append", place, more / "train").stderr
    assert tokenstore.open(place)["train"].labels is None
    assert verify_store(place) == []


# --- readers


def test_a_reader_from_before_goes_on_reading_its_version_pickled_or_not(
    place: Path, more: Path
) -> None:
    store = tokenstore.open(place)
    expected, pickled = store["train"].read(range(10)).ranks, pickle.dumps(store)
    second = tokenstore.open(place)
    done("append", place, more)
    copy = pickle.loads(pickled)
    for old in (store, second, copy):
        assert (len(old["train"]), old.manifest.version) == (10, 0)
        assert np.array_equal(old["train"].read(range(10)).ranks, expected)
    assert copy.fingerprint == store.fingerprint
    assert len(tokenstore.open(place)["train"]) == 15


# --- what goes wrong


def test_a_version_published_meanwhile_is_an_error_and_costs_nothing(
    place: Path, more: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(place, tmp_path / "other"))
    done("append", other, write_pictures(tmp_path / "else", {"train/pear/else.jpg": 7}))
    pack = appending._pack

    def overtaken(*arguments: object) -> object:
        manifest = pack(*arguments)
        shutil.copytree(other, place, dirs_exist_ok=True)
        return manifest

    with monkeypatch.context() as patched:
        patched.setattr(appending, "_pack", overtaken)
        assert "got a new version while" in refused("append", place, more)
    assert tree(place) == tree(other)
    assert verify_store(place) == []


def test_files_of_another_interrupted_append_are_never_replaced(place: Path, more: Path) -> None:
    (place / "train-000003.tar").write_bytes(b"of somebody else")
    told = refused("append", place, more)
    assert "holds another train-000003.tar" in told
    assert (place / "train-000003.tar").read_bytes() == b"of somebody else"
    assert len(tokenstore.open(place)["train"]) == 10


def test_another_append_beside_an_interrupted_one_is_refused(
    place: Path, more: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stopping(monkeypatch, 2):
        run("append", place, more)
    told = refused("append", place, more, "--batch-size", 5)
    assert "batch_size: 5, was 32" in told
    done("append", place, more)


def test_nothing_but_rejects_changes_nothing(place: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad" / "apple"
    bad.mkdir(parents=True)
    (bad / "a.jpg").write_bytes(b"no image")
    before = tree(place)
    assert "none of the 1 images" in refused("append", place, tmp_path / "bad")
    assert tree(place) == before


def test_another_tokenizer_than_the_one_of_the_store_is_refused(
    place: Path, more: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToyTokenizer, "weights_sha256", "0" * 64)
    assert "--weights" in refused("append", place, more)


def test_ids_outside_the_codebook_are_refused(
    place: Path, more: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = ToyTokenizer.encode

    def strange(self: ToyTokenizer, images: object) -> torch.Tensor:
        return encode(self, images) + 64

    monkeypatch.setattr(ToyTokenizer, "encode", strange)
    before = tree(place)
    assert "outside its codebook of 64 codes" in refused("append", place, more)
    assert tree(place) == before


def test_too_little_room_is_told_before_anything_is_written(
    place: Path, more: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(place)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(100, 90, 10))
    told = refused("append", place, more)
    assert "needs about" in told
    assert "10 are free" in told
    assert tree(place) == before
    assert not Path(f"{place}.building").exists()


def test_a_disk_that_becomes_full_is_an_error_and_the_same_line_continues(
    place: Path, more: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path(shutil.copytree(place, tmp_path / "whole"))
    done("append", whole, more)
    writing, before = LocalStorage.writing, tree(place)

    def full(self: LocalStorage, name: str) -> object:
        if name.endswith(".tar"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return writing(self, name)

    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "writing", full)
        assert "no room is left" in refused("append", place, more)
    assert tree(place) == before
    done("append", place, more)
    assert tree(place) == tree(whole)


@pytest.mark.parametrize("missing", ["store", "images"])
def test_what_is_not_there_is_named(place: Path, more: Path, missing: str) -> None:
    if missing == "store":
        assert "nowhere' is no token store" in refused("append", place.with_name("nowhere"), more)
    else:
        assert "nowhere" in refused("append", place, more.with_name("nowhere"))
    assert not Path(f"{place}.building").exists()
