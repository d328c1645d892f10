"""Out of memory: the error that a device raises, as advice on which setting to change.

Wraps whatever trains; knows configurations, no models. A process that the system kills for its
memory says nothing, so that is not seen here; the next `--resume` goes on behind it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from seit_train.config import RunConfig
from seit_train.distributed import World
from tokenstore.errors import TrainingError

# Of the machine's own memory; a worker that decodes pictures is killed without a word of its own.
_OF_HOST = ("DefaultCPUAllocator", "out of shared memory", "killed by signal: Killed")
_OF_DEVICE = ("_STATUS_ALLOC_FAILED", "out of memory")  # cuBLAS and cuDNN say the first
_CPU = torch.device("cpu")
_GIB = 1 << 30


@contextmanager
def memory_explained(config: RunConfig, world: World) -> Iterator[None]:
    """Turn a lack of memory into a `TrainingError` that says which settings need less.

    Raises:
        TrainingError: what ran in this context asked for more memory than there is.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if isinstance(error, MemoryError) or any(sign in text for sign in _OF_HOST):
            raise _explained(config, world, _CPU) from error
        if isinstance(error, torch.OutOfMemoryError) or any(sign in text for sign in _OF_DEVICE):
            raise _explained(config, world, world.device) from error
        raise


def _explained(config: RunConfig, world: World, full: torch.device) -> TrainingError:
    advice = "; ".join(_advice(config, world, full))
    return TrainingError(
        f"out of memory on {_device(full)} with batch_size={config.batch_size} in "
        f"{world.size} x {config.loop.accumulate} parts. What needs less, the first that fits: "
        f"{advice}. Add it to the same command with --resume."
    )


def _device(device: torch.device) -> str:
    """`NVIDIA H100 80GB HBM3 (79.2 GiB)`."""
    if device.type != "cuda":
        return "the CPU"
    total = torch.cuda.get_device_properties(device).total_memory / _GIB
    return f"{torch.cuda.get_device_name(device)} ({total:.1f} GiB)"


def _advice(config: RunConfig, world: World, full: torch.device) -> Iterator[str]:
    loop, share = config.loop, config.batch_size // world.size
    more = next((n for n in range(2 * loop.accumulate, share + 1) if share % n == 0), None)
    computes_here = full.type == world.device.type
    if computes_here and loop.precision == "fp32":
        yield "loop.precision=bf16 (half the activations)"
    if computes_here and more is not None:
        yield f"loop.accumulate={more} (fewer images at a time, the same batch)"
    workers = config.model_dump().get("workers")  # of a run on pictures
    if full.type == "cuda" and loop.residency in ("auto", "device"):
        yield "loop.residency=ram (the tokens leave the GPU)"
    elif full.type == "cpu" and workers:
        yield f"workers={workers // 2} (fewer pictures decoded at a time)"
    elif full.type == "cpu" and workers is None and loop.residency != "stream":
        yield "loop.residency=stream (the tokens stay in the store)"
    yield "in a new run, a smaller batch_size, with lr scaled alike, or a smaller model"
