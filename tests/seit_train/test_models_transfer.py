"""Weights that go over, grow, are interpolated, or are refused."""

import pytest
import torch
from timm.layers import resample_abs_pos_embed

from seit_train.models.stem import IdConfig, IdEmbedding, StemAdapter
from seit_train.models.transfer import transfer
from seit_train.models.vit import TokenViT, VitConfig
from tokenstore.errors import TrainingError


def make_vit(seed, side=(8, 8), width=24, codes=40):
    torch.manual_seed(seed)
    stem = StemAdapter("conv2x2", width, IdEmbedding(codes, IdConfig(width=6), None))
    return TokenViT(stem, side, VitConfig(width=width, depth=2, heads=3), classes=3)


def test_equal_models_take_over_everything():
    model, donor = make_vit(0), make_vit(1)
    report = transfer(model, donor.state_dict(), model.positions)
    assert set(report.loaded) == set(model.state_dict())
    assert not report.resized and not report.new and not report.unused
    state = donor.state_dict()
    assert all(torch.equal(weight, state[name]) for name, weight in model.state_dict().items())


def test_positions_of_another_grid_are_interpolated():
    model, donor = make_vit(0, side=(16, 8)), make_vit(1, side=(8, 4))
    report = transfer(model, donor.state_dict(), model.positions)
    assert report.resized == ["pos_embed"]
    expected = resample_abs_pos_embed(donor.pos_embed, [8, 4], [4, 2])
    assert torch.equal(model.pos_embed, expected)


def test_a_grown_vocabulary_keeps_its_old_rows_and_adds_fresh_ones():
    model, donor = make_vit(0, codes=45), make_vit(1, codes=40)
    fresh = model.patch_embed.ids.table.weight[40:].clone()
    report = transfer(model, donor.state_dict(), model.positions)
    assert report.resized == ["patch_embed.ids.table.weight"]
    assert torch.equal(model.patch_embed.ids.table.weight[:40], donor.patch_embed.ids.table.weight)
    assert torch.equal(model.patch_embed.ids.table.weight[40:], fresh)


def test_what_is_kept_fresh_or_has_no_partner_is_reported():
    model, donor = make_vit(0), make_vit(1)
    head = model.head.weight.clone()
    weights = {n: w for n, w in donor.state_dict().items() if n != "cls_token"}
    report = transfer(model, {**weights, "decoder": head}, model.positions, fresh=("head.",))
    assert report.new == ["cls_token", "head.bias", "head.weight"]
    assert report.unused == ["decoder", "head.bias", "head.weight"]
    assert torch.equal(model.head.weight, head)


@pytest.mark.parametrize(
    ("donor", "words"),
    [
        (
            {"width": 48},
            "to start from has shape",
        ),
        ({"codes": 41}, "patch_embed.ids.table.weight"),
        ({"side": (6, 14)}, "no grid in the proportions of 4x4"),
    ],
)
def test_a_shape_that_differs_otherwise_is_refused(donor, words):
    model = make_vit(0)
    with pytest.raises(TrainingError, match=words):
        transfer(model, make_vit(1, **donor).state_dict(), model.positions)


def test_weights_of_which_none_fits_are_refused():
    with pytest.raises(TrainingError, match="none of the 1 weights"):
        transfer(make_vit(0), {"conv1.weight": torch.zeros(1)}, (4, 4))
