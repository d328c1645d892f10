"""What a loader promises, for every order there is: exactly once, alike on any number of ranks."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstore.errors import UsageError
from tokenstore.loader import TokenLoader
from tokenstore.mixture import Mixture
from tokenstore.order import Shuffled, Unshuffled
from tokenstore.sampling import ClassBalanced, Repeated, Subset
from tokenstore.shard_shuffle import ShardShuffle


def cut(count):
    """Numbers of any size that sum to count."""
    return tuple(len(part) for part in np.array_split(np.arange(count), min(count, 5)))


ORDERS = {
    "full": lambda n: Shuffled(n, 1),
    "none": Unshuffled,
    "shards": lambda n: ShardShuffle(cut(n), 1, window=2),
    "subset": lambda n: Subset(np.arange(n) * 3, Shuffled(n, 1)),
    "balanced": lambda n: ClassBalanced(np.arange(n) % 7 // 2, 1),
    "repeated": lambda n: Repeated(Shuffled(n, 1), 3),
    "repeated shards of a subset": lambda n: Repeated(
        Subset(np.arange(n) * 2, ShardShuffle(cut(n), 1, window=2)), 2
    ),
    "mixture": lambda n: Mixture(cut(n), tuple(range(1, len(cut(n)) + 1)), 1),
}
EXACT = ("full", "none", "shards", "subset")  # each sample once an epoch


class FakeSplit:
    name, store = "fake", SimpleNamespace(fingerprint="ab")

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count


def loader_of(order, batch_size, world=(0, 1), last="pad"):
    rank, size = world
    options = {"batch_size": batch_size, "rank": rank, "world_size": size, "last": last}
    return TokenLoader(FakeSplit(len(order)), sampler=order, **options)


def global_batches(order, batch_size, world_size, last="pad", start=(0, 0)):
    """Sample numbers and validity of each global batch: [[global batch], [global batch]] each."""
    of_ranks = []
    for rank in range(world_size):
        loader = loader_of(order, batch_size, (rank, world_size), last)
        loader.epoch, loader.position = start
        of_ranks.append(list(loader._wanted(start[0], loader._share())))
    assert len({len(batches) for batches in of_ranks}) == 1, "every rank has as many batches"
    return [
        tuple(np.stack(part, axis=1).ravel() for part in zip(*parts, strict=True))
        for parts in zip(*of_ranks, strict=True)
    ]


def shown(batches):
    return [number for index, valid in batches for number in index[valid].tolist()]


@pytest.mark.parametrize("name", ORDERS)
@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 120),
    batch_size=st.integers(1, 20),
    world_size=st.integers(1, 8),
    last=st.sampled_from(["pad", "drop"]),
    epoch=st.integers(0, 3),
)
def test_each_position_of_an_epoch_is_valid_exactly_once(
    name, count, batch_size, world_size, last, epoch
):
    order = ORDERS[name](count)
    expected = order.at(epoch, np.arange(len(order))).tolist()
    run = functools.partial(global_batches, order, batch_size, world_size, last, (epoch, 0))
    full = len(order) // (batch_size * world_size)
    if last == "drop" and not full:
        with pytest.raises(UsageError, match="fewer than one full batch"):
            run()
        return
    batches = run()
    if last == "drop":
        assert len(batches) == full
        expected = expected[: full * batch_size * world_size]
    assert shown(batches) == expected
    if name in EXACT:
        assert len(set(expected)) == len(expected)
    if name in EXACT and last == "pad":
        assert len(expected) == count


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("last", ["pad", "drop"])
def test_a_resume_on_1_2_4_and_8_ranks_gives_bit_identical_global_batches(name, last):
    order = ORDERS[name](101)
    for done in (0, 1, 5):
        whole = loader_of(order, 16, last=last)
        whole.epoch, whole.position = 2, 16 * done
        state = whole.state_dict()
        expected = list(whole._wanted(2, whole._share()))
        for ranks in (1, 2, 4, 8):
            resumed = loader_of(order, 16 // ranks, (ranks - 1, ranks), last)
            resumed.load_state_dict(state)
            found = global_batches(
                order, 16 // ranks, ranks, last, (resumed.epoch, resumed.position)
            )
            for ours, theirs in zip(found, expected, strict=True):
                assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("name", ORDERS)
@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 120),
    first=st.tuples(st.integers(1, 12), st.integers(1, 8)),
    then=st.tuples(st.integers(1, 12), st.integers(1, 8)),
    done=st.integers(0, 4),
)
def test_with_another_global_batch_each_position_still_comes_once(name, count, first, then, done):
    order = ORDERS[name](count)
    before = global_batches(order, *first)[:done]
    position = min(len(order), done * first[0] * first[1])
    after = global_batches(order, *then, start=(0, position)) if position < len(order) else []
    assert shown([*before, *after]) == order.at(0, np.arange(len(order))).tolist()
