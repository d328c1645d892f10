"""From a store's split to batches of a run."""

import pytest
import torch

from seit_train.config import RunConfig
from seit_train.data import TokenBatch, evaluation_loader, iterate, training_loader
from seit_train.distributed import World
from tokenstore.errors import UsageError

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
