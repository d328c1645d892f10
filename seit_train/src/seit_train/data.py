"""Data: from a store's split to batches of ranks on the training device.

The only place of this package that knows tokenstore's loader. Shuffling, exactly-once and resume
are the loader's; augmentation, embedding and masking happen later, inside the task. Nothing here
touches a pixel: what does stands in pictures.py, and keeps the same laws (`Samples`, `Batches`).
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from seit_train.config import DataConfig, ReplayConfig, RunConfig
from seit_train.distributed import World
from seit_train.replay import Replay, ReplayPlan
from tokenstore.errors import UsageError
from tokenstore.loader import TokenLoader
from tokenstore.mixture import AnySplit, MixedSplit, Mixture
from tokenstore.order import Numbers, Order, Shuffled
from tokenstore.placing import LoaderBatch
from tokenstore.reader import Split, Store, open_store
from tokenstore.sampling import ClassBalanced, Repeated, Subset
from tokenstore.shard_shuffle import ShardShuffle
from tokenstore.sizes import record_sizes
from tokenstore.subset import one_view, read_scores, samples_of_share

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenBatch:
    """One process's share of a batch, on its device.

    Attributes:
        ranks: int64 [B, h, w] or [B, c, h, w]; from pictures.py, uint8 [B, 3, H, W].
        labels: int64 [B], or None where the split has no labels.
        valid: bool [B], False on rows that only pad the last batch of an evaluation.
        index: int64 [B], sample numbers in the split.
        keys: names of the samples where they were asked for.
        masks: uint8 [B,H,W] where they were asked for.
    """

    ranks: Tensor
    labels: Tensor | None
    valid: Tensor
    index: Tensor
    keys: list[str] | None
    masks: Tensor | None = None

    def rows(self, some: slice) -> "TokenBatch":
        """Some of its rows."""
        return TokenBatch(
            self.ranks[some],
            None if self.labels is None else self.labels[some],
            self.valid[some],
            self.index[some],
            None if self.keys is None else self.keys[some],
            None if self.masks is None else self.masks[some],
        )


def training_split(store: Store, data: DataConfig) -> AnySplit:
    """What a run trains on: the train split of its store, mixed with those of others if asked.

    Raises:
        UsageError: a store has no train split, or one that is mixed in has more codes.
        Mismatch: ranks of the stores mean different codes.
    """
    own = _train(store)
    if not data.mix:
        return own
    others = [open_store(one.store, **_caching(data)) for one in data.mix]
    for other in others:
        if len(other.vocabulary) > len(store.vocabulary):
            raise UsageError(
                f"'{other.url}' has {len(other.vocabulary)} codes, '{store.url}' has "
                f"{len(store.vocabulary)}, and a model is made for those of the run's own store: "
                f"train on '{other.url}' and mix in '{store.url}'"
            )
    return MixedSplit([own, *map(_train, others)])


class Samples(Protocol):
    """A split as the trainer knows it: how many samples, and what they are called."""

    def __len__(self) -> int:
        """How many samples it has."""

    def keys(self, indices: NDArray[np.int64], /) -> list[str] | None:
        """Names of samples, None where they have none."""


class Batches(Protocol):
    """What gives a run its batches; one `for` is (the rest of) one epoch."""

    def __len__(self) -> int:
        """Batches of a whole epoch, the same on every process."""

    def __iter__(self) -> Iterator[LoaderBatch | TokenBatch]:
        """The batches left in this epoch; afterwards it stands at the next one."""

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, as JSON-able values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where another one stood."""


def training_loader(
    split: AnySplit, config: RunConfig, world: World, *, masks: bool = False
) -> TokenLoader:
    """Full batches in a `training_order`, `config.batch_size` rows over all processes together.

    Raises:
        UsageError: the batch cannot be divided as asked, or is larger than an epoch.
    """
    return _loader(split, config, world, whole_batches(split, config, world), masks)


def whole_batches(split: Any, config: RunConfig, world: World) -> Order:
    """The `training_order` of a split, of which full batches can be made as the run asks.

    Args:
        split: of a store, or of pictures, which offer as much of one as this needs.
        config: of the run.
        world: whose processes share every batch.

    Raises:
        UsageError: the batch cannot be divided as asked, or is larger than an epoch.
    """
    parts = world.size * config.loop.accumulate
    if config.batch_size % parts:
        raise UsageError(
            f"batch_size {config.batch_size} does not divide into {world.size} processes x "
            f"{config.loop.accumulate} parts (loop.accumulate): make it a multiple of {parts}"
        )
    if config.batch_size % config.data.repeats:
        raise UsageError(
            f"batch_size {config.batch_size} does not hold each image data.repeats="
            f"{config.data.repeats} times: make it a multiple of that"
        )
    order = training_order(split, config)
    if len(order) < config.batch_size:
        raise UsageError(
            f"split '{split.name}' has {len(order)} images an epoch, fewer than batch_size "
            f"{config.batch_size}: lower it with batch_size=N"
        )
    if world.is_first and config.data.fraction < 1:
        _log.info("data.fraction %g: %d rows an epoch", config.data.fraction, len(order))
    if world.is_first and isinstance(order, Replay):
        kept = len(order.remembered(order.plan.tasks - 1, order.steps))
        _log.info("data.replay: %d steps a task, %d images in memory at the end", order.steps, kept)
    return order


