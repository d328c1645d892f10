"""Loading: each image once an epoch, in one order on any number of processes, resumable."""

import json
import pickle
import threading
from itertools import chain, islice, zip_longest

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.small_store import Small, write_small_store
from tests.toy_store import ToyStore, write_toy_store
from tokenstore.errors import Mismatch, UnknownName, UsageError
from tokenstore.loader import TokenLoader
from tokenstore.mixture import Mixture
from tokenstore.order import Shuffled
from tokenstore.sampling import ClassBalanced, Repeated, Subset
from tokenstore.shard_shuffle import ShardShuffle

COUNT = 37


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_toy_store(tmp_path_factory.mktemp("loader") / "s", ToyStore({"train": COUNT}))


@pytest.fixture(scope="module")
def train(store):
    return store["train"]


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    toy = ToyStore({"train": 10, "val": 0}, classes=0)
    return write_toy_store(tmp_path_factory.mktemp("loader") / "u", toy)


class FakeSplit:
    """As much of a split as the order needs, of any size."""

    name = "fake"

    def __init__(self, count):
        self.count, self.store = count, None

    def __len__(self):
        return self.count


def rows(count, batch_size, world_size, last, position=0, epoch=0, workers=0):
    """Sample numbers of each global batch, [batches, global batch], and their validity."""
    per_rank = []
    for rank in range(world_size):
        options = {"batch_size": batch_size, "rank": rank, "world_size": world_size, "last": last}
        shares = []
        for worker in range(max(1, workers)):
            loader = TokenLoader(FakeSplit(count), **options)
            loader.position = position
            with pytest.MonkeyPatch.context() as patch:
                who = (worker, workers) if workers else None
                patch.setattr("tokenstore.loader._this_worker", lambda who=who: who)
                shares.append(list(loader._wanted(epoch, loader._share())))
        taken = chain.from_iterable(zip_longest(*shares))  # as a DataLoader takes: in turn
        per_rank.append([batch for batch in taken if batch is not None])
    assert len({len(batches) for batches in per_rank}) == 1, "every rank has as many batches"
    joined = []
    for parts in zip(*per_rank, strict=True):
        index = np.stack([index for index, _ in parts], axis=1).ravel()
        valid = np.stack([valid for _, valid in parts], axis=1).ravel()
        joined.append((index, valid))
    return joined


def valid_images(batches):
    return np.concatenate([index[valid] for index, valid in batches]) if batches else np.array([])


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(1, 300),
    batch_size=st.integers(1, 40),
    world_size=st.integers(1, 9),
    workers=st.integers(0, 4),
    epoch=st.integers(0, 3),
)
def test_with_padding_each_image_is_valid_exactly_once(
    count, batch_size, world_size, workers, epoch
):
    batches = rows(count, batch_size, world_size, "pad", epoch=epoch, workers=workers)
    assert len(batches) == -(-count // (batch_size * world_size))
    assert sorted(valid_images(batches)) == list(range(count))
    assert all(index.min() >= 0 and index.max() < count for index, _ in batches)


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(1, 300),
    batch_size=st.integers(1, 40),
    world_size=st.integers(1, 9),
    workers=st.integers(0, 4),
)
def test_dropping_gives_full_batches_without_repeats(count, batch_size, world_size, workers):
    if count < batch_size * world_size:
        with pytest.raises(UsageError, match="fewer than one full batch"):
            rows(count, batch_size, world_size, "drop")
        return
    batches = rows(count, batch_size, world_size, "drop", workers=workers)
    assert len(batches) == count // (batch_size * world_size)
    images = valid_images(batches)
    assert len(set(images)) == len(images) == len(batches) * batch_size * world_size


