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
        return view._replace(tokens=select(adapted, adapt(grid, partner), grid))


def adapt(grid: Tensor, donor: Tensor) -> Tensor:
    """Each image with the mean and standard deviation of another, channel by channel.

    Args:
        grid: float [B,d,h,w].
        donor: int64 [B], the image whose statistics each one takes.
    """
    mean = grid.mean(dim=(2, 3), keepdim=True)
    centred = grid - mean
    norm = torch.linalg.vector_norm(centred, dim=(2, 3), keepdim=True)
    deviation = norm / (grid[0, 0].numel() - 1) ** 0.5
    return torch.addcmul(mean[donor], centred, deviation[donor] / (deviation + _TINY))


PLUGIN = ColorAdapt