def evaluation_loader(
    split: Split, config: RunConfig, world: World, *, masks: bool = False
) -> TokenLoader:
    """Every image of a split once an epoch, in its order, over all processes together.

    As many at a time as one part of a training step has: what fits there fits here.
    """
    return _loader(split, config, world, None, masks)


def training_order(split: AnySplit, config: RunConfig) -> Order:
    """Which images of a split come when, as the run's `data` section asks.

    Raises:
        UsageError: the classes of a split without labels shall be balanced, or the share is empty.
    """
    order: Order
    if isinstance(split, MixedSplit):
        weights = (1.0, *(one.weight for one in config.data.mix))
        order = Mixture(split.sizes, weights, config.seed)
    else:
        order = _order_of_one(split, config)
    return order if config.data.repeats == 1 else Repeated(order, config.data.repeats)


def iterate(loader: Batches) -> Iterator[TokenBatch]:
    """The batches of (the rest of) one epoch."""
    for batch in loader:
        if isinstance(batch, TokenBatch):
            yield batch
        else:
            yield TokenBatch(
                batch.ranks, batch.labels, batch.valid, batch.index, batch.keys, batch.masks
            )


def chosen_samples(split: Any, data: DataConfig) -> Numbers | None:
    """The samples of a split that a run sees, ascending; None means all of them.

    Args:
        split: of a store, or of pictures.
        data: the run's `data` section.

    Raises:
        UsageError: the share is empty, or its scores do not fit.
    """
    if data.fraction == 1:
        return None
    scores = None if data.scores is None else read_scores(data.scores)
    return samples_of_share(split, data.fraction, data.fraction_seed, scores)


def _order_of_one(split: Split, config: RunConfig) -> Order:
    data, samples = config.data, chosen_samples(split, config.data)
    order: Order
    if data.replay is not None:
        return _replayed(split, config, data.replay)
    if data.sampling == "class-balanced":
        labels = split.labels
        some = labels if samples is None or labels is None else labels[samples]
        order = ClassBalanced(some, config.seed)
    elif data.sampling == "one-view":
        order = one_view(split, config.seed)
    elif data.shuffle == "shards":
        order = ShardShuffle(_shard_counts(split, samples), config.seed)
    else:
        order = Shuffled(len(split) if samples is None else len(samples), config.seed)
    return order if samples is None else Subset(samples, order)


def _replayed(split: Any, config: RunConfig, replay: ReplayConfig) -> Replay:
    """Tasks with a memory, over the records of a store or the files of pictures."""
    sizes = record_sizes(split) if isinstance(split, Split) else split.file_sizes
    size = config.batch_size
    fresh = max(1, size - round(replay.share * size))
    tasks = round(config.epochs or 0)
    plan = ReplayPlan(tasks, replay.passes, replay.memory, fresh, size, config.seed)
    return Replay(split.labels, sizes, plan)


def _shard_counts(split: Split, samples: Numbers | None) -> tuple[int, ...]:
    """How many of these samples, or of all, each shard has."""
    if samples is None:
        return split.shard_counts
    ends = np.searchsorted(samples, np.cumsum(split.shard_counts))
    return tuple(np.diff(ends, prepend=0).tolist())


def _train(store: Store) -> Split:
    if "train" not in store:
        known = ", ".join(store)
        raise UsageError(f"store '{store.url}' has no split 'train', only: {known}")
    return store["train"]


def _caching(data: DataConfig) -> dict[str, Any]:
    return {"cache": data.cache, "cache_bytes": data.cache_bytes}


def _loader(
    split: AnySplit, config: RunConfig, world: World, order: Order | None, masks: bool
) -> TokenLoader:
    """A loader of full batches in this order, or, in parts of them, of the split as it stands."""
    parts = world.size * (config.loop.accumulate if order is None else 1)
    return TokenLoader(
        split,
        batch_size=max(1, config.batch_size // parts),
        seed=config.seed,
        rank=world.rank,
        world_size=world.size,
        device=world.device,
        residency=config.loop.residency,
        last="pad" if order is None else "drop",
        shuffle="none",
        sampler=order,
        masks=masks,
    )
