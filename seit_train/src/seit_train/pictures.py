"""Pictures: a folder of images as the batches of a training, for the stage after tokens.

Read through tokenstore's sources, so that splits, classes and keys are those that a store of the
same folder would have; decoded and augmented by torchvision's transforms in the workers of a
DataLoader. The draws of an image follow from seed, epoch and position, and the loader's state is a
position, so a resumed run sees the very pictures of one that was never stopped. Mixing is the
task's business.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from seit_train.data import TokenBatch
from seit_train.distributed import World
from tokenstore.errors import ImageRejected, Mismatch, TrainingError
from tokenstore.order import Order
from tokenstore.sources import open_source
from tokenstore.sources.base import Item, Source

Transform = Callable[[Image], Tensor]


@dataclass(frozen=True)
class PictureSplit:
    """Pictures that are listed and can be read; offers what the orders of tokens ask of a split.

    Attributes:
        name: train, val, ...
        source: reads them.
        items: their listing.
        fingerprint: of the whole folder.
    """

    name: str
    source: Source
    items: tuple[Item, ...]
    fingerprint: str

    def __len__(self) -> int:
        """How many pictures."""
        return len(self.items)

    @cached_property
    def labels(self) -> NDArray[np.int64] | None:
        """Int64 [n], or None where a picture has none."""
        labels = [item.label for item in self.items if item.label is not None]
        return np.array(labels) if len(labels) == len(self.items) else None

    @property
    def file_sizes(self) -> NDArray[np.int64]:
        """Bytes of each file, int64 [n]."""
        return np.array([item.size for item in self.items], np.int64)

    def keys(self, indices: NDArray[np.int64]) -> list[str] | None:
        """Names of pictures."""
        return [self.items[number].key for number in indices]


@dataclass(frozen=True)
class PictureFolder:
    """A folder of images as a corpus.

    Attributes:
        place: where it is.
        fingerprint: of its listing: splits, keys, sizes and labels.
        classes: names in label order, empty without labels.
        splits: by name.
    """

    place: str
    fingerprint: str
    classes: tuple[str, ...]
    splits: Mapping[str, PictureSplit]


def open_pictures(place: str) -> PictureFolder:
    """List a folder of images.

    Raises:
        SourceError: it holds no images.
    """
    source = open_source(place)
    listing = source.listing()
    fingerprint = listing.sha256()
    splits = {
        name: PictureSplit(name, source, items, fingerprint)
        for name, items in listing.splits.items()
    }
    return PictureFolder(place, fingerprint, tuple(listing.classes or ()), splits)


class Wanted(NamedTuple):
    """A row of a batch: which picture, the seed of its draws, and whether it counts."""

    number: int
    words: tuple[int, int, int]
    is_valid: bool


@dataclass(frozen=True)
class Feed:
    """How pictures become batches.

    Attributes:
        transform: a PIL picture -> uint8 [3,H,W].
        order: which picture comes when.
        batch_size: pictures of a batch, over all processes.
        seed: of the order and the draws.
        drops_last: whether the last, smaller batch of an epoch is left out, or filled up.
        workers: processes that decode; 0 decodes in this one.
    """

    transform: Transform
    order: Order
    batch_size: int
    seed: int
    drops_last: bool
    workers: int


class PictureLoader:
    """Batches of pictures, as `tokenstore.loader.TokenLoader` gives batches of ranks."""

    def __init__(self, split: PictureSplit, feed: Feed, world: World) -> None:
        """Prepare; nothing is read before the first batch is asked for."""
        self.split, self.feed, self.world = split, feed, world
        self.epoch, self.position = 0, 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self._starts(0))

    def __iter__(self) -> Iterator[TokenBatch]:
        """The batches left in this epoch."""
        starts, device = self._starts(self.position), self.world.device
        loader = DataLoader(
            _Pictures(self.split, self.feed.transform),
            batch_sampler=_Rows(self.rows, self.epoch, starts),
            num_workers=self.feed.workers,
            collate_fn=_collated,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # it draws from torch's own otherwise
        )
        for start, batch in zip(starts, loader, strict=True):
            if batch["refused"]:
                raise TrainingError(
                    f"picture {batch['refused'][0]}. Mend it or take it out of the folder."
                )
            if start == starts[-1]:
                self.epoch, self.position = self.epoch + 1, 0
            else:
                self.position = start + starts.step
            labels = batch["labels"]
            yield TokenBatch(
                batch["images"].to(device, non_blocking=True),
                None if labels is None else labels.to(device, non_blocking=True),
                batch["valid"].to(device, non_blocking=True),
                batch["index"].to(device, non_blocking=True),
                None,
            )

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, and in what."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "seed": self.feed.seed,
            "fingerprint": self.split.fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where another one stood.

        Raises:
            Mismatch: that one read another folder, or in another order.
        """
        own = self.state_dict()
        for name in ("seed", "fingerprint"):
            if state[name] != own[name]:
                raise Mismatch(f"the loader's {name} was {state[name]} and is {own[name]} now")
        self.epoch, self.position = state["epoch"], state["position"]

    def rows(self, epoch: int, start: int) -> list[Wanted]:
        """This process's rows of the global batch that starts at a position of an epoch."""
        count, size = len(self.feed.order), self.feed.batch_size
        positions = start + np.arange(self.world.rank, size, self.world.size)
        numbers = self.feed.order.at(epoch, positions % count)
        seed = self.feed.seed & (2**64 - 1)
        return [
            Wanted(int(number), (seed, epoch, int(position)), bool(position < count))
            for number, position in zip(numbers, positions, strict=True)
        ]

    def _starts(self, position: int) -> range:
        count, size = len(self.feed.order), self.feed.batch_size
        left_over = (count - position) % size if self.feed.drops_last else 0
        return range(position, count - left_over, size)


class _Rows(Sampler[list[Wanted]]):
    """The rows of the batches of an epoch, for a DataLoader, which asks ahead."""

    def __init__(self, rows: Callable[[int, int], list[Wanted]], epoch: int, starts: range) -> None:
        self.rows, self.epoch, self.starts = rows, epoch, starts

    def __iter__(self) -> Iterator[list[Wanted]]:
        for start in self.starts:
            yield self.rows(self.epoch, start)


class _Pictures(Dataset[tuple[Tensor | str, int | None, Wanted]]):
    """Decoding and augmenting one picture, in a worker."""

    def __init__(self, split: PictureSplit, transform: Transform) -> None:
        self.split, self.transform = split, transform

    def __getitem__(self, wanted: Wanted) -> tuple[Tensor | str, int | None, Wanted]:
        item = self.split.items[wanted.number]
        words = np.random.SeedSequence(wanted.words).generate_state(1, np.uint64)
        seed = int(words[0])
        torch.manual_seed(seed)  # torchvision draws from torch, timm's RandAugment from the others
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - timm knows no other
        try:
            return self.transform(self.split.source.load(item)), item.label, wanted
        except ImageRejected as error:
            return f"'{item.path}' cannot be used: {error}", item.label, wanted


def _collated(rows: list[tuple[Tensor | str, int | None, Wanted]]) -> dict[str, Any]:
    images = [image for image, _, _ in rows if isinstance(image, Tensor)]
    labels = [label for _, label, _ in rows if label is not None]
    return {
        "images": torch.stack(images) if len(images) == len(rows) else None,
        "labels": torch.tensor(labels) if len(labels) == len(rows) else None,
        "valid": torch.tensor([wanted.is_valid for _, _, wanted in rows]),
        "index": torch.tensor([wanted.number for _, _, wanted in rows]),
        "refused": [image for image, _, _ in rows if isinstance(image, str)],
    }
