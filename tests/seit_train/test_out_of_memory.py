"""Too little memory: a sentence that names the settings that need less."""

from types import SimpleNamespace

import pytest
import torch

from seit_train.config import LoopConfig, RunConfig
from seit_train.distributed import World
from seit_train.launch import train
from seit_train.out_of_memory import memory_explained
from seit_train.tasks.pixels import PixelsConfig
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
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
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
        ({"accumulate": 16}, "loop.residency=stream"),
        ({"accumulate": 16, "residency": "stream"}, "smaller batch_size"),
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


def advice(settings, device, error):
    with (
        pytest.raises(TrainingError) as caught,
        memory_explained(settings, World(0, 1, torch.device(device))),
    ):
        raise error
    return str(caught.value)


def pixels(**settings):
    run = {"task": "pixels", "steps": 1, "batch_size": 16, "lr": 1.0}
    return PixelsConfig.model_validate(run | settings)


def test_tokens_that_fill_the_memory_of_a_cpu_may_stay_in_the_store():
    assert "; loop.residency=stream" in advice(config(), "cpu", MemoryError())
    assert "residency" not in advice(config(residency="stream"), "cpu", MemoryError())


@pytest.mark.parametrize(
    "words",
    [
        "DataLoader worker (pid 7) is killed by signal: Killed.",
        "DataLoader worker is killed by signal: Bus error. It is possible that dataloader's workers"
        " are out of shared memory.",
    ],
)
def test_workers_that_take_the_machines_memory_become_fewer(words):
    """Where a GPU trains, smaller parts of a batch would not help."""
    told = advice(pixels(workers=14), "cuda", RuntimeError(words))
    assert "on the CPU" in told and "the first that fits: workers=7 (" in told
    assert "accumulate=" not in told
    assert "residency" not in told


def test_a_gpu_is_told_by_name_and_its_tokens_may_leave_it(monkeypatch):
    card = SimpleNamespace(total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    told = advice(config(), "cuda", torch.OutOfMemoryError("CUDA out of memory."))
    assert "on Some GPU (80.0 GiB)" in told
    assert "loop.accumulate=2 (" in told and "loop.residency=ram (" in told


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
