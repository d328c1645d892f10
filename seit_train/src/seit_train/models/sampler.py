"""Sampling: draw grids of ranks from a masked model by iterative parallel decoding (MAGE).

Everything is masked at first. Each iteration draws a rank for every masked place, keeps the draws
that the model is surest of, and masks the others again; the share that stays masked falls by a
cosine. Noise on the confidences, less and less of it, keeps images apart. Decoding to pixels is
elsewhere.
"""

import math
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from seit_train.models.masking import MaskConfig, plan_of
from seit_train.models.mtm import MaskedModel, patch_ranks, unpatch


class SamplerConfig(BaseModel):
    """How images are drawn.

    Attributes:
        iterations: of parallel decoding.
        temperature: of the Gumbel noise on the confidences at first; it falls to 0 linearly.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    iterations: Annotated[int, Field(gt=0)] = 20
    temperature: Annotated[float, Field(ge=0)] = 6.0


@torch.no_grad()
def sample_ranks(
    model: MaskedModel, count: int, mask: MaskConfig, config: SamplerConfig, rng: torch.Generator
) -> Tensor:
    """Draw grids, int64 [count,h,w] of the size that the model was made for.

    As many masked positions are dropped before the encoder as in training, or all where fewer are
    masked, so that it meets what it learnt from.

    Args:
        model: in evaluation mode, on the device of `rng`.
        count: how many.
        mask: of the training.
        config: how.
        rng: all that is random comes from it.
    """
    rows, columns = model.encoder.positions
    positions, patch = rows * columns, model.patch
    size = rows * patch, columns * patch
    ranks = torch.zeros((count, *size), dtype=torch.int64, device=rng.device)
    order = torch.rand((count, positions), generator=rng, device=rng.device).argsort(dim=1)
    masked = positions
    for iteration in range(1, config.iterations + 1):
        progress = iteration / config.iterations
        dropped = min(masked, mask.count_dropped(positions))
        plan = plan_of(order, torch.full_like(order[:, :1], masked), dropped)
        logits = model(ranks, plan._replace(masked=order[:, :masked])).float()
        drawn, confidence = _draw(logits, rng)
        patches = patch_ranks(ranks, patch)
        places = order[:, :masked, None].expand(-1, -1, patch * patch)
        ranks = unpatch(patches.scatter(1, places, drawn), size, patch)
        confidence += config.temperature * (1 - progress) * _gumbel(confidence, rng)
        surest_last = confidence.argsort(dim=1)
        order = torch.cat([order[:, :masked].gather(1, surest_last), order[:, masked:]], dim=1)
        masked = count_left(progress, positions, masked)
        if masked == 0:
            break
    return ranks


def count_left(progress: float, positions: int, masked: int) -> int:
    """How many positions stay masked: by the cosine, but each iteration settles one at least."""
    by_cosine = math.floor(math.cos(math.pi / 2 * progress) * positions) if progress < 1 else 0
    return min(by_cosine, masked - 1)


def _draw(logits: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Logits [B,M,p,K] -> drawn ranks int64 [B,M,p], and how sure of a position, float [B,M]."""
    drawn = (logits + _gumbel(logits, rng)).argmax(dim=-1)
    sure = logits.log_softmax(dim=-1).take_along_dim(drawn[..., None], dim=-1)
    return drawn, sure[..., 0].mean(dim=-1)


def _gumbel(like: Tensor, rng: torch.Generator) -> Tensor:
    uniform = torch.rand(like.shape, generator=rng, device=like.device).clamp(min=1e-20)
    return -(-uniform.log()).clamp(min=1e-20).log()
