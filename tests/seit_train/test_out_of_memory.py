"""Too little memory: a sentence that names the settings that need less."""

import pytest
import torch

from seit_train.config import LoopConfig, RunConfig
from seit_train.distributed import World
from seit_train.launch import train
from seit_train.out_of_memory import memory_explained
from tests.seit_train.toy_task import ToyTask
from tokenstore.errors import TrainingError


def config(**loop):
    return RunConfig(task="toy", steps=1, batch_size=16, lr=1.0, loop=LoopConfig(**loop))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
    ],
)
def test_every_kind_of_it_becomes_advice(error):
    world = World(0, 2, torch.device("cpu"))
    with (
        pytest.raises(TrainingError, match=r"on the CPU .* 2 x 1 parts.*loop\.accumulate=2"),
        memory_explained(config(), world),
    ):
        raise error


@pytest.mark.parametrize(
    ("loop", "words"),
    [
        ({"precision": "fp32"}, "loop.precision=bf16"),
        ({"accumulate": 2}, "loop.accumulate=4"),
        ({"accumulate": 16}, "smaller batch_size"),
    ],
)
def test_the_advice_fits_what_is_set_already(loop, words):
    with (
        pytest.raises(TrainingError) as caught,
        memory_explained(config(**loop), World(0, 1, torch.device("cpu"))),
    ):
        raise MemoryError
    first = str(caught.value).partition("the first that fits: ")[2]
    assert words in first.partition(";")[0]


def test_other_errors_pass():
    with (
        pytest.raises(RuntimeError, match="shapes differ"),
        memory_explained(config(), World(0, 1, torch.device("cpu"))),
    ):
        raise RuntimeError("shapes differ")


def test_the_advice_can_be_followed_with_resume(request_run, monkeypatch):
    loss = ToyTask.loss

    def hungry(task, model, batch, rng):
        if len(batch.index) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return loss(task, model, batch, rng)

    monkeypatch.setattr(ToyTask, "loss", hungry)
    with pytest.raises(TrainingError, match=r"loop\.accumulate=2.*with --resume"):
        train(request_run("toy"))
    outcome = train(request_run("toy", "loop.accumulate=2", resume=True))
    assert outcome.trained
    assert outcome.run.config.loop.accumulate == 2
