"""Reading: any samples in any order, on a disk or behind a URL, and clear refusals."""

import pickle
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenstore
from tests.small_store import Small, write_small_store
from tests.toy_store import write_toy_store
from tokenstore.columns import mask_of
from tokenstore.errors import (
    FormatTooNew,
    Mismatch,
    NotAStore,
    UnknownName,
    UsageError,
)
from tokenstore.manifest import publish


@pytest.fixture(scope="module", params=["local", "memory"])
def written(request, tmp_path_factory):
    local = tmp_path_factory.mktemp("store") / "s.tokenstore"
    return write_small_store(local if request.param == "local" else f"memory://{uuid.uuid4()}")


@pytest.fixture(scope="module")
def train(written):
    return written.store["train"]


def test_a_store_is_a_mapping_of_its_splits(written):
    store = tokenstore.open(written.store.url)
    assert list(store) == list(store.splits) == ["train", "val"]
    assert len(store) == 2
    assert "val" in store
    assert "test" not in store
    assert [len(split) for split in store.values()] == [23, 5]
    assert repr(store) == f"Store('{store.url}': train 23, val 5)"
    assert repr(store["val"]) == f"Split('{store.url}' val: 5 samples)"
    assert store.get("test") is None
    with pytest.raises(UnknownName, match=r"^unknown split 'vall'\. Did you mean val\?"):
        store["vall"]


def test_every_sample_has_every_column(written):
    for name, truth in written.truth.items():
        for i, sample in enumerate(written.store[name]):
            assert np.array_equal(sample.ranks, truth.ranks[i])
            assert sample.ranks.dtype == np.uint16
            assert (sample.key, sample.label) == (truth.keys[i], truth.labels[i])
            assert np.array_equal(sample.mask, mask_of(truth.masks[i], ""))
            assert (sample.meta, sample.view) == (truth.meta[i], truth.views[i])


@settings(deadline=None, max_examples=40)
@given(indices=st.lists(st.integers(-23, 22), max_size=40))
def test_a_batch_comes_in_the_order_asked_with_repeats_and_from_the_end(written, indices):
    batch = written.store["train"].read(indices, keys=True)
    truth = written.truth["train"]
    assert np.array_equal(batch.ranks, truth.ranks[np.array(indices, int)])
    assert np.array_equal(batch.labels, truth.labels[np.array(indices, int)])
    assert batch.keys == [truth.keys[i] for i in indices]
    assert (batch.ranks.dtype, batch.labels.dtype) == (np.uint16, np.int64)


@pytest.mark.parametrize("kind", [np.int32, np.uint64, np.uint8])
def test_indices_may_be_numpy_arrays_of_any_whole_type(written, train, kind):
    batch = train.read(np.array([3, 1, 4], kind))
    assert np.array_equal(batch.ranks, written.truth["train"].ranks[[3, 1, 4]])


def test_negative_and_sliced_samples(written, train):
    truth = written.truth["train"].keys
    assert train[-1].key == truth[-1]
    assert train[np.int64(2)].key == truth[2]
    assert [sample.key for sample in train[20:]] == truth[20:]
    assert [sample.key for sample in train[::-9]] == truth[::-9]


def test_a_data_loader_reads_a_batch_of_samples_in_one_call(written, train):
    some = train.__getitems__([5, -1, 5])
    assert [sample.key for sample in some] == [train[i].key for i in (5, -1, 5)]
    assert np.array_equal(some[1].ranks, written.truth["train"].ranks[-1])
    with pytest.raises(IndexError):
        train.__getitems__([0, 23])


@pytest.mark.parametrize("wrong", [23, -24, 10**12])
def test_a_sample_outside_names_split_and_length(train, wrong):
    with pytest.raises(UsageError, match=f"sample {wrong} lies outside split 'train' .* 23 samp"):
        train.read([0, wrong])
    with pytest.raises(IndexError):
        train[wrong]


