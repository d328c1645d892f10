"""Weights that others published: timm's own, DeiT's, MAE's, and the layouts of SeiT and SeiT++."""

import argparse

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from seit_train.initial import grouped, init_weights
from seit_train.launch import train
from seit_train.models.published import translated
from seit_train.run import StoreIdentity
from tokenstore.errors import TrainingError, WeightsError

TINY = ("steps=1", "lr=1e-12", "optim.weight_decay=0", "model.width=192", "model.depth=12")
TINY = (*TINY, "model.heads=3", "model.embedding=codebook", "batch_size=8")
SMALL = ("steps=1", "lr=1e-12", "optim.weight_decay=0")


@pytest.fixture(scope="module")
def deit():
    """A ViT as timm makes it."""
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", num_classes=4).state_dict()


def small_vit(channels=3, kernel=16, side=64, classes=4, **more):
    """timm's names at a size that takes milliseconds."""
    torch.manual_seed(0)
    vit = timm.models.VisionTransformer(
        img_size=side,
        patch_size=kernel,
        in_chans=channels,
        embed_dim=32,
        depth=2,
        num_heads=2,
        num_classes=classes,
        **more,
    )
    return vit.state_dict()


def seitpp(masked, codes=16, width=32, decoder=32):
    """The layout of SeiT++'s released files, with random numbers."""
    weights = {n: w for n, w in small_vit(8, 2, 8).items() if not (masked and "head" in n)}
    weights |= {
        "token_emb.word_embeddings.weight": torch.randn(codes, 8),
        "token_emb.LayerNorm.weight": torch.randn(8),
        "token_emb.LayerNorm.bias": torch.randn(8),
        "conversion_function.0.weight": torch.randn(4, 4),
        "reverse_transform.1.weight": torch.randn(4, 4),
    }
    if masked:
        block = {n: w for n, w in weights.items() if n.startswith("blocks.0.")}
        weights |= {n.replace("blocks.0", "decoder_blocks.0"): w + 1 for n, w in block.items()}
        weights |= {
            "mask_token_label": torch.randn(1, 1, width),
            "decoder_embed.weight": torch.randn(decoder, width),
            "decoder_embed.bias": torch.randn(decoder),
            "decoder_pos_embed": torch.randn(1, 17, decoder),
            "decoder_pos_embed_learned": torch.randn(1, 17, decoder),
            "decoder_norm.weight": torch.randn(decoder),
            "decoder_norm.bias": torch.randn(decoder),
            "mlm_layer.fc.weight": torch.randn(32, decoder),
            "mlm_layer.fc.bias": torch.randn(32),
            "mlm_layer.ln.weight": torch.randn(8),
            "mlm_layer.ln.bias": torch.randn(8),
            "mlm_layer.bias": torch.randn(1, 1, codes),
        }
    return weights


def save(path, weights):
    """As training scripts save: the model among options and an epoch."""
    options = argparse.Namespace(lr=1e-3, model="vit")
    torch.save({"model": weights, "epoch": 299, "args": options}, path)
    return str(path)


def started(request_run, *words, **options):
    return load_file(train(request_run(*words, **options)).run.last / "model.safetensors")


@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_a_vit_of_timm_starts_a_classifier_of_tokens(request_run, tmp_path, caplog, deit, form):
    """Positions are interpolated, the stem is exchanged, and both are said."""
    file = tmp_path / f"deit.{form}"
    save(file, deit) if form == "pth" else save_file(deit, file)
    with caplog.at_level("INFO", logger="seit_train"):
        weights = started(request_run, "classify", *TINY, init=str(file))
    for name in ("blocks.11.mlp.fc2.weight", "norm.weight", "cls_token", "head.weight"):
        torch.testing.assert_close(weights[name], deit[name], rtol=0, atol=1e-6)
    assert weights["pos_embed"].shape == (1, 17, 192)
    assert "layout of timm's ViT" in caplog.text
    assert "interpolated or grown: pos_embed" in caplog.text
    fresh = "patch_embed.proj.bias, patch_embed.proj.weight"
    assert f"new, as they are not there or do not fit: {fresh}" in caplog.text
    assert f"not used: {fresh}" in caplog.text


