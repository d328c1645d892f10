"""Embed: ranks to the vectors of the codebook, and vectors back to the nearest ranks.

Stands between the ranks of a batch and the augmentations that interpolate, shift or mix vectors.
The rows are those of the tokenizer, in rank order, neither normalised nor trained: SeiT feeds them
as they are. Where a store has no codebook there is nothing to embed with, and a model learns its
own table instead (`seit_train.models.stem.IdEmbedding`).

A grid with channels is none of codes: each of its ranks stands for one number (`Channels`).
"""

from typing import Literal

import torch
from torch import Tensor, nn

from tokenstore.errors import TrainingError

# What makes a code the nearest to a vector that lies between codes. SeiT++ goes by the angle
# (published code), and ViT-VQGAN's quantiser does too; a tokenizer that quantises by distance, such
# as pocket, gets its own ids back more often by distance (docs/log.md).
Metric = Literal["cosine", "euclidean"]

# Scores of one chunk of the search: 2^22 float32 are 16 MB, which stays near the caches of a CPU
# and still fills a GPU.
_CHUNK_SCORES = 1 << 22


class Codebook(nn.Module):
    """The codebook as a frozen embedding. Its buffers are not part of any checkpoint."""

    def __init__(self, rows: Tensor, metric: Metric) -> None:
        """Keep the rows.

        Args:
            rows: float32 [K,d], in rank order.
            metric: what `nearest` goes by.
        """
        super().__init__()
        rows = rows.float()
        is_cosine = metric == "cosine"
        # The nearest row maximises x.r - |r|^2/2; by angle, x.r/|r|.
        weights = nn.functional.normalize(rows, dim=1) if is_cosine else rows
        offsets = torch.zeros(len(rows)) if is_cosine else -0.5 * rows.square().sum(dim=1)
        self.rows: Tensor
        self.weights: Tensor
        self.offsets: Tensor
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("offsets", offsets, persistent=False)

    def forward(self, ranks: Tensor) -> Tensor:
        """Int64 [B,h,w] -> float32 [B,d,h,w], channels last in memory."""
        return nn.functional.embedding(ranks, self.rows).permute(0, 3, 1, 2)

    @property
    def width(self) -> int:
        """Channels d of a row."""
        return self.rows.shape[1]

    def blend(self, ranks: Tensor, weights: Tensor) -> Tensor:
        """Weighted sums of rows: int64 [N,n] and float32 [N,n] -> float32 [N,d]."""
        return nn.functional.embedding_bag(ranks, self.rows, mode="sum", per_sample_weights=weights)

    def nearest(self, grid: Tensor) -> Tensor:
        """The rank whose row is nearest at each position: float32 [B,d,h,w] -> int64 [B,h,w]."""
        batch, width, *sides = grid.shape
        vectors = grid.permute(0, 2, 3, 1).reshape(-1, width)
        step = max(1, _CHUNK_SCORES // len(self.rows))
        scores = (torch.addmm(self.offsets, x, self.weights.T) for x in vectors.split(step))
        return torch.cat([part.max(dim=1).indices for part in scores]).view(batch, *sides)


class Channels(nn.Module):
    """Grids with channels as real numbers, such as the coefficients of DCT (SeiT++ Table 8)."""

    def __init__(self, rows: Tensor, scale: Tensor) -> None:
        """Keep the numbers. Like those of a codebook, these buffers are in no checkpoint.

        Args:
            rows: float32 [K,1], in rank order.
            scale: float32 [c], by which the numbers of each channel are multiplied.

        Raises:
            TrainingError: ranks that stand for more than one number.
        """
        super().__init__()
        if rows.shape[1] != 1:
            raise TrainingError(
                f"a grid with {len(scale)} channels has a codebook of {rows.shape[1]} numbers a "
                "rank; models are fed such channels where each rank is one number, as with dct"
            )
        self.values: Tensor
        self.scale: Tensor
        self.register_buffer("values", rows[:, 0].float(), persistent=False)
        self.register_buffer("scale", scale.float()[:, None, None], persistent=False)

    def forward(self, ranks: Tensor) -> Tensor:
        """Int64 [B,c,h,w] -> float32 [B,c,h,w]."""
        return self.values[ranks] * self.scale