@pytest.mark.parametrize("wrong", [[0.5], [True], ["1"], [[1, 2]], 3])
def test_indices_that_are_no_list_of_whole_numbers_are_refused(train, wrong):
    with pytest.raises(UsageError, match="list of whole numbers"):
        train.read(wrong)


def test_a_batch_can_be_read_into_an_array(written, train):
    out = np.zeros((2, 4, 3), np.uint16)
    assert train.read([5, 2], out=out).ranks is out
    assert np.array_equal(out, written.truth["train"].ranks[[5, 2]])
    for wrong in (out[:1], out.astype(np.int64), np.zeros((2, 3, 4), np.uint16).swapaxes(1, 2)):
        with pytest.raises(UsageError, match="C-contiguous uint16"):
            train.read([5, 2], out=wrong)


def test_labels_of_the_whole_split(written, train):
    assert np.array_equal(train.labels, written.truth["train"].labels)
    assert train.labels.dtype == np.int64
    assert train.classes == tuple(f"c{i}" for i in range(7))


def test_columns_that_a_split_lacks_are_none(tmp_path):
    small = Small(classes=None, keys=False, extras=False, rejects=0, codecs=("zstd",))
    split = write_small_store(tmp_path, small).store["train"]
    batch = split.read([1], keys=True)
    assert (batch.labels, batch.keys, split.labels, split.classes) == (None, None, None, None)
    sample = split[1]
    assert (sample.key, sample.label, sample.mask, sample.meta, sample.view) == (None,) * 5


def test_an_empty_split_can_be_read(tmp_path):
    small = Small(counts=(("train", 0), ("val", 3)))
    store = write_small_store(tmp_path, small).store
    assert len(store["train"]) == 0
    assert list(store["train"]) == []
    assert store["train"].read([]).ranks.shape == (0, 4, 3)
    assert store["train"].labels.shape == (0,)
    assert len(store["val"].read([0, 2]).ranks) == 2


def test_grids_may_have_channels(tmp_path):
    small = Small(grid=(2, 4, 3))
    written = write_small_store(tmp_path, small)
    batch = written.store["train"].read(np.arange(23))
    assert np.array_equal(batch.ranks, written.truth["train"].ranks)


def test_ids_and_codebook_are_in_rank_order(written):
    store, vocabulary = written.store, written.vocabulary
    ranks = store["train"].read([0, 7]).ranks
    assert np.array_equal(store.ids(ranks), vocabulary.ids[ranks])
    assert np.array_equal(store.codebook, vocabulary.codebook)
    assert np.array_equal(store.vocabulary.counts, vocabulary.counts)
    with pytest.raises(Mismatch, match="rank 60000 lies outside"):
        store.ids(np.array([60000]))


def test_fingerprints_name_store_and_vocabulary(written):
    store = written.store
    assert store.fingerprint == store.manifest.hash
    assert store.vocabulary_fingerprint == written.vocabulary.fingerprint("toy", None)


def test_threads_may_share_a_split(written):
    split = tokenstore.open(written.store.url)["train"]
    truth = written.truth["train"]

    def read(seed):
        rows = np.random.default_rng(seed).integers(0, 23, 50)
        batch = split.read(rows, keys=True)
        assert np.array_equal(batch.ranks, truth.ranks[rows])
        assert batch.keys == [truth.keys[row] for row in rows]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(60)))


def test_stores_and_splits_survive_pickling(written):
    store = pickle.loads(pickle.dumps(written.store))
    assert store.fingerprint == written.store.fingerprint
    split = pickle.loads(pickle.dumps(written.store["val"]))
    assert np.array_equal(split.read([4]).ranks, written.truth["val"].ranks[[4]])


