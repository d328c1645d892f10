"""Pocket: shapes, nearest codes, and every way in which a weights file can be wrong."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.toy_images import picture
from tokenstore.errors import TokenizerError, WeightsError
from tokenstore.preprocess import Preprocess
from tokenstore.tokenizers import load_tokenizer, network
from tokenstore.tokenizers.pocket import (
    PocketConfig,
    PocketNetwork,
    load_weights,
    package_weights,
    save_weights,
)
from tokenstore.tokenizers.search import nearest_codes

TINY = PocketConfig(codes=16, dimension=4, width=8, fine_width=8, blocks=1)
METADATA = {"pocket": json.dumps({"network": TINY.__dict__, "notes": {}})}
SMALL = Preprocess("center-crop", (32, 48))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The weights of a tiny network with random numbers."""
    torch.manual_seed(0)
    network = PocketNetwork(TINY)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    network.codebook.normal_()
    file = tmp_path / "tiny.safetensors"
    save_weights(file, network, {"made": "by a test"})
    return file


def images(count: int, size: tuple[int, int] = SMALL.size) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def test_a_cell_of_eight_pixels_becomes_an_id_and_back(weights: Path) -> None:
    tokenizer = load_tokenizer("pocket", str(weights), preprocess=SMALL)
    ids = tokenizer.encode(images(2))
    assert tokenizer.grid == (4, 6)
    assert tuple(ids.shape) == (2, 4, 6)
    assert len(ids.unique()) > 1
    assert tuple(tokenizer.decode(ids).shape) == (2, 3, 32, 48)


def test_images_one_by_one_and_together_give_equal_ids(weights: Path) -> None:
    tokenizer = load_tokenizer("pocket", str(weights), preprocess=SMALL)
    together = tokenizer.encode(images(5))
    single = torch.cat([tokenizer.encode(image[None]) for image in images(5)])
    assert torch.equal(together, single)


def test_many_pixels_are_encoded_in_parts(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_tokenizer("pocket", str(weights), preprocess=SMALL)
    whole = tokenizer.encode(images(5))
    monkeypatch.setitem(network.PIXELS_AT_ONCE, "cpu", 2 * 32 * 48)
    assert torch.equal(tokenizer.encode(images(5)), whole)


def test_the_nearest_code_is_found_and_the_lowest_id_wins_a_tie() -> None:
    codebook = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0], [3.0, -1.0]])
    latents = torch.tensor([[0.1, 0.1], [0.8, 0.9], [2.0, -2.0]])
    assert nearest_codes(latents, codebook).tolist() == [0, 1, 3]


def test_nearest_codes_agree_with_all_distances_written_out() -> None:
    rng = torch.Generator().manual_seed(0)
    latents = torch.randn(500, 8, generator=rng)
    codebook = torch.randn(64, 8, generator=rng)
    distances = (latents[:, None] - codebook[None]).double().square().sum(2)
    assert torch.equal(nearest_codes(latents, codebook), distances.argmin(1))


def test_weights_survive_the_file_to_half_precision_and_the_codebook_exactly(
    weights: Path, tmp_path: Path
) -> None:
    network, notes = load_weights(weights)
    assert notes == {"made": "by a test"}
    save_weights(tmp_path / "again.safetensors", network, notes)
    assert (tmp_path / "again.safetensors").read_bytes() == weights.read_bytes()
    assert load_file(weights)["codebook"].dtype == torch.float32
    assert [file.name for file in tmp_path.glob(".*")] == []


def test_its_settings_and_hash_say_which_network_it_is(weights: Path) -> None:
    tokenizer = load_tokenizer("pocket", str(weights), preprocess=SMALL)
    assert tokenizer.describe() == {**TINY.__dict__, "precision": "fp32"}
    assert tokenizer.weights_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_bf16_is_another_arithmetic_and_says_so(weights: Path) -> None:
    exact = load_tokenizer("pocket", str(weights), preprocess=SMALL)
    rough = load_tokenizer("pocket", str(weights), preprocess=SMALL, precision="bf16")
    assert rough.describe()["precision"] == "bf16"
    ids = exact.encode(images(8))
    assert (ids == rough.encode(images(8))).float().mean() > 0.8
    assert not torch.equal(exact.decode(ids), rough.decode(ids))


