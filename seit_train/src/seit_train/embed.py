"""Embed: ranks to the vectors of the codebook, and vectors back to the nearest ranks.

Stands between the ranks of a batch and the augmentations that interpolate, shift or mix vectors.
The rows are those of the tokenizer, in rank order, neither normalised nor trained: SeiT feeds them
as they are. Where a store has no codebook there is nothing to embed with, and a model learns its
own table instead (`seit_train.models.stem.IdEmbedding`).
"""

import torch
from torch import Tensor, nn

# Scores of one chunk of the search: 2^22 float32 are 16 MB, which stays near the caches of a CPU
# and still fills a GPU.
_CHUNK_SCORES = 1 << 22


class Codebook(nn.Module):
    """The codebook as a frozen embedding. Its buffers are not part of any checkpoint."""

    def __init__(self, rows: Tensor) -> None:
        """`rows` is float32 [K,d], in rank order."""
        super().__init__()
        self.rows: Tensor
        self.directions: Tensor
        self.register_buffer("rows", rows.float(), persistent=False)
        directions = nn.functional.normalize(rows.float(), dim=1)
        self.register_buffer("directions", directions, persistent=False)

    def forward(self, ranks: Tensor) -> Tensor:
        """Int64 [B,h,w] -> float32 [B,d,h,w], channels last in memory."""
        return nn.functional.embedding(ranks, self.rows).permute(0, 3, 1, 2)

    def nearest(self, grid: Tensor) -> Tensor:
        """The rank whose row is nearest by cosine, at each position (SeiT++, published code).

        Args:
            grid: float32 [B,d,h,w]. Its own lengths do not matter.

        Returns:
            Int64 [B,h,w].
        """
        batch, width, *sides = grid.shape
        vectors = grid.permute(0, 2, 3, 1).reshape(-1, width)
        step = max(1, _CHUNK_SCORES // len(self.directions))
        parts = [(part @ self.directions.T).max(dim=1).indices for part in vectors.split(step)]
        return torch.cat(parts).view(batch, *sides)