def test_a_store_that_changed_since_it_was_pickled_is_refused(tmp_path):
    pickled = pickle.dumps(write_small_store(tmp_path).store)
    (tmp_path / "manifest.json").write_bytes(
        write_small_store(tmp_path / "other", Small(seed=1)).store.storage.read("manifest.json")
    )
    with pytest.raises(Mismatch, match="has changed since it was pickled"):
        pickle.loads(pickled)


def test_opening_touches_the_manifest_only(written):
    store = tokenstore.open(written.store.url)
    store.storage = None
    assert len(store["train"]) == 23
    assert store.manifest.grid == (4, 3)


def test_a_place_without_a_store_is_a_clear_error(tmp_path):
    with pytest.raises(NotAStore, match="has no manifest"):
        tokenstore.open(tmp_path / "nothing")


def test_a_codec_that_is_not_here_is_named(tmp_path):
    store = write_small_store(tmp_path / "a").store
    tables = store.manifest.table_sets
    sets = (tables[0].model_copy(update={"codec": "quantum"}), tables[1])
    publish(
        tokenstore.storage.open_storage(tmp_path / "b"),
        store.manifest.model_copy(update={"table_sets": sets}),
    )
    with pytest.raises(FormatTooNew, match="codec 'quantum', this tokenstore has context, gzip"):
        tokenstore.open(tmp_path / "b")


def test_a_tokenizer_that_is_not_here_is_named(written):
    with pytest.raises(UnknownName, match="unknown tokenizer 'toy'"):
        written.store.decode(np.zeros((1, 4, 3), np.uint16))


def test_ranks_decode_to_pictures_with_the_stores_own_tokenizer(tmp_path, monkeypatch):
    from tests.toy_tokenizer import ToyTokenizer
    from tokenstore import registry

    found = registry.find
    monkeypatch.setattr(registry, "find", lambda p, n: ToyTokenizer if n == "toy" else found(p, n))
    store = write_toy_store(tmp_path)
    images = store.decode(store["train"].read([0, 1]).ranks)
    assert (images.shape, images.dtype) == ((2, 64, 64, 3), np.uint8)
    assert store.tokenizer() is store.tokenizer()


@pytest.fixture
def toy_by_name(monkeypatch):
    """The toy tokenizer is found by its name; gives the requests by which it was loaded."""
    from tests.toy_tokenizer import ToyTokenizer
    from tokenstore import registry

    class Watched(ToyTokenizer):
        requests: ClassVar[list] = []

        @classmethod
        def load(cls, request):
            cls.requests.append(request)
            return super().load(request)

    found = registry.find
    monkeypatch.setattr(registry, "find", lambda p, n: Watched if n == "toy" else found(p, n))
    return Watched


def test_weights_and_config_reach_the_tokenizer(tmp_path, toy_by_name):
    store = write_toy_store(tmp_path)
    store.tokenizer(weights="w.ckpt", config="model.yaml")
    request = toy_by_name.requests[-1]
    assert (request.weights, request.config) == ("w.ckpt", "model.yaml")
    assert request.preprocess.size == (64, 64)


def test_a_tokenizer_of_other_weights_or_settings_is_refused(tmp_path, toy_by_name, monkeypatch):
    store = write_toy_store(tmp_path)
    monkeypatch.setattr(toy_by_name, "describe", lambda self: {"codes": 64, "stride": 4, "x": (1,)})
    with pytest.raises(Mismatch, match=r"toy of stride 8, found 4; x None, found \[1\].*--config"):
        store.tokenizer()
    monkeypatch.setattr(toy_by_name, "weights_sha256", "1" * 64)
    with pytest.raises(Mismatch, match="toy weights None, found 1111.*--weights"):
        store.tokenizer()


def test_a_tokenizer_of_another_precision_is_the_same_one(tmp_path, toy_by_name, monkeypatch):
    described = toy_by_name.describe
    monkeypatch.setattr(
        toy_by_name, "describe", lambda self: {**described(self), "precision": "bf16"}
    )
    write_toy_store(tmp_path).tokenizer()
