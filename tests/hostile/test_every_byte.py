"""Flip bits of a store and cut its files anywhere: an error or the right data, and verify sees it.

The store holds every codec that is registered, each in a shard of its own. damage.py does the work
in a process of its own; the core suite takes a sample, `make test-all` every bit and every length.
"""

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.hostile import damage
from tests.small_store import Small, write_small_store
from tokenstore import registry
from tokenstore.errors import CorruptStore, TokenstoreError
from tokenstore.reader import Store
from tokenstore.verify import verify_store

CODECS = tuple(registry.names("tokenstore.codecs"))
IMAGES = 3  # a shard: a full block and one that is not
SMALL = Small(counts=(("train", IMAGES * len(CODECS)), ("val", 1)), grid=(2, 2), codes=4, block=2,
              shard=IMAGES, codecs=CODECS, classes=2, rejects=1)  # fmt: skip
# Larger grids, many of them, so that there is a dictionary to damage.
TABLES = Small(counts=(("train", 900 * len(CODECS)),), grid=(16, 16), shard=900, block=1024,
               codecs=CODECS, extras=False, keys=False, rejects=0)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("store") / "s"
    write_small_store(place, SMALL)
    return place


@pytest.fixture(scope="module")
def folder_with_tables(tmp_path_factory):
    place = tmp_path_factory.mktemp("tables") / "s"
    write_small_store(place, TABLES)
    assert list(place.glob("tables-*"))
    return place


def cases(folder, how, kind, stride=1, timeout=600):
    """How many ways to damage the store were tried; fails with the case that does harm."""
    note = folder.with_name(f"note-{how}-{kind}-{stride}")
    words = ["tests.hostile.damage", folder, note, how, kind, "--stride", stride]
    ran = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", *map(str, words)],
        capture_output=True, text=True, check=False, timeout=timeout, cwd=ROOT,
    )  # fmt: skip
    at = note.read_text() if note.exists() else "no case yet"
    assert ran.returncode == 0, f"{at}\nexit {ran.returncode}\n{ran.stderr[-3000:]}"
    return int(ran.stdout)


@pytest.mark.parametrize("how", ["flip", "cut"])
def test_a_sample_of_the_damage_is_refused_or_harmless(folder, how):
    assert cases(folder, how, "", stride=41) > 300


def test_verify_sees_a_sample_of_the_damage(folder):
    assert cases(folder, "verify", "", stride=2003) > 100


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.parametrize("kind", ["json", "index", "tar", "safetensors"])
def test_every_flipped_bit_is_refused_or_harmless(folder, kind):
    assert cases(folder, "flip", kind) > 1000


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_every_cut_is_refused_or_harmless(folder):
    assert cases(folder, "cut", "") == sum(
        path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".parquet" and path.parent.name != "manifests"
    )


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_every_flipped_bit_of_tables_is_refused(folder_with_tables):
    tables = next(folder_with_tables.glob("tables-*")).name
    assert cases(folder_with_tables, "flip", tables) > 1000


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_verify_sees_damage_everywhere(folder):
    assert cases(folder, "verify", "", stride=101) > 1000


def test_a_file_that_is_missing_is_refused_or_harmless(folder):
    files = damage.sound_files(folder)
    sound = damage.everything(Store(damage.Memory(files)))
    assert verify_store(damage.Memory(files)) == []
    for name in files:
        copy = damage.Memory({other: files[other] for other in files if other != name})
        try:
            assert damage.everything(Store(copy)) == sound, f"{name} missing"
        except TokenstoreError as error:
            assert name in str(error)
        try:
            places = [finding.place for finding in verify_store(copy)]
            assert name in places, f"{name} missing"
        except TokenstoreError as error:
            assert name in str(error)


def test_the_harness_lets_neither_other_data_nor_errors_without_a_place_pass(folder):
    files = damage.sound_files(folder)
    storage = damage.Memory(files)
    name = "val-000000.tar"
    assert list(damage.read_all(storage, {name: files[name]}, iter([]))) == []
    wrong = damage.Case(name, "as it was", files[name])
    with pytest.raises(AssertionError, match="other data"):
        damage._read_one(wrong, lambda: [1], [2])

    def nameless():
        raise CorruptStore("something is wrong somewhere")

    with pytest.raises(AssertionError, match="names no place"):
        damage._read_one(wrong, nameless, [2])


def test_the_harness_marks_what_is_read_and_nothing_else(folder):
    storage = damage.Memory(damage.sound_files(folder))
    damage.everything(Store(storage))
    tar = storage.touched["val-000000.tar"]
    assert 0 < tar.sum() < len(tar) / 10
    assert not tar[:512].any()
    assert storage.touched["manifest.json"].all()
    assert not storage.touched["manifests/000000.json"].any()
