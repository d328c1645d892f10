"""Token-EDA: synonyms and swapped squares (SeiT section 3.2), after text augmentation.

An image gets synonym replacement (some of its ranks become one of the nearest codes), or two
squares of it trade places, or neither. Works on ranks; synonyms come from the codebook, or from
the `synonyms.json` of SeiT's release, which lists the same.
"""

import json
from pathlib import Path
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from seit_train.augment.base import Augmentation, Surroundings, View, select
from seit_train.config import Positive, Settings, Share
from tokenstore.errors import TrainingError

_ROWS = 1024  # codes compared at a time with all others while the table is made


class EdaOptions(Settings):
    """How often and how much.

    Attributes:
        synonym_p: chance that an image gets synonym replacement.
        swap_p: chance that two squares of an image trade places; never both.
        replace_p: chance of each rank of such an image to be replaced.
        synonyms: how many nearest codes are candidates.
        table: `synonyms.json` as SeiT released it, `{"id": [nearest ids, nearest first]}`, to be
            used instead of the codebook; a store without one can do with it.
        side: largest side of a square, as a share of the grid's shorter side.
    """

    synonym_p: Share = 0.25
    swap_p: Share = 0.25
    replace_p: Share = 0.25
    synonyms: Positive = 5
    table: str | None = None
    side: Annotated[float, Field(gt=0, le=0.5)] = 0.25

    @model_validator(mode="after")
    def _exclusive(self) -> Self:
        if self.synonym_p + self.swap_p > 1:
            raise ValueError(
                f"an image gets one of the two, so synonym_p={self.synonym_p} and "
                f"swap_p={self.swap_p} must not sum to more than 1"
            )
        return self


class Eda(Augmentation[EdaOptions]):
    """Replace ranks by synonyms in some images, swap squares in others."""

    space = "ranks"
    Options = EdaOptions

    def __init__(self, options: EdaOptions, around: Surroundings) -> None:
        super().__init__(options, around)
        self.keeps_masks = options.swap_p == 0  # synonyms stay where they are
        self.longest = max(1, int(options.side * min(around.size)))
        self.neighbours: Tensor | None
        neighbours = self._neighbours(around) if options.synonym_p else None
        self.register_buffer("neighbours", neighbours, persistent=False)

    def _neighbours(self, around: Surroundings) -> Tensor:
        codebook, codes = around.codebook, around.codes
        if self.options.table is not None and codes is not None:
            return read_synonyms(Path(self.options.table), codes.ids, self.options.synonyms)
        if codebook is None:
            raise TrainingError(
                "eda finds synonyms in the codebook, and this store has none. Set synonym_p: 0, "
                "give the released synonyms.json as table: FILE, or import the store again with "
                "--codebook FILE."
            )
        if len(codebook) <= self.options.synonyms:
            raise TrainingError(
                f"eda looks for {self.options.synonyms} synonyms of each code, but the store has "
                f"only {len(codebook)} codes. Set synonyms to less."
            )
        return find_synonyms(codebook, self.options.synonyms)

    def forward(self, view: View, rng: torch.Generator) -> View:
        """Int64 [B,h,w] -> the same shape."""
        ranks, options = view.tokens, self.options
        lot = torch.rand(len(ranks), generator=rng, device=ranks.device)
        swapped = swap_squares(ranks, self.longest, rng)
        result = select(lot >= 1 - options.swap_p, swapped, ranks)
        if self.neighbours is not None:
            replaced = replace_by_synonyms(ranks, self.neighbours, options.replace_p, rng)
            result = select(lot < options.synonym_p, replaced, result)
        return view._replace(tokens=result)


def find_synonyms(codebook: Tensor, count: int) -> Tensor:
    """The codes nearest to each code, nearest first, itself left out.

    Args:
        codebook: float32 [K,d].
        count: synonyms of each code.

    Returns:
        Int64 [K,count], by Euclidean distance.
    """
    tables = []
    for start in range(0, len(codebook), _ROWS):
        distances = torch.cdist(codebook[start : start + _ROWS].double(), codebook.double())
        own = torch.arange(len(distances))
        distances[own, start + own] = torch.inf
        tables.append(distances.topk(count, largest=False).indices)
    return torch.cat(tables)


