"""`tokenstore convert` from outside: other codecs and shards, and subsets of a store."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import tokenstore
from tests.small_store import Small, write_small_store
from tests.stopping import Stopped, stopping
from tokenstore import registry
from tokenstore.cli.main import main
from tokenstore.verify import verify_store


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


@pytest.fixture
def old(tmp_path: Path) -> tokenstore.Store:
    """23 images in train and 5 in val with every column, in shards of 9 and blocks of 4."""
    return write_small_store(tmp_path / "s").store


@pytest.fixture
def labelled(tmp_path: Path) -> tokenstore.Store:
    """The same without masks, so that images can be chosen by class."""
    return write_small_store(tmp_path / "labelled", Small(masks=False)).store


def assert_same(old: list[tokenstore.Sample], new: list[tokenstore.Sample]) -> None:
    for before, now in zip(old, new, strict=True):
        assert (before.key, before.label) == (now.key, now.label)
        assert (before.meta, before.view) == (now.meta, now.view)
        assert np.array_equal(before.ranks, now.ranks)
        assert np.array_equal(before.mask, now.mask)


@pytest.mark.parametrize("codec", registry.names("tokenstore.codecs"))
def test_another_codec_and_shard_size_keep_every_sample(
    old: tokenstore.Store, tmp_path: Path, codec: str
) -> None:
    before = tree(Path(old.url))
    told = done("convert", old.url, "-o", tmp_path / "n", "--codec", codec, "--shard-size", 7)
    assert "28 images converted" in told.stdout
    new = tokenstore.open(tmp_path / "n")
    assert verify_store(new.storage) == []
    assert [shard.count for shard in new["train"].entry.shards] == [7, 7, 7, 2]
    assert [tables.codec for tables in new.manifest.table_sets] == [codec]
    for name, split in old.items():
        assert_same(split[:], new[name][:])
        assert new[name].entry.source_bytes == split.entry.source_bytes
    assert new.manifest.rejects.count == old.manifest.rejects.count
    assert new.vocabulary_fingerprint == old.vocabulary_fingerprint
    assert np.array_equal(new.vocabulary.counts, old.vocabulary.counts)
    assert np.array_equal(new.codebook, old.codebook)
    assert new.manifest.source.model_dump() == {"kind": "store", "listing": old.fingerprint}
    assert tree(Path(old.url)) == before


@pytest.mark.parametrize("words", [("--class", "c5", "--class", "c2"), ("--classes", "c2,c5")])
def test_classes_are_taken_and_labels_count_them(
    labelled: tokenstore.Store, tmp_path: Path, words: tuple[str, ...]
) -> None:
    done("convert", labelled.url, "-o", tmp_path / "n", *words)
    new = tokenstore.open(tmp_path / "n")
    assert verify_store(new.storage) == []
    assert new.manifest.classes == ("c2", "c5")
    for name, split in labelled.items():
        kept = [sample for sample in split if sample.label in (2, 5)]
        assert [s.key for s in kept] == [s.key for s in new[name]]
        assert [s.label for s in kept] == [(2, 5)[s.label] for s in new[name]]
    assert new["train"].entry.source_bytes == 0  # nobody knows how many these few had
    assert new.vocabulary_fingerprint == labelled.vocabulary_fingerprint
    assert (new.vocabulary.counts == 0).any()


def test_a_list_of_keys_is_taken_in_the_order_of_the_store(
    old: tokenstore.Store, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text(
        "ordner ä/val_001\nordner ä/train_020\n\nordner ä/train_003\n", encoding="utf-8"
    )
    done("convert", old.url, "-o", tmp_path / "n", "--list", tmp_path / "list.txt")
    new = tokenstore.open(tmp_path / "n")
    assert_same([old["train"][3], old["train"][20]], new["train"][:])
    assert_same([old["val"][1]], new["val"][:])
    assert new.manifest.classes == old.manifest.classes
    assert verify_store(new.storage) == []


def test_the_first_of_each_split_of_some_splits_without_keys(
    old: tokenstore.Store, tmp_path: Path
) -> None:
    words = ("--first", 4, "--split", "train", "--no-keys")
    done("convert", old.url, "-o", tmp_path / "n", *words)
    new = tokenstore.open(tmp_path / "n")
    assert list(new) == ["train"]
    assert "key" not in new["train"].columns
    assert np.array_equal(new["train"].read(range(4)).ranks, old["train"].read(range(4)).ranks)
    assert len(new["train"]) == 4
    assert verify_store(new.storage) == []


def test_conditions_hold_together_and_a_split_may_become_empty(
    labelled: tokenstore.Store, tmp_path: Path
) -> None:
    chosen = [s.key for s in labelled["train"] if s.label == 3][:3]
    (tmp_path / "list.txt").write_text("\n".join([*chosen, "ordner ä/train_000"]))
    assert chosen
    words = ("--list", tmp_path / "list.txt", "--class", "c3", "--first", 1)
    facts = json.loads(done("convert", labelled.url, "-o", tmp_path / "n", *words, "--json").stdout)
    assert facts["splits"] == {"train": 1, "val": 0}
    new = tokenstore.open(tmp_path / "n")
    assert [s.key for s in new["train"]] == chosen[:1]
    assert verify_store(new.storage) == []


def test_counts_are_those_of_val_where_train_is_left_out(
    old: tokenstore.Store, tmp_path: Path
) -> None:
    done("convert", old.url, "-o", tmp_path / "n", "--split", "val")
    new = tokenstore.open(tmp_path / "n")
    counts = np.bincount(old["val"].read(range(5)).ranks.ravel(), minlength=len(new.vocabulary))
    assert new.vocabulary.counts.tolist() == counts.tolist()
    assert verify_store(new.storage) == []


def test_a_store_that_grew_becomes_one_of_one_version(toy_tokenizer: str, tmp_path: Path) -> None:
    from tests.toy_images import write_corpus

    photos = write_corpus(tmp_path / "photos", {"train": 5})
    more = write_corpus(tmp_path / "more", {"train": 3}, name="more_{}.jpg".format)
    done("build", photos, "-o", tmp_path / "s", "--tokenizer", toy_tokenizer)
    done("append", tmp_path / "s", more)
    done("convert", tmp_path / "s", "-o", tmp_path / "n")
    old, new = tokenstore.open(tmp_path / "s"), tokenstore.open(tmp_path / "n")
    assert (new.manifest.version, len(new["train"].entry.shards)) == (0, 1)
    assert_same(old["train"][:], new["train"][:])
    assert verify_store(new.storage) == []


# --- again, and after an interruption


def test_bytes_do_not_depend_on_the_workers(old: tokenstore.Store, tmp_path: Path) -> None:
    for workers in (1, 4):
        words = ("--shard-size", 5, "--workers", workers)
        done("convert", old.url, "-o", tmp_path / f"n{workers}", *words)
    assert tree(tmp_path / "n1") == tree(tmp_path / "n4")


def test_the_same_line_again_says_done_and_another_one_touches_nothing(
    old: tokenstore.Store, tmp_path: Path
) -> None:
    words = ("convert", old.url, "-o", tmp_path / "n")
    done(*words)
    before = tree(tmp_path / "n")
    assert "whole already" in done(*words).stdout
    assert "finished store with another codec" in refused(*words, "--codec", "zstd")
    assert "finished store with another" in refused(*words[:3], Path(old.url))
    assert tree(tmp_path / "n") == before


def test_stopped_before_any_write_it_continues_to_the_same_bytes(
    old: tokenstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (old.url, "--shard-size", "8", "--workers", "1", "--first", "20")
    done("convert", *words, "-o", tmp_path / "whole")
    whole, after = tree(tmp_path / "whole"), 0
    while True:
        place = tmp_path / f"stopped-{after}"
        with stopping(monkeypatch, after):
            result = run("convert", *words, "-o", place)
        if result.exit_code == 0:
            break
        assert isinstance(result.exception, Stopped)
        assert not (place / "manifest.json").exists()
        done("convert", *words, "-o", place)
        assert tree(place) == whole, f"stopped before write {after}"
        after += 1
    assert after > 12


@pytest.mark.kill
def test_a_killed_conversion_continues_to_the_same_bytes(
    old: tokenstore.Store, tmp_path: Path
) -> None:
    program = """
