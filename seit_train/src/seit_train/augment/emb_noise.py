"""Emb-Noise: Gaussian noise on embedded grids (SeiT section 3.2).

One normal variable a channel, the same all over the image, which shifts its colours, and one an
element.
"""

from typing import Annotated

import torch
from pydantic import Field

from seit_train.augment.base import Augmentation, View, chance
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
        batch, width, *sides = grid.shape
        strength = self.options.deviation * chance(self.options.p, grid, rng)
        # Channels last, as embedded grids lie in memory.
        noise = torch.randn((batch, *sides, width), generator=rng, device=grid.device)
        noise += torch.randn((batch, 1, 1, width), generator=rng, device=grid.device)
        noise = noise.permute(0, 3, 1, 2)
        return view._replace(tokens=torch.addcmul(grid, noise, strength[:, None, None, None]))


PLUGIN = EmbNoise
