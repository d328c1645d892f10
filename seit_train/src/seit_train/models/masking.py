"""Masking: which positions of a batch a masked model sees, and which it has to predict.

A ratio is drawn for each step; that share of the positions is masked. A constant number of the
masked positions is dropped before the encoder, so that its sequence length never changes; the
other masked ones enter as mask tokens (SeiT++ section 3.1, after MAGE, section 3). Two views of an
image may be asked to see disjoint positions (LUT). Nothing here waits for the device: the number of
masked positions is decided on the host.
"""

import math
from statistics import NormalDist
from typing import Annotated, NamedTuple, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

_Ratio = Annotated[float, Field(gt=0, le=1)]


class MaskConfig(BaseModel):
    """The normal distribution of the mask ratio, truncated to [low, high].

    Attributes:
        low: least share of the positions that is masked.
        high: greatest share.
        mean: of the normal distribution before it is truncated.
        deviation: its standard deviation.
        dropped: share of all positions that is dropped before the encoder, chosen among the masked
            ones; null means `low`, as published, and 0 keeps every mask token in the encoder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: _Ratio = 0.4
    high: _Ratio = 1.0
    mean: float = 0.45
    deviation: Annotated[float, Field(gt=0)] = 0.25
    dropped: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"mask ratios reach from low={self.low} down to high={self.high}")
        if self.dropped is not None and self.dropped > self.low:
            raise ValueError(
                f"dropped={self.dropped} of the positions cannot all be masked where low={self.low}"
            )
        return self

    def count_dropped(self, positions: int) -> int:
        """How many of an image's positions never enter the encoder."""
        return count_masked(self.low if self.dropped is None else self.dropped, positions)


class MaskPlan(NamedTuple):
    """The positions of a batch, 0 <= position < N.

    Attributes:
        kept: int64 [B,V], those that enter the encoder.
        hidden: bool [B,V], which of them enter as mask tokens.
        masked: int64 [B,M], those to predict: the dropped and the hidden ones.
    """

    kept: Tensor
    hidden: Tensor
    masked: Tensor


def ratio_at(quantile: Tensor, config: MaskConfig) -> Tensor:
    """The mask ratio below which a share `quantile` of all draws lies, float64, same shape."""
    normal = NormalDist(config.mean, config.deviation)
    below, above = normal.cdf(config.low), normal.cdf(config.high)
    standard: Tensor = torch.special.ndtri(below + quantile.double() * (above - below))
    return (config.mean + config.deviation * standard).clamp(config.low, config.high)


def draw_plan(shape: tuple[int, int], config: MaskConfig, rng: torch.Generator) -> MaskPlan:
    """A plan for `shape` = (B, N) images and positions, with one ratio for the whole batch.

    The ratio decides the shape of what follows, so the host has to know it: it is drawn from a CPU
    generator with the seed of `rng`, whose own stream stays on the device. Two plans of one step
    therefore share their ratio, and CPU and GPU draw the same one.
    """
    order, masked = _draw_order(shape, config, rng)
    return _plan(order, masked, config)


def draw_disjoint_plans(
    shape: tuple[int, int], config: MaskConfig, rng: torch.Generator
) -> tuple[MaskPlan, MaskPlan]:
    """Plans for two views of the same images that see different positions (LUT, section 3).

    The views share a random order of the positions: one sees its last ones, the other as many
    before these. Each of them sees at least one position.

    Raises:
        ValueError: with less than half of the positions masked there are not enough.
    """
    order, masked = _draw_order(shape, config, rng)
    masked = min(masked, shape[1] - 1)
    seen = shape[1] - masked
    if seen > masked:
        raise ValueError(f"two views cannot each see {seen} of {shape[1]} positions for themselves")
    return _plan(order, masked, config), _plan(order.roll(seen, dims=1), masked, config)


def _draw_order(
    shape: tuple[int, int], config: MaskConfig, rng: torch.Generator
) -> tuple[Tensor, int]:
    """A random order of the positions of each image, and how many of them are masked."""
    twin = torch.Generator().manual_seed(rng.initial_seed())
    ratio = float(ratio_at(torch.rand((), dtype=torch.float64, generator=twin), config))
    order = torch.rand(shape, generator=rng, device=rng.device).argsort(dim=1)
    return order, count_masked(ratio, shape[1])


def _plan(order: Tensor, masked: int, config: MaskConfig) -> MaskPlan:
    """The plan that masks as many positions of each image, the first ones of its order."""
    counts = torch.full_like(order[:, :1], masked)
    plan = plan_of(order, counts, config.count_dropped(order.shape[1]))
    return plan._replace(masked=order[:, :masked])


def fixed_plan(index: Tensor, positions: int, config: MaskConfig) -> tuple[MaskPlan, Tensor]:
    """The plan of evaluation: a pure function of each image's sample number.

    Any run of consecutive samples covers the distribution of ratios evenly (multiples of the golden
    ratio modulo 1), and the positions follow a hash of sample number and position.

    Args:
        index: int64 [B], sample numbers.
        positions: N.
        config: the distribution.

    Returns:
        A plan whose `masked` holds all N positions, the masked ones first, and int64 [B]: how many
        those are.
    """
    quantile = (index.double() * ((math.sqrt(5) - 1) / 2)).frac()
    counts = (ratio_at(quantile, config) * positions).ceil().long().clamp(max=positions)
    place = torch.arange(positions, device=index.device)
    order = hash32(index[:, None] * positions + place).argsort(dim=1, stable=True)
    return plan_of(order, counts[:, None], config.count_dropped(positions)), counts


def plan_of(order: Tensor, masked: Tensor, dropped: int) -> MaskPlan:
    """The plan that masks the first positions of an order; all of the order is in `masked` yet.

    Args:
        order: int64 [B,N], the positions of each image in the order in which they are masked.
        masked: int64 [B,1], how many are.
        dropped: how many of these, the same for all images, never enter the encoder.
    """
    place = torch.arange(dropped, order.shape[1], device=order.device)
    return MaskPlan(order[:, dropped:], place < masked, order)


def count_masked(ratio: float, positions: int) -> int:
    """Masked positions at a ratio: (0.4, 196) -> 79."""
    return math.ceil(ratio * positions)


def hash32(number: Tensor) -> Tensor:
    """The finaliser of MurmurHash3: int64 -> well mixed int64 in [0, 2^32), element by element."""
    low = 0xFFFFFFFF
    mixed = number & low
    mixed = ((mixed ^ (mixed >> 16)) * 0x85EBCA6B) & low
    mixed = ((mixed ^ (mixed >> 13)) * 0xC2B2AE35) & low
    return mixed ^ (mixed >> 16)
