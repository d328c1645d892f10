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

_SIGNS = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory")
_GIB = 1 << 30


@contextmanager
def memory_explained(config: RunConfig, world: World) -> Iterator[None]:
    """Turn a lack of memory into a `TrainingError` that says which settings need less.

    Raises:
        TrainingError: what ran in this context asked for more memory than there is.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _explained(config, world) from error
    except RuntimeError as error:
        if any(sign in str(error) for sign in _SIGNS):
            raise _explained(config, world) from error
        raise


def _explained(config: RunConfig, world: World) -> TrainingError:
    advice = "; ".join(_advice(config, world))
    return TrainingError(
        f"out of memory on {_device(world.device)} with batch_size={config.batch_size} in "
        f"{world.size} x {config.loop.accumulate} parts. What needs less, the first that fits: "
        f"{advice}. Add it to the same command with --resume."
    )


def _device(device: torch.device) -> str:
    """`NVIDIA H100 80GB HBM3 (79.2 GiB)`."""
    if device.type != "cuda":
        return "the CPU"
    total = torch.cuda.get_device_properties(device).total_memory / _GIB
    return f"{torch.cuda.get_device_name(device)} ({total:.1f} GiB)"


def _advice(config: RunConfig, world: World) -> Iterator[str]:
    loop, share = config.loop, config.batch_size // world.size
    more = next((n for n in range(2 * loop.accumulate, share + 1) if share % n == 0), None)
    if loop.precision == "fp32":
        yield "loop.precision=bf16 (half the activations)"
    if more is not None:
        yield f"loop.accumulate={more} (fewer images at a time, the same batch)"
    if world.device.type == "cuda" and loop.residency in ("auto", "device"):
        yield "loop.residency=ram (the tokens leave the GPU)"
    yield "in a new run, a smaller batch_size, with lr scaled alike, or a smaller model"
