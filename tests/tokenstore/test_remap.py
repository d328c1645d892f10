"""Remapped codebooks: ids are positions among the codes in use, and no other code has an id."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.conftest import SHARED
from tests.plain_vqgan import Model, Tensors, encode, losses, random_tensors, save_checkpoint
from tokenstore.errors import TokenizerError, WeightsError
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.base import Tokenizer

GOLDEN = SHARED / "golden" / "vqgan_f16"
NAMES = {"vqgan": "vqgan-f16-1024", "vqgan-gumbel": "vqgan-gumbel-f8"}
USED = np.array([40, 3, 17, 22, 5])


def with_remap(folder: Path, model: Model, tensors: Tensors, used: np.ndarray | None) -> Tokenizer:
    """A tokenizer whose yaml names `used.npy`, which holds `used` (or does not exist)."""
    settings = model.yaml()
    settings["model"]["params"]["remap"] = "used.npy"
    (folder / "model.yaml").write_text(yaml.safe_dump(settings))
    if used is not None:
        np.save(folder / "used.npy", used)
    weights = save_checkpoint(folder / "last.ckpt", tensors)
    return load_tokenizer(NAMES[model.kind], weights, config=str(folder / "model.yaml"))


def without_remap(folder: Path, model: Model) -> Tokenizer:
    return load_tokenizer(NAMES[model.kind], str(folder / "last.ckpt"))


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def test_ids_of_the_golden_set_are_the_published_positions(tmp_path: Path) -> None:
    if not GOLDEN.is_dir():
        pytest.skip("needs ../shared/golden, which is not here")
    settings = yaml.safe_load((GOLDEN / "model.yaml").read_text())
    settings["model"]["params"]["remap"] = str(GOLDEN / "used.npy")
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(settings))
    weights, config = str(GOLDEN / "last.ckpt"), str(tmp_path / "model.yaml")
    tokenizer = load_tokenizer("vqgan-f16-1024", weights, config=config)
    expected = np.load(GOLDEN / "tokens_remapped.npy")
    assert np.array_equal(tokenizer.encode(np.load(GOLDEN / "images.npy")).numpy(), expected)
    used = np.load(GOLDEN / "used.npy")
    assert np.array_equal(tokenizer.codebook, np.load(GOLDEN / "codebook.npy")[used])
    decoded = np.load(GOLDEN / "decoded.npy")
    difference = tokenizer.decode(expected[: len(decoded)]).numpy() - decoded
    assert np.abs(difference).max() < 1e-4


def test_a_permutation_of_all_codes_renames_them_and_changes_no_picture(tmp_path: Path) -> None:
    model = Model()
    used = np.random.default_rng(0).permutation(model.codes)
    tokenizer = with_remap(tmp_path, model, random_tensors(model), used)
    plain = without_remap(tmp_path, model)
    ids = tokenizer.encode(pictures(4))
    assert np.array_equal(used[ids], plain.encode(pictures(4)))
    assert np.array_equal(tokenizer.codebook, plain.codebook[used])
    assert torch.equal(tokenizer.decode(ids), plain.decode(used[ids]))


def test_a_cell_whose_code_is_not_listed_is_an_error_and_no_random_id(tmp_path: Path) -> None:
    model = Model()
    tokenizer = with_remap(tmp_path, model, random_tensors(model), USED)
    with pytest.raises(TokenizerError, match=r"code \d+ is the nearest .* lists 5 codes without"):
        tokenizer.encode(pictures(4))


def test_a_restricted_search_knows_the_listed_codes_only(tmp_path: Path) -> None:
    model, tensors = Model(), random_tensors(Model())
    tokenizer = with_remap(tmp_path, model, tensors, USED)
    tokenizer.restrict(np.array([0, 2, 4]))
    pixels = torch.from_numpy((pictures(4) / 127.5 - 1).astype(np.float32)).permute(0, 3, 1, 2)
    costs = losses(model, tensors, encode(model, tensors, pixels))[..., USED[[0, 2, 4]]]
    assert torch.equal(tokenizer.encode(pictures(4)), costs.argmin(-1) * 2)


def test_a_classifier_chooses_among_the_listed_codes(tmp_path: Path) -> None:
    model = Model("vqgan-gumbel")
    tensors = random_tensors(model)
    tokenizer = with_remap(tmp_path, model, tensors, USED)
    pixels = torch.from_numpy((pictures(4) / 127.5 - 1).astype(np.float32)).permute(0, 3, 1, 2)
    costs = losses(model, tensors, encode(model, tensors, pixels))[..., USED]
    ids = tokenizer.encode(pictures(4))
    assert torch.equal(ids, costs.argmin(-1))
    plain = without_remap(tmp_path, model)
    assert torch.equal(tokenizer.decode(ids), plain.decode(torch.from_numpy(USED)[ids]))


def test_a_list_among_the_weights_counts_without_a_yaml(tmp_path: Path) -> None:
    model = Model()
    tensors = random_tensors(model)
    used = torch.randperm(model.codes, generator=torch.Generator().manual_seed(0))
    by_yaml = with_remap(tmp_path, model, tensors, used.numpy())
    save_checkpoint(tmp_path / "last.ckpt", tensors | {"quantize.used": used})
    by_weights = without_remap(tmp_path, model)
    assert by_weights.describe() == by_yaml.describe()
    assert torch.equal(by_weights.encode(pictures(2)), by_yaml.encode(pictures(2)))


def test_a_yaml_whose_list_is_not_the_weights_own_is_refused(tmp_path: Path) -> None:
    model = Model()
    tensors = random_tensors(model) | {"quantize.used": torch.arange(5)}
    with pytest.raises(WeightsError, match=r"remap is 'used.npy', but .* another list of 5 codes"):
        with_remap(tmp_path, model, tensors, USED)


def test_the_list_is_part_of_what_a_manifest_says(tmp_path: Path) -> None:
    model = Model()
    tensors = random_tensors(model)
    first, second = (
        with_remap(tmp_path, model, tensors, used).describe() for used in (USED, USED[::-1])
    )
    assert first["codes"] == len(USED)
    assert first["remap"] != second["remap"]
    assert "remap" not in without_remap(tmp_path, model).describe()


@pytest.mark.parametrize(
    ("used", "complaint"),
    [
        (np.array([1, 2, 48]), "lists code 48, which a codebook of 48 codes does not have"),
        (np.array([1, -1]), "lists code -1"),
        (np.array([7, 1, 7]), "lists code 7 2 times"),
        (np.array([1.0, 2.0]), r"is float64 \[2\], expected a list of integers"),
        (np.array([True, False]), r"is bool \[2\]"),
        (np.array([[1], [2]]), r"is int64 \[2, 1\]"),
        (np.array([], np.int64), r"is int64 \[0\]"),
        (np.array(["rm -rf"], dtype=object), "no readable .npy file"),
        (None, "no readable .npy file"),
    ],
)
def test_a_file_that_is_no_list_of_codes_is_refused(
    tmp_path: Path, used: np.ndarray | None, complaint: str
) -> None:
    with pytest.raises(WeightsError, match=complaint):
        with_remap(tmp_path, Model(), random_tensors(Model()), used)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    with_remap(tmp_path, Model(), random_tensors(Model()), USED)
    file = tmp_path / "used.npy"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(WeightsError, match="no readable .npy file"):
        with_remap(tmp_path, Model(), random_tensors(Model()), None)
