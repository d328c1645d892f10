"""Facts of a store that is not there, and batches of random ranks with labels."""

import torch

from seit_train.augment.base import Codes
from seit_train.data import TokenBatch
from seit_train.tasks.base import StoreFacts


def make_facts(side: int = 8, codes: int = 40, width: int = 6, classes: int = 3) -> StoreFacts:
    codebook = torch.randn(codes, width, generator=seeded(1))
    names = tuple(f"class {number}" for number in range(classes))
    counts = torch.arange(codes, 0, -1)
    tokenizer = {"name": "toy", "config": {"codes": 64, "stride": 8}, "weights": None}
    meaning = Codes(tokenizer, {"rule": "squash", "size": [8 * side] * 2}, torch.arange(codes))
    return StoreFacts(codes, (side, side), codebook, names, counts, meaning)


def make_batch(facts: StoreFacts, count: int, seed: int = 2, first: int = 0) -> TokenBatch:
    rng = seeded(seed)
    ranks = torch.randint(facts.vocabulary_size, (count, *facts.grid), generator=rng)
    labels = torch.randint(max(1, len(facts.classes)), (count,), generator=rng)
    index = first + torch.arange(count)
    return TokenBatch(ranks, labels, torch.ones(count, dtype=torch.bool), index, None)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
