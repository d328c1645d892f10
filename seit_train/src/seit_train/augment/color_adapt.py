"""ColorAdapt: an image takes over the colours of another one (SeiT++ section 3.3).

Adaptive instance normalisation between two images of the batch: each channel of one is brought to
the mean and standard deviation, over the grid, of the same channel of the other.
"""

import torch
from torch import Tensor

from seit_train.augment.base import Augmentation, View, chance, select
from seit_train.config import Settings, Share

_TINY = 1e-5  # a channel without any spread takes over the mean alone


class ColorAdaptOptions(Settings):
    """`p`: chance that an image takes over another one's colours."""

    p: Share = 0.5


class ColorAdapt(Augmentation[ColorAdaptOptions]):
    """Give some images the channel statistics of random others of the batch."""

    space = "grid"
    keeps_masks = True
    Options = ColorAdaptOptions

    def forward(self, view: View, rng: torch.Generator) -> View:
        """Float32 [B,d,h,w] -> the same shape."""
        grid = view.tokens
        adapted = chance(self.options.p, grid, rng)
        partner = torch.randperm(len(grid), generator=rng, device=grid.device)
        return view._replace(tokens=select(adapted, adapt(grid, grid[partner]), grid))


def adapt(grid: Tensor, donor: Tensor) -> Tensor:
    """`grid` with the mean and standard deviation of `donor`, image by image and channel."""
    deviation, mean = torch.std_mean(grid, dim=(2, 3), keepdim=True)
    new_deviation, new_mean = torch.std_mean(donor, dim=(2, 3), keepdim=True)
    return (grid - mean) / (deviation + _TINY) * new_deviation + new_mean


PLUGIN = ColorAdapt