@pytest.mark.parametrize("last", ["pad", "drop"])
def test_a_global_batch_is_the_same_on_1_2_4_and_8_processes(last):
    expected = rows(100, 8, 1, last, epoch=2)
    for world_size in (2, 4, 8):
        found = rows(100, 8 // world_size, world_size, last, epoch=2)
        for (index, valid), (other, other_valid) in zip(expected, found, strict=True):
            assert np.array_equal(index, other)
            assert np.array_equal(valid, other_valid)


def test_resuming_with_workers_of_a_dataloader_goes_on_behind_what_was_seen():
    pairs = zip(
        rows(100, 4, 2, "pad")[3:], rows(100, 4, 2, "pad", position=24, workers=3), strict=True
    )
    assert all(np.array_equal(ours, theirs) for (ours, _), (theirs, _) in pairs)


@settings(max_examples=100, deadline=None)
@given(
    count=st.integers(1, 200),
    first=st.tuples(st.integers(1, 12), st.integers(1, 4)),
    then=st.tuples(st.integers(1, 12), st.integers(1, 4)),
    done=st.integers(0, 5),
)
def test_resuming_with_another_global_batch_still_shows_each_image_once(count, first, then, done):
    before = rows(count, *first, "pad")[:done]
    position = min(count, done * first[0] * first[1])
    after = rows(count, *then, "pad", position=position) if position < count else []
    seen = np.concatenate([valid_images(before), valid_images(after)])
    assert sorted(seen) == list(range(count))


@pytest.mark.parametrize("residency", ["stream", "ram", "device"])
def test_batches_are_what_the_reader_gives(train, residency):
    loader = TokenLoader(train, batch_size=8, device="cpu", residency=residency, keys=True)
    for batch in loader:
        expected = train.read(batch.index.numpy(), keys=True)
        assert batch.ranks.dtype == torch.int64
        assert np.array_equal(batch.ranks.numpy(), expected.ranks)
        assert np.array_equal(batch.labels.numpy(), expected.labels)
        assert batch.keys == expected.keys


def test_without_a_device_batches_are_numpy_and_the_same(train):
    with_torch = TokenLoader(train, batch_size=8, device="cpu", residency="device")
    for plain, batch in zip(TokenLoader(train, batch_size=8), with_torch, strict=True):
        assert isinstance(plain.ranks, np.ndarray)
        assert plain.ranks.dtype == np.uint16
        assert np.array_equal(plain.ranks, batch.ranks)
        assert np.array_equal(plain.valid, batch.valid)
        assert np.array_equal(plain.index, batch.index)
        assert plain.keys is None


def test_one_for_is_one_epoch_and_the_next_is_another_order(train):
    loader = TokenLoader(train, batch_size=8)
    epochs = [np.concatenate([batch.index[batch.valid] for batch in loader]) for _ in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(COUNT))] * 2
    assert not np.array_equal(*epochs)
    assert loader.state_dict()["epoch"] == 2


def test_leaving_early_goes_on_behind_the_batches_handed_out(train):
    whole = [batch.index for batch in TokenLoader(train, batch_size=8)]
    loader = TokenLoader(train, batch_size=8)
    first = [batch.index for batch in islice(loader, 2)]
    rest = [batch.index for batch in loader]
    assert np.array_equal(np.concatenate(first + rest), np.concatenate(whole))


def test_the_order_is_the_split_s_own_without_a_shuffle(train):
    index = np.concatenate([b.index for b in TokenLoader(train, batch_size=37, shuffle="none")])
    assert np.array_equal(index, np.arange(COUNT))


@pytest.mark.parametrize("taken", [0, 1, 3, 4, 5])
def test_a_state_resumes_on_another_world_size(train, taken):
    whole = TokenLoader(train, batch_size=8)
    list(whole)  # a first epoch
    batches = iter(whole)
    for _ in range(taken):
        next(batches)
    state = whole.state_dict()
    loaders = [TokenLoader(train, batch_size=2, rank=r, world_size=4) for r in range(4)]
    for loader in loaders:
        loader.load_state_dict(state)
    if taken == 5:
        assert (state["epoch"], state["position"]) == (2, 0)
        batches = iter(whole)
    for expected, *parts in zip(batches, *loaders, strict=True):
        joined = np.stack([part.index for part in parts], axis=1).ravel()
        assert np.array_equal(joined, expected.index)


def test_shuffling_by_shards_shows_each_image_once(tmp_path):
    small = Small(counts=(("train", 200),), block=8, shard=8)
    train = write_small_store(tmp_path / "s", small).store["train"]
    shown = [batch.index for batch in TokenLoader(train, batch_size=16, shuffle="shards", seed=2)]
    numbers = np.concatenate(shown)[:200]
    expected = ShardShuffle((8,) * 25, seed=2).at(0, np.arange(200))
    assert np.array_equal(numbers, expected)


