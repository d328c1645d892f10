"""Data: from a store's split to batches of ranks on the training device.

The only place of this package that knows tokenstore's loader. Shuffling, exactly-once and resume
are the loader's; augmentation, embedding and masking happen later, inside the task. Nothing here
touches a pixel.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from seit_train.config import RunConfig
from seit_train.distributed import World
from tokenstore.errors import UsageError
from tokenstore.loader import TokenLoader
from tokenstore.reader import Split


@dataclass(frozen=True)
class TokenBatch:
    """One process's share of a batch, on its device.

    Attributes:
        ranks: int64 [B, h, w].
        labels: int64 [B], or None where the split has no labels.
        valid: bool [B], False on rows that only pad the last batch of an evaluation.
        index: int64 [B], sample numbers in the split.
        keys: names of the samples where they were asked for.
    """

    ranks: Tensor
    labels: Tensor | None
    valid: Tensor
    index: Tensor
    keys: list[str] | None

    def rows(self, some: slice) -> "TokenBatch":
        """Some of its rows."""
        return TokenBatch(
            self.ranks[some],
            None if self.labels is None else self.labels[some],
            self.valid[some],
            self.index[some],
            None if self.keys is None else self.keys[some],
        )


def training_loader(split: Split, config: RunConfig, world: World) -> TokenLoader:
    """Shuffled full batches, `config.batch_size` images over all processes together.

    Raises:
        UsageError: the batch cannot be divided as asked, or is larger than the split.
    """
    parts = world.size * config.loop.accumulate
    if config.batch_size % parts:
        raise UsageError(
            f"batch_size {config.batch_size} does not divide into {world.size} processes x "
            f"{config.loop.accumulate} parts (loop.accumulate): make it a multiple of {parts}"
        )
    if len(split) < config.batch_size:
        raise UsageError(
            f"split '{split.name}' has {len(split)} images, fewer than batch_size "
            f"{config.batch_size}: lower it with batch_size=N"
        )
    return _loader(split, config, world, training=True)


def evaluation_loader(split: Split, config: RunConfig, world: World) -> TokenLoader:
    """Every image of a split once an epoch, in its order, over all processes together."""
    return _loader(split, config, world, training=False)


def iterate(loader: TokenLoader) -> Iterator[TokenBatch]:
    """The batches of (the rest of) one epoch."""
    for batch in loader:
        yield TokenBatch(batch.ranks, batch.labels, batch.valid, batch.index, batch.keys)


def _loader(split: Split, config: RunConfig, world: World, *, training: bool) -> TokenLoader:
    return TokenLoader(
        split,
        batch_size=max(1, config.batch_size // world.size),
        seed=config.seed,
        rank=world.rank,
        world_size=world.size,
        device=world.device,
        residency=config.loop.residency,
        last="drop" if training else "pad",
        shuffle="full" if training else "none",
    )
