"""Mixing: what CutMix, Mixup and TokenAdapt share when two images of a batch become one.

How much of an image stays, where the other one is pasted, and what is then to be predicted. No
augmentation itself.
"""

import torch
from torch import Tensor


def draw_shares(alpha: float, batch: Tensor, rng: torch.Generator) -> Tensor:
    """Float32 [B]: Beta(alpha, alpha) for each image, as the ratio of two Gamma variables."""
    shape = torch.full((2, len(batch)), alpha, device=batch.device)
    # torch.distributions takes no generator; this is the function that it calls itself.
    left, right = torch._standard_gamma(shape, generator=rng).clamp(min=1e-30)
    shares: Tensor = left / (left + right)
    return shares


def draw_masks(own: Tensor, size: tuple[int, int], rng: torch.Generator) -> Tensor:
    """Bool [B,h,w]: True in a box of area about 1 - own, centred anywhere, clipped to the grid."""
    side = (1 - own).sqrt()
    spans = []
    for length in size:
        centre = torch.randint(length, own.shape, generator=rng, device=own.device)
        half = (side * length).long() // 2
        place = torch.arange(length, device=own.device)
        spans.append((place >= (centre - half)[:, None]) & (place < (centre + half)[:, None]))
    return spans[0][:, :, None] & spans[1][:, None, :]


def draw_partners(batch: Tensor, rng: torch.Generator) -> Tensor:
    """Int64 [B]: for each image of a batch the one that it is mixed with, a permutation."""
    return torch.randperm(len(batch), generator=rng, device=batch.device)


def mix_targets(targets: Tensor | None, other: Tensor, partner: Tensor) -> Tensor | None:
    """Targets [B,classes] of which the share `other` [B] is the partner's; None stays None."""
    if targets is None:
        return None
    return (1 - other)[:, None] * targets + other[:, None] * targets[partner]
