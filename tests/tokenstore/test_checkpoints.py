"""Checkpoints in the forms that trainers write, down to the model's tensors by their own names."""

import argparse
import json
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.conftest import SHARED
from tokenstore.errors import WeightsError
from tokenstore.tokenizers.checkpoints import (
    Checkpoint,
    family_of,
    fill_module,
    read_checkpoint,
    read_tensor,
    require_family,
    sha256_of,
)

TENSORS = {
    "encoder.weight": torch.arange(6.0).view(2, 3),
    "encoder.bias": torch.arange(3.0),
    "used": torch.tensor([5, 2**40]),
}

NOT_OURS = {
    "loss.discriminator.main.0.weight": torch.zeros(4),
    "model_ema.encoderweight": torch.zeros(2, 3),
    "discriminator.weight": torch.zeros(1),
    "quantize.codebook_used": torch.zeros(9),
    "colorize": torch.zeros(3, 1, 1, 1),
}


def assert_same(found, expected=TENSORS):
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def saved(file, content, zipped):
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file


def prefixed(prefix):
    return {f"{prefix}{name}": tensor for name, tensor in TENSORS.items()}


NESTED = {
    "bare": TENSORS,
    "an OrderedDict with the metadata of a module": OrderedDict(TENSORS),
    "Lightning": {
        "epoch": 3,
        "state_dict": {**TENSORS, **NOT_OURS},
        "optimizer_states": [{"state": {0: {"step": 1, "exp_avg": torch.ones(6)}}}],
    },
    "LlamaGen": {
        "ema": TENSORS,
        "model": {"encoder.weight": torch.ones(1)},
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]},
        "args": argparse.Namespace(vq_model="VQ-16", path=Path("/data")),
        "steps": 7,
    },
    "no ema": {"ema": None, "model": TENSORS, "discriminator": {"w": torch.ones(1)}},
    "an empty ema": {"ema": {}, "model": TENSORS},
    "nested twice": {"model": {"state_dict": TENSORS}},
    "DistributedDataParallel": {"state_dict": prefixed("module.")},
    "torch.compile": prefixed("_orig_mod."),
    "both": prefixed("module._orig_mod."),
    "a compiled part": {n.replace("encoder.", "encoder._orig_mod."): t for n, t in TENSORS.items()},
    "a latent diffusion model": {
        "state_dict": {
            "model.diffusion_model.out.weight": torch.ones(3),
            "betas": torch.ones(1000),
            **prefixed("first_stage_model."),
            "first_stage_model.loss.logvar": torch.ones(1),
        }
    },
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("nesting", NESTED)
def test_the_model_is_found_in_every_nesting(tmp_path, nesting, zipped):
    file = saved(tmp_path / "x.ckpt", NESTED[nesting], zipped)
    checkpoint = read_checkpoint(file)
    assert_same(checkpoint.tensors)
    assert checkpoint.file == file
    assert checkpoint.sha256 == sha256_of(file)


