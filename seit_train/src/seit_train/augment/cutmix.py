"""Token-CutMix: a box of one image is pasted into another, and the targets mix by area.

CutMix (Yun et al. 2019) on token grids as in SeiT section 3.2. The box follows timm; what the
targets are weighted by is the area that was really pasted, after the box was clipped to the grid.
"""

from typing import Annotated

import torch
from pydantic import Field

from seit_train.augment.base import Augmentation, View, chance
from seit_train.augment.mixing import draw_masks, draw_partners, draw_shares, mix_targets
from seit_train.config import Settings, Share


class CutMixOptions(Settings):
    """How large the pasted boxes are, and how often.

    Attributes:
        alpha: of the Beta(alpha, alpha) that the share of the own image is drawn from.
        p: chance that an image gets a box at all.
    """

    alpha: Annotated[float, Field(gt=0)] = 1.0
    p: Share = 1.0


class CutMix(Augmentation[CutMixOptions]):
    """Paste a box of a random other image of the batch into each image."""

    space = "any"
    Options = CutMixOptions

    def forward(self, view: View, rng: torch.Generator) -> View:
        """Ranks or grids, with their targets if there are any."""
        tokens, targets, _ = view
        own = draw_shares(self.options.alpha, tokens, rng)
        own = torch.where(chance(self.options.p, tokens, rng), own, 1.0)
        inside = draw_masks(own, (tokens.shape[-2], tokens.shape[-1]), rng)
        partner = draw_partners(tokens, rng)
        mask = inside if tokens.ndim == 3 else inside[:, None]
        mixed = torch.where(mask, tokens[partner], tokens)
        return View(mixed, mix_targets(targets, inside.float().mean(dim=(1, 2)), partner))


PLUGIN = CutMix
