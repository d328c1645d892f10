"""Transfer: start a model from the weights of another one.

Weights go over by name. A table of positions is interpolated to the new grid, a table of ids that
has grown keeps its old rows; whatever else differs in shape is an error, because a run that
silently starts from random weights looks like one that learns badly. Which names correspond is the
caller's business; so is reading files.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from tokenstore.errors import TrainingError

_ID_TABLES = (".ids.table.weight", "decoder_head_bias")


class Transfer(NamedTuple):
    """What was done, by the names of parameters and buffers, sorted."""

    loaded: list[str]
    resized: list[str]
    new: list[str]
    unused: list[str]


def transfer(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    positions: tuple[int, int],
    *,
    fresh: tuple[str, ...] = (),
) -> Transfer:
    """Overwrite the parts of a model that the weights have a tensor for.

    Args:
        model: changed in place.
        weights: by the model's own names.
        positions: rows and columns of tokens in the model.
        fresh: beginnings of names that stay as initialised, even where the weights have them.

    Raises:
        TrainingError: no name fits, or a shape differs where it must not.
    """
    state = model.state_dict()
    usable = {n: w for n, w in weights.items() if n in state and not n.startswith(fresh)}
    if not usable:
        raise TrainingError(
            f"none of the {len(weights)} weights to start from fits the model: it has names such as"
            f" '{next(iter(state))}', they have '{next(iter(weights), 'nothing')}'"
        )
    _refuse_other_depth(usable, weights, state)
    resized = sorted(name for name, weight in usable.items() if weight.shape != state[name].shape)
    with torch.no_grad():
        for name, weight in usable.items():
            state[name].copy_(_fitted(name, weight, state[name], positions))
    return Transfer(
        loaded=sorted(set(usable) - set(resized)),
        resized=resized,
        new=sorted(set(state) - set(usable)),
        unused=sorted(set(weights) - set(usable)),
    )


def exchanged_stem(
    state: Mapping[str, Tensor], weights: Mapping[str, Tensor], stem: str = "patch_embed."
) -> tuple[str, ...]:
    """The stem among what stays fresh, where it and the weights' stem were fed something else.

    Ranks, embedded grids and pixels are told apart by the id embedding, and where there is none by
    the shape of the convolution.

    Args:
        state: of the model.
        weights: by the model's own names.
        stem: how its names begin in both.
    """
    kinds = []
    for names in (state, weights):
        kernel = names.get(f"{stem}proj.weight")
        has_ids = f"{stem}ids.table.weight" in names
        kinds.append((has_ids, None if kernel is None or has_ids else kernel.shape))
    return () if kinds[0] == kinds[1] else (stem,)


def _refuse_other_depth(
    usable: Mapping[str, Tensor], weights: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> None:
    """Refuse to leave some blocks of an encoder random, or to leave some of the weights' out."""
    counts = [_count_blocks(names) for names in (weights, state)]
    if _count_blocks(usable) and counts[0] != counts[1]:
        raise TrainingError(
            f"the weights to start from have {counts[0]} blocks, the model {counts[1]}. Set the "
            "model's depth to theirs."
        )


def _count_blocks(names: Iterable[str]) -> int:
    """Blocks of a ViT or of an encoder: the highest number in `blocks.N.`, and one."""
    found = (re.match(r"(?:encoder\.)?blocks\.(\d+)\.", name) for name in names)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _fitted(name: str, weight: Tensor, target: Tensor, positions: tuple[int, int]) -> Tensor:
    """A weight in the shape of its target."""
    if weight.shape == target.shape:
        return weight
    if name.endswith("pos_embed") and weight.shape[::2] == target.shape[::2]:
        return _resized_positions(weight, positions)
    grown = weight.shape[1:] == target.shape[1:] and len(weight) < len(target)
    if name.endswith(_ID_TABLES) and grown:  # a vocabulary grows at its end
        return torch.cat([weight.to(target), target[len(weight) :]])
    raise TrainingError(
        f"weight '{name}' to start from has shape {list(weight.shape)}, the model needs "
        f"{list(target.shape)}. Give both runs the same model settings."
    )


def _resized_positions(table: Tensor, positions: tuple[int, int]) -> Tensor:
    """[1,1+n,d] -> [1,1+N,d], taking the old grid to have the new one's proportions."""
    rows = round(math.sqrt((table.shape[1] - 1) * positions[0] / positions[1]))
    old = [rows, (table.shape[1] - 1) // rows]
    if old[0] * old[1] != table.shape[1] - 1:
        raise TrainingError(
            f"a table of {table.shape[1] - 1} positions is no grid in the proportions of "
            f"{positions[0]}x{positions[1]}, so it cannot be interpolated"
        )
    resized: Tensor = resample_abs_pos_embed(table, list(positions), old)
    return resized
