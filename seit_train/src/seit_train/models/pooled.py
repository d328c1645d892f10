"""Features of whole images from an encoder under a mask, and the MLP that turns them into vectors.

What LUT and MAGE-C compare between two views of an image is made here; what they make of the
comparison is their own business.
"""

from torch import Tensor, nn

from seit_train.models.masking import MaskPlan


def mean_of_seen(encoded: Tensor, plan: MaskPlan) -> Tensor:
    """Mean over the positions that an encoder saw: float [B,1+V,width] -> [B,width].

    Neither the class token nor mask tokens count. Where nothing was seen, the mean is zero.
    """
    seen = (~plan.hidden).to(encoded.dtype)[..., None]
    total = (encoded[:, 1:] * seen).sum(dim=1)
    return total / seen.sum(dim=1).clamp(min=1)


def mlp(width: int, hidden: int, out: int) -> nn.Sequential:
    """Linear, BatchNorm, ReLU, Linear, without biases: float [B,width] -> [B,out] (LUT)."""
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, out, bias=False),
    )
