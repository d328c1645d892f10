"""Guessing masks by tables equals counting pixel by pixel."""

from collections import Counter, defaultdict
from types import SimpleNamespace

import numpy as np
import pytest

from seit_train.evaluate.mask_baselines import mask_baselines
from seit_train.tasks.base import MaskFacts

MASKS = MaskFacts((32, 32), ("a", "b", "c"), 9)
SCALE = 8


class Few:
    """A split in memory: ranks [n,4,4] of 5 and masks [n,32,32], in blotches."""

    def __init__(self, count, seed):
        rng = np.random.default_rng(seed)
        self.ranks = rng.integers(0, 5, (count, 4, 4)).astype(np.uint16)
        blotches = rng.choice([0, 1, 2, 9], (count, 8, 8), p=[0.5, 0.2, 0.2, 0.1]).astype(np.uint8)
        self.truth = blotches.repeat(4, axis=1).repeat(4, axis=2)

    def __len__(self):
        return len(self.ranks)

    def read(self, some):
        return SimpleNamespace(ranks=self.ranks[some])

    def masks(self, some):
        return list(self.truth[some])

    def pixels(self):
        """Place, id and cell, class of every pixel whose class is known."""
        for image, y, x in np.ndindex(self.truth.shape):
            if self.truth[image, y, x] != MASKS.ignore:
                rank = self.ranks[image, y // SCALE, x // SCALE]
                yield (y, x), (rank, y // 2, x // 2), int(self.truth[image, y, x])


def iou_of(pairs):
    shares = []
    for number in range(3):
        both = sum(truth == guess == number for truth, guess in pairs)
        either = sum(number in (truth, guess) for truth, guess in pairs)
        if either:
            shares.append(both / either)
    return np.mean(shares)


def test_both_tables_are_those_of_counting_pixel_by_pixel():
    train, val = Few(9, 0), Few(4, 1)
    by_place, by_cell = defaultdict(Counter), defaultdict(Counter)
    for place, cell, truth in train.pixels():
        by_place[place][truth] += 1
        by_cell[cell][truth] += 1
    # Of equally common classes the first; so has a place of no known class.
    best = {key: min(c, key=lambda n, c=c: (-c[n], n)) for key, c in by_place.items()}
    likely = {key: min(c, key=lambda n, c=c: (-c[n], n)) for key, c in by_cell.items()}
    seen = list(val.pixels())
    at_place = [(truth, best.get(place, 0)) for place, _, truth in seen]
    at_cell = [(truth, likely.get(cell, best.get(place, 0))) for place, cell, truth in seen]
    assert any(cell not in likely for _, cell, _ in seen)
    assert mask_baselines(train, val, MASKS, 5) == pytest.approx(
        {"by_place": iou_of(at_place), "by_id_and_cell": iou_of(at_cell)}
    )
