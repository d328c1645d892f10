"""Centre crop: the middle of the grid, what evaluation always sees. Nothing is drawn.

As an augmentation it trains a baseline without random geometry, on the grids of evaluation.
"""

import torch

from seit_train.augment.base import Augmentation, Surroundings, View, output_sizes
from seit_train.augment.crop import CropSize, center_crop, refuse_larger
from seit_train.config import Settings


class CenterCropOptions(Settings):
    """`size`: rows and columns that are left; 7/8 of the grid where it is not given."""

    size: CropSize = None


class CenterCrop(Augmentation[CenterCropOptions]):
    """Cut the middle out of each image."""

    space = "any"
    keeps_masks = True
    Options = CenterCropOptions

    def __init__(self, options: CenterCropOptions, around: Surroundings) -> None:
        super().__init__(options, around)
        self.size = output_sizes(options.size, around.size)
        refuse_larger(self.size, around.size)

    def forward(self, view: View, rng: torch.Generator) -> View:
        """Ranks [B,h,w] or grids [B,d,h,w] -> the same with the rows and columns of `size`."""
        tokens, targets, masks = view
        if masks is not None:
            scale = masks.shape[-2] // tokens.shape[-2]
            top, left = (
                scale * ((have - want) // 2)
                for have, want in zip(tokens.shape[-2:], self.size, strict=True)
            )
            bottom, right = top + scale * self.size[0], left + scale * self.size[1]
            masks = masks[:, top:bottom, left:right]
        return View(center_crop(tokens, self.size), targets, masks)


PLUGIN = CenterCrop
