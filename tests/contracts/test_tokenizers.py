"""The law of the tokenizer (tokenizers/base.py), over every plugin that has weights here.

A tokenizer whose weights are not on this machine is held to its card only.
"""

import json

import numpy as np
import pytest
import torch

from tests.toy_images import picture
from tokenstore import registry
from tokenstore.errors import TokenizerError, UnknownName
from tokenstore.preprocess import Preprocess
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.base import Tokenizer

PACKAGE = "tokenstore.tokenizers"
NAMES = registry.names(PACKAGE)
SMALL = Preprocess("center-crop", (64, 96))


@pytest.fixture(scope="module", params=NAMES)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    name = str(request.param)
    if not registry.find(PACKAGE, name).card(name).available:
        pytest.skip(f"the weights of {name} are not on this machine")
    return load_tokenizer(name, preprocess=SMALL)


@pytest.fixture
def images(tokenizer: Tokenizer) -> np.ndarray:
    return np.stack([tokenizer.preprocess(picture(seed, (200, 100))) for seed in range(3)])


@pytest.mark.parametrize("name", NAMES)
def test_its_card_is_complete(name: str) -> None:
    card = registry.find(PACKAGE, name).card(name)
    assert card.name == name
    assert all(side % card.stride == 0 for side in card.default_size)
    assert min(card.codebook) >= 1
    assert card.family and card.licence and card.source


def test_it_keeps_its_cards_word(tokenizer: Tokenizer) -> None:
    card = tokenizer.card(tokenizer.name)
    assert (tokenizer.stride, tokenizer.codebook.shape) == (card.stride, card.codebook)


def test_ids_are_int64_on_the_cpu_in_the_shape_of_the_grid(
    tokenizer: Tokenizer, images: np.ndarray
) -> None:
    ids = tokenizer.encode(images)
    assert (ids.dtype, ids.device.type, tuple(ids.shape)) == (
        torch.int64, "cpu", (3, *tokenizer.grid),
    )  # fmt: skip
    assert 0 <= int(ids.min()) <= int(ids.max()) < len(tokenizer.codebook)


def test_equal_images_give_equal_ids(tokenizer: Tokenizer, images: np.ndarray) -> None:
    first = tokenizer.encode(images)
    assert torch.equal(tokenizer.encode(images), first)
    assert torch.equal(tokenizer.encode(torch.from_numpy(images)), first)


def test_no_images_give_no_ids_and_no_pictures(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(np.zeros((0, *SMALL.size, 3), np.uint8))
    assert tuple(ids.shape) == (0, *tokenizer.grid)
    assert tokenizer.to_uint8(tokenizer.decode(ids)).shape == (0, *SMALL.size, 3)


def test_decoding_gives_float_images_that_become_pictures(
    tokenizer: Tokenizer, images: np.ndarray
) -> None:
    decoded = tokenizer.decode(tokenizer.encode(images))
    assert (decoded.dtype, tuple(decoded.shape)) == (torch.float32, (3, 3, *SMALL.size))
    pictures = tokenizer.to_uint8(decoded)
    assert (pictures.dtype, pictures.shape) == (np.uint8, images.shape)
    error = np.abs(pictures.astype(float) - images).mean()
    assert error < np.abs(images.mean((1, 2), keepdims=True) - images).mean(), "worse than grey"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_ids_of_any_integer_dtype_decode(
    tokenizer: Tokenizer, images: np.ndarray, dtype: type
) -> None:
    ids = tokenizer.encode(images[:1]) % 256 % len(tokenizer.codebook)
    expected = tokenizer.decode(ids)
    assert torch.equal(tokenizer.decode(ids.numpy().astype(dtype)), expected)


def test_the_codebook_is_float32_and_finite(tokenizer: Tokenizer) -> None:
    assert tokenizer.codebook.dtype == np.float32
    assert np.isfinite(tokenizer.codebook).all()


def test_its_settings_are_json_and_equal_settings_describe_equally(tokenizer: Tokenizer) -> None:
    again = load_tokenizer(tokenizer.name, preprocess=SMALL)
    assert json.loads(json.dumps(tokenizer.describe())) == again.describe()
    assert tokenizer.weights_sha256 == again.weights_sha256


@pytest.mark.parametrize(
    "images",
    [np.zeros((1, 3, *SMALL.size), np.uint8), np.zeros((1, *SMALL.size, 3), np.float32)],
    ids=["channels first", "another dtype"],
)
def test_images_of_another_shape_or_dtype_are_refused(
    tokenizer: Tokenizer, images: np.ndarray
) -> None:
    with pytest.raises(TokenizerError, match="takes uint8 images"):
        tokenizer.encode(images)


def test_a_size_that_it_cannot_take_is_refused(tokenizer: Tokenizer) -> None:
    height, width = tokenizer.size_step
    with pytest.raises(TokenizerError, match=f"multiples of .*, not {height + 1}x{width}"):
        tokenizer.encode(np.zeros((1, height + 1, width, 3), np.uint8))


@pytest.mark.parametrize("wrong", [-1, 10**6])
def test_an_id_outside_the_codebook_is_refused(tokenizer: Tokenizer, wrong: int) -> None:
    with pytest.raises(TokenizerError, match=f"id {wrong} lies outside"):
        tokenizer.decode(np.full((1, *tokenizer.grid), wrong))


def test_a_misspelt_name_lists_the_known_tokenizers() -> None:
    with pytest.raises(UnknownName, match=rf"Did you mean {NAMES[0]}\b"):
        load_tokenizer(f"{NAMES[0]}s")