def read_synonyms(file: Path, ids: Tensor, count: int) -> Tensor:
    """The synonyms that SeiT's `synonyms.json` lists, as ranks of a store.

    Args:
        file: `{"id": [nearest ids, nearest first]}`.
        ids: int64 [K], the id behind each rank. Listed ids that are not among them are left out.
        count: synonyms of each code.

    Returns:
        Int64 [K,count].

    Raises:
        TrainingError: the file is not of that form, or lists too few for a code of the store.
    """
    try:
        lists = {int(i): list(map(int, near)) for i, near in json.loads(file.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise TrainingError(
            f"'{file}' is no synonyms.json, {{\"id\": [nearest ids]}}: {error}"
        ) from error
    ranks = {number: rank for rank, number in enumerate(ids.tolist())}
    table = []
    for number in ranks:
        near = [ranks[other] for other in lists.get(number, []) if other in ranks][:count]
        if len(near) < count:
            raise TrainingError(
                f"eda looks for {count} synonyms of each code, but '{file}' lists {len(near)} of "
                f"id {number} that this store has. Set synonyms to less, or leave table out."
            )
        table.append(near)
    return torch.tensor(table)


def replace_by_synonyms(ranks: Tensor, synonyms: Tensor, p: float, rng: torch.Generator) -> Tensor:
    """Each rank, with probability p, becomes one of its synonyms: int64 [B,h,w], same shape."""
    which = torch.randint(synonyms.shape[1], ranks.shape, generator=rng, device=ranks.device)
    replaced = torch.rand(ranks.shape, generator=rng, device=ranks.device) < p
    return torch.where(replaced, synonyms[ranks, which], ranks)


def swap_squares(ranks: Tensor, longest: int, rng: torch.Generator) -> Tensor:
    """In each image, two squares of one size that do not overlap trade places.

    Sides are uniform in 1..longest. Both places are uniform among those that leave room for the
    other; an image too small for two squares stays as it is.

    Args:
        ranks: int64 [B,h,w].
        longest: largest side of a square.
        rng: on the ranks' device.
    """
    batch, height, width = ranks.shape
    side = 1 + torch.randint(longest, (batch, 1, 1), generator=rng, device=ranks.device)
    row = torch.arange(height, device=ranks.device)[:, None]
    column = torch.arange(width, device=ranks.device)
    inside = (row <= height - side) & (column <= width - side)
    roomy = (row >= side) | (column >= side)
    roomy = inside & (roomy | (row <= height - 2 * side) | (column <= width - 2 * side))
    here = _draw_place(roomy, rng)
    apart = ((row - here[0]).abs() >= side) | ((column - here[1]).abs() >= side)
    there = _draw_place(inside & apart, rng)
    possible = (roomy.any(dim=(1, 2)))[:, None, None]
    source = row * width + column + torch.zeros_like(ranks)
    leap = (there[0] - here[0]) * width + there[1] - here[1]
    source = source + leap * (possible & _in_square(row, column, here, side))
    source = source - leap * (possible & _in_square(row, column, there, side))
    return ranks.flatten(1).gather(1, source.flatten(1)).view_as(ranks)


def _draw_place(allowed: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Row and column, each int64 [B,1,1], uniform among the places that bool [B,h,w] allows."""
    lots = torch.rand(allowed.shape, generator=rng, device=allowed.device)
    place = torch.where(allowed, lots, -1.0).flatten(1).argmax(dim=1)[:, None, None]
    return place // allowed.shape[2], place % allowed.shape[2]


def _in_square(row: Tensor, column: Tensor, corner: tuple[Tensor, Tensor], side: Tensor) -> Tensor:
    down, across = row - corner[0], column - corner[1]
    return (down >= 0) & (down < side) & (across >= 0) & (across < side)


PLUGIN = Eda
