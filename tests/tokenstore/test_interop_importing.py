"""Importing in two readings: shards, resuming, what is known of an imported store afterwards."""

import json
import pickle

import numpy as np
import pytest
from click.testing import CliRunner

import tokenstore
from tests.toy_images import write_corpus
from tests.toy_store import write_toy_store
from tokenstore.cli.main import main
from tokenstore.errors import BuildError, SourceError, UsageError
from tokenstore.interop import importing, screening
from tokenstore.interop.base import ImportRequest
from tokenstore.interop.exporting import export_store
from tokenstore.interop.importing import ImportOptions, import_store
from tokenstore.verify import verify_store

RNG = np.random.default_rng(0)
IDS = np.minimum(RNG.geometric(0.05, (5000, 4, 4)), 300).astype(np.uint16)


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def bring_in(place, store, **request):
    return import_store("npy", ImportRequest(place, **request), store, ImportOptions())


def files(folder):
    found = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in found}


@pytest.fixture
def array(tmp_path):
    np.save(tmp_path / "x.npy", IDS)
    np.save(tmp_path / "x.labels.npy", np.arange(5000) % 7)
    return tmp_path / "x.npy"


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(importing, "SHARD_IMAGES", 1500)


@pytest.mark.usefixtures("small_shards")
def test_a_long_input_becomes_several_shards_in_its_own_order(array, tmp_path):
    bring_in(array, tmp_path / "s")
    store = tokenstore.open(tmp_path / "s")
    assert [shard.count for shard in store["train"].entry.shards] == [1500, 1500, 1500, 500]
    batch = store["train"].read(np.arange(5000))
    assert np.array_equal(store.ids(batch.ranks), IDS)
    assert np.array_equal(batch.labels, np.arange(5000) % 7)
    counts = np.bincount(IDS.ravel())
    assert (
        store.vocabulary.ids.tolist()
        == np.argsort(-counts, kind="stable")[: len(store.vocabulary)].tolist()
    )
    assert verify_store(tmp_path / "s") == []


