"""Stem: from the grid of an image to the tokens of a transformer.

A convolution turns a grid of vectors into one token a position (the Stem-Adapter of SeiT, section
3.3 and Table 6). The vectors are codebook rows that were embedded and augmented before, or come
from a learned embedding of the ranks that is part of the stem (SeiT++ after masked token
modelling). Positions and the class token are the transformer's own.
"""

from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from timm.layers import LayerNorm
from torch import Tensor, nn

from tokenstore.errors import TrainingError

StemName = Literal["conv4x4", "conv2x2", "conv2x2-stride1", "linear", "patch16"]


class Window(NamedTuple):
    """How a stem looks at a grid: kernel, stride and padding, in grid positions."""

    kernel: int
    stride: int
    padding: int


# Table 6 of SeiT: conv4x4 74.0, conv2x2 73.1, linear 58.6 top-1. The 4x4 windows overlap, so masked
# modelling takes 2x2. Stride 1 is for the coarse grids of stride-16 tokenizers. patch16 is ViT's
# own, for pictures: grids of three channels.
STEMS: dict[StemName, Window] = {
    "conv4x4": Window(4, 2, 1),
    "conv2x2": Window(2, 2, 0),
    "conv2x2-stride1": Window(2, 1, 0),
    "linear": Window(1, 1, 0),
    "patch16": Window(16, 16, 0),
}


def count_positions(stem: StemName, grid: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of tokens that a stem makes of a grid: ("conv4x4", (28, 28)) -> (14, 14).

    Raises:
        TrainingError: the stem's windows do not cover the grid evenly.
    """
    window = STEMS[stem]
    spans = [side + 2 * window.padding - window.kernel for side in grid]
    if any(span < 0 or span % window.stride for span in spans):
        below = [max(0, span // window.stride) * window.stride - span for span in spans]
        least = [side + more for side, more in zip(grid, below, strict=True)]
        fits = " or ".join(f"{h}x{w}" for h, w in (least, (s + window.stride for s in least)))
        raise TrainingError(
            f"stem {stem} (kernel {window.kernel}, stride {window.stride}) does not cover a grid "
            f"of {grid[0]}x{grid[1]} evenly; {fits} would fit. Choose another crop size in augment "
            "or another stem."
        )
    return spans[0] // window.stride + 1, spans[1] // window.stride + 1


class IdConfig(BaseModel):
    """The id embedding.

    Attributes:
        width: channels of a rank's vector.
        dropout: after the norm.
        start: first values of the table: random (published), or the codebook's rows turned at
            random into the width. The latter knows from the first step which codes are alike; where
            a store has no codebook, it is random too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: Annotated[int, Field(gt=0)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    start: Literal["random", "codebook"] = "random"


class IdEmbedding(nn.Module):
    """A learned vector a rank: embedding table, LayerNorm, dropout (SeiT++, after MAGE)."""

    def __init__(self, vocabulary_size: int, config: IdConfig, codebook: Tensor | None) -> None:
        """Make a table of `vocabulary_size` rows; `codebook` is float32 [K,d] or None."""
        super().__init__()
        self.width = config.width
        self.table = nn.Embedding(vocabulary_size, config.width)
        self.norm = LayerNorm(config.width)
        self.drop = nn.Dropout(config.dropout)
        # Rows of length 1: predictions are products with them (see mtm.py), and rows of the usual
        # deviation of 0.02 make every rank equally likely for the first hundreds of steps.
        nn.init.normal_(self.table.weight, std=config.width**-0.5)
        if config.start == "codebook" and codebook is not None:
            self._start_from(codebook)

    def _start_from(self, codebook: Tensor) -> None:
        turn = nn.init.orthogonal_(torch.empty(codebook.shape[1], self.width))
        rows = (codebook - codebook.mean(dim=0)) @ turn
        with torch.no_grad():
            self.table.weight.copy_(rows / rows.norm(dim=1).mean())

    def forward(self, ranks: Tensor) -> Tensor:
        """Int64 [B,h,w] -> float [B,width,h,w]."""
        embedded: Tensor = self.drop(self.norm(self.table(ranks)))
        return embedded.permute(0, 3, 1, 2)


class StemAdapter(nn.Module):
    """The convolution before a transformer, with the id embedding before it where there is one.

    SeiT (arXiv 2303.11114), section 3.3; the windows are those of its Table 6.
    """

    def __init__(self, stem: StemName, width: int, source: int | IdEmbedding) -> None:
        """Make a stem.

        Args:
            stem: name of its window.
            width: channels of the tokens.
            source: channels of the embedded grids it is fed, or the embedding of ranks it owns.
        """
        super().__init__()
        self.stem = stem
        window = STEMS[stem]
        self.ids = source if isinstance(source, IdEmbedding) else None
        channels = source.width if isinstance(source, IdEmbedding) else source
        self.proj = nn.Conv2d(channels, width, window.kernel, window.stride, window.padding)

    def forward(self, tokens: Tensor) -> Tensor:
        """Float [B,d,h,w], or int64 [B,h,w] with an id embedding -> float [B,positions,width]."""
        projected: Tensor = self.proj(self.embedded(tokens))
        return projected.flatten(2).transpose(1, 2)

    def embedded(self, tokens: Tensor) -> Tensor:
        """The vectors that the windows slide over, float [B,d,h,w]."""
        return tokens if self.ids is None else self.ids(tokens)
