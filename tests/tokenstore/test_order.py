"""The computed shuffle: a bijection for every size, well mixed, and the same for ever."""

import numpy as np
import pytest

from tokenstore.order import Permutation, Shuffled, Unshuffled, description_of
from tokenstore.sampling import ClassBalanced, Repeated, Subset
from tokenstore.shard_shuffle import ShardShuffle

SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 100, 255, 256, 257, 1000, 4096, 4097, 100_003]


@pytest.mark.parametrize("size", SIZES)
def test_every_image_comes_once_an_epoch(size):
    for seed, epoch in ((0, 0), (0, 1), (7, 0), (-3, 2)):
        images = Permutation(size, seed, epoch).at(np.arange(size))
        assert np.array_equal(np.sort(images), np.arange(size))


def test_any_position_can_be_asked_alone():
    shuffle = Permutation(1000, 3, 4)
    whole = shuffle.at(np.arange(1000))
    assert [int(shuffle.at(np.array([p]))[0]) for p in (0, 17, 999)] == whole[[0, 17, 999]].tolist()


def test_a_billion_images_need_no_memory():
    images = Permutation(10**12, 0, 0).at(np.array([0, 1, 10**12 - 1]))
    assert len(set(images.tolist())) == 3
    assert images.min() >= 0
    assert images.max() < 10**12


def test_seeds_and_epochs_give_different_orders():
    orders = {
        tuple(Permutation(50, seed, epoch).at(np.arange(50)).tolist())
        for seed in (0, 1, 2**32, 2**64 - 1)
        for epoch in range(5)
    }
    assert len(orders) == 20


@pytest.mark.parametrize("size", [5, 10, 16, 33])
def test_each_image_is_as_likely_at_each_position(size):
    runs = 1500
    counts = np.zeros((size, size))
    for seed in range(runs):
        counts[np.arange(size), Permutation(size, seed, 0).at(np.arange(size))] += 1
    expected = runs / size
    chi_square = ((counts - expected) ** 2 / expected).sum() / (size - 1) ** 2
    assert 0.5 < chi_square < 1.6  # mean 1; the smallest size has 16 degrees of freedom


def test_neighbours_in_the_split_are_not_neighbours_in_the_epoch():
    size = 20_000
    images = Permutation(size, 0, 0).at(np.arange(size)).astype(float)
    assert abs(np.corrcoef(images[:-1], images[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(np.arange(size), images)[0, 1]) < 0.03
    steps = np.abs(np.diff(images))
    assert abs(steps.mean() / size - 1 / 3) < 0.01  # two uniform draws lie n/3 apart on average


def test_epochs_are_unrelated_to_each_other():
    size = 20_000
    first, second = (Permutation(size, 0, e).at(np.arange(size)).astype(float) for e in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    assert (first == second).sum() < 10  # one is expected


def test_the_order_of_old_runs_never_changes():
    assert Permutation(10, 0, 0).at(np.arange(10)).tolist() == [5, 9, 3, 4, 1, 7, 8, 2, 6, 0]
    assert Permutation(10**9, 42, 7).at(np.arange(4)).tolist() == [
        412737714,
        62192193,
        983280803,
        872245615,
    ]


def test_the_order_of_an_epoch_is_its_permutation_and_without_shuffle_the_split_s():
    positions = np.arange(3, 90)
    for epoch in (0, 4):
        assert np.array_equal(
            Shuffled(100, 7).at(epoch, positions), Permutation(100, 7, epoch).at(positions)
        )
        assert np.array_equal(Unshuffled(100).at(epoch, positions), positions)
    assert len(Shuffled(100, 7)) == len(Unshuffled(100)) == 100


def test_a_description_tells_class_and_parameters_the_same_way_in_every_process():
    many = np.arange(1000)
    balanced = ClassBalanced(np.array([0, 1, 0]), seed=2**70)
    for order, told in (
        (Shuffled(5, seed=-1), "Shuffled(size=5, seed=-1)"),
        (Shuffled(np.int64(5), seed=np.int64(-1)), "Shuffled(size=5, seed=-1)"),
        (ShardShuffle((3, 2), 0), "ShardShuffle(counts=[3.0, 2.0], seed=0, window=32)"),
        (
            Repeated(Subset(many, Shuffled(1000, 1)), 3),
            "Repeated(order=Subset(samples=1000 of 702746827e553786, "
            "order=Shuffled(size=1000, seed=1)), times=3)",
        ),
        (
            balanced,
            "ClassBalanced(members=3 of 0f004f117335020e, "
            "firsts=2 of c571327cb01ac1de, seed=1180591620717411303424)",
        ),
    ):
        assert description_of(order) == told


def test_an_order_of_one_s_own_is_told_by_its_class_or_as_it_says():
    class Mine:
        __len__ = at = None

    assert description_of(Mine()) == "Mine"
    Mine.description = "Mine(7)"
    assert description_of(Mine()) == "Mine(7)"
