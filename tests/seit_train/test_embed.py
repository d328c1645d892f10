"""Ranks to codebook vectors and back."""

import numpy as np
import pytest
import torch

from seit_train import embed
from seit_train.embed import Codebook
from tests.toy_facts import make_batch, make_facts, seeded

FACTS = make_facts()
RANKS = make_batch(FACTS, 5).ranks


def test_each_position_gets_its_row_of_the_codebook_as_it_is():
    grid = Codebook(FACTS.codebook, "cosine")(RANKS)
    assert grid.shape == (5, 6, 8, 8)
    assert torch.equal(grid[3, :, 1, 7], FACTS.codebook[RANKS[3, 1, 7]])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_embedded_ranks_are_nearest_to_themselves(metric):
    codebook = Codebook(FACTS.codebook, metric)
    assert torch.equal(codebook.nearest(codebook(RANKS)), RANKS)


@pytest.mark.parametrize(("metric", "rank"), [("cosine", 0), ("euclidean", 1)])
def test_nearest_is_by_angle_or_by_distance_as_asked(metric, rank):
    codebook = Codebook(torch.tensor([[10.0, 0.0], [0.0, 1.0]]), metric)
    grid = torch.tensor([0.2, 0.1]).view(1, 2, 1, 1)  # near the second, in line with the first
    assert codebook.nearest(grid).item() == rank


@pytest.mark.parametrize("scores", [1, 7 * 40, 1 << 20])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_search_equals_the_slow_one_in_chunks_of_any_size(metric, scores, monkeypatch):
    grid = torch.randn(3, 6, 5, 4, generator=seeded(3))
    rows = torch.nn.functional.normalize(FACTS.codebook) if metric == "cosine" else FACTS.codebook
    slow = torch.empty(3, 5, 4, dtype=torch.int64)
    for image, y, x in np.ndindex(3, 5, 4):
        vector = grid[image, :, y, x]
        closeness = rows @ vector if metric == "cosine" else -(rows - vector).norm(dim=1)
        slow[image, y, x] = closeness.argmax()
    monkeypatch.setattr(embed, "_CHUNK_SCORES", scores)
    assert torch.equal(Codebook(FACTS.codebook, metric).nearest(grid), slow)


def test_the_codebook_is_part_of_no_checkpoint_and_does_not_train():
    codebook = Codebook(FACTS.codebook, "cosine")
    assert not codebook.state_dict()
    assert not list(codebook.parameters())
