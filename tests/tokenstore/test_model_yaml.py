"""The yaml beside a checkpoint, in its three nestings, and what is no such yaml."""

import pytest

from tests.conftest import SHARED
from tokenstore.errors import WeightsError
from tokenstore.tokenizers.model_yaml import read_model_yaml

PARAMS = {"embed_dim": 4, "ddconfig": {"ch_mult": [1, 2]}}


@pytest.mark.parametrize(
    ("text", "target"),
    [
        (
            "model:\n  base_learning_rate: 1.0e-6\n  target: taming.models.vqgan.VQModel\n"
            "  params: {embed_dim: 4, ddconfig: {ch_mult: [1, 2]}}\ndata: {target: x}\n",
            "taming.models.vqgan.VQModel",
        ),
        ("target: a.VQ\nparams: {embed_dim: 4, ddconfig: {ch_mult: [1, 2]}}\n", "a.VQ"),
        ("params: {embed_dim: 4, ddconfig: {ch_mult: [1, 2]}}\n", None),
        ("model: {params: {embed_dim: 4, ddconfig: {ch_mult: [1, 2]}}}\n", None),
        ("embed_dim: 4\nddconfig: {ch_mult: [1, 2]}\n", None),
    ],
)
def test_parameters_are_found_in_every_nesting(tmp_path, text, target):
    file = tmp_path / "model.yaml"
    file.write_text(text)
    found = read_model_yaml(file)
    assert (found.file, found.target, found.params) == (file, target, PARAMS)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file holds nothing"),
        (b"- 1\n- 2\n", "the file holds a list"),
        (b"<html><body>x</body></html>", "the file holds a str"),
        (b"model: [1]\n", "'model' holds a list"),
        (b"model:\n", "'model' holds nothing"),
        (b"model: {target: a.B, params: 3}\n", "'params' holds a int"),
        (b"model: {target: a.B}\n", "no 'params' stand beside it"),
        (b"model: {target: [1], params: {}}\n", "'target' is a list"),
        (b"a: [1\n", "no plain yaml"),
        (b"a: b: c\n", "no plain yaml"),
        (b"\xff\xfe\xff", "cannot be read as yaml"),
        (b"\x00\x01", "no plain yaml"),
        (b"params: !!python/object/apply:os.system ['true']\n", "no plain yaml .*os.system"),
        (b"params: !!python/name:os.system\n", "no plain yaml .*os.system"),
        (b"[" * 100_000, "yaml"),
        (b"a: 2001-99-99\n", "no plain yaml"),
        (
            b"a0: &a0 [1, 2]\n"
            + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 60))
            + b"target: *a59\n",
            "more than 10,000 values",
        ),
        (b"&a [*a]\n", "more than 10,000 values"),
    ],
)
def test_what_is_no_such_yaml_is_refused_by_name(tmp_path, content, said):
    file = tmp_path / "model.yaml"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=said) as caught:
        read_model_yaml(file)
    assert str(file) in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(WeightsError, match="there is no file '.*absent.yaml'"):
        read_model_yaml(tmp_path / "absent.yaml")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_model_yaml(tmp_path)


@pytest.mark.parametrize("folder", ["vitvq", "vqgan_f16", "gumbel_f8", "ldm_f8", "llamagen16"])
def test_the_golden_yamls_are_read(folder):
    file = SHARED / "golden" / folder / "model.yaml"
    if not file.is_file():
        pytest.skip("needs ../shared/golden, which is not here")
    found = read_model_yaml(file)
    assert (found.target is None) == (folder == "llamagen16")
    assert {"embed_dim", "codebook_size", "quantizer"} & found.params.keys()
