"""From a store's split to batches of a run."""

import numpy as np
import pytest
import torch

from seit_train.config import RunConfig
from seit_train.data import (
    TokenBatch,
    evaluation_loader,
    iterate,
    training_loader,
    training_split,
)
from seit_train.distributed import World
from tests.small_store import Small, write_small_store
from tests.toy_store import ToyStore, write_toy_store
from tokenstore.errors import Mismatch, UsageError
from tokenstore.mixture import Mixture
from tokenstore.order import Shuffled
from tokenstore.sampling import Repeated

CPU = torch.device("cpu")


def config(**settings):
    return RunConfig.model_validate({"task": "x", "steps": 1, "batch_size": 16, "lr": 1} | settings)


def test_training_batches_are_full_and_int64(store):
    batches = list(iterate(training_loader(store["train"], config(), World(0, 1, CPU))))
    assert [len(batch.index) for batch in batches] == [16, 16, 16]
    for batch in batches:
        assert isinstance(batch, TokenBatch)
        assert batch.ranks.dtype == batch.labels.dtype == torch.int64
        assert batch.ranks.shape == (16, 8, 8)
        assert batch.valid.all()


def indices(split, config, epochs=1):
    loader = training_loader(split, config, World(0, 1, CPU))
    return [torch.cat([b.index for b in iterate(loader)]).tolist() for _ in range(epochs)]


def test_a_fraction_is_the_same_in_every_epoch_and_for_every_seed_of_a_run(store):
    train, data = store["train"], {"fraction": 1 / 3}
    first, second = indices(train, config(data=data), epochs=2)
    assert sorted(first) == sorted(second) != sorted(range(48))[:16]
    assert first != second
    assert sorted(indices(train, config(data=data, seed=1))[0]) == sorted(first)
    other = indices(train, config(data=data | {"fraction_seed": 1}))[0]
    assert sorted(other) != sorted(first)


def test_a_fraction_can_be_that_of_the_highest_scores(store, tmp_path):
    train, file = store["train"], tmp_path / "scores.csv"
    keys = train.keys(np.arange(48))
    file.write_text("key,score\n" + "".join(f"{key},{n % 7}\n" for n, key in enumerate(keys)))
    data = {"fraction": 0.5, "scores": str(file)}
    (shown,) = indices(train, config(batch_size=8, data=data))
    left = sorted(set(range(48)) - set(shown))
    for one in range(4):
        best = [n % 7 for n in shown if train.labels[n] == one]
        rest = [n % 7 for n in left if train.labels[n] == one]
        assert min(best) >= max(rest)


def test_scores_without_a_fraction_are_refused():
    with pytest.raises(ValueError, match=r"say data\.fraction, too"):
        config(data={"scores": "scores.csv"})


def test_a_fraction_smaller_than_a_batch_is_refused(store):
    with pytest.raises(UsageError, match="has 5 images an epoch, fewer than batch_size 16"):
        indices(store["train"], config(data={"fraction": 0.1}))


def test_classes_are_balanced_and_images_repeated(store):
    data = {"sampling": "class-balanced", "repeats": 2}
    (shown,) = indices(store["train"], config(data=data))
    assert shown[::2] == shown[1::2]
    counts = np.bincount(store["train"].labels[shown[::2]])
    assert np.ptp(counts) <= 1


def test_repeats_must_fit_a_batch(store):
    with pytest.raises(UsageError, match=r"batch_size 16 .* data.repeats=3"):
        indices(store["train"], config(data={"repeats": 3}))


def test_a_fraction_can_be_shuffled_by_shards(tmp_path):
    train = write_small_store(tmp_path / "s", Small(counts=(("train", 90),))).store["train"]
    settings = {"shuffle": "shards", "fraction": 0.5}
    (shown,) = indices(train, config(batch_size=5, data=settings))
    expected = indices(train, config(batch_size=5, data={"fraction": 0.5}))[0]
    assert sorted(shown) == sorted(expected)
    assert shown != expected


def test_without_a_data_section_the_order_is_the_full_shuffle(store):
    expected = Shuffled(48, seed=5).at(0, np.arange(48)).tolist()
    assert indices(store["train"], config(seed=5)) == [expected]


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    folder = tmp_path_factory.mktemp("others")
    toys = {
        "b": ToyStore({"train": 16}, seed=1),
        "more-codes": ToyStore({"train": 9}, codes=20),
        "no-train": ToyStore({"val": 9}),
        "other-grid": ToyStore({"train": 9}, side=4),
    }
    return {name: write_toy_store(folder / name, toy).url for name, toy in toys.items()}


