"""Utilisation: which share of a GPU's arithmetic a training uses (MFU), and of its memory.

The operations of a step are counted by torch, once a run; what a GPU could do is its maker's figure
for dense matrix products. A device that is not in the table has no MFU: none is made up for it.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from seit_train.precision import Precision

# Dense FLOP/s in bfloat16 and float16 with float32 accumulation, from NVIDIA's data sheets, by a
# word of `torch.cuda.get_device_name`. More special names come first.
_PEAKS: tuple[tuple[str, float], ...] = (
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("H200 NVL", 835e12),
    ("H200", 989e12),
    ("GH200", 989e12),
    ("B200", 2250e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L4", 121e12),
    ("A40", 149.7e12),
    ("V100", 125e12),
)
_GIB = 1 << 30


def peak_flops(name: str, precision: Precision) -> float | None:
    """What a GPU of this name can do at most, FLOP/s, or None where that is not known.

    Args:
        name: as `torch.cuda.get_device_name` tells it.
        precision: of the matrix products. In fp32 torch's settings decide whether TF32 is used, so
            that has no figure here; neither has bf16 on a V100, which emulates it.
    """
    words = name.replace("-", " ").split()
    if precision == "fp32" or ("V100" in name and precision == "bf16"):
        return None
    for known, peak in _PEAKS:
        if all(word in words for word in known.split()):
            return peak
    return None


def device_peak(device: torch.device, precision: Precision) -> float | None:
    """`peak_flops` of a device; None for everything but a known GPU."""
    if device.type != "cuda":
        return None
    return peak_flops(torch.cuda.get_device_name(device), precision)


def count_flops(model: nn.Module, loss: Callable[[], Tensor]) -> int:
    """Floating-point operations of a model in one forward and one backward pass.

    Matrix products, convolutions and attention, as torch counts them; augmentations outside the
    model are left out. The model stays as it was: no gradient is set, buffers are restored.

    Args:
        model: compiled or not, but not wrapped.
        loss: runs the model on some batch and gives its loss.
    """
    kept = [buffer.clone() for buffer in model.buffers()]
    with (
        torch.compiler.set_stance("force_eager"),  # the counter does not see into compiled code
        FlopCounterMode(display=False) as counter,
    ):
        # Not `backward`: that would set gradients, and wake those who wait for them (DDP).
        learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
        torch.autograd.grad(loss(), learnt, allow_unused=True)
    with torch.no_grad():
        for buffer, value in zip(model.buffers(), kept, strict=True):
            buffer.copy_(value)
    return sum(counter.get_flop_counts()[type(model).__name__].values())


def memory_scalars(device: torch.device) -> dict[str, float]:
    """`gpu_memory_gib`: the most that tensors took on a GPU since this was asked last."""
    if device.type != "cuda":
        return {}
    peak = torch.cuda.max_memory_allocated(device) / _GIB
    torch.cuda.reset_peak_memory_stats(device)
    return {"gpu_memory_gib": peak}
