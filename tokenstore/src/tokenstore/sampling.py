"""Sampling: orders that show some images more often than others, or not at all.

Each is an `order.Order`, made once and given to the loader, and each is a pure function of seed,
epoch and position: the same on any number of processes, resumable anywhere, exact in what it
promises and not only on average. They nest: a subset of a split, its classes balanced, each image
repeated. Which images form a subset is chosen in `subset`, which stores mix in `mixture`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenstore.errors import UsageError
from tokenstore.order import Numbers, Order, described, mixed, permuted

_CLASSES, _MEMBERS, _VIEWS = np.array([3]), np.array([4]), np.array([10])  # what seeds are for
_NO_EPOCH = np.array([0])


@dataclass(frozen=True, eq=False)
class Subset:
    """An order over some samples of a split.

    Attributes:
        samples: their numbers in the split, int64 [m].
        order: of 0..m-1.

    Example:
        >>> from tokenstore.order import Unshuffled
        >>> Subset(np.array([7, 3]), Unshuffled(2)).at(0, np.arange(2)).tolist()
        [7, 3]
    """

    samples: Numbers
    order: Order

    def __len__(self) -> int:
        """See `Order`."""
        return len(self.order)

    def at(self, epoch: int, positions: Numbers) -> Numbers:
        """See `Order`."""
        return self.samples[self.order.at(epoch, positions)]


class ClassBalanced:
    """Each class equally often, and within a class each image equally often.

    An epoch is a number of rounds, each of which shows every class that has images once, in an
    order of its own; so many rounds that an epoch is as long as the split, rounded up to whole
    rounds. A class goes through all of its images before it repeats one, across epochs too: small
    classes repeat often, large ones show a part of themselves in an epoch. Takes 8 bytes an image.
    """

    def __init__(self, labels: Numbers | None, seed: int) -> None:
        """Sort the samples by class.

        Args:
            labels: class of each sample, int64 [n]; `Split.labels`.
            seed: with the epoch, decides the order.

        Raises:
            UsageError: there are no labels.
        """
        if labels is None:
            raise UsageError(
                "class-balanced sampling needs labels, and this split has none. Build the store "
                "from a folder of class folders, or sample without classes."
            )
        self.seed = seed
        self._members = np.argsort(labels, kind="stable")
        self.classes, self._firsts, self._counts = np.unique(
            labels[self._members], return_index=True, return_counts=True
        )
        self.rounds = -(-len(labels) // max(1, len(self.classes)))

    def __len__(self) -> int:
        """See `Order`."""
        return self.rounds * len(self.classes)

    def at(self, epoch: int, positions: Numbers) -> Numbers:
        """See `Order`."""
        number = np.array([len(self.classes)])
        draws, places = np.divmod(positions, number)
        draws += epoch * self.rounds
        shown = permuted(places, number, mixed(self.seed, _CLASSES, draws), _NO_EPOCH)
        counts = self._counts[shown]
        passes, draws = np.divmod(draws, counts)
        seeds = mixed(self.seed, _MEMBERS, shown)
        places = self._firsts[shown] + permuted(draws, counts, seeds, passes)
        samples: Numbers = self._members[places]
        return samples

    @property
    def description(self) -> str:
        """See `order.description_of`: which images are of which class, and the seed."""
        return described(
            type(self).__name__, members=self._members, firsts=self._firsts, seed=self.seed
        )


@dataclass(frozen=True)
class OneView:
    """One view of each image an epoch; over as many epochs as there are views, each view once.

    For splits that keep several views of an image as neighbours; `subset.one_view` makes sure.

    Attributes:
        order: of the images.
        views: of each image.
        seed: with the epoch, decides which view.
    """

    order: Order
    views: int
    seed: int

    def __len__(self) -> int:
        """See `Order`."""
        return len(self.order)

    def at(self, epoch: int, positions: Numbers) -> Numbers:
        """See `Order`."""
        images = self.order.at(epoch, positions)
        passes, turn = divmod(epoch, self.views)
        turns = np.full(len(images), turn, np.int64)
        seeds = mixed(self.seed, _VIEWS, images)
        views = permuted(turns, np.array([self.views]), seeds, np.array([passes]))
        return self.views * images + views


@dataclass(frozen=True)
class Repeated:
    """Each image several times in a row, so that one batch holds several augmentations of it.

    Repeated augmentation (Hoffer et al., 2020), as DeiT's. An epoch stays as long as that of
    `order`, rounded up to a multiple of `times`: it shows one image in `times`, the next epoch goes
    on where it ended, and after `times` epochs each image was shown as often as without repeats.
    Neighbouring rows of a batch go to different processes, so each of them augments an image anew.
    Use a global batch that is a multiple of `times`; others tear some images' repeats apart.

    Attributes:
        order: which images.
        times: how often each, in a row.
    """

    order: Order
    times: int

    def __post_init__(self) -> None:
        """Refuse what is no number of repeats."""
        if self.times < 1:
            raise UsageError(f"an image is shown at least once in a row, got times={self.times}")

    def __len__(self) -> int:
        """See `Order`."""
        return self._images * self.times

    def at(self, epoch: int, positions: Numbers) -> Numbers:
        """See `Order`."""
        epochs, places = self.shown(epoch, positions)
        samples = np.empty_like(positions)
        for one in np.unique(epochs).tolist():
            rows = epochs == one
            samples[rows] = self.order.at(one, places[rows])
        return samples

    def shown(self, epoch: int, positions: Any) -> tuple[Any, Any]:
        """Epochs and positions of `order` that come at one or several positions."""
        shown = epoch * self._images + positions // self.times
        size = max(1, len(self.order))
        return shown // size, shown % size

    @property
    def _images(self) -> int:
        """Images of an epoch."""
        return -(-len(self.order) // self.times)
