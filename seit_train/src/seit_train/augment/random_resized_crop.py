"""Token-RRC: a random part of the grid, resized bicubically to a fixed size (SeiT section 3.2).

SeiT defines it on one-hot ids. Interpolation is linear, so it is the same on embedded grids, which
have d channels instead of K.
"""

from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from seit_train.augment.base import Augmentation, Embedder, Surroundings, View, output_sizes
from seit_train.augment.crop import CropSize, draw_boxes, embed_boxes, refuse_larger, resize_boxes
from seit_train.config import Settings


class ResizedCropOptions(Settings):
    """Which boxes are cut, and to what size they are brought.

    Attributes:
        size: rows and columns that come out; 7/8 of the grid where it is not given. Evaluation
            crops the centre in this size and resizes nothing.
        scale: smallest and largest area of a box, as shares of the grid.
        ratio: narrowest and widest shape of a box, width by height.
    """

    size: CropSize = None
    scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (
        0.08,
        1.0,
    )
    ratio: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (3 / 4, 4 / 3)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.scale[0] > self.scale[1] or self.ratio[0] > self.ratio[1]:
            raise ValueError(
                f"scale and ratio are [smallest, largest], got {self.scale} and {self.ratio}"
            )
        return self


class RandomResizedCrop(Augmentation[ResizedCropOptions]):
    """Cut a random box out of each image and resize it."""

    space = "grid"
    Options = ResizedCropOptions

    def __init__(self, options: ResizedCropOptions, around: Surroundings) -> None:
        super().__init__(options, around)
        self.size = output_sizes(options.size, around.size)
        refuse_larger(self.size, around.size)  # evaluation crops the centre in this size

    def forward(self, view: View, rng: torch.Generator) -> View:
        """Float32 [B,d,h,w] -> [B,d,*size]."""
        grid = view.tokens
        return view._replace(tokens=resize_boxes(grid, self._draw(grid, rng), self.size))

    def from_ranks(self, view: View, embed: Embedder, rng: torch.Generator) -> View:
        """Int64 [B,h,w] -> float32 [B,d,*size], embedded and resized at once."""
        ranks = view.tokens
        return view._replace(tokens=embed_boxes(ranks, embed, self._draw(ranks, rng), self.size))

    def _draw(self, tokens: Tensor, rng: torch.Generator) -> Tensor:
        return draw_boxes(tokens, self.options.scale, self.options.ratio, rng)


PLUGIN = RandomResizedCrop