def test_a_head_of_other_classes_is_new(request_run, tmp_path, caplog):
    place = save(tmp_path / "vit.pth", small_vit(classes=1000))
    with caplog.at_level("INFO", logger="seit_train"):
        weights = started(request_run, "classify", *SMALL, init=place)
    assert weights["head.weight"].shape == (4, 32)
    assert "do not fit: head.bias, head.weight, patch_embed" in caplog.text


def test_layers_that_our_vit_does_not_have_are_named(request_run, tmp_path, caplog):
    place = save(tmp_path / "deit3.pth", small_vit(init_values=0.1))
    with caplog.at_level("INFO", logger="seit_train"):
        started(request_run, "classify", *SMALL, init=place)
    assert "not used: blocks.*.ls1.gamma, blocks.*.ls2.gamma" in caplog.text


@pytest.mark.parametrize("key", ["model.depth=3", "model.width=64"])
def test_a_model_of_another_size_is_refused(request_run, tmp_path, key):
    place = save(tmp_path / "vit.pth", small_vit())
    request = request_run("classify", *SMALL, key, init=place)
    with pytest.raises(TrainingError, match="depth to theirs|same model settings"):
        train(request)
    assert not request.folder.exists()


def test_a_mean_of_patches_is_followed_by_the_norm_of_that_name():
    weights = small_vit(global_pool="avg", class_token=True)
    ours = translated(weights)
    assert "fc_norm.weight" in weights and "norm.weight" not in weights
    assert torch.equal(ours.weights["norm.weight"], weights["fc_norm.weight"])


def test_the_second_class_token_of_a_distilled_deit_goes():
    weights = small_vit() | {"dist_token": torch.zeros(1, 1, 32)}
    weights["pos_embed"] = torch.randn(1, 18, 32)
    table = translated(weights).weights["pos_embed"]
    expected = torch.cat([weights["pos_embed"][:, :1], weights["pos_embed"][:, 2:]], dim=1)
    assert torch.equal(table, expected)


def test_of_mae_the_encoder_is_taken(request_run, tmp_path, caplog):
    weights = {n: w for n, w in small_vit().items() if not n.startswith("head")}
    weights |= {"decoder_pred.weight": torch.randn(6, 5), "mask_token": torch.randn(1, 1, 5)}
    place = save(tmp_path / "mae.pth", weights)
    with caplog.at_level("INFO", logger="seit_train"):
        own = started(request_run, "mtm", *SMALL, init=place)
    assert "layout of MAE" in caplog.text
    name = "blocks.1.attn.qkv.weight"
    torch.testing.assert_close(own[f"encoder.{name}"], weights[name], rtol=0, atol=1e-6)


def test_the_layout_of_seit_starts_a_classifier_of_embedded_tokens(request_run, tmp_path, caplog):
    channels = 3  # of the toy tokenizer's codebook
    weights = small_vit(channels, 2, 8)
    place = save(tmp_path / "seit.pth", {f"module.{n}": w for n, w in weights.items()})
    with caplog.at_level("INFO", logger="seit_train"):
        own = started(request_run, "classify", *SMALL, "model.embedding=codebook", init=place)
    for name, weight in weights.items():
        torch.testing.assert_close(own[name], weight, rtol=0, atol=1e-6)
    assert "not used" not in caplog.text


