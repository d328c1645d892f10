"""Data: from a store's split to batches of ranks on the training device.

The only place of this package that knows tokenstore's loader. Shuffling, exactly-once and resume
are the loader's; augmentation, embedding and masking happen later, inside the task. Nothing here
touches a pixel.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class TokenBatch(NamedTuple):
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

    def part(self, start: int, stop: int) -> "TokenBatch":
        """Rows `start` to `stop`."""
        return TokenBatch(
            self.ranks[start:stop],
            None if self.labels is None else self.labels[start:stop],
            self.valid[start:stop],
            self.index[start:stop],
            None if self.keys is None else self.keys[start:stop],
        )
