"""Mixup: each image is blended with another one of the batch, and so are the targets.

Zhang et al. 2018, on embedded grids. SeiT leaves it off for plain tokens; SeiT++ uses it in the
adapted space (see token_adapt.py), and it is here for whoever wants to compare.
"""

from typing import Annotated

import torch
from pydantic import Field

from seit_train.augment.base import Augmentation, View, chance
from seit_train.augment.mixing import draw_partners, draw_shares, mix_targets
from seit_train.config import Settings, Share


class MixupOptions(Settings):
    """How strongly images are blended, and how often.

    Attributes:
        alpha: of the Beta(alpha, alpha) that the share of the own image is drawn from.
        p: chance that an image is blended at all.
    """

    alpha: Annotated[float, Field(gt=0)] = 0.8
    p: Share = 1.0


class Mixup(Augmentation[MixupOptions]):
    """Blend each image with a random other image of the batch."""

    space = "grid"
    Options = MixupOptions

    def forward(self, view: View, rng: torch.Generator) -> View:
        """Float32 [B,d,h,w] -> the same shape, with targets if there are any."""
        grid, targets, _ = view
        own = draw_shares(self.options.alpha, grid, rng)
        own = torch.where(chance(self.options.p, grid, rng), own, 1.0)
        partner = draw_partners(grid, rng)
        blended = torch.lerp(grid[partner], grid, own[:, None, None, None])
        return View(blended, mix_targets(targets, 1 - own, partner))


PLUGIN = Mixup
