"""Masks, and the encoder-decoder against a slow twin written from the description."""

import math

import pytest
import torch
from torch.nn import functional

from seit_train.models.masking import (
    MaskConfig,
    count_masked,
    draw_plan,
    fixed_plan,
    plan_of,
    ratio_at,
)
from seit_train.models.mtm import DecoderConfig, MtmModel, fill_positions, patch_ranks, take_rows
from seit_train.models.stem import IdConfig, IdEmbedding, StemAdapter
from seit_train.models.vit import TokenViT, VitConfig
from tests.toy_facts import seeded

MASKS = MaskConfig()
CODES, SIDE, POSITIONS = 40, 8, 16


def make_model(padding="class-token", dropout=0.0):
    torch.manual_seed(0)
    config = VitConfig(width=24, depth=2, heads=3, drop_path=0.0)
    stem = StemAdapter("conv2x2", 24, IdEmbedding(CODES, IdConfig(width=8, dropout=dropout), None))
    encoder = TokenViT(stem, (SIDE, SIDE), config, fixed_positions=True)
    decoder = DecoderConfig(width=12, depth=1, heads=2, dropout=dropout, padding=padding)
    return MtmModel(encoder, decoder)


def make_ranks(count, seed=1):
    return torch.randint(CODES, (count, SIDE, SIDE), generator=seeded(seed))


def as_published(shape):
    """What rejection makes of a normal distribution: the truncated one."""
    drawn = torch.empty(400_000).normal_(0.45, 0.25, generator=seeded(3))
    return drawn[(drawn >= 0.4) & (drawn <= 1.0)][:shape]


# ----------------------------------------------------------------------------------- masks


def test_ratios_follow_the_truncated_normal_distribution():
    ratios = ratio_at(torch.rand(100_000, generator=seeded(2)), MASKS).sort().values
    published = as_published(100_000).sort().values
    assert ratios.min() >= 0.4 and ratios.max() <= 1.0
    assert (ratios - published).abs().max() < 0.01


def test_the_numbers_masked_and_dropped_are_rounded_up():
    assert count_masked(0.4, 196) == 79
    assert count_masked(0.5, 16) == 8
    assert count_masked(1.0, 49) == 49


def test_a_step_masks_one_share_of_all_its_images_and_the_shares_vary():
    counts = [draw_plan((3, POSITIONS), MASKS, seeded(s)).masked.shape[1] for s in range(600)]
    expected = [math.ceil(float(r) * POSITIONS) for r in as_published(20_000)]
    assert set(counts) == set(range(7, 17))
    mean = sum(expected) / len(expected)
    assert sum(counts) / len(counts) == pytest.approx(mean, abs=0.4)


def test_dropped_positions_are_masked_and_only_masked_ones_enter_as_mask_tokens():
    for seed in range(30):
        plan = draw_plan((5, POSITIONS), MASKS, seeded(seed))
        assert plan.kept.shape == plan.hidden.shape == (5, POSITIONS - 7)
        for kept, hidden, masked in zip(*plan, strict=True):
            masked = set(masked.tolist())
            assert {p for p, h in zip(kept.tolist(), hidden, strict=True) if h} == masked & set(
                kept.tolist()
            )
            assert set(range(POSITIONS)) - set(kept.tolist()) <= masked


def test_every_position_is_masked_equally_often():
    plan = draw_plan((20_000, POSITIONS), MASKS, seeded(4))
    share = torch.bincount(plan.masked.flatten(), minlength=POSITIONS) / 20_000
    assert (share - plan.masked.shape[1] / POSITIONS).abs().max() < 0.015


def test_the_masks_of_evaluation_belong_to_the_image_and_not_to_its_batch():
    together, counts = fixed_plan(torch.arange(50), POSITIONS, MASKS)
    alone, count = fixed_plan(torch.tensor([33]), POSITIONS, MASKS)
    for all_rows, row in zip(together, alone, strict=True):
        assert torch.equal(all_rows[33], row[0])
    assert counts[33] == count[0]
    assert together.hidden[33].sum() == count[0] - 7
    assert len({tuple(order) for order in together.masked.tolist()}) == 50


def test_the_ratios_of_evaluation_cover_the_distribution_evenly():
    _, counts = fixed_plan(1000 + torch.arange(300), 196, MASKS)
    expected = ratio_at((torch.arange(300) + 0.5) / 300, MASKS) * 196
    assert (counts.sort().values - expected).abs().max() < 3


# ----------------------------------------------------------------------------------- model


