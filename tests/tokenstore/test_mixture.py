"""Mixtures of stores: exact shares, passes of their own, one meaning of every rank."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.small_store import Small, write_small_store
from tests.toy_store import ToyStore, write_toy_store
from tokenstore.errors import Mismatch, OutOfRange, UsageError
from tokenstore.loader import TokenLoader
from tokenstore.mixture import MixedSplit, Mixture, tempered

MIXTURES = st.lists(st.tuples(st.integers(1, 50), st.floats(0.01, 10)), min_size=1, max_size=5).map(
    lambda pairs: tuple(zip(*pairs, strict=True))
)


def owners(order, numbers):
    return np.searchsorted(np.cumsum(order.sizes), numbers, side="right")


@settings(max_examples=100, deadline=None)
@given(MIXTURES, st.integers(0, 2**40), st.integers(0, 3))
def test_shares_are_exact_over_any_long_stretch(mixture, seed, epoch):
    sizes, weights = mixture
    order = Mixture(sizes, weights, seed, length=5000)
    shares = np.array(weights) / sum(weights)
    drawn = owners(order, order.at(epoch, np.arange(5000)))
    counts = np.cumsum(drawn[:, None] == np.arange(len(sizes)), axis=0)
    reached = np.arange(1, 5001)
    errors = np.abs(counts - reached[:, None] * shares)
    assert errors.max() < order.run + 2  # whatever the beginning of the stretch
    whole = reached[(epoch * 5000 + reached) % order.run == 0]
    if len(whole) and not epoch:
        assert np.abs(counts[whole - 1] - whole[:, None] * shares).max() <= 1 + 1e-6
    if len(whole) > 1:
        between = np.diff(counts[whole - 1], axis=0) - np.diff(whole)[:, None] * shares
        assert np.abs(between).max() <= 2


@settings(max_examples=60, deadline=None)
@given(MIXTURES, st.integers(0, 2**40))
def test_each_split_is_gone_through_before_it_repeats(mixture, seed):
    order = Mixture(*mixture, seed)
    numbers = np.concatenate([order.at(epoch, np.arange(len(order))) for epoch in range(20)])
    numbers = numbers[: len(numbers) // order.run * order.run]
    for times in np.split(np.bincount(numbers, minlength=sum(order.sizes)), np.cumsum(order.sizes)):
        assert np.ptp(times) <= 1 if len(times) else True


@settings(max_examples=60, deadline=None)
@given(MIXTURES, st.integers(0, 9), st.data())
def test_any_positions_can_be_asked_alone(mixture, epoch, data):
    order = Mixture(*mixture, seed=3)
    whole = order.at(epoch, np.arange(len(order)))
    some = np.array(data.draw(st.lists(st.integers(0, len(order) - 1), max_size=8)), np.int64)
    assert np.array_equal(order.at(epoch, some), whole[some])


def test_far_into_a_long_run_the_shares_still_hold():
    order = Mixture((10**9, 3 * 10**8, 77), (0.7, 0.2, 0.1), seed=0)
    drawn = owners(order, order.at(10**4, np.arange(256 * 500)))
    assert np.abs(np.bincount(drawn) / len(drawn) - (0.7, 0.2, 0.1)).max() < 0.01


def test_where_in_a_run_a_split_comes_is_random():
    order = Mixture((1000, 1000), (0.5, 0.5), seed=0)
    drawn = owners(order, order.at(0, np.arange(1792)))
    same = (drawn[1:] == drawn[:-1]).mean()
    assert abs(same - 0.5) < 0.05  # deviation 0.012


def test_temperature_goes_from_proportional_to_even():
    assert tempered((100, 300), 1) == pytest.approx((0.25, 0.75))
    assert tempered((100, 300), 2) == pytest.approx((0.366, 0.634), abs=1e-3)
    assert tempered((100, 300), 1e9) == pytest.approx((0.5, 0.5))
    with pytest.raises(UsageError, match="above 0, got 0"):
        tempered((1, 2), 0)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.0), (1.0, -1.0), (1.0, float("nan"))])
def test_weights_that_cannot_be_kept_are_refused(weights):
    with pytest.raises(UsageError, match="one weight above 0 for each"):
        Mixture((5, 5), weights, 0)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixture")
    toys = {
        "a": ToyStore({"train": 30}),
        "b": ToyStore({"train": 11}, seed=1),
        "more-codes": ToyStore({"train": 9}, codes=20),
        "no-labels": ToyStore({"train": 7}, classes=0),
        "larger": ToyStore({"train": 5}, side=4),
    }
    return {name: write_toy_store(folder / name, toy) for name, toy in toys.items()}


def test_a_mixed_split_reads_from_all(stores):
    a, b = stores["a"]["train"], stores["b"]["train"]
    mixed = MixedSplit([a, b])
    assert len(mixed) == 41
    batch = mixed.read([40, 0, 31, -11, 29, 0], keys=True)
    expected = [b[10], a[0], b[1], b[0], a[29], a[0]]
    assert np.array_equal(batch.ranks, np.stack([sample.ranks for sample in expected]))
    assert batch.labels.tolist() == [sample.label for sample in expected]
    assert batch.keys == [sample.key for sample in expected]
    assert mixed.keys([30, 2]) == [b[0].key, a[2].key]
    assert mixed.labels.tolist() == [*a.labels, *b.labels]
    assert mixed.labels_of([31, 3]).tolist() == [b[1].label, a[3].label]
    with pytest.raises(OutOfRange, match="sample 41 lies outside"):
        mixed.read([41])


def test_a_mixed_split_pickles(stores):
    mixed = MixedSplit([stores["a"]["train"], stores["b"]["train"]])
    copy = pickle.loads(pickle.dumps(mixed))
    assert copy.store.fingerprint == mixed.store.fingerprint
    assert np.array_equal(copy.read([35]).ranks, mixed.read([35]).ranks)


def test_the_parts_and_their_order_are_in_the_fingerprint(stores):
    a, b = stores["a"]["train"], stores["b"]["train"]
    found = {MixedSplit(parts).store.fingerprint for parts in ([a, b], [b, a], [a], [a, a, b])}
    assert len(found) == 4


def test_labels_are_left_out_where_classes_differ(stores):
    mixed = MixedSplit([stores["a"]["train"], stores["no-labels"]["train"]])
    assert mixed.labels is None
    assert mixed.read([0, 32]).labels is None
    assert mixed.labels_of([0, 32]) is None


def test_a_longer_vocabulary_may_extend_the_other_s(stores):
    mixed = MixedSplit([stores["a"]["train"], stores["more-codes"]["train"]])
    assert mixed.store.manifest.vocabulary.size == 20


def test_other_codes_are_refused_with_the_cure(stores, tmp_path):
    other = write_small_store(str(tmp_path / "s"), Small(grid=(8, 8))).store
    with pytest.raises(Mismatch, match="different codes.*--vocabulary"):
        MixedSplit([stores["a"]["train"], other["train"]])


def test_other_grids_are_refused(stores):
    with pytest.raises(Mismatch, match=r"grids \[4, 4\].*\[8, 8\]"):
        MixedSplit([stores["a"]["train"], stores["larger"]["train"]])


def test_a_mixture_of_nothing_is_refused():
    with pytest.raises(UsageError, match="at least one split"):
        MixedSplit([])


@pytest.mark.parametrize(
    ("device", "residency"), [(None, "auto"), ("cpu", "stream"), (None, "ram"), ("cpu", "device")]
)
def test_a_loader_takes_a_mixture(stores, device, residency):
    mixed = MixedSplit([stores["a"]["train"], stores["b"]["train"]])
    order = Mixture(mixed.sizes, (1, 3), seed=0, length=256)
    where = {"device": device, "residency": residency}
    loader = TokenLoader(mixed, batch_size=32, sampler=order, keys=True, **where)
    batches = list(loader)
    numbers = np.concatenate([np.asarray(batch.index) for batch in batches])
    assert np.array_equal(numbers, order.at(0, np.arange(256)))
    assert (numbers >= 30).sum() == 192
    expected = mixed.read(np.asarray(batches[1].index), keys=True)
    assert np.array_equal(np.asarray(batches[1].ranks), expected.ranks)
    assert batches[1].keys == expected.keys
