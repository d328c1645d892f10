"""`tokenstore merge` from outside: stores of a toy tokenizer become one."""

import errno
import json
import shutil
import signal
import subprocess
import sys
from collections import Counter, namedtuple
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import zstandard
from click.testing import CliRunner, Result

import tokenstore
from tests.small_store import Small, write_small_store
from tests.stopping import Stopped, stopping
from tests.toy_images import encoded, picture, write_corpus
from tests.toy_store import ToyStore, write_toy_store
from tokenstore.cli.main import main
from tokenstore.codecs.zstd import Zstd
from tokenstore.manifest import publish
from tokenstore.storage import LocalStorage
from tokenstore.verify import verify_store

pytestmark = pytest.mark.usefixtures("toy_tokenizer")
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


def built(place: Path, seeds: dict[str, int], *words: object) -> Path:
    """A store of photos by path: `{"train/apple/a.jpg": 3}`."""
    corpus = place.with_suffix(".photos")
    for name, seed in seeds.items():
        path = corpus / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(seed)))
    done("build", corpus, "-o", place, "--tokenizer", "toy", *words)
    return place


@pytest.fixture
def first(tmp_path: Path) -> Path:
    corpus = write_corpus(tmp_path / "photos", {"train": 7, "val": 3})
    done("build", corpus, "-o", tmp_path / "a", "--tokenizer", "toy", "--part-size", 4)
    return tmp_path / "a"


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """Classes fig and apple; one key of the first store, and codes that it does not have."""
    seeds = {f"train/{'fig' if i % 2 else 'apple'}/b_{i}.jpg": 100 + i for i in range(5)}
    return built(tmp_path / "b", {**seeds, "train/apple/photo_000.jpg": 300, "test/fig/t.jpg": 9})


def test_samples_follow_each_other_with_ids_labels_and_keys(
    first: Path, second: Path, tmp_path: Path
) -> None:
    told = done("merge", first, second, "-o", tmp_path / "m", "--shard-size", 5)
    assert "16 images merged" in told.stdout
    a, b, both = (tokenstore.open(tmp_path / name) for name in "abm")
    assert verify_store(both.storage) == []
    assert {name: len(split) for name, split in both.items()} == {"train": 12, "val": 3, "test": 1}
    assert [shard.count for shard in both["train"].entry.shards] == [5, 5, 2]
    assert both.manifest.classes == ("apple", "pear", "fig")
    twice = "apple/photo_000"
    old = [(a, s) for s in a["train"]] + [(b, s) for s in b["train"] if s.key != twice]
    for (store, before), now in zip(old, both["train"], strict=True):
        assert before.key == now.key
        assert np.array_equal(store.ids(before.ranks), both.ids(now.ranks))
        assert store.manifest.classes[before.label] == both.manifest.classes[now.label]
    assert np.array_equal(
        both.codebook, tokenstore.open(first).tokenizer().codebook[both.vocabulary.ids]
    )


def test_the_vocabulary_is_ordered_as_if_all_were_built_at_once(
    first: Path, second: Path, tmp_path: Path
) -> None:
    done("merge", first, second, "-o", tmp_path / "m")
    both = tokenstore.open(tmp_path / "m")
    counted = {
        name: Counter(both.ids(split.read(range(len(split))).ranks).ravel().tolist())
        for name, split in both.items()
    }
    occurring = set().union(*counted.values())
    expected = sorted(occurring, key=lambda i: (-counted["train"][i], i))
    assert both.vocabulary.ids.tolist() == expected
    assert both.vocabulary.counts.tolist() == [counted["train"][i] for i in expected]