@pytest.mark.parametrize("residency", ["stream", "ram", "device"])
@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_global_batches_after_a_resume_are_bit_identical_on_any_number_of_ranks(
    train, residency, world_size
):
    options = {"seed": 5, "device": "cpu", "residency": residency, "keys": True}
    whole = TokenLoader(train, batch_size=8, **options)
    batches = iter(whole)
    next(batches), next(batches)
    state = json.loads(json.dumps(whole.state_dict()))
    parts = [
        TokenLoader(train, batch_size=8 // world_size, rank=r, world_size=world_size, **options)
        for r in range(world_size)
    ]
    for part in parts:
        part.load_state_dict(state)
    for expected, *found in zip(batches, *parts, strict=True):
        for name in ("ranks", "labels", "valid", "index"):
            joined = torch.stack([getattr(one, name) for one in found], dim=1).flatten(0, 1)
            assert torch.equal(joined, getattr(expected, name)), name
        assert [
            key for keys in zip(*[one.keys for one in found], strict=True) for key in keys
        ] == expected.keys
    assert all(part.state_dict() == whole.state_dict() for part in parts)


def test_a_state_is_plain_json_with_four_members(train):
    state = TokenLoader(train, batch_size=8, seed=3).state_dict()
    assert state == {
        "epoch": 0,
        "position": 0,
        "seed": 3,
        "fingerprint": train.store.fingerprint,
    }


def test_a_state_of_another_store_is_refused_with_the_cure(train, unlabelled):
    state = TokenLoader(unlabelled["train"], batch_size=2).state_dict()
    with pytest.raises(Mismatch, match="Resume with the store of the run"):
        TokenLoader(train, batch_size=2).load_state_dict(state)


def test_a_state_of_another_seed_is_refused_with_the_cure(train):
    state = TokenLoader(train, batch_size=2, seed=1).state_dict()
    with pytest.raises(Mismatch, match="seed=1"):
        TokenLoader(train, batch_size=2).load_state_dict(state)


ORDERS = {
    "none": {"shuffle": "none"},
    "shards": {"shuffle": "shards"},
    "another window": {"sampler": ShardShuffle((20, 17), 0, window=1)},
    "seed": {"sampler": Shuffled(COUNT, 9)},
    "fewer": {"sampler": Shuffled(COUNT - 1, 0)},
    "subset": {"sampler": Subset(np.arange(COUNT), Shuffled(COUNT, 0))},
    "another subset": {"sampler": Subset(np.arange(COUNT)[::-1].copy(), Shuffled(COUNT, 0))},
    "twice": {"sampler": Repeated(Shuffled(COUNT, 0), 2)},
    "three times": {"sampler": Repeated(Shuffled(COUNT, 0), 3)},
    "of another seed": {"sampler": Repeated(Shuffled(COUNT, 1), 3)},
    "mixed": {"sampler": Mixture((30, 7), (1, 3), 0)},
    "other weights": {"sampler": Mixture((30, 7), (1, 2), 0)},
    "longer": {"sampler": Mixture((30, 7), (1, 3), 0, length=99)},
    "balanced": {"sampler": ClassBalanced(np.arange(COUNT) % 3, 0)},
    "other classes": {"sampler": ClassBalanced(np.arange(COUNT) % 4, 0)},
}


@pytest.mark.parametrize("saved", ["full", *ORDERS])
def test_a_state_fits_its_own_order_only(train, saved):
    made = {
        name: TokenLoader(train, batch_size=2, **options)
        for name, options in {"full": {}, **ORDERS}.items()
    }
    state = json.loads(json.dumps(made[saved].state_dict()))
    assert ("order" in state) == (saved != "full")
    again = TokenLoader(train, batch_size=4, **ORDERS.get(saved, {}))
    again.load_state_dict(state)
    for name, loader in made.items():
        if name != saved:
            with pytest.raises(Mismatch, match="shuffle and sampler of the run"):
                loader.load_state_dict(state)


def test_the_plain_shuffle_as_a_sampler_is_the_plain_shuffle(train):
    state = TokenLoader(train, batch_size=2, seed=3).state_dict()
    other = TokenLoader(train, batch_size=2, seed=3, sampler=Shuffled(COUNT, 3))
    assert other.state_dict() == state


def test_a_split_without_labels_gives_none(unlabelled):
    for residency in ("stream", "device"):
        loader = TokenLoader(unlabelled["train"], batch_size=4, device="cpu", residency=residency)
        assert all(batch.labels is None for batch in loader)


class Evens:
    """An order of one's own: the even samples, backwards in odd epochs."""

    def __init__(self, count):
        self.numbers = np.arange(0, count, 2)

    def __len__(self):
        return len(self.numbers)

    def at(self, epoch, positions):
        return self.numbers[:: -1 if epoch % 2 else 1][positions]


@pytest.mark.parametrize("residency", ["stream", "ram", "device"])
def test_a_sampler_says_what_comes_and_how_long_an_epoch_is(train, residency):
    loader = TokenLoader(
        train, batch_size=4, device="cpu", residency=residency, sampler=Evens(COUNT)
    )
    for epoch in range(2):
        index = torch.cat([batch.index[batch.valid] for batch in loader]).tolist()
        assert index == Evens(COUNT).numbers.tolist()[:: -1 if epoch else 1]
    assert len(loader) == 5
    assert loader.state_dict()["order"] == "Evens"


def test_an_epoch_can_be_chosen(train):
    first = TokenLoader(train, batch_size=8)
    list(first)
    second = TokenLoader(train, batch_size=8)
    next(iter(second))
    second.set_epoch(1)
    for ours, theirs in zip(first, second, strict=True):
        assert np.array_equal(ours.index, theirs.index)


def test_an_empty_split_has_no_batches(unlabelled):
    for device in (None, "cpu"):
        loader = TokenLoader(unlabelled["val"], batch_size=4, device=device)
        assert len(loader) == 0
        assert list(loader) == []
        assert loader.state_dict()["epoch"] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch_size 0"),
        ({"batch_size": 4, "rank": 2, "world_size": 2}, "rank 2 of 2"),
        ({"batch_size": 64, "last": "drop"}, "fewer than one full batch of 64"),
        ({"batch_size": 4, "residency": "device"}, "needs a device"),
        ({"batch_size": 4, "prefetch_bytes": -1}, "give 0 or more"),
    ],
)
def test_nonsense_is_refused(train, options, words):
    with pytest.raises(UsageError, match=words):
        TokenLoader(train, **options)


