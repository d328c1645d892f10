"""Rows of one codebook as ids of another, and `tokenstore map-codes`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.conftest import SHARED
from tests.plain_vit_vqgan import Model, random_tensors, save_checkpoint
from tokenstore.cli.main import main
from tokenstore.errors import Mismatch
from tokenstore.tokenizers.code_map import map_codes

GOLDEN = SHARED / "golden"


def codebook(codes: int = 50, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(codes, width)).astype(np.float32)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs the golden tokens in ../shared/golden")
def test_golden_ids_come_out_of_the_released_files(tmp_path: Path) -> None:
    full = next((GOLDEN / "vitvq").glob("*.ckpt"))
    out = tmp_path / "ids"
    words = ["map-codes", str(GOLDEN / "seit" / "codebook.ckpt"), "--to", str(full)]
    ran = CliRunner().invoke(main, [*words, "-o", str(out)])
    assert ran.exit_code == 0, ran.output
    ids = np.load(out)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, np.load(GOLDEN / "seit" / "code_to_upstream.npy"))


def test_equal_rows_are_found_in_any_order() -> None:
    order = np.random.default_rng(1).permutation(50)[:20]
    found = map_codes(codebook()[order], codebook())
    assert found.ids.tolist() == order.tolist()
    assert (found.ids.dtype, found.equal) == (np.int32, 20)


def test_rows_of_equal_direction_match_where_none_is_equal() -> None:
    part = codebook()[[7, 3, 40]] * np.array([[1], [2.7], [0.3]], np.float32)
    found = map_codes(part, codebook())
    assert found.ids.tolist() == [7, 3, 40]
    assert found.equal == 1


def test_of_repeated_rows_the_lowest_id_is_given_as_the_search_gives_it() -> None:
    whole = np.concatenate([codebook(), codebook()])
    assert map_codes(codebook()[[4, 2]], whole).ids.tolist() == [4, 2]
    assert map_codes(codebook()[[4, 2]] * 2, whole).ids.tolist() == [4, 2]


def test_rows_that_are_nowhere_are_counted_and_the_first_is_named() -> None:
    part = codebook()[:6].copy()
    part[[2, 5]] += 0.5
    with pytest.raises(
        Mismatch, match="2 of 6 rows are not in the other codebook of 50: first row 2"
    ):
        map_codes(part, codebook())


def test_an_opposite_direction_and_a_row_of_zeros_are_no_match() -> None:
    with pytest.raises(Mismatch, match="1 of 1 rows"):
        map_codes(-codebook()[:1], codebook())
    with pytest.raises(Mismatch, match="1 of 1 rows"):
        map_codes(np.zeros((1, 8), np.float32), codebook())


def test_two_rows_that_are_one_code_are_refused() -> None:
    part = codebook()[[1, 9, 4, 9, 1, 9]]
    with pytest.raises(Mismatch, match="3 of 6 rows .* first row 3, which is id 9 as row 1 is"):
        map_codes(part, codebook())
    part[3] *= 2
    with pytest.raises(Mismatch, match="first row 3, which is id 9 as row 1 is"):
        map_codes(part, codebook())


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (codebook(5, 7), "rows of 7 numbers cannot be rows of a codebook of 8"),
        (codebook()[0], r"the first codebook is \[8\]"),
        (np.full((2, 8), np.nan, np.float32), "2 of 2 rows of the first codebook .* not finite"),
    ],
)
def test_arrays_that_are_no_codebooks_are_refused(part: np.ndarray, said: str) -> None:
    with pytest.raises(Mismatch, match=said):
        map_codes(part, codebook())


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Rows 5, 0 and 11 of a model's codebook, and the model's checkpoint."""
    tensors = random_tensors(Model())
    torch.save(tensors["quantizer.embedding.weight"][[5, 0, 11]], tmp_path / "codebook.ckpt")
    full = save_checkpoint(tmp_path / "full.ckpt", tensors)
    return str(tmp_path / "codebook.ckpt"), str(full)


def test_the_command_prints_one_id_a_line_or_json(files: tuple[str, str]) -> None:
    words = ["map-codes", files[0], "--to", files[1]]
    assert CliRunner().invoke(main, words).stdout.splitlines() == ["5", "0", "11"]
    facts = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    assert facts == {"ids": [5, 0, 11], "equal": 3, "of": 64}


def test_the_command_refuses_files_in_the_wrong_place(files: tuple[str, str]) -> None:
    ran = CliRunner().invoke(main, ["map-codes", files[1], "--to", files[0]])
    assert ran.exit_code == 2
    assert "codebook.ckpt" in ran.stderr
    ran = CliRunner().invoke(main, ["map-codes", files[1], "--to", files[1]])
    assert ran.exit_code == 2
    assert "full.ckpt" in ran.stderr
