"""ViT-VQGAN: equal to the published models, whatever their numbers, and strict about files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests.conftest import SHARED
from tests.plain_vit_vqgan import (
    Half,
    Model,
    Tensors,
    decode,
    encode,
    nearest,
    random_tensors,
    save_checkpoint,
)
from tokenstore.errors import TokenizerError, WeightsError
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.vit_vqgan import PUBLISHED, SHAPES, VitVqgan, VitVqganNetwork

GOLDEN, KEYS = SHARED / "golden" / "vitvq", SHARED / "reference" / "full_size_keys.json"

MODELS = {
    "plain": Model(),
    "one head of the full width": Model(Half(heads=1), Half(heads=1)),
    "one head that is not the width": Model(Half(dim=96, heads=1), Half()),
    "narrow heads": Model(Half(heads=4, dim_head=16), Half(dim=48, heads=3, dim_head=32)),
    "one narrow head of the full width": Model(Half(dim=32, heads=1, dim_head=32), Half()),
    "wider decoder": Model(Half(depth=1), Half(dim=160, depth=3, heads=2, mlp_dim=320)),
    "small patches": Model(patch=4, grid=(6, 6)),
    "large patches": Model(patch=16, grid=(3, 3), codes=48, width=8),
    "wide images": Model(grid=(2, 5)),
}


def written(folder: Path, model: Model, tensors: Tensors) -> tuple[str, str]:
    """Checkpoint and yaml of a model."""
    config = folder / "model.yaml"
    config.write_text(yaml.safe_dump(model.yaml()))
    return str(save_checkpoint(folder / "model.ckpt", tensors)), str(config)


def pictures(count: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def loaded(folder: Path, model: Model, tensors: Tensors | None = None) -> VitVqgan:
    weights, config = written(folder, model, tensors or random_tensors(model))
    tokenizer = load_tokenizer("vit-vqgan", weights, config=config)
    assert isinstance(tokenizer, VitVqgan)
    return tokenizer


def refusal(folder: Path, tensors: Tensors, settings: dict[str, Any] | None = None) -> str:
    """What is said against a checkpoint and a yaml."""
    weights = str(save_checkpoint(folder / "model.ckpt", tensors))
    config = None
    if settings is not None:
        config = str(folder / "model.yaml")
        Path(config).write_text(yaml.safe_dump(settings))
    with pytest.raises(WeightsError) as caught:
        load_tokenizer("vit-vqgan", weights, config=config)
    return str(caught.value)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs the golden tokens in ../shared/golden")
@pytest.mark.parametrize("config", [None, str(GOLDEN / "model.yaml")])
def test_golden_tokens_and_pictures_come_out(config: str | None) -> None:
    weights = str(next(GOLDEN.glob("*.ckpt")))
    tokenizer = load_tokenizer("vit-vqgan-small", weights, config=config)
    tokens, decoded = np.load(GOLDEN / "tokens.npy"), np.load(GOLDEN / "decoded.npy")
    np.testing.assert_array_equal(tokenizer.encode(np.load(GOLDEN / "images.npy")), tokens)
    np.testing.assert_allclose(tokenizer.decode(tokens[: len(decoded)]), decoded, atol=1e-4, rtol=0)
    np.testing.assert_array_equal(tokenizer.codebook, np.load(GOLDEN / "codebook.npy"))


@pytest.mark.parametrize("kind", MODELS)
def test_latents_ids_and_pictures_equal_those_of_the_model_written_out(
    kind: str, tmp_path: Path
) -> None:
    model = MODELS[kind]
    tensors = random_tensors(model, seed=len(kind))
    tokenizer = loaded(tmp_path, model, tensors)
    images = torch.from_numpy(pictures(3, model.size))
    expected = encode(tensors, model.encoder, images)
    with torch.inference_mode():
        latents = tokenizer.network.encode(images.permute(0, 3, 1, 2).float() / 255)
    torch.testing.assert_close(latents.flatten(2).transpose(1, 2), expected, atol=2e-5, rtol=1e-5)
    ids = nearest(expected, tensors["quantizer.embedding.weight"]).view(3, *model.grid)
    assert len(ids.unique()) > 5
    assert torch.equal(tokenizer.encode(images), ids)
    plain = decode(tensors, model, ids)
    torch.testing.assert_close(tokenizer.decode(ids), plain, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["plain", "one head of the full width", "wider decoder"])
def test_a_model_whose_heads_are_64_wide_needs_no_yaml(kind: str, tmp_path: Path) -> None:
    tensors = random_tensors(MODELS[kind])
    weights, config = written(tmp_path, MODELS[kind], tensors)
    images = pictures(2, MODELS[kind].size)
    alone = load_tokenizer("vit-vqgan-large", weights).encode(images)
    assert torch.equal(alone, load_tokenizer("vit-vqgan", weights, config=config).encode(images))


@pytest.mark.skipif(not KEYS.is_file(), reason="needs the lists of keys in ../shared/reference")
@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("vit-vqgan-small", "vitvq_small"),
        ("vit-vqgan", "vitvq_base"),
        ("vit-vqgan-large", "vitvq_large"),
    ],
)
def test_full_size_networks_have_the_published_tensors(name: str, published: str) -> None:
    network = VitVqganNetwork(SHAPES[name])
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    assert shapes == json.loads(KEYS.read_text())[published]


def test_the_last_norms_may_have_their_names_of_before_july_2022(tmp_path: Path) -> None:
    tensors = random_tensors(Model())
    images = pictures(2, Model().size)
    expected = loaded(tmp_path, Model(), tensors).encode(images)
    old = {key.replace("transformer.norm.", "norm."): value for key, value in tensors.items()}
    assert old.keys() != tensors.keys()
    assert torch.equal(loaded(tmp_path, Model(), old).encode(images), expected)


def test_larger_images_are_cut_into_tiles(tmp_path: Path) -> None:
    tokenizer = loaded(tmp_path, Model())
    assert (tokenizer.size_step, tokenizer.grid) == ((32, 32), (4, 4))
    image = pictures(1, (64, 96))
    ids = tokenizer.encode(image)
    assert tuple(ids.shape) == (1, 8, 12)
    for row in range(2):
        for column in range(3):
            tile = image[:, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
            part = ids[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            assert torch.equal(tokenizer.encode(tile), part)
            picture = tokenizer.decode(ids)[
                ..., 32 * row : 32 * row + 32, 32 * column : 32 * column + 32
            ]
            torch.testing.assert_close(tokenizer.decode(part), picture, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(40, 32), (16, 16), (32, 0)])
def test_images_that_are_no_multiple_of_the_trained_size_are_refused(
    size: tuple[int, int], tmp_path: Path
) -> None:
    with pytest.raises(TokenizerError, match="multiples of 32"):
        loaded(tmp_path, Model()).encode(np.zeros((1, *size, 3), np.uint8))


def test_of_equal_codes_the_lowest_id_wins(tmp_path: Path) -> None:
    tensors = random_tensors(Model())
    book = tensors["quantizer.embedding.weight"]
    tensors["quantizer.embedding.weight"] = torch.cat([book[:32], book[:32].flip(0)])
    ids = loaded(tmp_path, Model(), tensors).encode(pictures(4, Model().size))
    assert int(ids.max()) < 32
    expected = encode(tensors, Half(), torch.from_numpy(pictures(4, Model().size)))
    assert torch.equal(ids.flatten(1), nearest(expected, book[:32]))


def test_a_restricted_search_gives_the_best_code_of_those(tmp_path: Path) -> None:
    tensors = random_tensors(Model())
    tokenizer = loaded(tmp_path, Model(), tensors)
    images = pictures(3, Model().size)
    among = np.array([3, 9, 11, 20, 41, 60])
    before = tokenizer.encode(images)
    tokenizer.restrict(among[::-1])
    latents = encode(tensors, Half(), torch.from_numpy(images))
    rows = nearest(latents, tensors["quantizer.embedding.weight"][torch.from_numpy(among)])
    ids = tokenizer.encode(images)
    assert torch.equal(ids.flatten(1), torch.from_numpy(among)[rows])
    assert not torch.equal(ids, before)


def test_codes_are_compared_as_stored_where_the_yaml_says_so(tmp_path: Path) -> None:
    tensors = random_tensors(Model())
    settings = Model().yaml()
    settings["model"]["params"]["quantizer"]["use_norm"] = False
    config = tmp_path / "raw.yaml"
    config.write_text(yaml.safe_dump(settings))
    weights = str(save_checkpoint(tmp_path / "model.ckpt", tensors))
    images = pictures(3, Model().size)
    ids = load_tokenizer("vit-vqgan", weights, config=str(config)).encode(images)
    latents = encode(tensors, Half(), torch.from_numpy(images))
    book = tensors["quantizer.embedding.weight"]
    assert torch.equal(ids.flatten(1), torch.cdist(latents.double(), book.double()).argmin(2))
    assert not torch.equal(ids.flatten(1), nearest(latents, book))


@pytest.mark.parametrize(
    ("key", "said", "found"),
    [
        ("image_size", 64, "16 cells in 'encoder.en_pos_embedding', a square of 32 pixels"),
        ("image_size", 30, "multiples of the weights' patch size 8"),
        ("patch_size", 4, "have 8"),
        ("encoder.dim", 128, "have 64"),
        ("encoder.depth", 3, "have 2"),
        ("decoder.mlp_dim", 97, "have 96"),
        ("encoder.heads", 3, "have 2 of encoder.dim_head 64 (inner width 128)"),
        ("decoder.dim_head", 32, "decoder.heads is 2, but"),
        ("decoder.dim_head", 50, "no multiple of 3 x decoder.dim_head, which is 50"),
        ("quantizer.n_embed", 8192, "have 64"),
        ("quantizer.embed_dim", 32, "have 16"),
        ("quantizer.use_residual", True, "several ids a cell"),
        ("encoder", 7, "expected settings by name"),
    ],
)
def test_a_yaml_that_contradicts_the_weights_is_refused(
    key: str, said: Any, found: str, tmp_path: Path
) -> None:
    settings = Model().yaml()
    section, words = settings["model"]["params"], key.split(".")
    for word in words[:-1]:
        section = section[word]
    section[words[-1]] = said
    message = refusal(tmp_path, random_tensors(Model()), settings)
    assert found in message
    assert key in message
    assert "model.yaml" in message or "by the yaml" in message


def test_another_kind_of_model_in_the_yaml_is_refused(tmp_path: Path) -> None:
    settings = Model().yaml()
    settings["model"]["target"] = "enhancing.modules.stage1.vitvqgan.ViTVQGumbel"
    assert "ViTVQGumbel" in refusal(tmp_path, random_tensors(Model()), settings)


def test_images_that_are_no_square_need_a_yaml(tmp_path: Path) -> None:
    message = refusal(tmp_path, random_tensors(Model(grid=(2, 5))))
    assert "'encoder.en_pos_embedding' has 10 cells" in message
    assert "--config" in message


def test_heads_of_another_width_need_a_yaml(tmp_path: Path) -> None:
    message = refusal(tmp_path, random_tensors(Model(Half(heads=3, dim_head=16))))
    assert "'encoder.transformer.layers.0.0.fn.to_qkv.weight' has 144 rows" in message
    assert "--config" in message


@pytest.mark.parametrize("key", sorted(random_tensors(Model())))
def test_every_missing_tensor_is_named(key: str, tmp_path: Path) -> None:
    tensors = random_tensors(Model())
    del tensors[key]
    message = refusal(tmp_path, tensors)
    # Where one of a few keys is gone that tell the families apart, the family is named instead.
    assert key in message or "vit-vqgan" in message


def test_tables_of_two_sizes_are_refused(tmp_path: Path) -> None:
    tensors = random_tensors(Model())
    tensors["decoder.de_pos_embedding"] = torch.zeros(1, 25, 64)
    assert "'decoder.de_pos_embedding' has another number of cells" in refusal(tmp_path, tensors)


def test_an_unknown_tensor_a_wrong_shape_and_a_number_that_is_none_are_named(
    tmp_path: Path,
) -> None:
    tensors = random_tensors(Model())
    assert "encoder.extra" in refusal(tmp_path, {**tensors, "encoder.extra": torch.ones(1)})
    wrong = {**tensors, "post_quant.weight": torch.ones(64, 17)}
    assert "post_quant.weight" in refusal(tmp_path, wrong)
    tensors["pre_quant.bias"][3] = torch.nan
    assert "pre_quant.bias" in refusal(tmp_path, tensors)


def test_a_released_size_goes_by_its_own_name_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = str(save_checkpoint(tmp_path / "model.ckpt", random_tensors(Model())))
    shape = load_tokenizer("vit-vqgan", weights).network.shape  # type: ignore[attr-defined]
    renamed = {**SHAPES, "vit-vqgan-small": shape}
    monkeypatch.setattr("tokenstore.tokenizers.vit_vqgan.SHAPES", renamed)
    assert "holds vit-vqgan-small, not vit-vqgan" in refusal(
        tmp_path, random_tensors(Model(), seed=1)
    )
    load_tokenizer("vit-vqgan-small", weights)
    other = save_checkpoint(tmp_path / "other.ckpt", random_tensors(replace(Model(), codes=65)))
    load_tokenizer("vit-vqgan", str(other))


def test_cards_tell_the_released_numbers_and_where_they_are_from() -> None:
    for name in SHAPES:
        card = VitVqgan.card(name)
        assert (card.stride, card.default_size, card.codebook) == (8, (256, 256), (8192, 32))
        assert "MIT" in card.licence
    assert PUBLISHED["vit-vqgan-large"].url is None
    assert "never released" in VitVqgan.card("vit-vqgan-large").source


def test_its_description_goes_through_json_unchanged(tmp_path: Path) -> None:
    described = loaded(tmp_path, Model()).describe()
    assert described["codes"] == 64
    assert json.loads(json.dumps(described)) == described