import os, signal
from tokenstore.cli.main import main
flush, count = os.fsync, 0
def killing(descriptor):
    global count
    count += 1
    if count > 9:
        os.kill(os.getpid(), signal.SIGKILL)
    flush(descriptor)
os.fsync = killing
main()
"""
    words = ["convert", old.url, "--shard-size", "5", "-o"]
    killed = subprocess.run(
        [sys.executable, "-c", program, *words, str(tmp_path / "n")], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    for place in ("n", "whole"):
        done(*words, tmp_path / place)
    assert tree(tmp_path / "n") == tree(tmp_path / "whole")


# --- what cannot be asked for


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (["--codec", "zsdt"], ["unknown codec 'zsdt'. Did you mean zstd"]),
        (["--split", "vla"], ["unknown split 'vla'. Did you mean val?"]),
        (["--class", "c2"], ["cannot be chosen by class", "Choose by --list or --first"]),
        (["--list", "none.txt"], ["none.txt", "cannot be read"]),
        (["--first", "0"], ["--first"]),
        (["--shard-size", "0"], ["--shard-size"]),
    ],
)
def test_wrong_options_are_refused_and_leave_nothing(
    old: tokenstore.Store, tmp_path: Path, words: list[str], texts: list[str]
) -> None:
    told = refused("convert", old.url, "-o", tmp_path / "n", *words)
    assert all(text in told for text in texts), told
    assert not (tmp_path / "n").exists()
    assert not (tmp_path / "n.building").exists()


def test_an_unknown_key_tells_the_nearest(old: tokenstore.Store, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("ordner ä/train_003.jpg\nnowhere\n", encoding="utf-8")
    told = refused("convert", old.url, "-o", tmp_path / "n", "--list", tmp_path / "list.txt")
    assert "no image of train, val has the key 'nowhere' (and 1 more of the list)" in told
    (tmp_path / "list.txt").write_text("ordner ä/train_003.jpg", encoding="utf-8")
    told = refused("convert", old.url, "-o", tmp_path / "n", "--list", tmp_path / "list.txt")
    assert "Did you mean 'ordner ä/train_003'" in told
    (tmp_path / "list.txt").write_text("\n")
    told = refused("convert", old.url, "-o", tmp_path / "n", "--list", tmp_path / "list.txt")
    assert "names no key" in told


def test_conditions_that_a_store_cannot_meet_are_refused(tmp_path: Path) -> None:
    bare = write_small_store(tmp_path / "s", Small(classes=None, keys=False, extras=False)).store
    (tmp_path / "list.txt").write_text("a")
    words = ("convert", bare.url, "-o", tmp_path / "n")
    assert "keeps no keys" in refused(*words, "--list", tmp_path / "list.txt")
    assert "has no classes" in refused(*words, "--class", "a")


def test_an_empty_selection_is_refused(labelled: tokenstore.Store, tmp_path: Path) -> None:
    key = next(s.key for s in labelled["train"] if s.label != 1)
    (tmp_path / "list.txt").write_text(key, encoding="utf-8")
    words = ("--list", tmp_path / "list.txt", "--class", "c1")
    told = refused("convert", labelled.url, "-o", tmp_path / "n", *words)
    assert "no image of" in told
    assert not (tmp_path / "n").exists()
