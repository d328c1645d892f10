"""Keys that are in several stores: found by hash, compared by themselves."""

from pathlib import Path

import numpy as np
import pytest

from tests.small_store import Small, write_small_store
from tokenstore.operations import repeated as module
from tokenstore.operations.repack import Piece
from tokenstore.operations.repeated import repeated_keys


@pytest.fixture
def pieces(tmp_path: Path) -> list[Piece]:
    """The keys 0..22, some of 0..8, and 0..2 of three stores."""
    stores = [
        write_small_store(tmp_path / str(n), Small((("train", n),), extras=False)).store
        for n in (23, 9, 3)
    ]
    some = np.array([1, 4, 8])
    return [Piece(stores[0], "train"), Piece(stores[1], "train", some), Piece(stores[2], "train")]


@pytest.mark.parametrize("run", [2, 1 << 16])
def test_every_later_one_is_told_with_the_first(
    pieces: list[Piece], monkeypatch: pytest.MonkeyPatch, run: int
) -> None:
    monkeypatch.setattr(module, "RUN", run)
    found = [(r.key[-3:], r.earlier, r.piece, r.place) for r in repeated_keys(pieces)]
    assert found == [
        ("001", 0, 1, 0),
        ("004", 0, 1, 1),
        ("008", 0, 1, 2),
        ("000", 0, 2, 0),
        ("001", 0, 2, 1),
        ("002", 0, 2, 2),
    ]


def test_keys_of_one_hash_are_not_taken_for_each_other(
    pieces: list[Piece], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "xxh3_64_intdigest", lambda key: 7)
    assert len(repeated_keys(pieces)) == 6


def test_nothing_is_repeated_in_one_piece(pieces: list[Piece]) -> None:
    assert repeated_keys(pieces[:1]) == []
    assert repeated_keys([]) == []