def test_stores_are_mixed_in_proportion_to_their_weights(store, others):
    data = {"mix": [{"store": others["b"], "weight": 3}], "repeats": 2}
    settings = config(batch_size=64, data=data)
    split = training_split(store, settings.data)
    assert len(split) == 48 + 16
    (shown,) = indices(split, settings)
    assert shown[::2] == shown[1::2]
    order = Repeated(Mixture((48, 16), (1.0, 3.0), 0), 2)
    assert shown == order.at(0, np.arange(64)).tolist()
    batch = next(iterate(training_loader(split, settings, World(0, 1, CPU))))
    assert torch.equal(batch.labels, torch.from_numpy(split.labels[shown]))


def test_a_state_of_other_weights_or_stores_is_refused(store, others):
    def loader(*parts):
        settings = config(data={"mix": [{"store": others["b"], "weight": w} for w in parts]})
        return training_loader(training_split(store, settings.data), settings, World(0, 1, CPU))

    state = loader(2).state_dict()
    loader(2).load_state_dict(state)
    with pytest.raises(Mismatch, match="shuffle and sampler of the run"):
        loader(3).load_state_dict(state)
    for other in (loader(), loader(2, 2)):
        with pytest.raises(Mismatch, match="store of the run"):
            other.load_state_dict(state)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("more-codes", UsageError, "has 20 codes.*and mix in"),
        ("no-train", UsageError, "no split 'train', only: val"),
        ("other-grid", Mismatch, "build them at one image size"),
    ],
)
def test_stores_that_do_not_mix_are_refused(store, others, name, error, words):
    with pytest.raises(error, match=words):
        training_split(store, config(data={"mix": [{"store": others[name]}]}).data)


@pytest.mark.parametrize(
    "data", [{"fraction": 0.5}, {"sampling": "class-balanced"}, {"shuffle": "shards"}]
)
def test_a_mixture_has_an_order_of_its_own(data):
    with pytest.raises(ValueError, match="leave out data.mix"):
        config(data={"mix": [{"store": "s"}], **data})


def test_processes_share_a_batch(store):
    whole = next(iterate(training_loader(store["train"], config(), World(0, 1, CPU))))
    parts = [
        next(iterate(training_loader(store["train"], config(), World(rank, 4, CPU))))
        for rank in range(4)
    ]
    joined = torch.cat([part.index for part in parts])
    assert sorted(joined.tolist()) == sorted(whole.index.tolist())


def test_evaluation_sees_each_image_once_over_all_processes(store):
    seen = []
    for rank in range(3):
        loader = evaluation_loader(store["val"], config(), World(rank, 3, CPU))
        seen += [int(i) for batch in iterate(loader) for i in batch.index[batch.valid]]
    assert sorted(seen) == list(range(13))


def test_evaluation_takes_no_more_images_at_a_time_than_a_part_of_a_step(store):
    """So that loop.accumulate cures what is out of memory there, too."""
    parts = config(loop={"accumulate": 4})
    rows = next(iterate(training_loader(store["train"], parts, World(0, 2, CPU)))).index
    loader = evaluation_loader(store["val"], parts, World(0, 2, CPU))
    assert {len(batch.index) for batch in iterate(loader)} == {len(rows) // 4}


def test_a_batch_that_does_not_divide_is_refused_with_what_would(store):
    with pytest.raises(UsageError, match="multiple of 6"):
        wrong = config(loop={"accumulate": 2})
        training_loader(store["train"], wrong, World(0, 3, CPU))


def test_a_part_of_a_batch_has_its_rows_only():
    numbers = torch.arange(4)
    batch = TokenBatch(numbers[:, None, None], numbers, numbers >= 0, numbers, list("abcd"))
    part = batch.rows(slice(1, 3))
    assert (part.labels.tolist(), part.index.tolist(), part.keys) == ([1, 2], [1, 2], ["b", "c"])
    assert (
        TokenBatch(batch.ranks, None, batch.valid, numbers, None).rows(slice(0, 1)).labels is None
    )
