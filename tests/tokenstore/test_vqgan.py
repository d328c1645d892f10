"""VQGAN: equal to the published models, whatever their numbers, and strict about files."""

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
from tokenstore.tokenizers.conv_blocks import ConvNetwork
from tokenstore.tokenizers.conv_shape import read_shape, require_variant
from tokenstore.tokenizers.evidence import Evidence
from tokenstore.tokenizers.vqgan import NETWORKS, VARIANTS, Vqgan

GOLDEN, KEYS = SHARED / "golden", SHARED / "reference" / "full_size_keys.json"
FULL_SIZE = {
    "vqgan-f16-1024": "vqgan_f16_1024",
    "vqgan-f16-16384": "vqgan_f16_16384",
    "vqgan-gumbel-f8": "gumbel_f8_8192",
    "vqgan-f8-256": "ldm_vq_f8_n256",
    "vqgan-f8-16384": "ldm_vq_f8",
}
GOLDEN_SETS = {
    "vqgan_f16": ("vqgan-f16-1024", "last.ckpt"),
    "gumbel_f8": ("vqgan-gumbel-f8", "last.ckpt"),
    "ldm_f8": ("vqgan-f8-256", "model.ckpt"),
}
MODELS = {
    "smallest": Model(),
    "one level, no attention at all": Model(ch_mult=(1,), middle=False),
    "no attention but in the middle": Model(ch_mult=(1, 1, 2), blocks=2),
    "attention at the coarsest level": Model(attention=(1,)),
    "attention at several levels": Model(ch_mult=(1, 2, 1), attention=(1, 2), blocks=2),
    "attention at the finest level": Model(attention=(0,), middle=False),
    "three blocks": Model(blocks=3, attention=(1,)),
    "wide first level": Model(ch_mult=(2, 1, 3)),
    "wide": Model(ch=64, ch_mult=(1, 1), z_channels=4, dimension=4),
    "codes of other dimensions": Model(z_channels=24, dimension=3, codes=100),
    "four levels": Model(ch_mult=(1, 1, 1, 1), attention=(2,), resolution=64),
    "gumbel": Model("vqgan-gumbel", attention=(1,)),
    "wide gumbel": Model("vqgan-gumbel", ch=64, blocks=2, codes=200, z_channels=8, dimension=8),
}


def written(folder: Path, model: Model, tensors: Tensors | None = None) -> dict[str, str]:
    """Checkpoint and yaml of a model, as arguments of `load_tokenizer`."""
    config = folder / "model.yaml"
    config.write_text(yaml.safe_dump(model.yaml()))
    tensors = random_tensors(model) if tensors is None else tensors
    weights = save_checkpoint(folder / "last.ckpt", tensors)
    name = "vqgan-gumbel-f8" if model.kind == "vqgan-gumbel" else "vqgan-f16-1024"
    return {"name": name, "weights": weights, "config": str(config)}


def loaded(**arguments: Any) -> Vqgan:
    tokenizer = load_tokenizer(**arguments)
    assert isinstance(tokenizer, Vqgan)
    return tokenizer


