"""Precision: which arithmetic a device is good at, and autocast for it.

bf16 is taken where the hardware has instructions for it; where it has none, torch emulates bf16 and
is slower than with fp32.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from tokenstore.errors import UsageError

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_CPU_BF16 = ("amx_bf16", "avx512_bf16", "bf16")  # names of Intel, AMD and Arm


@torch.compiler.assume_constant_result
def resolve_precision(
    asked: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device
) -> Precision:
    """What `auto` means on a device.

    Raises:
        UsageError: fp16 on a CPU, where torch has no kernels worth using.
    """
    if asked == "fp16" and device.type == "cpu":
        raise UsageError("precision fp16 needs a GPU: use loop.precision=auto on a CPU")
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if any(capabilities.get(name) for name in _CPU_BF16) else "fp32"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """A context in which matrix products run in this precision."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])
