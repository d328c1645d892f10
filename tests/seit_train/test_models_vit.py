"""The token ViT against timm's, and its stem."""

import pytest
import torch
from pydantic import ValidationError
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay

from seit_train.models.mtm import DecoderConfig
from seit_train.models.stem import IdConfig, IdEmbedding, StemAdapter, count_positions
from seit_train.models.vit import (
    DeviceAttention,
    TokenViT,
    VitConfig,
    layer_of,
    sincos_positions,
)
from tests.toy_facts import seeded
from tokenstore.errors import TrainingError

SMALL = VitConfig(width=24, depth=3, heads=3, drop_path=0.0)


def make_vit(stem="conv2x2", side=8, config=SMALL, **options):
    torch.manual_seed(0)
    return TokenViT(StemAdapter(stem, config.width, 5), (side, side), config, **options)


def timm_twin(model, side=8, classes=4):
    """timm's own ViT with the same weights: mean of the patch tokens, then its norm."""
    twin = VisionTransformer(
        side, 2, 5, classes, global_pool="avg", embed_dim=24, depth=3, num_heads=3
    )
    renamed = {name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: weight
               for name, weight in model.state_dict().items()}  # fmt: skip
    twin.load_state_dict(renamed)
    return twin.eval()


@pytest.mark.parametrize(
    ("width", "heads", "published"),  # DeiT's numbers, which are timm's
    [(192, 3, 5_717_416), (384, 6, 22_050_664), (768, 12, 86_567_656)],
)
def test_published_sizes_have_the_published_number_of_parameters(width, heads, published):
    config = VitConfig(width=width, depth=12, heads=heads)
    with torch.device("meta"):
        stem = StemAdapter("conv4x4", config.width, 32)
        model = TokenViT(stem, (28, 28), config, classes=1000)
    ours = sum(p.numel() for p in model.parameters())
    pixel_stem, token_stem = 3 * 16 * 16, 32 * 4 * 4  # inputs of a token; biases are the same
    assert ours == published + (token_stem - pixel_stem) * config.width


def test_it_computes_what_timms_vit_computes():
    model = make_vit(classes=4).eval()
    grid = torch.randn(3, 5, 8, 8, generator=seeded(1))
    with torch.no_grad():
        assert torch.allclose(model(grid), timm_twin(model)(grid), atol=1e-6)


def test_attention_is_the_same_with_and_without_gradients():
    attention = DeviceAttention(24, 3, qkv_bias=True)
    tokens = torch.randn(2, 9, 24, generator=seeded(2))
    with torch.no_grad():
        fused = attention(tokens)
    assert torch.allclose(attention(tokens), fused, atol=1e-6)


def test_layers_are_grouped_for_layer_decay_as_timm_groups_them():
    twin = VisionTransformer(8, 2, 5, 4, embed_dim=24, depth=3, num_heads=3)
    groups = param_groups_layer_decay(twin, layer_decay=0.5)
    scale_of = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    for name, parameter in twin.named_parameters():
        assert scale_of[id(parameter)] == 0.5 ** (4 - layer_of(name, depth=3)), name


def test_every_parameter_gets_a_gradient():
    model = make_vit(classes=4)
    model(torch.randn(2, 5, 8, 8, generator=seeded(3))).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_fixed_positions_do_not_train_but_are_saved():
    model = make_vit(fixed_positions=True)
    assert "pos_embed" in model.state_dict()
    assert "pos_embed" not in dict(model.named_parameters())


def test_sincos_positions_differ_everywhere_and_leave_the_class_token_alone():
    table = sincos_positions((3, 5), 24)[0]
    assert table[0].count_nonzero() == 0
    assert torch.cdist(table, table).fill_diagonal_(1).min() > 0.1


@pytest.mark.parametrize(
    ("stem", "grid", "positions"),
    [
        ("conv4x4", (28, 28), (14, 14)),
        ("conv2x2", (28, 32), (14, 16)),
        ("conv2x2-stride1", (15, 15), (14, 14)),
        ("linear", (14, 14), (14, 14)),
    ],
)
def test_a_stem_makes_as_many_tokens_as_it_says(stem, grid, positions):
    assert count_positions(stem, grid) == positions
    tokens = StemAdapter(stem, 24, 5)(torch.zeros(2, 5, *grid))
    assert tokens.shape == (2, positions[0] * positions[1], 24)


@pytest.mark.parametrize(
    ("stem", "grid", "fits"),
    [
        ("conv2x2", (7, 8), [(6, 8), (8, 10)]),
        ("conv4x4", (9, 9), [(8, 8), (10, 10)]),
        ("patch16", (100, 8), [(96, 16), (112, 32)]),
    ],
)
def test_a_stem_that_leaves_a_row_out_is_refused_with_sizes_that_fit(stem, grid, fits):
    told = " or ".join(f"{rows}x{columns}" for rows, columns in fits)
    with pytest.raises(TrainingError, match=f"does not cover a grid of .* evenly; {told} would"):
        count_positions(stem, grid)
    assert all(count_positions(stem, size) for size in fits)


@pytest.mark.parametrize(("width", "heads"), [(24, 5), (30, 3)])
@pytest.mark.parametrize("kind", [VitConfig, DecoderConfig])
def test_a_width_that_cannot_be_divided_is_refused(kind, width, heads):
    with pytest.raises(ValidationError, match=f"width {width} must be a multiple of 4 and"):
        kind(width=width, heads=heads)


def test_learned_positions_start_from_the_sincos_table():
    assert torch.equal(make_vit().pos_embed, make_vit(fixed_positions=True).pos_embed)


def test_an_id_embedding_gives_a_rank_the_same_vector_everywhere():
    embedding = IdEmbedding(40, IdConfig(width=6, dropout=0.0), None)
    grid = embedding(torch.tensor([[[7, 8], [9, 7]]]))
    assert torch.equal(grid[0, :, 0, 0], grid[0, :, 1, 1])
    assert torch.allclose(grid.mean(dim=1), torch.zeros(1, 2, 2), atol=1e-6)


@pytest.mark.parametrize("width", [5, 8])
def test_a_table_that_starts_from_the_codebook_keeps_its_distances(width):
    rows = torch.randn(40, 5, generator=seeded(4)) + 3
    table = IdEmbedding(40, IdConfig(width=width, start="codebook"), rows).table.weight.detach()
    assert table.norm(dim=1).mean().item() == pytest.approx(1, abs=1e-5)
    ratio = torch.pdist(table) / torch.pdist(rows)
    assert torch.allclose(ratio, ratio[0].expand_as(ratio), atol=1e-5)


def test_a_table_without_a_codebook_to_start_from_starts_at_random():
    tables = []
    for start in ("codebook", "random"):
        torch.manual_seed(0)
        tables.append(IdEmbedding(40, IdConfig(start=start), None).table.weight)
    assert torch.equal(*tables)