def pictures(count: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(height)
    return rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def as_input(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy((images / 127.5 - 1).astype(np.float32)).permute(0, 3, 1, 2)


def changed(settings: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Set `a.b.c` of nested settings."""
    *path, last = key.split(".")
    inner = settings
    for word in path:
        inner = inner[word]
    inner[last] = value
    return settings


@pytest.mark.parametrize("folder", GOLDEN_SETS)
@pytest.mark.parametrize("with_yaml", [True, False])
def test_ids_and_images_of_the_golden_sets_are_the_published_ones(
    folder: str, with_yaml: bool
) -> None:
    place = GOLDEN / folder
    if not place.is_dir():
        pytest.skip("needs ../shared/golden, which is not here")
    name, file = GOLDEN_SETS[folder]
    config = str(place / "model.yaml") if with_yaml else None
    tokenizer = loaded(name=name, weights=str(place / file), config=config)
    images, tokens, decoded = (
        np.load(place / f"{part}.npy") for part in ("images", "tokens", "decoded")
    )
    assert np.array_equal(tokenizer.encode(images).numpy(), tokens)
    assert np.array_equal(tokenizer.codebook, np.load(place / "codebook.npy"))
    difference = tokenizer.decode(tokens[: len(decoded)]).numpy() - decoded
    assert np.abs(difference).max() < 1e-4
    if with_yaml:
        assert tokenizer.preprocessing == Preprocess("center-crop-opencv", images.shape[1:3])


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("cells", [(4, 4), (3, 6)])
def test_any_model_of_the_family_equals_its_plain_form(
    tmp_path: Path, model: Model, cells: tuple[int, int]
) -> None:
    tensors = random_tensors(model)
    tokenizer = loaded(**written(tmp_path, model, tensors))
    assert tokenizer.stride == 2 ** (model.levels - 1)
    images = pictures(3, cells[0] * tokenizer.stride, cells[1] * tokenizer.stride)
    latents = encode(model, tensors, as_input(images))
    costs = losses(model, tensors, latents)
    ids = tokenizer.encode(images)
    two = costs.topk(2, largest=False).values
    clear = two[..., 1] - two[..., 0] > 1e-4 * two[..., 1].abs()
    assert clear.float().mean() > 0.9
    assert torch.equal(ids[clear], costs.argmin(-1)[clear])
    assert len(ids.unique()) > 4
    torch.testing.assert_close(
        tokenizer.decode(ids), decode(model, tensors, ids), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_weights_alone_say_what_the_yaml_says(tmp_path: Path, model: Model) -> None:
    arguments = written(tmp_path, model)
    assert loaded(**arguments | {"config": None}).describe() == loaded(**arguments).describe()


@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_published_models_have_exactly_the_published_tensors(name: str) -> None:
    if not KEYS.is_file():
        pytest.skip("needs ../shared/reference/full_size_keys.json, which is not here")
    listed = json.loads(KEYS.read_text())[FULL_SIZE[name]]
    variant = VARIANTS[name]
    with torch.device("meta"):
        network = NETWORKS[variant.family](variant.shape)
        tensors = {key: torch.empty(shape) for key, shape in listed.items()}
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == listed
    evidence = Evidence(tensors, Path("published.ckpt"))
    found = read_shape(evidence, network.codebook_name, lambda key, levels: key)
    assert found == variant.shape


@pytest.mark.parametrize("name", FULL_SIZE)
def test_weights_of_another_published_variant_are_refused(name: str) -> None:
    require_variant(name, VARIANTS[name].shape, VARIANTS, Path("x.ckpt"))
    for other in VARIANTS.keys() - {name}:
        with pytest.raises(WeightsError, match=f"of {other} .*not of {name}: load it as {other}"):
            require_variant(name, VARIANTS[other].shape, VARIANTS, Path("x.ckpt"))


def test_levels_of_pixels_are_computed_in_float64() -> None:
    expected = [np.float32(level / 127.5 - 1.0) for level in range(256)]
    assert NETWORKS["vqgan"].levels.tolist() == expected
    assert NETWORKS["vqgan-gumbel"].levels.dtype == np.float32


def test_of_two_equal_rows_the_lower_id_wins(tmp_path: Path) -> None:
    model = Model()
    tensors = random_tensors(model)
    codebook = tensors["quantize.embedding.weight"]
    codebook[24:] = codebook[:24].flip(0)
    ids = loaded(**written(tmp_path, model, tensors)).encode(pictures(4, 16, 16))
    assert int(ids.max()) < 24


def test_few_images_are_computed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = loaded(**written(tmp_path, Model()))
    images = pictures(5, 16, 32)
    together = tokenizer.encode(images)
    monkeypatch.setattr(ConvNetwork, "pixels_at_once", {"cpu": 2 * 16 * 32})
    encode_images, counts = tokenizer.network.encode, []
    monkeypatch.setattr(
        tokenizer.network, "encode", lambda some: counts.append(len(some)) or encode_images(some)
    )
    assert torch.equal(tokenizer.encode(images), together)
    assert counts == [2, 2, 1]


def test_a_yaml_without_sizes_leaves_the_published_size(tmp_path: Path) -> None:
    arguments = written(tmp_path, Model(resolution=48))
    assert loaded(**arguments).preprocessing.size == (48, 48)
    assert loaded(**arguments | {"config": None}).preprocessing.size == (256, 256)
    asked = Preprocess("squash", (16, 32))
    assert loaded(**arguments, preprocess=asked).preprocessing == asked


@pytest.mark.parametrize(
    ("key", "value", "held"),
    [
        ("model.target", "taming.models.vqgan.GumbelVQ", "VQModel"),
        ("model.target", "enhancing.modules.stage1.vitvqgan.ViTVQ", "VQModel"),
        ("model.params.embed_dim", 256, "16"),
        ("model.params.n_embed", 1024, "48"),
        ("model.params.ddconfig.z_channels", 4, "16"),
        ("model.params.ddconfig.ch", 128, "32"),
        ("model.params.ddconfig.ch_mult", [1, 1], r"\[1, 2\]"),
        ("model.params.ddconfig.ch_mult", [1, 2, 2], r"\[1, 2\]"),
        ("model.params.ddconfig.num_res_blocks", 2, "1"),
        ("model.params.ddconfig.attn_resolutions", [32], r"attention at \[16\] .*32 pixels"),
        ("model.params.ddconfig.attn_resolutions", [], r"attention at \[16\]"),
        ("model.params.ddconfig.attn_type", "none", "'vanilla'"),
        ("model.params.ddconfig.resolution", 64, r"attention at \[32\] .*64 pixels"),
        ("model.params.ddconfig.double_z", True, "False"),
        ("model.params.ddconfig.in_channels", 1, "3"),
        ("model.params.ddconfig.out_ch", 1, "3"),
    ],
)
def test_a_yaml_that_contradicts_the_weights_names_key_and_values(
    tmp_path: Path, key: str, value: Any, held: str
) -> None:
    model = Model(attention=(1,))
    arguments = written(tmp_path, model)
    Path(arguments["config"]).write_text(yaml.safe_dump(changed(model.yaml(), key, value)))
    named = "attn_resolutions" if key.endswith("resolution") else key.rpartition(".")[2]
    with pytest.raises(WeightsError, match=f"yaml' says .*{named} is .*weights in .*{held}"):
        loaded(**arguments)


@pytest.mark.parametrize("wrong", [31, 0, "big", True, [64, 64]])
def test_a_yaml_whose_resolution_no_image_can_have_is_refused(
    tmp_path: Path, wrong: object
) -> None:
    model = Model()
    arguments = written(tmp_path, model)
    settings = changed(model.yaml(), "model.params.ddconfig.resolution", wrong)
    Path(arguments["config"]).write_text(yaml.safe_dump(settings))
    with pytest.raises(WeightsError, match=r"ddconfig.resolution is .*multiple of the stride 2"):
        loaded(**arguments)


def test_a_yaml_of_another_form_is_refused(tmp_path: Path) -> None:
    arguments = written(tmp_path, Model())
    Path(arguments["config"]).write_text(yaml.safe_dump(Model("llamagen").yaml()))
    with pytest.raises(WeightsError, match="has no ddconfig"):
        loaded(**arguments)


def test_each_missing_tensor_is_named(tmp_path: Path) -> None:
    model = Model(ch_mult=(1, 2), attention=(1,))
    tensors = random_tensors(model)
    names = [name for name, _ in shapes(model)]
    for name in [*names[::5], "quantize.embedding.weight"]:
        less = {key: value for key, value in tensors.items() if key != name}
        with pytest.raises(WeightsError, match=f"lacks .*'{name}'"):
            loaded(**written(tmp_path, model, less))


@pytest.mark.parametrize(
    ("name", "tensor", "complaint"),
    [
        ("encoder.down.7.block.0.conv1.weight", torch.zeros(32, 32, 3, 3), "lacks"),
        ("encoder.mid.block_3.norm1.weight", torch.zeros(64), "unknown .*block_3.norm1"),
        ("encoder.down.0.block.0.conv2.weight", torch.zeros(32, 64, 3, 3), "expected"),
        ("encoder.down.0.block.0.conv1.weight", torch.zeros(40, 32, 3, 3), "multiple of 32"),
        ("encoder.conv_in.weight", torch.zeros(32, 4, 3, 3), "expected"),
        ("quantize.embedding.weight", torch.zeros(0, 16), "none of them empty"),
        (
            "quantize.embedding.weight",
            torch.zeros(48, 5),
            r"embedding.weight' is \[48, 5\], expected",
        ),
        ("quant_conv.weight", torch.zeros(16, 16), "expected 4 dimensions"),
        ("quant_conv.bias", torch.full((16,), torch.nan), "not finite"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(
    tmp_path: Path, name: str, tensor: torch.Tensor, complaint: str
) -> None:
    model = Model()
    with pytest.raises(WeightsError, match=complaint):
        loaded(**written(tmp_path, model, random_tensors(model) | {name: tensor}))


@pytest.mark.parametrize("kind", ["vqgan-gumbel", "llamagen"])
def test_weights_of_another_family_are_refused_with_its_name(tmp_path: Path, kind: str) -> None:
    arguments = written(tmp_path, Model(kind, attention=(1,)))
    with pytest.raises(WeightsError, match=f"holds a {kind} model, not vqgan"):
        loaded(**arguments | {"name": "vqgan-f16-1024", "config": None})


def test_an_autoencoder_without_codes_is_called_by_its_name(tmp_path: Path) -> None:
    tensors = random_tensors(Model())
    del tensors["quantize.embedding.weight"]
    for half in ("weight", "bias"):  # mean and variance
        tensors[f"encoder.conv_out.{half}"] = tensors[f"encoder.conv_out.{half}"].repeat_interleave(
            2, 0
        )
    weights = save_checkpoint(tmp_path / "last.ckpt", tensors)
    with pytest.raises(WeightsError, match="holds a KL autoencoder model, not vqgan"):
        loaded(name="vqgan-f8-256", weights=weights)