def test_the_layout_of_a_fine_tuned_seitpp_keeps_its_embedding(request_run, tmp_path, caplog):
    weights = seitpp(masked=False)
    place = save(tmp_path / "seitpp.pth", weights)
    with caplog.at_level("INFO", logger="seit_train"):
        own = started(request_run, "classify", *SMALL, init=place)
    assert "taken to be those of the store" in caplog.text
    assert "not used" not in caplog.text
    for name, theirs in (
        ("patch_embed.ids.table.weight", "token_emb.word_embeddings.weight"),
        ("patch_embed.ids.norm.bias", "token_emb.LayerNorm.bias"),
        ("patch_embed.proj.weight", "patch_embed.proj.weight"),
    ):
        torch.testing.assert_close(own[name], weights[theirs], rtol=0, atol=1e-6)


def test_the_layout_of_a_masked_seitpp_goes_on_as_a_masked_model(request_run, tmp_path, caplog):
    weights = seitpp(masked=True)
    place = save(tmp_path / "mtm.pth", weights)
    with caplog.at_level("INFO", logger="seit_train"):
        own = started(request_run, "mtm", *SMALL, init=place)
    assert "not used: encoder.pos_embed" in caplog.text  # fixed in both
    for name, theirs in (
        ("mask_token", "mask_token_label"),
        ("decoder_pos_embed", "decoder_pos_embed_learned"),
        ("decoder_head.weight", "mlm_layer.fc.weight"),
        ("decoder_blocks.0.attn.qkv.weight", "decoder_blocks.0.attn.qkv.weight"),
        ("encoder.patch_embed.ids.table.weight", "token_emb.word_embeddings.weight"),
    ):
        torch.testing.assert_close(own[name], weights[theirs], rtol=0, atol=1e-6)
    assert torch.allclose(own["decoder_head_bias"], weights["mlm_layer.bias"][0, 0], atol=1e-6)


def test_a_masked_seitpp_starts_a_classifier(request_run, tmp_path):
    weights = seitpp(masked=True)
    own = started(request_run, "classify", *SMALL, init=save(tmp_path / "mtm.pth", weights))
    name = "blocks.0.mlp.fc1.weight"
    torch.testing.assert_close(own[name], weights[name], rtol=0, atol=1e-6)


def test_an_embedding_of_another_number_of_ranks_is_left_out(request_run, tmp_path, caplog):
    place = save(tmp_path / "mtm.pth", seitpp(masked=True, codes=391))
    with caplog.at_level("INFO", logger="seit_train"):
        started(request_run, "mtm", *SMALL, init=place)
    assert "embeds 391 ranks and the store has 16, so its embedding is left out" in caplog.text
    assert "encoder.patch_embed.ids.table.weight" in caplog.text


def test_a_resnet_of_timm_starts_one_of_tokens(request_run, tmp_path, caplog):
    weights = timm.create_model("resnet18", num_classes=1000).state_dict()
    words = (*SMALL, "model={backbone: resnet18}", "batch_size=8")
    with caplog.at_level("INFO", logger="seit_train"):
        own = started(request_run, "classify", *words, init=save(tmp_path / "r.pth", weights))
    name = "layer4.1.conv2.weight"
    torch.testing.assert_close(own[name], weights[name], rtol=0, atol=1e-6)
    assert "do not fit: conv1.proj.weight, fc.bias, fc.weight" in caplog.text
    assert "not used: conv1.weight, fc.bias, fc.weight" in caplog.text


def test_a_file_that_runs_code_is_refused(store, tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"model": small_vit(), "args": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="print"):
        init_weights(tmp_path / "evil.pth", StoreIdentity.of(store))


def test_a_file_of_another_network_is_refused(store, tmp_path):
    place = tmp_path / "vgg.pth"
    torch.save({"features.0.weight": torch.zeros(4, 3, 7, 7)}, place)
    with pytest.raises(TrainingError, match=r"is no published model.*'features.0.weight'"):
        init_weights(place, StoreIdentity.of(store))


def test_names_are_told_once_for_all_blocks():
    assert grouped(["blocks.0.a.b", "blocks.1.a.b", "head.bias"]) == "blocks.*.a.b, head.bias"