@pytest.mark.parametrize("size", [(20, 32), (32, 20)])
def test_a_size_that_is_no_multiple_of_eight_is_refused(
    weights: Path, size: tuple[int, int]
) -> None:
    with pytest.raises(TokenizerError, match=rf"multiples of 8, not {size[0]}x{size[1]}"):
        load_tokenizer("pocket", str(weights), preprocess=Preprocess("squash", size))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"precision": "tf32"}, "tf32 exists on cuda only"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"config": "model.yaml"}, "no --config"),
    ],
)
def test_what_it_cannot_do_is_refused(weights: Path, choice: dict[str, str], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer("pocket", str(weights), **choice)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_is_refused_where_there_is_none(weights: Path) -> None:
    with pytest.raises(TokenizerError, match="torch finds no CUDA here"):
        load_tokenizer("pocket", str(weights), device="cuda")


def test_images_of_other_sizes_are_tokenized_and_decoded(weights: Path) -> None:
    tokenizer = load_tokenizer("pocket", str(weights), preprocess=SMALL)
    ids = tokenizer.encode(images(2, (64, 24)))
    assert tuple(ids.shape) == (2, 8, 3)
    assert tuple(tokenizer.decode(ids).shape) == (2, 3, 64, 24)


def test_ids_that_are_no_grid_are_refused(weights: Path) -> None:
    tokenizer = load_tokenizer("pocket", str(weights), preprocess=SMALL)
    with pytest.raises(TokenizerError, match=r"\[n, h, w\], got \[4, 4\]"):
        tokenizer.decode(np.zeros((4, 4), np.int64))


def test_only_the_codes_of_a_restriction_win_and_each_is_the_best_of_them(weights: Path) -> None:
    tokenizer = load_tokenizer("pocket", str(weights), preprocess=SMALL)
    free = tokenizer.encode(images(3))
    allowed = free.unique()[::2]
    tokenizer.restrict(allowed.numpy()[::-1])
    bound = tokenizer.encode(images(3))
    assert set(bound.unique().tolist()) <= set(allowed.tolist())
    is_allowed = torch.isin(free, allowed)
    assert torch.equal(bound[is_allowed], free[is_allowed])
    assert not is_allowed.all()
    with pytest.raises(TokenizerError, match="id 16 lies outside"):
        tokenizer.restrict(np.array([3, 16]))


def test_missing_weights_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no file '.*absent.safetensors'"):
        load_tokenizer("pocket", str(tmp_path / "absent.safetensors"))


def test_truncated_weights_are_an_error(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="no whole safetensors file"):
        load_tokenizer("pocket", str(weights))


def test_a_file_of_something_else_is_an_error(weights: Path) -> None:
    weights.write_bytes(b"not weights at all")
    with pytest.raises(WeightsError, match="no whole safetensors file"):
        load_tokenizer("pocket", str(weights))


def test_weights_of_another_model_are_an_error(weights: Path) -> None:
    save_file(load_file(weights), weights, {"format": "pt"})
    with pytest.raises(WeightsError, match=r"no weights of pocket.*'pocket' entry.*'format'"):
        load_tokenizer("pocket", str(weights))


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[1]",
        "{}",
        '{"network": {"codes": 16, "heads": 2}, "notes": {}}',
        '{"network": {"codes": 0}, "notes": {}}',
        '{"network": {"codes": 1.5}, "notes": {}}',
        '{"network": {"codes": true}, "notes": {}}',
        '{"network": {}, "notes": 1}',
    ],
)
def test_metadata_that_describes_no_network_is_an_error(weights: Path, content: str) -> None:
    save_file(load_file(weights), weights, {"pocket": content})
    with pytest.raises(WeightsError, match="describes no pocket network"):
        load_tokenizer("pocket", str(weights))


def test_a_missing_tensor_is_named(weights: Path) -> None:
    tensors = load_file(weights)
    del tensors["encoder.1.bias"]
    save_file(tensors, weights, METADATA)
    with pytest.raises(WeightsError, match=r"lacks 'encoder.1.bias' \(1 tensors missing"):
        load_tokenizer("pocket", str(weights))


def test_an_unknown_tensor_is_named(weights: Path) -> None:
    save_file({**load_file(weights), "head.bias": torch.zeros(3)}, weights, METADATA)
    with pytest.raises(WeightsError, match="unknown 'head.bias'"):
        load_tokenizer("pocket", str(weights))


def test_a_tensor_of_another_shape_is_named(weights: Path) -> None:
    save_file({**load_file(weights), "codebook": torch.zeros(8, 4)}, weights, METADATA)
    with pytest.raises(WeightsError, match=r"'codebook' is \[8, 4\], expected \[16, 4\]"):
        load_tokenizer("pocket", str(weights))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tensor_that_is_not_finite_is_named(weights: Path, value: float) -> None:
    tensors = load_file(weights)
    tensors["encoder.1.bias"][0] = value
    save_file(tensors, weights, METADATA)
    with pytest.raises(WeightsError, match=r"'encoder.1.bias' holds values that are not finite"):
        load_tokenizer("pocket", str(weights))


def test_the_weights_of_the_package_are_small_and_of_the_default_network() -> None:
    assert package_weights().stat().st_size <= 4_000_000
    network, _ = load_weights(package_weights())
    assert network.config == PocketConfig()


def test_real_photos_come_back_at_24_and_a_half_decibels(shared_data: Path) -> None:
    """On 40 of the 300 photos of images-mixed, none of which pocket was trained on."""
    import tarfile
    from io import BytesIO

    from PIL import Image

    tokenizer = load_tokenizer("pocket")
    with tarfile.open(shared_data / "images-mixed.tar") as archive:
        members = sorted(m.name for m in archive if m.name.lower().endswith((".jpg", ".jpeg")))
        files = [archive.extractfile(name) for name in members[:: len(members) // 40]]
        photos = [Image.open(BytesIO(file.read())).convert("RGB") for file in files if file]
    originals = np.stack([tokenizer.preprocess(photo) for photo in photos])
    ids = tokenizer.encode(originals)
    decoded = tokenizer.to_uint8(tokenizer.decode(ids))
    errors = ((decoded.astype(float) - originals) ** 2).mean((1, 2, 3))
    assert (10 * np.log10(255**2 / errors)).mean() > 24.5
    assert len(ids.unique()) > 0.95 * 1024


def test_a_smooth_picture_comes_back_closely() -> None:
    tokenizer = load_tokenizer("pocket", preprocess=Preprocess("center-crop", (64, 64)))
    original = tokenizer.preprocess(picture(3, (64, 64)))[None]
    decoded = tokenizer.to_uint8(tokenizer.decode(tokenizer.encode(original)))
    assert np.abs(decoded.astype(float) - original).mean() < 16
