"""Ranks to codebook vectors and back."""

import pytest
import torch

from seit_train import embed
from seit_train.embed import Codebook
from tests.toy_facts import make_batch, make_facts, seeded

FACTS = make_facts()
RANKS = make_batch(FACTS, 5).ranks


def test_each_position_gets_its_row_of_the_codebook_as_it_is():
    grid = Codebook(FACTS.codebook)(RANKS)
    assert grid.shape == (5, 6, 8, 8)
    assert torch.equal(grid[3, :, 1, 7], FACTS.codebook[RANKS[3, 1, 7]])


def test_embedded_ranks_are_nearest_to_themselves():
    codebook = Codebook(FACTS.codebook)
    assert torch.equal(codebook.nearest(codebook(RANKS)), RANKS)


def test_nearest_is_by_angle_and_not_by_distance():
    codebook = Codebook(torch.tensor([[10.0, 0.0], [0.0, 1.0]]))
    grid = torch.tensor([0.2, 0.1]).view(1, 2, 1, 1)  # nearer to the second, in line with the first
    assert codebook.nearest(grid).item() == 0


@pytest.mark.parametrize("scores", [1, 7 * 40, 1 << 20])
def test_the_search_gives_the_same_in_chunks_of_any_size(scores, monkeypatch):
    grid = torch.randn(3, 6, 5, 4, generator=seeded(3))
    rows = torch.nn.functional.normalize(FACTS.codebook)
    slow = [
        [[int((rows @ grid[b, :, y, x]).argmax()) for x in range(4)] for y in range(5)]
        for b in range(3)
    ]
    monkeypatch.setattr(embed, "_CHUNK_SCORES", scores)
    assert Codebook(FACTS.codebook).nearest(grid).tolist() == slow


def test_the_codebook_is_part_of_no_checkpoint_and_does_not_train():
    codebook = Codebook(FACTS.codebook)
    assert not codebook.state_dict()
    assert not list(codebook.parameters())
