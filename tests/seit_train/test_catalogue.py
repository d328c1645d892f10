"""The models of the papers have as many parameters as the papers say."""

import json
import re

import pytest
from click.testing import CliRunner

from seit_train.catalogue import CATALOGUE, build, sizes
from seit_train.cli.main import main

SIZES = {entry.name: size for entry, size in sizes()}
# timm's counts of the pixel models, which are DeiT's (Table 1: 5, 22, 86 M), ViT's (Table 1: 307 M
# with the head that it is trained with) and those of the ResNets; the head is for 1,000 classes.
PIXEL_VITS = {
    "vit-Ti": (5_717_416, 192),
    "vit-S": (22_050_664, 384),
    "vit-B": (86_567_656, 768),
    "vit-L": (304_326_632, 1024),
}
PIXEL_RESNETS = {"resnet18": 11_689_512, "resnet50": 25_557_032}


@pytest.mark.parametrize("name", PIXEL_VITS)
def test_a_vit_has_the_published_parameters_but_for_its_stem(name):
    published, width = PIXEL_VITS[name]
    pixel_stem, token_stem = 3 * 16 * 16, 32 * 4 * 4  # inputs of a token; biases are the same
    assert SIZES[name].trained == published + (token_stem - pixel_stem) * width
    assert SIZES[name].kept == SIZES[name].trained - 1000 * (width + 1)


@pytest.mark.parametrize("name", PIXEL_RESNETS)
def test_a_resnet_has_the_published_parameters_but_for_its_stem(name):
    pixel_stem, token_stem = 3 * 7 * 7 * 64, 32 * 4 * 4 * 64
    assert SIZES[name].trained == PIXEL_RESNETS[name] + token_stem - pixel_stem


def test_token_adapt_has_about_the_3_7_million_of_the_paper():
    """The paper does not say what it counts, and we build for 391 codes of 32 numbers."""
    assert SIZES["token_adapt"].trained == pytest.approx(3.7e6, rel=0.03)


def block(width):
    """Parameters of a transformer block: attention, MLP, two norms."""
    return 4 * width * width + 4 * width + 8 * width * width + 5 * width + 4 * width


def mtm(encoder_width, encoder_depth, decoder_width, decoder_depth, ids=32, codes=391):
    """Encoder and decoder as seit.md and ssl.md describe them, counted by hand."""
    encoder = encoder_depth * block(encoder_width) + 2 * encoder_width  # blocks, norm
    encoder += codes * ids + 2 * ids  # id embedding: table, norm
    encoder += 4 * ids * encoder_width + encoder_width  # 2x2 stem
    encoder += 2 * encoder_width  # class and mask token
    decoder = encoder_width * decoder_width + decoder_width + 197 * decoder_width
    decoder += decoder_depth * block(decoder_width) + 2 * decoder_width
    decoder += decoder_width * 4 * ids + 4 * ids + 2 * ids + codes
    return encoder + decoder


def test_masked_models_are_made_of_the_parts_that_the_papers_name():
    assert SIZES["mtm-S"].trained == mtm(384, 12, 512, 4)
    assert SIZES["mtm-B"].trained == mtm(768, 12, 512, 4)
    assert SIZES["mage-B"].trained == mtm(768, 12, 768, 8)


@pytest.mark.parametrize(("size", "width"), [("S", 384), ("B", 768), ("L", 1024)])
def test_lut_adds_two_mlps_of_4096_without_biases(size, width):
    depth = 24 if size == "L" else 12
    norms = 2 * 2 * 4096
    mlps = width * 4096 + 4096 * 256 + 256 * 4096 + 4096 * 256
    assert SIZES[f"lut-{size}"].trained == mtm(width, depth, 512, 4) + mlps + norms


def test_the_encoder_that_is_kept_is_the_same_for_every_method():
    assert len({SIZES[n].kept for n in ("mtm-B", "lut-B", "simmim-B", "mage-B", "mage-c-B")}) == 1


def test_the_docstring_of_every_model_names_its_paper_and_the_place_in_it():
    kinds = set()
    for entry in CATALOGUE:
        model = build(entry)
        model = getattr(model, "adapter", model)
        parts = (getattr(model, name, None) for name in ("encoder", "context", "patch_embed"))
        kinds |= {type(part) for part in (model, *parts)}
    kinds = {kind for kind in kinds if kind.__module__.startswith("seit_train.")}
    lacking = {
        kind.__name__
        for kind in kinds
        if not re.search(r"arXiv \d{4}\.\d{5}", kind.__doc__)
        or not re.search(r"section \d|Table \d", kind.__doc__)
    }
    assert len(kinds) >= 8 and not lacking


def test_models_are_laid_out_without_memory():
    assert all(p.device.type == "meta" for p in build(CATALOGUE[3]).parameters())


def test_the_command_lists_them_with_their_parameters():
    listed = CliRunner().invoke(main, ["models", "--json"])
    assert listed.exit_code == 0
    found = {row["name"]: row for row in json.loads(listed.stdout)}
    assert found["vit-B"]["trained"] == SIZES["vit-B"].trained
    assert found["lut-S"]["settings"]["method"] == "lut"
    table = CliRunner().invoke(main, ["models"]).stdout.splitlines()
    assert len(table) == 1 + len(CATALOGUE) and "86.4 M" in table[3]
