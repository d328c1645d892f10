"""Popularity: ids become ranks and come back, strictly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore.errors import CorruptStore, Mismatch
from tokenstore.vocabulary import Vocabulary

COUNTS = {"train": np.array([5, 0, 9, 5, 0]), "val": np.array([0, 3, 100, 0, 0])}


def test_ids_are_ordered_by_their_count_in_train_then_by_id():
    vocabulary = Vocabulary.from_counts(COUNTS)
    assert vocabulary.ids.tolist() == [2, 0, 3, 1]
    assert vocabulary.counts.tolist() == [9, 5, 5, 0]


@pytest.mark.parametrize("counts", [{"test": COUNTS["val"]}, {**COUNTS, "train": np.zeros(5, int)}])
def test_without_images_to_train_on_all_splits_count(counts):
    vocabulary = Vocabulary.from_counts(counts)
    assert vocabulary.ids.tolist() == [2, 1]
    assert vocabulary.counts.tolist() == [100, 3]


def test_codebook_rows_follow_the_ranks():
    codebook = np.arange(10, dtype=np.float32).reshape(5, 2)
    vocabulary = Vocabulary.from_counts(COUNTS, codebook)
    assert vocabulary.codebook.tolist() == codebook[[2, 0, 3, 1]].tolist()


def test_a_vocabulary_that_is_taken_over_keeps_its_ranks_and_counts_anew():
    codebook = np.arange(10, dtype=np.float32).reshape(5, 2)
    taken = Vocabulary.from_counts(COUNTS).recounted({"val": np.array([7, 1, 0, 0, 0])}, codebook)
    assert taken.ids.tolist() == [2, 0, 3, 1]
    assert taken.counts.tolist() == [0, 7, 0, 1]
    assert taken.codebook.tolist() == codebook[[2, 0, 3, 1]].tolist()
    assert taken.entropy == pytest.approx(0.543564)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 9))
def test_ranks_of_ids_are_a_renaming(drawn, seed):
    counts = np.random.default_rng(seed).integers(1, 4, 5)
    vocabulary = Vocabulary.from_counts({"train": counts})
    ids = np.array(drawn)
    ranks = vocabulary.to_ranks(ids)
    assert ranks.dtype == np.uint16
    assert np.array_equal(vocabulary.to_ids(ranks), ids)
    assert sorted(vocabulary.to_ranks(np.arange(5)).tolist()) == list(range(5))


@pytest.mark.parametrize("strange", [4, 5, -1, 10**9])
def test_an_id_outside_is_named(strange):
    vocabulary = Vocabulary.from_counts(COUNTS)
    with pytest.raises(Mismatch, match=f"id {strange} is not among the 4 ids"):
        vocabulary.to_ranks(np.array([[2, strange]]))


@pytest.mark.parametrize("largest", [9, 2**24 + 5])
@pytest.mark.parametrize("kind", [np.int64, np.int32])
def test_ids_are_looked_up_or_searched_alike(largest, kind):
    ids = np.array([7, 0, largest, 3], np.int32)
    vocabulary = Vocabulary(ids, np.ones(4, np.int64))
    asked = np.array([[3, 3], [largest, 7], [0, 0]], kind)
    assert vocabulary.to_ranks(asked).tolist() == [[3, 3], [2, 0], [1, 1]]
    for strange in (1, 8, -1, largest + 1, 2**31 - 1):
        with pytest.raises(Mismatch, match=f"id {strange} is not among the 4 ids"):
            vocabulary.to_ranks(np.array([3, strange], kind))
    assert vocabulary.to_ranks(np.zeros((0, 2), kind)).shape == (0, 2)


@pytest.mark.parametrize("strange", [4, 65535, -1])
def test_a_rank_outside_is_named(strange):
    with pytest.raises(Mismatch, match=f"rank {strange} lies outside"):
        Vocabulary.from_counts(COUNTS).to_ids(np.array([0, strange]))


def test_no_ids_or_too_many_make_no_vocabulary():
    with pytest.raises(Mismatch, match="0 ids occur"):
        Vocabulary.from_counts({"train": np.zeros(4, int)})
    with pytest.raises(Mismatch, match="65537 ids occur"):
        Vocabulary.from_counts({"train": np.ones(65537, int)})


@pytest.mark.parametrize(
    ("counts", "bits"), [([1], 0.0), ([3, 3], 1.0), ([2, 1, 1], 1.5), ([1] * 8, 3.0)]
)
def test_entropy_is_that_of_the_counts(counts, bits):
    assert Vocabulary.from_counts({"train": np.array(counts)}).entropy == bits


@pytest.mark.parametrize("codebook", [None, np.ones((5, 3), np.float32)])
def test_a_vocabulary_survives_its_file(codebook):
    vocabulary = Vocabulary.from_counts(COUNTS, codebook)
    again = Vocabulary.from_bytes(vocabulary.to_bytes(), "here")
    assert np.array_equal(again.ids, vocabulary.ids)
    assert np.array_equal(again.counts, vocabulary.counts)
    assert (again.codebook is None) == (codebook is None)
    assert again.to_bytes() == vocabulary.to_bytes()


def test_a_file_that_is_no_vocabulary_is_refused():
    ids, counts = np.array([3, 3], np.int32), np.array([1, 1], np.int64)
    for wrong in (
        b"",
        Vocabulary(ids, counts).to_bytes(),
        Vocabulary(-ids, counts).to_bytes(),
        Vocabulary(ids, counts[:1]).to_bytes(),
        Vocabulary(ids.astype(np.int64), counts).to_bytes(),
    ):
        with pytest.raises(CorruptStore, match="here"):
            Vocabulary.from_bytes(wrong, "here")


def test_the_fingerprint_tells_tokenizer_weights_and_order_apart():
    vocabulary = Vocabulary.from_counts(COUNTS)
    other = Vocabulary(vocabulary.ids[::-1].copy(), vocabulary.counts)
    prints = {
        vocabulary.fingerprint("pocket", "a" * 64),
        vocabulary.fingerprint("pocket", None),
        vocabulary.fingerprint("vqgan", "a" * 64),
        other.fingerprint("pocket", "a" * 64),
    }
    assert len(prints) == 4
    same = Vocabulary(vocabulary.ids, vocabulary.counts + 1)
    assert same.fingerprint("pocket", None) in prints
