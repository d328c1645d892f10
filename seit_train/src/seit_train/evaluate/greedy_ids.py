"""Greedy substitution of ids: how few other codes make a classifier change its mind?

One id at a time: the gradient with respect to one-hot ids ranks all substitutions (as HotFlip ranks
characters; Ebrahimi et al., arXiv 1712.06751), the likeliest are tried, and the one that raises the
loss most stays. It needs neither pictures nor the tokenizer, and knows no bound but the number of
ids: a code may become any other. A lower bound of nothing: a better search may need fewer.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from seit_train.data import TokenBatch
from seit_train.evaluate.picture_path import IdPath
from seit_train.evaluate.trained import Trained
from seit_train.scoring import labels_of
from tokenstore.errors import UsageError

_TRIED = 16  # substitutions that are tried in each round, by the gradient's promise


def judge_substituted(
    trained: Trained, batches: Iterable[TokenBatch], budgets: Sequence[int], among: Sequence[int]
) -> list[dict[str, Any]]:
    """Top-1 after so many substitutions, a row each, the fewest first.

    Args:
        trained: a run of classification from tokens.
        batches: ranks and labels, which are those of the run.
        budgets: numbers of ids that may change in an image.
        among: labels that can be answered.

    Raises:
        UsageError: there is no image.
    """
    path, chosen = IdPath(trained), torch.tensor(among, device=trained.world.device)
    right = dict.fromkeys(sorted({0, *budgets}), 0)
    count = 0
    for labels, ranks in _parts(batches, path):
        labels = columns_of(labels, chosen)
        count += len(ranks)
        changed = torch.zeros_like(ranks, dtype=torch.bool)
        for used in range(max(right) + 1):
            stands = path(ranks)[:, chosen].argmax(dim=1) == labels
            ranks, changed, labels = ranks[stands], changed[stands], labels[stands]
            if used in right:
                right[used] += len(ranks)
            if used < max(right) and len(ranks):
                ranks, changed = substitute(path, chosen, (ranks, changed), labels)
    if count == 0:
        raise UsageError("there is no image to evaluate on")
    return [{"ids": used, "top1": hits / count} for used, hits in right.items()]


def _parts(batches: Iterable[TokenBatch], path: IdPath) -> Iterator[tuple[Tensor, Tensor]]:
    """Labels and ranks of so many images as fit."""
    for batch in batches:
        labels, ranks = labels_of(batch)[batch.valid], batch.ranks[batch.valid]
        at_once = path.images_at_once(ranks[0].numel())
        yield from zip(labels.split(at_once), ranks.split(at_once), strict=True)


def columns_of(labels: Tensor, among: Tensor) -> Tensor:
    """Places of labels in the list of those that can be answered, int64 [n]."""
    return (among[None] == labels[:, None]).int().argmax(dim=1)


def substitute(
    path: IdPath, among: Tensor, state: tuple[Tensor, Tensor], labels: Tensor
) -> tuple[Tensor, Tensor]:
    """One more id of each image replaced by what raises the loss most.

    Args:
        path: the model.
        among: int64, labels that can be answered.
        state: ranks int64 [n,h,w], and where they were replaced before, bool [n,h,w].
        labels: int64 [n], places in `among`.

    Returns:
        The new state.
    """
    ranks, changed = state
    promise = path.promise(ranks, labels, among)
    promise.masked_fill_(changed.flatten(1)[..., None], -torch.inf)
    best = promise.flatten(1).topk(min(_TRIED, promise[0].numel())).indices
    where, what = best // promise.shape[2], best % promise.shape[2]
    tried = ranks.flatten(1)[:, None].repeat(1, best.shape[1], 1)
    tried.scatter_(2, where[..., None], what[..., None])
    said = path(tried.view(-1, *ranks.shape[1:]))[:, among]
    many = labels.repeat_interleave(best.shape[1])
    losses = functional.cross_entropy(said, many, reduction="none")
    rows = torch.arange(len(ranks), device=ranks.device)
    winner = losses.view(len(ranks), -1).argmax(dim=1)
    marks = changed.flatten(1).scatter(1, where[rows, winner][:, None], True)
    return tried[rows, winner].view_as(ranks), marks.view_as(changed)
