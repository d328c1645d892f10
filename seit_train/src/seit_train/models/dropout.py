"""Dropout whose random numbers do not cost more than the products around it.

torch draws one random number a value and, on a CPU, one at a time: 5 million values take 117 ms on
a core, their product with the mask 1 ms. Sixteen bits are enough to decide a value, so that one
64-bit draw decides four (9 ms). GPUs keep torch's own kernel.
"""

import torch
from torch import Tensor, nn

_STEPS = 1 << 16


class DeviceDropout(nn.Dropout):
    """As `nn.Dropout`; on a CPU its chance is a multiple of 1/65536, and scaled accordingly."""

    def forward(self, input: Tensor) -> Tensor:
        """Any float tensor -> the same shape."""
        dropped = round(self.p * _STEPS)
        if input.is_cuda or not self.training or not 0 < dropped < _STEPS:
            return super().forward(input)
        count = input.numel()
        words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        draws = words.view(torch.int16)[:count].view(input.shape)
        kept = (draws >= dropped - _STEPS // 2).view(torch.uint8)
        return input * kept.to(input.dtype).mul_(_STEPS / (_STEPS - dropped))


def use_device_dropout(model: nn.Module) -> None:
    """Put it in place of every `nn.Dropout` of a model."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, DeviceDropout(child.p))
