"""The law of the augmentation: a pure function of a batch and a generator.

An augmentation takes a whole batch on its device and gives a new one. All that is random comes
from the generator it is handed; it never looks at a value on the host, and never loops over
images. `space` says what it works on: `ranks` (int64 [B,h,w]), `grid` (vectors, float32
[B,d,h,w]), or `any` of the two, since both end in rows and columns. Targets (float32 [B,classes],
rows that sum to 1, or None) go along, and only what mixes images changes them. So do masks, whose
places are moved as those of the grid are; what cannot move them (`keeps_masks`) is refused there.

A file of this folder defines one augmentation under the name that recipes call it by: a subclass
of `Augmentation` with its `Options`, named in the module constant `PLUGIN`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from seit_train.config import Settings

Space = Literal["ranks", "grid", "any"]


class View(NamedTuple):
    """A batch on its way through the augmentations, and what to predict.

    Attributes:
        tokens: ranks or vectors.
        targets: float32 [B,classes], or None.
        masks: int64 [B,H,W], a class at each place or -1 where nobody knows it; H and W are the
            same multiple of the grid's rows and columns. None where images have no masks.
    """

    tokens: Tensor
    targets: Tensor | None
    masks: Tensor | None = None

    def rows(self, some: slice) -> "View":
        """Some of its images."""
        targets = None if self.targets is None else self.targets[some]
        return View(self.tokens[some], targets, None if self.masks is None else self.masks[some])


class Embedder(Protocol):
    """What turns ranks into vectors and back; see `seit_train.embed.Codebook`."""

    @property
    def width(self) -> int:
        """Channels d of a vector."""
        ...

    def __call__(self, ranks: Tensor) -> Tensor:
        """Int64 [B,h,w] -> float32 [B,d,h,w]."""
        ...

    def blend(self, ranks: Tensor, weights: Tensor) -> Tensor:
        """Weighted sums of vectors: int64 [N,n] and float32 [N,n] -> float32 [N,d]."""
        ...

    def nearest(self, grid: Tensor) -> Tensor:
        """Float32 [B,d,h,w] -> int64 [B,h,w]."""
        ...


@dataclass(frozen=True)
class Codes:
    """What ranks mean: which tokenizer made them, and the id behind each.

    Attributes:
        tokenizer: name, config and hash of the weights, as in the store's manifest.
        preprocess: rule and size, as in the manifest.
        ids: int64 [K] in rank order.
    """

    tokenizer: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    ids: Tensor


@dataclass(frozen=True)
class Surroundings:
    """What an augmentation may know when it is made.

    Attributes:
        size: (h, w) of the grids it will be given.
        codebook: float32 [K,d] in rank order, or None where the store has none.
        codes: what the ranks mean, or None where nobody knows.
        channels: what makes numbers [B,c,h,w] of ranks [B,c,h,w]; None where grids are [h,w].
    """

    size: tuple[int, int]
    codebook: Tensor | None
    codes: Codes | None = None
    channels: nn.Module | None = None


AnyOptions = TypeVar("AnyOptions", bound=Settings)


class Augmentation(nn.Module, ABC, Generic[AnyOptions]):
    """One augmentation with its options; see the law above."""

    space: ClassVar[Space]
    Options: ClassVar[type[Settings]]
    keeps_masks: bool = False  # whether masks still belong, place by place, to what comes out

    def __init__(self, options: AnyOptions, around: Surroundings) -> None:
        """Keep the options. Tables made from the codebook become non-persistent buffers.

        Raises:
            TrainingError: the options do not fit the grid, or need a codebook that is not there.
        """
        super().__init__()
        self.options = options
        self.size = around.size  # (h, w) of what comes out, too, unless a subclass changes it

    @abstractmethod
    def forward(self, view: View, rng: torch.Generator) -> View:
        """The augmented batch; what came in is left as it was."""

    def from_ranks(self, view: View, embed: Embedder, rng: torch.Generator) -> View:
        """`forward` of embedded ranks, for a `grid` augmentation that comes first.

        One that needs no embedded grid in between, and is faster without, overrides it.
        """
        result: View = self(view._replace(tokens=embed(view.tokens)), rng)
        return result

    def extra_repr(self) -> str:
        """The options, so that a printed policy reads like its recipe."""
        return ", ".join(f"{key}={value}" for key, value in self.options)


def chance(p: float, batch: Tensor, rng: torch.Generator) -> Tensor:
    """Bool [B]: for each image of a batch, True with probability p."""
    return torch.rand(len(batch), generator=rng, device=batch.device) < p


def select(rows: Tensor, chosen: Tensor, otherwise: Tensor) -> Tensor:
    """Image by image: `chosen` where the bool [B] `rows` is True, else `otherwise`."""
    return torch.where(rows.view(-1, *[1] * (chosen.ndim - 1)), chosen, otherwise)


def output_sizes(size: int | tuple[int, int] | None, grid: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns that a crop leaves: as asked, or 7/8 of the grid (SeiT: 28 of 32)."""
    if size is None:
        return grid[0] * 7 // 8, grid[1] * 7 // 8
    return (size, size) if isinstance(size, int) else size


AnyAugmentation = Augmentation[Any]
