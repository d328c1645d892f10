"""The codebook while it is learnt: k-means start, running means, and codes called back to life.

Each code is the running mean of the latents that chose it (van den Oord et al. 2017, appendix A),
so no gradient trains it. Codes that hardly any latent chooses are moved onto latents of the
current batch, which keeps all of a codebook in use (Dhariwal et al. 2020, section 3).
"""

import numpy as np
import torch
from torch.nn import functional

from tokenstore.tokenizers.search import nearest_codes

KMEANS_ROUNDS = 10
OUT_OF_USE = 0.03  # of the uses that an even codebook would have
STEPS_BETWEEN_RESTARTS = 20


class Quantiser:
    """The running sums behind a codebook [K, d]: `counts` [K] and `sums` [K, d], float32."""

    def __init__(self, codebook: torch.Tensor, decay: float) -> None:
        """Learn `codebook` in place."""
        self.codebook, self.decay = codebook, decay
        self.counts = torch.zeros_like(codebook[:, 0])
        self.sums = torch.zeros_like(codebook)

    @torch.no_grad()
    def start(self, latents: torch.Tensor, uses: float, rng: np.random.Generator) -> None:
        """Set the codebook by k-means over latents [N, d]; `uses` a code and step to begin with."""
        self.codebook.copy_(_drawn(latents, len(self.codebook), rng))
        for _ in range(KMEANS_ROUNDS):
            counts, sums = self._count(latents, nearest_codes(latents, self.codebook))
            spare = _drawn(latents, len(self.codebook), rng)
            means = sums / counts.clamp_min(1)[:, None]
            self.codebook.copy_(torch.where(counts[:, None] > 0, means, spare))
        self.counts.fill_(uses)
        self.sums.copy_(self.codebook * uses)

    def __call__(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Quantise latents [N, d] with a straight-through gradient, and learn from them.

        Returns:
            The codes in place of the latents, and the mean squared distance between both.
        """
        with torch.no_grad():
            ids = nearest_codes(latents, self.codebook)
            codes = self.codebook[ids]
            counts, sums = self._count(latents, ids)
            self.counts.lerp_(counts, 1 - self.decay)
            self.sums.lerp_(sums, 1 - self.decay)
            self.codebook.copy_(self.sums / self.counts.clamp_min(1e-6)[:, None])
        return latents + (codes - latents).detach(), functional.mse_loss(latents, codes)

    @torch.no_grad()
    def restart(self, latents: torch.Tensor, rng: np.random.Generator) -> None:
        """Move codes out of use onto latents [N, d] drawn at random."""
        even = len(latents) / len(self.codebook)
        dead = (self.counts < OUT_OF_USE * even).nonzero()[:, 0]
        if len(dead):
            # Half an even share gives a moved code time to find latents before it is judged again.
            self.counts[dead] = even / 2
            self.codebook[dead] = _drawn(latents, len(dead), rng)
            self.sums[dead] = self.codebook[dead] * (even / 2)

    def _count(self, latents: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        counts = torch.bincount(ids, minlength=len(self.codebook)).to(latents.dtype)
        return counts, torch.zeros_like(self.codebook).index_add_(0, ids, latents)


def _drawn(latents: torch.Tensor, count: int, rng: np.random.Generator) -> torch.Tensor:
    """`count` rows of latents [N, d], with repeats only where there are fewer."""
    rows = rng.choice(len(latents), size=count, replace=len(latents) < count)
    return latents[torch.from_numpy(rows).to(latents.device)]
