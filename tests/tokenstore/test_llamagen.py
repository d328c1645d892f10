"""LlamaGen: equal to the published models, whatever their numbers, and strict about files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests.conftest import SHARED
from tests.plain_vqgan import (
    Model,
    Tensors,
    decode,
    encode,
    losses,
    random_tensors,
    save_checkpoint,
    shapes,
)
from tokenstore.errors import WeightsError
from tokenstore.preprocess import Preprocess
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.conv_shape import read_shape, require_variant
from tokenstore.tokenizers.evidence import Evidence
from tokenstore.tokenizers.llamagen import (
    CODEBOOK,
    VARIANTS,
    LlamaGen,
    LlamaGenNetwork,
    published_name,
)

GOLDEN = SHARED / "golden" / "llamagen16"
KEYS = SHARED / "reference" / "full_size_keys.json"
FULL_SIZE = {"llamagen-16": "llamagen_vq16", "llamagen-8": "llamagen_vq8"}

MODELS = {
    "smallest": Model("llamagen", attention=(1,), dimension=8),
    "one level": Model("llamagen", ch_mult=(1,), attention=(0,)),
    "two blocks": Model("llamagen", ch_mult=(1, 2, 1), attention=(2,), blocks=2),
    "wide": Model("llamagen", ch=64, ch_mult=(1, 1), attention=(1,), dimension=3, codes=90),
    "another decoder": Model("llamagen", attention=(1,), decoder_ch_mult=(2, 3)),
    "five levels": Model("llamagen", ch_mult=(1, 1, 1, 1, 2), attention=(4,)),
}
SMALLEST = MODELS["smallest"]


def written(folder: Path, model: Model, tensors: Tensors | None = None) -> dict[str, str]:
    """Weights as LlamaGen nests them, with its statistics, and a yaml of its settings."""
    config, weights = folder / "model.yaml", folder / "vq_model.pt"
    config.write_text(yaml.safe_dump(model.yaml()))
    tensors = random_tensors(model) if tensors is None else tensors
    torch.save({"model": tensors | {"quantize.codebook_used": torch.zeros(65536)}}, weights)
    return {"name": "llamagen-16", "weights": str(weights), "config": str(config)}


def loaded(**arguments: Any) -> LlamaGen:
    tokenizer = load_tokenizer(**arguments)
    assert isinstance(tokenizer, LlamaGen)
    return tokenizer


def pictures(count: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(height)
    return rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def as_input(images: np.ndarray) -> torch.Tensor:
    return ((torch.from_numpy(images).float() / 255 - 0.5) / 0.5).permute(0, 3, 1, 2)


@pytest.mark.parametrize("with_yaml", [True, False])
def test_ids_and_images_of_the_golden_set_are_the_published_ones(with_yaml: bool) -> None:
    if not GOLDEN.is_dir():
        pytest.skip("needs ../shared/golden, which is not here")
    config = str(GOLDEN / "model.yaml") if with_yaml else None
    tokenizer = loaded(name="llamagen-16", weights=str(GOLDEN / "vq_model.pt"), config=config)
    images, tokens, decoded = (
        np.load(GOLDEN / f"{part}.npy") for part in ("images", "tokens", "decoded")
    )
    assert np.array_equal(tokenizer.encode(images).numpy(), tokens)
    assert np.array_equal(tokenizer.codebook, np.load(GOLDEN / "codebook.npy"))
    difference = tokenizer.decode(tokens[: len(decoded)]).numpy() - decoded
    assert np.abs(difference).max() < 1e-4
    assert tokenizer.preprocessing == Preprocess("center-crop-box", (256, 256))


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("cells", [(4, 4), (2, 5)])
def test_any_model_of_the_family_equals_its_plain_form(
    tmp_path: Path, model: Model, cells: tuple[int, int]
) -> None:
    tensors = random_tensors(model)
    tokenizer = loaded(**written(tmp_path, model, tensors))
    assert tokenizer.stride == 2 ** (model.levels - 1)
    images = pictures(3, cells[0] * tokenizer.stride, cells[1] * tokenizer.stride)
    costs = losses(model, tensors, encode(model, tensors, as_input(images)))
    ids = tokenizer.encode(images)
    two = costs.topk(2, largest=False).values
    clear = two[..., 1] - two[..., 0] > 1e-3 * two[..., 1]
    assert clear.float().mean() > 0.9
    assert torch.equal(ids[clear], costs.argmin(-1)[clear])
    assert len(ids.unique()) > 4
    torch.testing.assert_close(
        tokenizer.decode(ids), decode(model, tensors, ids), atol=1e-4, rtol=0
    )


def test_levels_of_pixels_are_computed_in_float32() -> None:
    expected = as_input(np.arange(256, dtype=np.uint8).reshape(1, 1, 256, 1).repeat(3, axis=3))
    assert np.array_equal(LlamaGenNetwork.levels, expected[0, 0, 0].numpy())


def test_names_turn_the_decoders_levels_around() -> None:
    assert published_name("decoder.up.0.block.1.norm1.bias", 5) == (
        "decoder.conv_blocks.4.res.1.norm1.bias"
    )
    assert published_name("encoder.down.2.attn.0.q.weight", 5) == (
        "encoder.conv_blocks.2.attn.0.q.weight"
    )
    assert published_name("decoder.mid.attn_1.k.bias", 5) == "decoder.mid.1.k.bias"


@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_published_models_have_exactly_the_published_tensors(name: str) -> None:
    if not KEYS.is_file():
        pytest.skip("needs ../shared/reference/full_size_keys.json, which is not here")
    listed = json.loads(KEYS.read_text())[FULL_SIZE[name]]
    listed.pop("quantize.codebook_used")
    with torch.device("meta"):
        network = LlamaGenNetwork(VARIANTS[name].shape)
        tensors = {key: torch.empty(shape) for key, shape in listed.items()}
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == listed
    found = read_shape(Evidence(tensors, Path("published.pt")), CODEBOOK, published_name)
    assert found == VARIANTS[name].shape


def test_weights_of_the_other_published_variant_are_refused() -> None:
    shape = VARIANTS["llamagen-8"].shape
    with pytest.raises(WeightsError, match="stride 8.*not of llamagen-16: load it as llamagen-8"):
        require_variant("llamagen-16", shape, VARIANTS, Path("vq_ds8_c2i.pt"))


def test_codes_that_differ_in_length_only_are_one_code(tmp_path: Path) -> None:
    tensors = random_tensors(SMALLEST)
    plain = loaded(**written(tmp_path, SMALLEST, tensors))
    images = pictures(3, 16, 16)
    ids, decoded = plain.encode(images), plain.decode(plain.encode(images))
    tensors["quantize.embedding.weight"] *= torch.linspace(0.25, 4, SMALLEST.codes)[:, None]
    longer = loaded(**written(tmp_path, SMALLEST, tensors))
    assert torch.equal(longer.encode(images), ids)
    torch.testing.assert_close(longer.decode(ids), decoded, atol=1e-5, rtol=0)
    assert np.array_equal(longer.codebook, tensors["quantize.embedding.weight"].numpy())


def test_a_model_trained_without_normalisation_says_so_in_its_yaml(tmp_path: Path) -> None:
    tensors = random_tensors(SMALLEST)
    arguments = written(tmp_path, SMALLEST, tensors)
    settings = SMALLEST.yaml() | {"codebook_l2_norm": False}
    Path(arguments["config"]).write_text(yaml.safe_dump(settings))
    tokenizer = loaded(**arguments)
    images = pictures(3, 16, 16)
    latents = encode(SMALLEST, tensors, as_input(images)).permute(0, 2, 3, 1)
    costs = torch.cdist(latents.double().flatten(0, 2), tensors[CODEBOOK].double())
    ids = tokenizer.encode(images)
    assert torch.equal(ids.flatten(), costs.argmin(1))
    assert tokenizer.describe()["codebook_l2_norm"] is False
    assert not torch.equal(ids, loaded(**arguments | {"config": None}).encode(images))


@pytest.mark.parametrize(
    ("key", "value", "held"),
    [
        ("vq_model", "VQ-16", "'VQ-2'"),
        ("codebook_size", 16384, "48"),
        ("codebook_embed_dim", 4, "8"),
        ("encoder_ch_mult", [1, 1], r"\[1, 2\]"),
        ("decoder_ch_mult", [2, 2], r"\[1, 2\]"),
        ("z_channels", 256, "16"),
    ],
)
def test_a_yaml_that_contradicts_the_weights_names_key_and_values(
    tmp_path: Path, key: str, value: Any, held: str
) -> None:
    arguments = written(tmp_path, SMALLEST)
    Path(arguments["config"]).write_text(yaml.safe_dump(SMALLEST.yaml() | {key: value}))
    with pytest.raises(WeightsError, match=rf"yaml' says {key} is .*weights in .*{held}"):
        loaded(**arguments)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (Model().yaml(), "has target 'taming.*expected LlamaGen's settings"),
        ({"epochs": 3}, "expected LlamaGen's settings"),
        (SMALLEST.yaml() | {"codebook_l2_norm": "yes"}, "is 'yes', expected true or false"),
    ],
)
def test_a_yaml_of_another_form_is_refused(
    tmp_path: Path, settings: dict[str, Any], complaint: str
) -> None:
    arguments = written(tmp_path, SMALLEST)
    Path(arguments["config"]).write_text(yaml.safe_dump(settings))
    with pytest.raises(WeightsError, match=complaint):
        loaded(**arguments)


def test_each_missing_tensor_is_called_by_its_published_name(tmp_path: Path) -> None:
    tensors = random_tensors(SMALLEST)
    for name in [name for name, _ in shapes(SMALLEST)][::7]:
        less = {key: value for key, value in tensors.items() if key != name}
        with pytest.raises(WeightsError, match=f"lacks .*'{name}'"):
            loaded(**written(tmp_path, SMALLEST, less))


def test_weights_without_any_attention_are_incomplete(tmp_path: Path) -> None:
    bare = random_tensors(Model("llamagen", middle=False, dimension=8))
    with pytest.raises(WeightsError, match=r"lacks .*'encoder.conv_blocks.1.attn.0.norm.weight'"):
        loaded(**written(tmp_path, SMALLEST, bare) | {"config": None})


def test_weights_of_another_family_are_refused_with_its_name(tmp_path: Path) -> None:
    weights = save_checkpoint(tmp_path / "last.ckpt", random_tensors(Model()))
    with pytest.raises(WeightsError, match="holds a vqgan model, not llamagen"):
        loaded(name="llamagen-16", weights=weights)
