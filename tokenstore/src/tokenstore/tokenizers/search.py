"""From latents to ids: which code of the codebook wins, among all of them or among some.

Two rules cover the published tokenizers: the nearest code (VQ), and the largest logit (Gumbel).
Scores are computed a slice of latents at a time, so that a codebook of 16,384 codes never asks for
a matrix of all cells by all codes. What is a latent and what a code is decoded to is the business
of the network.
"""

from abc import ABC, abstractmethod

import torch
from torch import nn
from torch.nn import functional

SCORES_AT_ONCE = {"cpu": 2**22, "cuda": 2**28}  # float32 numbers: 16 MB stay in a CPU's caches


class CodeSearch(nn.Module, ABC):
    """Finds ids for latents [N, d]; of equally good codes the lowest id wins, as published."""

    among: torch.Tensor | None  # int64 [A], ascending: the only ids that may win; None means all

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("among", None, persistent=False)

    @abstractmethod
    def losses(self, latents: torch.Tensor) -> torch.Tensor:
        """What each code that may win would cost, smallest best: [N, d] -> [N, A]."""

    @abstractmethod
    def restrict(self, ids: torch.Tensor) -> None:
        """Let only these ids win, int64 [A], ascending and distinct."""

    @property
    @abstractmethod
    def codes(self) -> int:
        """How many codes may win."""

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Ids of the winning codes for float32 latents [N, d], int64 [N]."""
        at_once = max(1, SCORES_AT_ONCE[latents.device.type] // self.codes)
        winners = torch.cat([self.losses(some).argmin(1) for some in latents.split(at_once)])
        return winners if self.among is None else self.among[winners]


class NearestCode(CodeSearch):
    """The code at the smallest squared Euclidean distance, between unit vectors if `normalise`.

    The distance is |z|^2 + |c|^2 - 2 z.c in float32, the form of all the published code: where two
    codes are almost equally near, its rounding decides which id a published model gives.
    """

    rows: torch.Tensor

    def __init__(self, codebook: torch.Tensor, *, normalise: bool) -> None:
        """Search a codebook [K, d], as stored."""
        super().__init__()
        self.normalise = normalise
        self.register_buffer("rows", self._unit(codebook.detach().float().clone()))

    def losses(self, latents: torch.Tensor) -> torch.Tensor:
        """Squared distances [N, A]."""
        return squared_distances(self._unit(latents.float()), self.rows)

    def restrict(self, ids: torch.Tensor) -> None:
        """See `CodeSearch.restrict`."""
        self.rows, self.among = self.rows[ids], ids

    @property
    def codes(self) -> int:
        """See `CodeSearch.codes`."""
        return len(self.rows)

    def _unit(self, vectors: torch.Tensor) -> torch.Tensor:
        return functional.normalize(vectors, dim=1) if self.normalise else vectors


class LargestLogit(CodeSearch):
    """The code whose logit w.z + b is largest: a classifier over the codes, no distance."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Search with a linear layer's weight [K, d] and bias [K]."""
        super().__init__()
        self.register_buffer("weight", weight.detach().float().clone())
        self.register_buffer("bias", bias.detach().float().clone())

    def losses(self, latents: torch.Tensor) -> torch.Tensor:
        """Negated logits [N, A]."""
        return -functional.linear(latents.float(), self.weight, self.bias)

    def restrict(self, ids: torch.Tensor) -> None:
        """See `CodeSearch.restrict`."""
        self.weight, self.bias, self.among = self.weight[ids], self.bias[ids], ids

    @property
    def codes(self) -> int:
        """See `CodeSearch.codes`."""
        return len(self.weight)


def squared_distances(latents: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """|z|^2 + |c|^2 - 2 z.c for latents [N, d] and rows [K, d]: [N, K]."""
    squares = latents.square().sum(1, keepdim=True) + codebook.square().sum(1)
    return torch.addmm(squares, latents, codebook.t(), alpha=-2)


def nearest_codes(latents: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Ids of the nearest rows of a codebook [K, d] for latents [N, d], int64 [N]."""
    return squared_distances(latents, codebook).argmin(1)
