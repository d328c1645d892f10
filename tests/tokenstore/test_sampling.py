"""Sampling modes: what they promise holds exactly, in every epoch, for any question."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore.errors import UsageError
from tokenstore.order import Shuffled
from tokenstore.sampling import ClassBalanced, Repeated, Subset

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(np.array)


def whole(order, epoch):
    return order.at(epoch, np.arange(len(order)))


@settings(max_examples=150, deadline=None)
@given(LABELS, st.integers(0, 2**40), st.integers(0, 3))
def test_every_round_of_a_balanced_epoch_shows_each_class_once(labels, seed, epoch):
    order = ClassBalanced(labels, seed)
    classes = np.unique(labels)
    assert len(order) == -(-len(labels) // len(classes)) * len(classes)
    rounds = labels[whole(order, epoch)].reshape(-1, len(classes))
    assert (np.sort(rounds, axis=1) == classes).all()


@settings(max_examples=100, deadline=None)
@given(LABELS, st.integers(0, 2**40), st.integers(1, 5))
def test_within_a_class_no_image_falls_behind_over_the_epochs(labels, seed, epochs):
    order = ClassBalanced(labels, seed)
    shown = np.concatenate([whole(order, epoch) for epoch in range(epochs)])
    times = np.bincount(shown, minlength=len(labels))
    for one in np.unique(labels):
        assert np.ptp(times[labels == one]) <= 1


def test_balanced_rounds_and_passes_are_shuffled():
    labels = np.repeat([0, 1, 2, 3], [100, 100, 100, 700])
    order = ClassBalanced(labels, seed=0)
    first = labels[whole(order, 0)].reshape(-1, 4)
    assert len({tuple(row) for row in first[:100]}) == 24  # all orders of four classes
    shown = whole(order, 0)
    passes = [shown[labels[shown] == 0][start : start + 100] for start in (0, 100)]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(100))
    assert abs(np.corrcoef(*passes)[0, 1]) < 0.3


def test_balancing_without_labels_is_refused_with_the_cure():
    with pytest.raises(UsageError, match="needs labels.*class folders"):
        ClassBalanced(None, 0)


def test_a_balanced_order_of_nothing_is_empty():
    order = ClassBalanced(np.zeros(0, np.int64), 0)
    assert whole(order, 0).tolist() == []


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.integers(1, 7), st.integers(0, 3))
def test_images_are_repeated_in_a_row(size, times, epoch):
    order = Repeated(Shuffled(size, 5), times)
    assert len(order) == -(-size // times) * times
    rows = whole(order, epoch).reshape(-1, times)
    assert (rows == rows[:, :1]).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.integers(1, 7))
def test_repeated_epochs_go_on_where_the_last_one_ended(size, times):
    order = Repeated(Shuffled(size, 5), times)
    shown = np.concatenate([whole(order, epoch) for epoch in range(times + 1)])[::times]
    passes = -(-len(shown) // size)
    once = np.concatenate([whole(Shuffled(size, 5), epoch) for epoch in range(passes)])
    assert np.array_equal(shown, once[: len(shown)])


def test_no_repeats_change_nothing():
    assert np.array_equal(whole(Repeated(Shuffled(50, 1), 1), 3), whole(Shuffled(50, 1), 3))


def test_less_than_one_repeat_is_refused():
    with pytest.raises(UsageError, match="times=0"):
        Repeated(Shuffled(5, 0), 0)


def test_modes_nest():
    labels = np.array([0, 1, 0, 1, 1, 1, 0, 2])
    samples = np.array([1, 2, 3, 6, 4])
    order = Repeated(Subset(samples, ClassBalanced(labels[samples], 0)), 2)
    shown = np.concatenate([whole(order, epoch) for epoch in (0, 1)])
    assert set(shown) <= set(samples)
    assert np.bincount(labels[shown]).tolist() == [6, 6]
    assert (shown[::2] == shown[1::2]).all()


@settings(max_examples=60, deadline=None)
@given(LABELS, st.integers(0, 4), st.data())
def test_any_positions_can_be_asked_alone(labels, epoch, data):
    for order in (
        ClassBalanced(labels, 3),
        Repeated(Shuffled(len(labels), 3), 3),
        Subset(np.arange(len(labels)) * 2, Shuffled(len(labels), 3)),
    ):
        asked = data.draw(st.lists(st.integers(0, len(order) - 1), max_size=8))
        some = np.array(asked, np.int64)
        assert np.array_equal(order.at(epoch, some), whole(order, epoch)[some])