def slow_logits(model, ranks, plan):
    """The description in seit.md, one image and one position at a time."""
    state, encoder, images = dict(model.named_parameters()), model.encoder, []
    table = state["encoder.patch_embed.ids.table.weight"]
    kernel, bias = encoder.patch_embed.proj.weight, encoder.patch_embed.proj.bias
    for image, (kept, hidden, masked) in enumerate(zip(*plan, strict=True)):
        rows = [encoder.cls_token[0, 0] + encoder.pos_embed[0, 0]]
        for position, is_hidden in zip(kept.tolist(), hidden.tolist(), strict=True):
            y, x = 2 * (position // 4), 2 * (position % 4)
            ids = encoder.patch_embed.ids.norm(table[ranks[image, y : y + 2, x : x + 2]])
            patch = torch.einsum("yxd,cdyx->c", ids, kernel) + bias
            patch = model.mask_token[0, 0] if is_hidden else patch
            rows.append(patch + encoder.pos_embed[0, 1 + position])
        encoded = torch.stack(rows)[None]
        for block in encoder.blocks:
            encoded = block(encoded)
        narrow = model.decoder_embed(encoder.norm(encoded))[0]
        pad = model.pad_token[0, 0] if hasattr(model, "pad_token") else narrow[0]
        places = [narrow[0]] + [pad] * POSITIONS
        for number, position in enumerate(kept.tolist()):
            places[1 + position] = narrow[1 + number]
        decoded = (torch.stack(places) + model.decoder_pos_embed[0])[None]
        for block in model.decoder_blocks:
            decoded = block(decoded)
        decoded = model.decoder_norm(decoded)[0, 1:]
        vectors = model.decoder_head(decoded).view(4, 4, 2, 2, 8)  # un-patch to the id grid
        vectors = vectors.permute(0, 2, 1, 3, 4).reshape(8, 8, 8)
        logits = (
            model.decoder_head_norm(functional.gelu(vectors)) @ table.T + model.decoder_head_bias
        )
        images.append(
            [
                logits[2 * (p // 4) : 2 * (p // 4) + 2, 2 * (p % 4) : 2 * (p % 4) + 2].reshape(
                    4, CODES
                )
                for p in masked.tolist()
            ]
        )
    return torch.stack([torch.stack(image) for image in images])


@pytest.mark.parametrize("padding", ["class-token", "learned"])
def test_logits_equal_those_of_the_slow_twin(padding):
    model, ranks = make_model(padding).eval(), make_ranks(3)
    plan = draw_plan((3, POSITIONS), MASKS, seeded(5))
    with torch.no_grad():
        assert torch.allclose(model(ranks, plan), slow_logits(model, ranks, plan), atol=1e-5)


def test_the_encoder_sees_the_class_token_and_the_kept_positions_at_any_ratio():
    model, lengths = make_model(), []
    model.encoder.blocks[0].register_forward_hook(
        lambda module, inputs, output: lengths.append(inputs[0].shape[1])
    )
    for seed in range(5):
        model(make_ranks(2), draw_plan((2, POSITIONS), MASKS, seeded(seed)))
    assert lengths == [1 + POSITIONS - 7] * 5


def test_ranks_under_the_mask_change_no_prediction_and_seen_ones_do():
    model, ranks = make_model().eval(), make_ranks(1)
    plan = plan_of(torch.randperm(POSITIONS, generator=seeded(6))[None], torch.tensor([[9]]), 7)
    plan = plan._replace(masked=plan.masked[:, :9])
    before = model(ranks, plan)
    for position in range(POSITIONS):
        other = ranks.clone()
        y, x = 2 * (position // 4), 2 * (position % 4)
        other[0, y : y + 2, x : x + 2] = (other[0, y : y + 2, x : x + 2] + 1) % CODES
        same = torch.equal(model(other, plan), before)
        assert same == (position in plan.masked[0].tolist())


def test_everything_that_should_learn_gets_a_gradient():
    for padding in ("class-token", "learned"):
        model, ranks = make_model(padding), make_ranks(4)
        plan = draw_plan((4, POSITIONS), MASKS, seeded(7))
        model(ranks, plan).logsumexp(dim=-1).sum().backward()
        lacking = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert lacking == []


def test_the_id_table_learns_as_an_input_and_not_as_an_output():
    model, ranks = make_model(), make_ranks(2)
    order = torch.arange(POSITIONS).expand(2, -1)
    everything = plan_of(order, torch.tensor([[POSITIONS], [POSITIONS]]), 7)
    model(ranks, everything).sum().backward()  # all is masked: nothing enters through the table
    assert not model.encoder.patch_embed.ids.table.weight.grad.any()


def test_the_encoder_has_the_parameter_names_of_the_classifiers_vit():
    model = make_model()
    config = VitConfig(width=24, depth=2, heads=3)
    vit = TokenViT(
        StemAdapter("conv2x2", 24, IdEmbedding(CODES, IdConfig(width=8), None)),
        (SIDE, SIDE),
        config,
    )
    encoder = {n.removeprefix("encoder.") for n in model.state_dict() if n.startswith("encoder.")}
    assert encoder == set(vit.state_dict())


def test_patches_list_their_ranks_row_by_row():
    ranks = torch.arange(16).view(1, 4, 4)
    assert patch_ranks(ranks, 2)[0].tolist() == [
        [0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]
    ]  # fmt: skip
    assert patch_ranks(ranks, 1)[0, :, 0].tolist() == list(range(16))


def test_rows_are_taken_and_put_back_in_their_places():
    rows = torch.randn(2, 6, 3, generator=seeded(8))
    kept = torch.tensor([[4, 0, 1], [2, 3, 5]])
    taken = take_rows(rows, kept)
    assert torch.equal(taken[0, 0], rows[0, 4]) and torch.equal(taken[1, 2], rows[1, 5])
    first, pad = torch.full((2, 1, 3), 7.0), torch.full((1, 1, 3), -1.0)
    filled = fill_positions(torch.cat([first, taken], dim=1), pad, kept, 6)
    assert torch.equal(take_rows(filled, 1 + kept), taken)
    assert torch.equal(filled[:, 0], first[:, 0])
    assert torch.equal(filled[0, [3, 4, 6]], pad[0].expand(3, 3))
