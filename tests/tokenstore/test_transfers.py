"""Batches through a device: order, and how many are under way. The cuda lane needs a GPU."""

import pytest
import torch

from tokenstore.tokenizers.transfers import through_device, two_under_way


def test_on_the_cpu_one_batch_follows_the_other() -> None:
    asked = []

    def batches():
        for number in range(3):
            asked.append(number)
            yield torch.tensor([number])

    results = through_device(torch.device("cpu"), batches(), lambda batch: batch + 10)
    assert int(next(results)) == 10
    assert asked == [0]
    assert [int(result) for result in results] == [11, 12]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_each_batch_is_finished_in_order_after_the_next_was_started(count: int) -> None:
    told: list[str] = []

    def start(batch: int) -> int:
        told.append(f"start {batch}")
        return batch

    def finish(batch: int) -> int:
        told.append(f"finish {batch}")
        return -batch

    assert list(two_under_way(range(count), start, finish)) == [-i for i in range(count)]
    for batch in range(count - 1):
        assert told.index(f"finish {batch}") > told.index(f"start {batch + 1}")
        assert f"start {batch + 2}" not in told[: told.index(f"finish {batch}")]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_what_the_cpu_gives_for_every_batch() -> None:
    rng = torch.Generator().manual_seed(0)
    batches = [torch.randint(256, (n, 64, 64, 3), generator=rng).byte() for n in (4, 1, 7, 32, 3)]

    def compute(batch: torch.Tensor) -> torch.Tensor:
        return batch.long().square().cumsum(1)

    found = list(through_device(torch.device("cuda"), batches, compute))
    assert len(found) == len(batches)
    for batch, result in zip(batches, found, strict=True):
        assert result.device.type == "cpu"
        assert torch.equal(result, compute(batch))