def test_a_repeated_key_is_a_reject_beside_those_of_the_stores(
    first: Path, second: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "c.photos" / "train" / "apple" / "broken.jpg"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no image")
    third = built(tmp_path / "c", {"train/apple/c.jpg": 1})
    told = done("merge", first, second, third, "-o", tmp_path / "m")
    assert "rejected train/apple/photo_000: its key is already that of an image" in told.stderr
    both = tokenstore.open(tmp_path / "m")
    rows = pyarrow.parquet.read_table(tmp_path / "m" / both.manifest.rejects.file.name).to_pylist()
    assert [row["key"] for row in rows] == ["apple/broken", "apple/photo_000"]
    assert "store 1 of 3" in rows[1]["reason"]
    assert verify_store(tmp_path / "m") == []


def test_merging_is_the_same_whatever_the_workers_and_wherever_the_stores_lie(
    first: Path, second: Path, tmp_path: Path
) -> None:
    done("merge", first, second, "-o", tmp_path / "m1", "--shard-size", 3, "--workers", 1)
    moved = [Path(shutil.copytree(s, tmp_path / "elsewhere" / s.name)) for s in (first, second)]
    done("merge", *moved, "-o", tmp_path / "m3", "--shard-size", 3, "--workers", 3)
    assert tree(tmp_path / "m1") == tree(tmp_path / "m3")


def test_every_column_comes_along_in_every_block_size(tmp_path: Path) -> None:
    one = write_small_store(tmp_path / "a", Small(seed=1))
    two = write_small_store(tmp_path / "b", Small((("train", 6),), seed=2, block=3, rejects=1))
    told = done("merge", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "m", "--shard-size", 11)
    assert "rejected train/ordner ä/train_005" in told.stderr
    both = tokenstore.open(tmp_path / "m")
    assert verify_store(both.storage) == []
    known = {(sample.key, sample.view) for sample in one.store["train"]}
    repeated = sum((sample.key, sample.view) in known for sample in two.store["train"])
    assert 0 < repeated < 6, "an image comes twice only where the same view of it does"
    assert (both.manifest.block, both.manifest.rejects.count) == (4, 3 + repeated)
    assert len(both["train"]) == 23 + 6 - repeated
    for old, now in zip(one.store["val"], both["val"], strict=True):
        assert (old.key, old.label, old.meta, old.view) == (now.key, now.label, now.meta, now.view)
        assert np.array_equal(old.mask, now.mask)
        assert np.array_equal(one.store.ids(old.ranks), both.ids(now.ranks))
    assert len(two.store["train"]) == 6


def test_codecs_can_be_changed_and_default_to_that_of_the_first(
    first: Path, tmp_path: Path
) -> None:
    second = built(tmp_path / "b", {"train/fig/x.jpg": 1}, "--codec", "gzip")
    for place, words, codec in (("m", (), "zstd"), ("n", ("--codec", "gzip"), "gzip")):
        done("merge", first, second, "-o", tmp_path / place, *words)
        sets = tokenstore.open(tmp_path / place).manifest.table_sets
        assert [tables.codec for tables in sets] == [codec]


def test_stores_without_keys_are_merged_with_a_word_on_it(tmp_path: Path) -> None:
    places = [built(tmp_path / n, {f"{n}.jpg": ord(n)}, "--no-keys") for n in "ab"]
    assert "keeps no keys" in done("merge", *places, "-o", tmp_path / "m").stderr
    both = tokenstore.open(tmp_path / "m")
    assert (len(both["train"]), both["train"].labels) == (2, None)
    assert verify_store(tmp_path / "m") == []


# --- again, and after an interruption


def test_the_same_line_again_says_done_and_another_one_touches_nothing(
    first: Path, second: Path, tmp_path: Path
) -> None:
    done("merge", first, second, "-o", tmp_path / "m")
    before = tree(tmp_path / "m")
    assert "whole already" in done("merge", first, second, "-o", tmp_path / "m").stdout
    assert json.loads(done("merge", first, second, "-o", tmp_path / "m", "--json").stdout)[
        "new"
    ] is (False)
    told = refused("merge", second, first, "-o", tmp_path / "m")
    assert "is a finished store with another input" in told
    assert "is a finished store with another" in refused("merge", first, second, "-o", first)
    assert tree(tmp_path / "m") == before


def test_stopped_before_any_write_it_continues_to_the_same_bytes(
    first: Path, second: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (first, second, "--shard-size", "5", "--workers", "1")
    done("merge", *words, "-o", tmp_path / "whole")
    whole, after = tree(tmp_path / "whole"), 0
    while True:
        place = tmp_path / f"stopped-{after}"
        with stopping(monkeypatch, after):
            result = run("merge", *words, "-o", place)
        if result.exit_code == 0:
            break
        assert isinstance(result.exception, Stopped)
        assert not (place / "manifest.json").exists()
        done("merge", *words, "-o", place)
        assert tree(place) == whole, f"stopped before write {after}"
        assert not Path(f"{place}.building").exists()
        after += 1
    assert after > 15


def test_finished_shards_are_not_written_again_unless_they_were_damaged(
    first: Path, second: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("merge", first, second, "-o", tmp_path / "m", "--shard-size", 3, "--workers", 1)
    with stopping(monkeypatch, 10):
        run(*words)
    finished = sorted(p.stem for p in (tmp_path / "m.building" / "shards").glob("*.json"))
    assert len(finished) > 1
    (tmp_path / "m" / f"{finished[0]}.tar").write_bytes(b"damaged")
    written, writing = [], LocalStorage.writing

    def noted(self: LocalStorage, name: str) -> object:
        written.append(name)
        return writing(self, name)

    monkeypatch.setattr(LocalStorage, "writing", noted)
    done(*words)
    assert f"{finished[0]}.tar" in written
    assert f"{finished[1]}.tar" not in written
    assert verify_store(tmp_path / "m") == []


@pytest.mark.kill
@pytest.mark.parametrize("syncs", [3, 11, 19])
def test_a_killed_merge_continues_to_the_same_bytes(
    first: Path, second: Path, tmp_path: Path, syncs: int
) -> None:
    program = f"""
import os, signal
from tokenstore.cli.main import main
from tokenstore.codecs.zstd import Zstd
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
    words = ["merge", str(first), str(second), "--shard-size", "3", "-o"]
    killed = subprocess.run(
        [sys.executable, "-c", program, *words, str(tmp_path / "m")], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "m" / "manifest.json").exists()
    for place in ("m", "whole"):
        done(*words, tmp_path / place)
    assert tree(tmp_path / "m") == tree(tmp_path / "whole")


# --- what cannot be merged


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"tokenizer": {"name": "other"}}, "tokenizer differs, toy and other"),
        ({"tokenizer": {"weights": "1" * 64}}, f"weights differs, None and {'1' * 64}"),
        ({"tokenizer": {"config": {"stride": 4}}}, "configuration differs, {'stride': 8} and"),
        ({"preprocess": {"rule": "squash", "size": [8, 8]}}, "preprocessing differs"),
    ],
)
def test_stores_of_another_tokenizer_are_refused_naming_both_values(
    tmp_path: Path, change: dict[str, dict[str, object]], what: str
) -> None:
    write_small_store(tmp_path / "a")
    other = write_small_store(tmp_path / "b", Small(seed=1)).store.manifest
    changes = dict(change)
    if "tokenizer" in change:
        changes["tokenizer"] = other.tokenizer.model_copy(update=change["tokenizer"])
    shutil.rmtree(tmp_path / "b" / "manifests")
    publish(LocalStorage(str(tmp_path / "b")), other.model_copy(update=changes))
    told = refused("merge", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "m")
    assert what in told
    assert str(tmp_path / "b") in told
    assert not (tmp_path / "m").exists()


def test_stores_that_only_a_name_calls_alike_are_refused(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        toy = ToyStore({"train": 2 + seed}, seed=seed, with_codebook=False)
        write_toy_store(tmp_path / name, toy)
    told = refused("merge", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "m")
    assert "neither weights nor a codebook" in told


def test_other_grids_and_columns_are_refused(tmp_path: Path) -> None:
    write_small_store(tmp_path / "a")
    write_small_store(tmp_path / "b", Small(grid=(4, 4)))
    write_small_store(tmp_path / "c", Small(keys=False, seed=3))
    words = ("-o", tmp_path / "m")
    told = refused("merge", tmp_path / "a", tmp_path / "b", *words)
    assert "grid differs, [4, 3] and [4, 4]" in told
    told = refused("merge", tmp_path / "a", tmp_path / "c", *words)
    assert "ranks, label, key, mask, meta, view" in told
    assert "--no-keys" in told


def test_one_store_or_the_same_twice_is_refused(first: Path, tmp_path: Path) -> None:
    assert "two stores or more, got 1" in refused("merge", first, "-o", tmp_path / "m")
    copy = shutil.copytree(first, tmp_path / "copy")
    assert "is the same store as" in refused("merge", first, copy, "-o", tmp_path / "m")
    told = refused("merge", first, tmp_path / "nowhere", "-o", tmp_path / "m")
    assert "nowhere' is no token store" in told


def test_a_table_file_from_another_store_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = {}
    for name, seed in (("a", 0), ("b", 1)):
        rng = np.random.default_rng(seed)
        grids = [rng.geometric(0.1, 256).astype(np.uint8).tobytes() for _ in range(500)]
        learnt = zstandard.train_dictionary(1024, grids).as_bytes()
        small = Small((("train", 9),), codecs=("zstd",), keys=False, seed=seed)
        with monkeypatch.context() as patched:
            patched.setattr(Zstd, "fit", lambda sample, spec, learnt=learnt: Zstd(spec, learnt))
            store = write_small_store(tmp_path / name, small).store
        tables[name] = tmp_path / name / store.manifest.table_sets[0].file.name
    assert tables["a"].stat().st_size == tables["b"].stat().st_size
    shutil.copy(tables["a"], tables["b"])
    told = refused("merge", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "m")
    assert tables["b"].name in told
    assert not (tmp_path / "m" / "manifest.json").exists()


def test_other_codebook_vectors_are_refused_whatever_the_manifests_say(tmp_path: Path) -> None:
    for name, codes in (("a", 300), ("b", 301)):
        write_small_store(tmp_path / name, Small(codes=codes, keys=False))
    told = refused("merge", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "m")
    assert "other codebook vectors" in told


def test_a_damaged_record_is_named_and_no_store_comes_of_it(
    first: Path, second: Path, tmp_path: Path
) -> None:
    shard = second / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    content[520] ^= 1
    shard.write_bytes(content)
    told = refused("merge", first, second, "-o", tmp_path / "m")
    assert "train-000000.tar: sample 0" in told
    assert not (tmp_path / "m" / "manifest.json").exists()


def test_too_little_room_is_told_before_anything_is_written(
    first: Path, second: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(100, 90, 10))
    told = refused("merge", first, second, "-o", tmp_path / "m")
    assert "needs about" in told
    assert not (tmp_path / "m").exists()
    assert not (tmp_path / "m.building").exists()


def test_a_disk_that_becomes_full_is_an_error_and_the_same_line_continues(
    first: Path, second: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, writing = [tree(first), tree(second)], LocalStorage.writing

    def full(self: LocalStorage, name: str) -> object:
        if name == "val-000000.tar":
            raise OSError(errno.ENOSPC, "No space left on device")
        return writing(self, name)

    words = ("merge", first, second, "-o", tmp_path / "m")
    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "writing", full)
        told = refused(*words)
    assert "no room is left" in told
    assert "bytes in all" in told
    assert [tree(first), tree(second)] == before
    done(*words)
    assert verify_store(tmp_path / "m") == []
