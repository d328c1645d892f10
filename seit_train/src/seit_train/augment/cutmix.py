"""Token-CutMix: a box of one image is pasted into another, and the targets mix by area.

CutMix (Yun et al. 2019) on token grids as in SeiT section 3.2. The box follows timm; what the
targets are weighted by is the area that was really pasted, after the box was clipped to the grid.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from seit_train.augment.base import Augmentation, View, chance
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
        tokens, targets = view
        rows, columns = tokens.shape[-2:]
        own = draw_shares(self.options.alpha, tokens, rng)
        own = torch.where(chance(self.options.p, tokens, rng), own, 1.0)
        inside = draw_masks(own, (rows, columns), rng)
        partner = torch.randperm(len(tokens), generator=rng, device=tokens.device)
        mask = inside if tokens.ndim == 3 else inside[:, None]
        mixed = torch.where(mask, tokens[partner], tokens)
        if targets is None:
            return View(mixed, None)
        pasted = inside.float().mean(dim=(1, 2))[:, None]
        return View(mixed, (1 - pasted) * targets + pasted * targets[partner])


def draw_shares(alpha: float, batch: Tensor, rng: torch.Generator) -> Tensor:
    """Float32 [B]: Beta(alpha, alpha) for each image, as the ratio of two Gamma variables."""
    shape = torch.full((2, len(batch)), alpha, device=batch.device)
    # torch.distributions takes no generator; this is the function that it calls itself.
    left, right = torch._standard_gamma(shape, generator=rng).clamp(min=1e-30)
    shares: Tensor = left / (left + right)
    return shares


def draw_masks(own: Tensor, size: tuple[int, int], rng: torch.Generator) -> Tensor:
    """Bool [B,h,w]: True in a box of area about 1 - own, centred anywhere, clipped to the grid."""
    side = (1 - own).sqrt()
    spans = []
    for length in size:
        centre = torch.randint(length, own.shape, generator=rng, device=own.device)
        half = (side * length).long() // 2
        place = torch.arange(length, device=own.device)
        spans.append((place >= (centre - half)[:, None]) & (place < (centre + half)[:, None]))
    return spans[0][:, :, None] & spans[1][:, None, :]


PLUGIN = CutMix
