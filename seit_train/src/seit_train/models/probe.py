"""Linear probe: one trained layer on features that nothing changes any more.

As MAE does it (He et al., CVPR 2022, arXiv 2111.06377, appendix A.1): a BatchNorm without weights
stands before the layer, so that one learning rate suits features of any size.
"""

from typing import Self

import torch
from torch import Tensor, nn

_EPS = 1e-6  # MAE's


class LinearProbe(nn.Module):
    """A frozen backbone, and the only layer that learns behind it."""

    def __init__(self, backbone: nn.Module, width: int, classes: int) -> None:
        """Freeze a backbone that gives float [B,width]."""
        super().__init__()
        self.backbone = backbone.requires_grad_(False).eval()
        self.probe_norm = nn.BatchNorm1d(width, affine=False, eps=_EPS)
        self.head = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def train(self, mode: bool = True) -> Self:
        """As usual, but the backbone never drops anything, and its statistics stay."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, tokens: Tensor) -> Tensor:
        """A batch as the backbone takes it -> float [B,classes]."""
        with torch.no_grad():
            features = self.backbone(tokens)
        logits: Tensor = self.head(self.probe_norm(features))
        return logits