def test_a_file_that_torch_wrote_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(TENSORS, tmp_path / "x.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same(read_checkpoint(tmp_path / "x.pt").tensors)


def test_safetensors_are_read_whatever_their_name(tmp_path):
    for name in ("x.safetensors", "x.ckpt"):
        save_file({**prefixed("module."), "module.loss.w": torch.ones(1)}, tmp_path / name)
        assert_same(
            dict(sorted(read_checkpoint(tmp_path / name).tensors.items())),
            dict(sorted(TENSORS.items())),
        )


@pytest.mark.parametrize("zipped", [True, False])
def test_state_dicts_of_modules_and_views_keep_their_values(tmp_path, zipped):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    base = torch.arange(24.0)
    content = {
        **module.state_dict(),
        "transposed": base.view(4, 6).t(),
        "part": base[5:9],
        "tied": base.view(4, 6)[1:3, ::2],
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "flags": torch.tensor([True, False]),
    }
    assert_same(read_checkpoint(saved(tmp_path / "x.pt", content, zipped)).tensors, content)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_any_width_become_float32(tmp_path, dtype, zipped):
    values = torch.tensor([0.5, -1.25, 3.0], dtype=dtype)
    file = saved(tmp_path / "x.pt", {"w": values, "n": torch.tensor(1, dtype=torch.int32)}, zipped)
    tensors = read_checkpoint(file).tensors
    assert torch.equal(tensors["w"], values.float())
    assert tensors["n"].dtype == torch.int32


def test_numbers_and_random_states_beside_the_model_are_passed_over(tmp_path):
    content = {
        "state_dict": TENSORS,
        "best": np.float64(0.25),
        "numpy": np.arange(3),
        "random": np.random.default_rng(0),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "set": {1, 2},
        "sparse": torch.eye(2).to_sparse(),
        "activation": nn.functional.relu,
    }
    assert_same(read_checkpoint(saved(tmp_path / "x.pt", content, True)).tensors)


@pytest.fixture
def foreign(monkeypatch):
    """Classes of a package that is gone when the file is read."""
    package = types.ModuleType("foreign_package")
    source = """
import torch
from torch import nn

class ModelCheckpoint:
    pass

class Attributes(dict):
    pass

class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.arange(4.0), requires_grad=False)
        self.proj = nn.Linear(3, 2)
        self.none = nn.Linear(2, 2, bias=False)
        self.register_buffer("statistics", torch.ones(2))
        self.register_buffer("passing", torch.ones(2), persistent=False)
        self.settings = Attributes(depth=2)
        self.again = self.proj
"""
    exec(source, package.__dict__)
    for value in vars(package).values():
        if isinstance(value, type):
            value.__module__ = "foreign_package"
    monkeypatch.setitem(sys.modules, "foreign_package", package)
    yield package
    monkeypatch.delitem(sys.modules, "foreign_package", raising=False)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_a_pickled_module_of_an_absent_package_has_its_state_dicts_names(
    tmp_path, foreign, monkeypatch, zipped
):
    module = nn.Sequential(foreign.Encoder(), nn.Linear(2, 5))
    expected = module.state_dict()
    file = saved(tmp_path / "x.ckpt", module, zipped)
    wrapped = saved(tmp_path / "y.ckpt", {"model": nn.DataParallel(module)}, zipped)
    monkeypatch.delitem(sys.modules, "foreign_package")
    for one in (file, wrapped):
        assert_same(read_checkpoint(one).tensors, dict(expected))


@pytest.mark.parametrize("zipped", [True, False])
def test_lightnings_old_callbacks_keyed_by_a_class_are_passed_over(
    tmp_path, foreign, monkeypatch, zipped
):
    content = {
        "callbacks": {foreign.ModelCheckpoint: {"best": 0.5}},
        "hyper_parameters": foreign.Attributes(depth=2),
        "state_dict": foreign.Attributes(TENSORS),
    }
    file = saved(tmp_path / "x.ckpt", content, zipped)
    monkeypatch.delitem(sys.modules, "foreign_package")
    assert_same(read_checkpoint(file).tensors)


def test_a_module_that_holds_itself_is_refused(tmp_path):
    module = nn.Linear(1, 1)
    module._modules["again"] = module
    torch.save(module, tmp_path / "x.ckpt")
    with pytest.raises(WeightsError, match="endless parts"):
        read_checkpoint(tmp_path / "x.ckpt")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_bare_tensor_is_read_as_such_and_is_no_checkpoint(tmp_path, zipped):
    for value in (torch.arange(6.0).view(3, 2), nn.Parameter(torch.ones(3, 2))):
        file = saved(tmp_path / "codebook.ckpt", value, zipped)
        assert torch.equal(read_tensor(file), value)
        with pytest.raises(WeightsError, match=r"one bare tensor \[3, 2\]"):
            read_checkpoint(file)


def test_a_checkpoint_is_no_bare_tensor(tmp_path):
    for file in (saved(tmp_path / "x.pt", TENSORS, True), tmp_path / "x.safetensors"):
        if not file.exists():
            save_file(TENSORS, file)
        with pytest.raises(WeightsError, match="no bare tensor"):
            read_tensor(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "0 entries"),
        ({"epoch": 1, "weights": {"w": torch.ones(1)}}, "2 entries .'epoch', 'weights'."),
        ([torch.ones(1)], "other data"),
        ({"state_dict": {"loss.w": torch.ones(1)}}, "no tensors of a model"),
        ({"w": torch.ones(1), "epoch": 1}, "'epoch' is no plain tensor but int"),
        ({"a": torch.ones(1), "w": torch.eye(2).to_sparse()}, "_rebuild_sparse_tensor"),
    ],
)
def test_a_file_without_a_plain_model_says_what_it_holds(tmp_path, content, said):
    file = saved(tmp_path / "x.pt", content, True)
    with pytest.raises(WeightsError, match=said):
        read_checkpoint(file)


def test_what_is_dropped_is_not_read_either(tmp_path):
    torch.save({"state_dict": {**TENSORS, "loss.w": torch.full((999,), 7.0)}}, tmp_path / "x.pt")
    whole = (tmp_path / "x.pt").read_bytes()
    numbers = torch.full((999,), 7.0).numpy().tobytes()
    assert whole.count(numbers) == 1
    (tmp_path / "x.pt").write_bytes(whole.replace(numbers, b"\1" * len(numbers)))  # CRC is wrong
    assert_same(read_checkpoint(tmp_path / "x.pt").tensors)


def module_and_tensors():
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    return module, {name: torch.randn(value.shape) for name, value in module.state_dict().items()}


