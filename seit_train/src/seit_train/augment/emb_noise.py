"""Emb-Noise: Gaussian noise on embedded grids (SeiT section 3.2).

One normal variable a channel, the same all over the image, which shifts its colours, and one an
element.
"""

from typing import Annotated

import torch
from pydantic import Field

from seit_train.augment.base import Augmentation, View, chance, select
from seit_train.config import Settings, Share


class EmbNoiseOptions(Settings):
    """How often and how much.

    Attributes:
        p: chance that an image gets noise.
        deviation: standard deviation of both kinds; 1 is published, for the codes of ViT-VQGAN.
    """

    p: Share = 0.5
    deviation: Annotated[float, Field(gt=0)] = 1.0


class EmbNoise(Augmentation[EmbNoiseOptions]):
    """Add noise to the vectors of some images."""

    space = "grid"
    keeps_masks = True
    Options = EmbNoiseOptions

    def forward(self, view: View, rng: torch.Generator) -> View:
        """Float32 [B,d,h,w] -> the same shape."""
        grid = view.tokens
        noisy = chance(self.options.p, grid, rng)
        noise = torch.randn((*grid.shape[:2], 1, 1), generator=rng, device=grid.device)
        noise = noise + torch.randn(grid.shape, generator=rng, device=grid.device)
        return view._replace(tokens=select(noisy, grid + self.options.deviation * noise, grid))


PLUGIN = EmbNoise
