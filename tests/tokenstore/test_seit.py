"""SeiT's packaging: an encoder in a pickled module, ids among its own few codes, no pictures."""

import hashlib
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from tests.conftest import SHARED
from tests.plain_vit_vqgan import Half, Model, Tensors, encode, nearest, random_tensors
from tests.plain_vit_vqgan import save_checkpoint as save_vit_vqgan
from tokenstore.errors import TokenizerError, WeightsError
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.seit import Seit, with_published_names

GOLDEN = SHARED / "golden" / "seit"
LAYERS = "enhancing.modules.stage1.layers"


class ViTEncoder(nn.Module):
    """Stands in for the published class of this name; only its tensors' names matter."""


def part(tensors: Tensors) -> nn.Module:
    """A module, of stand-ins all through, with tensors of these dotted names."""
    top = ViTEncoder()
    for name, value in tensors.items():
        *path, last = name.split(".")
        module = top
        for word in path:
            if word not in module._modules:
                module.add_module(word, ViTEncoder())
            module = module.get_submodule(word)
        module.register_parameter(last, nn.Parameter(value))
    return top


def encoder_tensors(tensors: Tensors) -> Tensors:
    return {k.removeprefix("encoder."): v for k, v in tensors.items() if k.startswith("encoder.")}


def pickled(file: Path, module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Save a whole module whose classes seem to come from the published package."""
    words = LAYERS.split(".")
    for count in range(1, len(words) + 1):
        name = ".".join(words[:count])
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules[LAYERS], "ViTEncoder", ViTEncoder, raising=False)
    monkeypatch.setattr(ViTEncoder, "__module__", LAYERS)
    torch.save(module, file)
    monkeypatch.undo()  # from here on nobody can import them


@pytest.fixture
def tensors() -> Tensors:
    return random_tensors(Model(codes=90))


@pytest.fixture
def folder(tmp_path: Path, tensors: Tensors, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A release: Sequential(encoder, linear map), and 40 of the model's 90 codes."""
    last = nn.Linear(64, 16)
    last.load_state_dict({k: tensors[f"pre_quant.{k}"] for k in ("weight", "bias")})
    module = nn.Sequential(part(encoder_tensors(tensors)), last)
    pickled(tmp_path / "tokenizer.ckpt", module, monkeypatch)
    rows = tensors["quantizer.embedding.weight"][torch.randperm(90)[:40]]
    torch.save(rows, tmp_path / "codebook.ckpt")
    return tmp_path


def images(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def refusal(weights: Path, config: Path | None = None) -> str:
    with pytest.raises(WeightsError) as caught:
        load_tokenizer("seit", str(weights), config=config and str(config))
    return str(caught.value)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs the golden tokens in ../shared/golden")
@pytest.mark.parametrize("weights", [GOLDEN, GOLDEN / "tokenizer.ckpt", GOLDEN / "codebook.ckpt"])
def test_golden_tokens_come_out(weights: Path) -> None:
    tokenizer = load_tokenizer("seit", str(weights))
    ids = tokenizer.encode(np.load(GOLDEN / "images.npy"))
    np.testing.assert_array_equal(ids, np.load(GOLDEN / "tokens.npy"))
    np.testing.assert_array_equal(tokenizer.codebook, np.load(GOLDEN / "codebook.npy"))


def test_ids_are_rows_of_its_own_codebook(folder: Path, tensors: Tensors) -> None:
    tokenizer = load_tokenizer("seit", str(folder))
    rows = torch.load(folder / "codebook.ckpt")
    expected = nearest(encode(tensors, Half(), torch.from_numpy(images())), rows)
    ids = tokenizer.encode(images())
    assert torch.equal(ids.flatten(1), expected)
    assert len(ids.unique()) > 5
    assert torch.equal(torch.from_numpy(tokenizer.codebook), rows)
    assert tokenizer.preprocessing.as_json() == {"rule": "squash", "size": [32, 32]}


def test_a_restricted_search_knows_only_some_of_them(folder: Path, tensors: Tensors) -> None:
    tokenizer = load_tokenizer("seit", str(folder))
    among = np.array([2, 5, 7, 30])
    tokenizer.restrict(among)
    rows = torch.load(folder / "codebook.ckpt")[torch.from_numpy(among)]
    expected = nearest(encode(tensors, Half(), torch.from_numpy(images())), rows)
    assert torch.equal(tokenizer.encode(images()).flatten(1), torch.from_numpy(among)[expected])


def test_decoding_is_refused_with_the_way_to_pictures(folder: Path) -> None:
    with pytest.raises(TokenizerError, match="no decoder.*map-codes.*full ViT-VQGAN"):
        load_tokenizer("seit", str(folder)).decode(np.zeros((1, 4, 4), np.int64))


def test_its_hash_is_of_both_files(folder: Path) -> None:
    digests = [
        hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("tokenizer.ckpt", "codebook.ckpt")
    ]
    together = hashlib.sha256("".join(digests).encode()).hexdigest()
    assert load_tokenizer("seit", str(folder)).weights_sha256 == together


@pytest.mark.parametrize("inner", ["0.", "", "net.0.", "encoder."])
@pytest.mark.parametrize("outer", ["1.", "pre_quant.", "head.final."])
def test_the_encoder_is_found_under_any_name(inner: str, outer: str, tensors: Tensors) -> None:
    held = {f"{inner}{name}": value for name, value in encoder_tensors(tensors).items()}
    held |= {f"{outer}{name}": tensors[f"pre_quant.{name}"] for name in ("weight", "bias")}
    expected = {k: v for k, v in tensors.items() if k.startswith(("encoder.", "pre_quant."))}
    named = with_published_names(held, Path("tokenizer.ckpt"))
    assert named.keys() == expected.keys()
    assert all(torch.equal(named[key], expected[key]) for key in expected)


@pytest.mark.parametrize("inner", ["", "encoder."])
def test_a_module_of_another_make_loads_from_its_file(
    inner: str, folder: Path, tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_tokenizer("seit", str(folder)).encode(images())
    held = {f"{inner}{name}": value for name, value in encoder_tensors(tensors).items()}
    held |= {f"pre_quant.{name}": tensors[f"pre_quant.{name}"] for name in ("weight", "bias")}
    pickled(folder / "tokenizer.ckpt", part(held), monkeypatch)
    assert torch.equal(load_tokenizer("seit", str(folder)).encode(images()), expected)


def test_the_yaml_of_the_model_is_checked_and_gives_the_width_of_heads(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(Half(heads=4, dim_head=16))
    tensors = random_tensors(model)
    held = {f"0.{name}": value for name, value in encoder_tensors(tensors).items()}
    held |= {f"1.{name}": tensors[f"pre_quant.{name}"] for name in ("weight", "bias")}
    pickled(folder / "tokenizer.ckpt", part(held), monkeypatch)
    config = folder / "model.yaml"
    config.write_text(yaml.safe_dump(model.yaml()))
    ids = load_tokenizer("seit", str(folder), config=str(config)).encode(images())
    rows = torch.load(folder / "codebook.ckpt")
    latents = encode(tensors, model.encoder, torch.from_numpy(images()))
    assert torch.equal(ids.flatten(1), nearest(latents, rows))
    config.write_text(yaml.safe_dump(Model(Half(depth=3)).yaml()))
    assert "encoder.depth is 3" in refusal(folder, config)


@pytest.mark.parametrize("name", ["tokenizer.ckpt", "codebook.ckpt"])
def test_a_missing_half_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    message = refusal(folder)
    assert name in message
    assert "--weights" in message


def test_nothing_given_and_nothing_cached_says_what_goes_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENSTORE_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"github\.com/naver-ai/seit.*codebook\.ckpt|seit"):
        load_tokenizer("seit")
    assert not Seit.card("seit").available


def test_a_release_in_the_cache_needs_no_naming(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = folder / "cache"
    (cache / "seit").mkdir(parents=True)
    for name in ("tokenizer.ckpt", "codebook.ckpt"):
        (folder / name).rename(cache / "seit" / name)
    monkeypatch.setenv("TOKENSTORE_CACHE", str(cache))
    assert Seit.card("seit").available
    assert tuple(load_tokenizer("seit").encode(images()).shape) == (3, 4, 4)


def test_a_full_checkpoint_in_place_of_the_encoder_is_refused(
    folder: Path, tensors: Tensors
) -> None:
    save_vit_vqgan(folder / "tokenizer.ckpt", tensors)
    assert "vit-vqgan" in refusal(folder)


def test_the_encoder_is_no_full_checkpoint(folder: Path) -> None:
    with pytest.raises(WeightsError, match="seit"):
        load_tokenizer("vit-vqgan", str(folder / "tokenizer.ckpt"))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (torch.ones(40, 17), "expected codes of 16 numbers"),
        (torch.ones(16), "expected codes of 16 numbers"),
        (torch.full((3, 16), torch.inf), "not finite"),
    ],
)
def test_a_codebook_that_does_not_fit_is_refused(
    rows: torch.Tensor, said: str, folder: Path
) -> None:
    torch.save(rows, folder / "codebook.ckpt")
    message = refusal(folder)
    assert said in message
    assert "codebook.ckpt" in message


def test_more_than_one_map_beside_the_encoder_is_refused(
    folder: Path, tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {f"0.{name}": value for name, value in encoder_tensors(tensors).items()}
    held |= {f"{number}.weight": torch.ones(16, 64) for number in (1, 2)}
    pickled(folder / "tokenizer.ckpt", part(held), monkeypatch)
    assert "2 tensors beside the encoder (1.weight, 2.weight)" in refusal(folder)


def test_a_missing_tensor_of_the_encoder_is_named(
    folder: Path, tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {f"0.{name}": value for name, value in encoder_tensors(tensors).items()}
    held |= {f"1.{name}": tensors[f"pre_quant.{name}"] for name in ("weight", "bias")}
    del held["0.transformer.layers.1.1.norm.bias"]
    pickled(folder / "tokenizer.ckpt", part(held), monkeypatch)
    assert "encoder.transformer.layers.1.1.norm.bias" in refusal(folder)