def test_a_module_is_filled_on_the_cpu_and_on_the_meta_device():
    module, tensors = module_and_tensors()
    with torch.device("meta"):
        empty, _ = module_and_tensors()
    for one in (module, empty):
        fill_module(one, tensors, Path("x.ckpt"))
        assert_same(dict(one.state_dict()), tensors)
    fill_module(module, {name: value.half() for name, value in tensors.items()}, Path("x.ckpt"))
    assert module[0].weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"0.bias": None}, r"lacks '0.bias' \(1 tensors missing, 0 unknown\)"),
        (
            dict.fromkeys(("0.weight", "0.bias", "1.weight", "1.bias")),
            r"lacks '0.weight', '0.bias', '1.weight' \(4 ",
        ),
        ({"head": torch.ones(1)}, r"has an unknown 'head' \(0 tensors missing, 1 unknown\)"),
        ({"0.bias": None, "a": torch.ones(1)}, r"\(1 tensors missing, 1 unknown: 'a'\)"),
        ({"1.bias": torch.ones(5)}, r"tensor '1.bias' is \[5\], expected \[4\]"),
        (
            {"1.bias": torch.tensor([0, 0, torch.nan, 0])},
            "'1.bias' holds values that are not finite",
        ),
        ({"1.bias": torch.full((4,), -torch.inf)}, "'1.bias' holds values that are not finite"),
    ],
)
def test_tensors_that_do_not_fit_are_named(changes, said):
    module, tensors = module_and_tensors()
    tensors = {n: t for n, t in (tensors | changes).items() if t is not None}
    with pytest.raises(WeightsError, match=said) as caught:
        fill_module(module, tensors, Path("some.ckpt"))
    assert "'some.ckpt'" in str(caught.value)


@pytest.mark.parametrize(
    ("folder", "file", "family"),
    [
        ("vitvq", "imagenet_vitvq_small_golden.ckpt", "vit-vqgan"),
        ("vqgan_f16", "last.ckpt", "vqgan"),
        ("gumbel_f8", "last.ckpt", "vqgan-gumbel"),
        ("ldm_f8", "model.ckpt", "vqgan"),
        ("llamagen16", "vq_model.pt", "llamagen"),
        ("seit", "tokenizer.ckpt", "seit encoder"),
    ],
)
def test_the_golden_checkpoints_are_read_and_their_family_is_known(folder, file, family):
    golden = SHARED / "golden" / folder
    if not golden.is_dir():
        pytest.skip("needs ../shared/golden, which is not here")
    checkpoint = read_checkpoint(golden / file)
    assert family_of(checkpoint.tensors) == family
    require_family(checkpoint, family, "any")
    codebook = {
        **dict.fromkeys(("vqgan_f16", "ldm_f8", "llamagen16"), "quantize.embedding.weight"),
        **{"vitvq": "quantizer.embedding.weight", "gumbel_f8": "quantize.embed.weight"},
    }.get(folder)
    if codebook:
        expected = np.load(golden / "codebook.npy")
        assert np.array_equal(checkpoint.tensors[codebook].numpy(), expected)
    assert not [name for name in checkpoint.tensors if name.startswith("loss.")]


def test_seits_golden_codebook_is_a_bare_tensor():
    golden = SHARED / "golden" / "seit"
    if not golden.is_dir():
        pytest.skip("needs ../shared/golden, which is not here")
    found = read_tensor(golden / "codebook.ckpt").numpy()
    assert np.array_equal(found, np.load(golden / "codebook.npy"))


FULL_SIZE = SHARED / "reference" / "full_size_keys.json"


@pytest.mark.skipif(not FULL_SIZE.is_file(), reason="needs ../shared/reference, which is not here")
def test_the_family_of_every_full_size_model_is_known():
    for name, entry in json.loads(FULL_SIZE.read_text()).items():
        keys = entry.get("keys", entry)
        tensors = {key: torch.empty(0) for key in keys}
        words = {"vitvq": "vit-vqgan", "gumbel": "vqgan-gumbel", "llamagen": "llamagen"}
        expected = next((f for word, f in words.items() if word in name.lower()), "vqgan")
        assert family_of(tensors) == expected, name


def test_another_family_is_refused_by_name():
    held = {"encoder.conv_blocks.0.res.0.norm1.weight": torch.ones(1)}
    checkpoint = Checkpoint(Path("vq_ds16_c2i.pt"), "0", held)
    with pytest.raises(
        WeightsError, match="'vq_ds16_c2i.pt' holds a llamagen model, not vit-vqgan"
    ):
        require_family(checkpoint, "vit-vqgan", "vit-vqgan")
    unknown = Checkpoint(Path("x.pt"), "0", {"fc.weight": torch.ones(1)})
    with pytest.raises(WeightsError, match="no tokenizer known here .it begins with fc.weight"):
        require_family(unknown, "vqgan", "vqgan-f16-1024")
