"""Random crop: a box of fixed size at a random place, nothing resized.

What SeiT uses instead of the resized crop when it pre-trains on ImageNet-21k. Works on ranks and on
grids, so it serves stores without a codebook too.
"""

import torch

from seit_train.augment.base import Augmentation, Surroundings, View, output_sizes
from seit_train.augment.crop import CropSize, cut, refuse_larger
from seit_train.config import Settings


class RandomCropOptions(Settings):
    """`size`: rows and columns that are left; 7/8 of the grid where it is not given."""

    size: CropSize = None


class RandomCrop(Augmentation[RandomCropOptions]):
    """Cut a box out of each image."""

    space = "any"
    keeps_masks = True
    Options = RandomCropOptions

    def __init__(self, options: RandomCropOptions, around: Surroundings) -> None:
        super().__init__(options, around)
        self.size = output_sizes(options.size, around.size)
        refuse_larger(self.size, around.size)

    def forward(self, view: View, rng: torch.Generator) -> View:
        """Ranks [B,h,w] or grids [B,d,h,w] -> the same with the rows and columns of `size`."""
        tokens = view.tokens
        room = [have - want + 1 for have, want in zip(tokens.shape[-2:], self.size, strict=True)]
        top, left = (
            torch.randint(places, (len(tokens),), generator=rng, device=tokens.device)
            for places in room
        )
        masks = view.masks
        if masks is not None:
            scale = masks.shape[-2] // tokens.shape[-2]
            sides = self.size[0] * scale, self.size[1] * scale
            masks = cut(masks, top * scale, left * scale, sides)
        return View(cut(tokens, top, left, self.size), view.targets, masks)


PLUGIN = RandomCrop