@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_import_goes_on_and_ends_with_the_same_bytes(array, tmp_path, monkeypatch):
    bring_in(array, tmp_path / "whole")
    written, honest = [], importing.write_shard

    def stop_at_the_third(target, plan, samples):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(plan.name)
        return honest(target, plan, samples)

    monkeypatch.setattr(importing, "write_shard", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        bring_in(array, tmp_path / "s")
    assert not (tmp_path / "s" / "manifest.json").exists()
    again = []
    monkeypatch.setattr(importing, "write_shard", lambda *a: again.append(a[1].name) or honest(*a))
    bring_in(array, tmp_path / "s")
    assert (written, again) == (
        ["train-000000", "train-000001"],
        ["train-000002", "train-000003"],
    )
    assert files(tmp_path / "s") == files(tmp_path / "whole")
    assert not (tmp_path / "s.building").exists()


@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_import_of_something_else_is_left_alone(array, tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "publish", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        bring_in(array, tmp_path / "s")
    np.save(array, IDS[::-1])
    before = files(tmp_path / "s")
    with pytest.raises(BuildError, match=r"interrupted build of another plan \(source"):
        bring_in(array, tmp_path / "s")
    assert files(tmp_path / "s") == before


def test_an_input_that_changes_while_it_is_read_makes_no_store(array, tmp_path, monkeypatch):
    honest = importing.claim_output

    def changed_meanwhile(*arguments):
        opened = np.lib.format.open_memmap(array, "r+")
        opened[4321, 2, 2] += 1
        opened.flush()
        return honest(*arguments)

    monkeypatch.setattr(importing, "claim_output", changed_meanwhile)
    with pytest.raises(SourceError, match="has changed while it was read"):
        bring_in(array, tmp_path / "s")
    assert files(tmp_path / "s") == {}
    monkeypatch.setattr(importing, "claim_output", honest)
    np.save(array, IDS)
    bring_in(array, tmp_path / "s")  # as it was at first: no shard of the other state is kept
    assert verify_store(tmp_path / "s") == []


def test_something_else_at_the_place_is_left_alone(array, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.tex").write_text("mine")
    with pytest.raises(BuildError, match=r"holds 'thesis.tex'"):
        bring_in(array, tmp_path / "s")


def test_a_bad_sample_is_told_before_anything_is_written(array, tmp_path):
    opened = np.lib.format.open_memmap(array.with_name("y.npy"), "w+", np.int32, (5000, 4, 4))
    opened[:] = IDS
    opened[4999, 3, 3] = -5
    opened.flush()
    with pytest.raises(SourceError, match=r"y.npy', image 4999: id -5 at \[3, 3\]"):
        bring_in(array.with_name("y.npy"), tmp_path / "s")
    assert not list(tmp_path.glob("s*"))


@pytest.mark.parametrize("cuts", [[], [1], [3, 4, 900], list(range(7, 1000, 7))])
def test_a_sample_of_a_stream_is_even_whatever_the_chunks(cuts):
    stream = np.arange(1000).reshape(1000, 1, 1)
    sample = screening.EvenSample(100)
    for part in np.split(stream, cuts):
        sample.add(part)
    kept = sample.grids((1, 1)).ravel()
    assert kept.tolist() == list(range(0, 1000, 16))  # 63 of at most 100


def test_more_ids_than_a_vocabulary_holds_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(66_049).reshape(1, 257, 257))
    told = run("import", "npy", tmp_path / "x.npy", "-o", tmp_path / "s")
    assert told.exit_code == 2
    assert "66049 ids occur, a vocabulary holds 1 to 65536" in told.stderr


# --- an imported store, used


@pytest.fixture
def imported(array, tmp_path):
    bring_in(array, tmp_path / "s")
    return tmp_path / "s"


def test_pictures_of_an_unknown_tokenizer_are_refused_with_the_cure(imported, tmp_path):
    store = tokenstore.open(imported)
    with pytest.raises(UsageError, match=r"imported from files .*store\.ids\(ranks\)"):
        store.decode(store["train"].read([0]).ranks)
    told = run("show", imported, 0, "-o", tmp_path / "a.png")
    assert told.exit_code == 2
    assert "do not say which tokenizer made them" in told.stderr
    images = write_corpus(tmp_path / "images", {"train": 2})
    told = run("build", images, "-o", tmp_path / "t", "--vocabulary", imported)
    assert told.exit_code == 2
    assert "imported from files that do not say which tokenizer made them" in told.stderr


def test_info_says_where_an_imported_store_comes_from(imported):
    told = run("info", imported)
    assert told.exit_code == 0
    assert "tokenizer   unknown, imported from npy files that do not tell more" in told.stdout
    facts = json.loads(run("info", imported, "--json").stdout)
    assert (facts["tokenizer"]["name"], facts["preprocess"]) == ("unknown", {})
    assert facts["splits"]["train"]["total_of_source"] is None
    assert run("verify", imported).exit_code == 0


@pytest.mark.usefixtures("toy_tokenizer")
def test_a_store_that_went_out_and_came_back_decodes_the_same(tmp_path):
    store = write_toy_store(tmp_path / "s")
    export_store(store.url, "parquet", tmp_path / "out")
    import_store("parquet", ImportRequest(tmp_path / "out"), tmp_path / "t", ImportOptions())
    back = tokenstore.open(tmp_path / "t")
    pictures = [one.decode(one["train"].read([0, 5]).ranks) for one in (store, back)]
    assert np.array_equal(*pictures)


def test_an_imported_store_pickles_and_loads(imported):
    split = pickle.loads(pickle.dumps(tokenstore.open(imported)["train"]))
    assert np.array_equal(split.store.ids(split[17].ranks), IDS[17])


# --- the commands


def test_import_and_export_print_what_they_came_to(array, tmp_path):
    told = run("import", "npy", array, "-o", tmp_path / "s", "--json")
    facts = json.loads(told.stdout)
    assert told.exit_code == 0
    assert facts["splits"] == {"train": 5000}
    assert (facts["new"], facts["codebook"], facts["grid"]) == (True, False, [4, 4])
    assert "is whole already" in run("import", "npy", array, "-o", tmp_path / "s").stdout
    told = run("export", tmp_path / "s", "parquet", "-o", tmp_path / "out", "--json")
    facts = json.loads(told.stdout)
    assert facts["images"] == {"train": 5000}
    assert facts["bytes"] == sum(len(content) for content in files(tmp_path / "out").values())
    told = run("import", "parquet", tmp_path / "out", "-o", tmp_path / "t")
    assert told.exit_code == 0
    assert "5,000 images" in told.stdout and "no codebook, tokenizer unknown" in told.stdout
    assert "train" in run("export", tmp_path / "s", "npy", "-o", tmp_path / "out2").stdout


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["import", "hdf5", "x.npy", "-o", "s"], "unknown format 'hdf5'"),
        (["import", "npy", "x.npy", "-o", "s", "--grid", "4"], "--grid '4' is no HxW or CxHxW"),
        (["import", "npy", "x.npy", "-o", "s", "--grid", "0x4"], "--grid '0x4' is no HxW"),
        (["import", "npy", "x.npy", "-o", "s", "--labels", "no.txt"], "no file of labels"),
        (["import", "npy", "x.npy", "-o", "s", "--codebook", "no.npy"], "no codebook 'no.npy'"),
        (["import", "npy", "x.npy", "-o", "s", "--split", "a b"], "split"),
        (["import", "npy", "gone.npy", "-o", "s"], "'gone.npy' does not exist"),
        (["export", "gone", "npy", "-o", "out"], "'gone' is no token store"),
        (["export", "gone", "hdf5", "-o", "out"], "unknown format 'hdf5'"),
    ],
)
def test_wrong_words_get_one_sentence(array, monkeypatch, words, answer):
    monkeypatch.chdir(array.parent)
    told = run(*words)
    assert told.exit_code == 2
    assert answer in told.stderr
    assert "Traceback" not in told.stderr
    assert not (array.parent / "s").exists()


def test_labels_for_an_input_of_several_splits_are_refused(tmp_path):
    for split in ("train", "val"):
        np.save(tmp_path / f"{split}.npy", IDS[:10])
    (tmp_path / "l.txt").write_text("1\n" * 10)
    with pytest.raises(SourceError, match="labels one split, the input has train, val"):
        bring_in(tmp_path, tmp_path / "s", labels=tmp_path / "l.txt")


def test_a_split_needs_a_name_that_files_can_have(array, tmp_path):
    with pytest.raises(UsageError, match="split"):
        bring_in(array, tmp_path / "s", split="../out")
    assert not (tmp_path / "out").exists()
