"""The shuffle by shards: exactly once, a few shards at a time, and mixed well inside of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore.shard_shuffle import ShardShuffle

SHARDS = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any).map(tuple)


@settings(max_examples=200, deadline=None)
@given(SHARDS, st.integers(-(2**63), 2**64), st.integers(0, 5), st.integers(1, 6))
def test_every_sample_comes_once_an_epoch(counts, seed, epoch, window):
    order = ShardShuffle(counts, seed, window)
    assert len(order) == sum(counts)
    numbers = order.at(epoch, np.arange(len(order)))
    assert np.array_equal(np.sort(numbers), np.arange(len(order)))


@settings(max_examples=100, deadline=None)
@given(SHARDS, st.integers(0, 5), st.data())
def test_any_positions_can_be_asked_alone(counts, epoch, data):
    order = ShardShuffle(counts, 7, 3)
    whole = order.at(epoch, np.arange(len(order)))
    some = np.array(data.draw(st.lists(st.integers(0, len(order) - 1), max_size=9)), np.int64)
    assert np.array_equal(order.at(epoch, some), whole[some])


@settings(max_examples=100, deadline=None)
@given(SHARDS, st.integers(1, 6), st.integers(0, 3))
def test_each_shard_is_left_for_good_before_the_window_after_the_next(counts, window, epoch):
    order = ShardShuffle(counts, 3, window)
    shard_of = np.repeat(np.arange(len(counts)), counts)
    shards = shard_of[order.at(epoch, np.arange(len(order)))]
    spans = [np.flatnonzero(shards == shard)[[0, -1]] for shard in np.flatnonzero(counts)]
    open_at_once = [sum(a <= p <= b for a, b in spans) for p in range(len(order))]
    assert max(open_at_once) <= window


def test_an_empty_split_has_nothing_to_shuffle():
    order = ShardShuffle((), 0)
    assert len(order) == 0
    assert order.at(0, np.arange(0)).tolist() == []


def test_a_corpus_of_a_billion_images_is_asked_in_a_moment():
    order = ShardShuffle((16_384,) * 61_036, seed=1)
    numbers = order.at(5, np.array([0, 10**9 - 1, 10**9]))
    assert len(set(numbers.tolist())) == 3
    assert 0 <= numbers.min() <= numbers.max() < len(order)


@pytest.mark.parametrize("window", [1, 2, 4])
def test_each_sample_is_as_likely_at_each_position(window):
    counts, runs = (3, 3, 3, 3), 1500
    seen = np.zeros((12, 12))
    for seed in range(runs):
        seen[np.arange(12), ShardShuffle(counts, seed, window).at(0, np.arange(12))] += 1
    expected = runs / 12
    chi_square = ((seen - expected) ** 2 / expected).sum() / 11**2
    assert 0.7 < chi_square < 1.4  # mean 1; measured 0.92 to 1.08


def test_windows_and_epochs_are_shuffled_independently():
    order = ShardShuffle((500,) * 8, seed=0, window=2)
    epochs = np.stack([order.at(epoch, np.arange(4000)) for epoch in range(2)])
    assert abs(np.corrcoef(epochs % 500)[0, 1]) < 0.05
    inside = epochs[0].reshape(4, 1000) % 500
    assert np.abs(np.corrcoef(inside) - np.eye(4)).max() < 0.11  # 0.03 is one deviation
    assert len({tuple(order.shards(epoch)) for epoch in range(5)}) == 5


def test_the_order_of_old_runs_never_changes():
    order = ShardShuffle((4, 3, 5), seed=1, window=2)
    assert order.at(2, np.arange(12)).tolist() == [9, 11, 7, 10, 8, 1, 0, 6, 5, 2, 4, 3]