def test_unknown_words_list_the_known_ones(train):
    with pytest.raises(UnknownName, match="auto, device, ram, stream"):
        TokenLoader(train, batch_size=4, residency="disk")
    with pytest.raises(UnknownName, match="raise, skip"):
        TokenLoader(train, batch_size=4, on_error="ignore")


def test_auto_takes_the_device_and_says_so(train, caplog):
    loader = TokenLoader(train, batch_size=8, device="cpu")
    with caplog.at_level("INFO", logger="tokenstore.loader"):
        list(loader)
        list(loader)
    assert [record.message.count("residency device") for record in caplog.records] == [1]


def test_threads_are_gone_when_a_loop_is_left(train):
    before = threading.active_count()
    for number, _ in enumerate(TokenLoader(train, batch_size=2)):
        if number == 3:
            break
    assert threading.active_count() == before


def test_an_error_of_the_reader_reaches_the_loop(train, monkeypatch):
    def broken(split, *arguments, **options):
        raise OSError("disk on fire")

    monkeypatch.setattr(type(train), "read", broken)
    with pytest.raises(OSError, match="disk on fire"):
        list(TokenLoader(train, batch_size=8))


def test_a_loader_pickles_and_goes_on_where_it_stood(train):
    loader = TokenLoader(train, batch_size=8, device="cpu")
    next(iter(loader))
    copy = pickle.loads(pickle.dumps(loader))
    for ours, theirs in zip(loader, copy, strict=True):
        assert torch.equal(ours.ranks, theirs.ranks)
