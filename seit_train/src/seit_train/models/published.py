"""Published: the parameter names of checkpoints that others trained, as our models call them.

    timm's ResNets         conv1, layer1 ..., fc
    DeiT, timm's ViTs      patch_embed.proj, cls_token, pos_embed, blocks.N, norm or fc_norm, head
    MAE                    the same, and a decoder: decoder_*, with a mask token of its width
    SeiT                   timm's, with a stem for embedded tokens
    SeiT++, fine-tuned     the same, and token_emb.*
    SeiT++, masked model   the same without a head, and mask_token_label, decoder_*, mlm_layer.*

Our models have timm's names already. What is left is a function of names and tensors; files are
read elsewhere, and what fits a certain model is decided in transfer.py.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

_RESNET = "layer1.0.conv1.weight"
_VIT = "blocks.0.attn.qkv.weight"
_TOKEN_EMBEDDING = "token_emb."
_SEITPP_MASKED = "mlm_layer.fc.weight"
_MAE = "decoder_pred.weight"
# SeiT++ keeps its TokenAdapt, and the table that its decoder learnt beside a fixed one.
_LEFT_OUT = ("conversion_function.", "reverse_transform.", "decoder_pos_embed")
_RENAMED = {
    "token_emb.word_embeddings.": "patch_embed.ids.table.",
    "token_emb.LayerNorm.": "patch_embed.ids.norm.",
    "mask_token_label": "mask_token",
    "mlm_layer.fc.": "decoder_head.",
    "mlm_layer.ln.": "decoder_head_norm.",
    "mlm_layer.bias": "decoder_head_bias",
}
_OUTSIDE_ENCODER = ("mask_token", "decoder_")


class Published(NamedTuple):
    """Somebody's weights by our names, and what layout they came in.

    Attributes:
        layout: as a person would call it, for the log.
        weights: a ViT's names, or `encoder.*` and a decoder's.
    """

    layout: str
    weights: dict[str, Tensor]


def translated(weights: Mapping[str, Tensor]) -> Published | None:
    """Published weights by our names, or None where the layout is none of the known ones."""
    if _RESNET in weights:
        return Published("timm's ResNet", dict(weights))
    if _VIT not in weights:
        return None
    if _SEITPP_MASKED in weights:
        return Published("SeiT++, masked model", _seitpp_masked(weights))
    if any(name.startswith(_TOKEN_EMBEDDING) for name in weights):
        return Published("SeiT++, fine-tuned", _renamed(weights))
    if _MAE in weights:  # its decoder predicts pixels
        kept = {n: w for n, w in weights.items() if not n.startswith(_OUTSIDE_ENCODER)}
        return Published("MAE", kept)
    stem = weights.get("patch_embed.proj.weight")
    is_pixels = stem is None or stem.shape[1] == 3
    return Published("timm's ViT" if is_pixels else "SeiT", _plain_vit(weights))


def _plain_vit(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The norm behind the mean of the tokens is `norm` here; DeiT's second class token goes."""
    own = dict(weights)
    for kind in ("weight", "bias"):
        if f"fc_norm.{kind}" in own:
            own[f"norm.{kind}"] = own.pop(f"fc_norm.{kind}")
    if "dist_token" in own:
        table = own["pos_embed"]
        own["pos_embed"] = torch.cat([table[:, :1], table[:, 2:]], dim=1)
    return own


def _renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = {}
    for name, weight in weights.items():
        old = next((old for old in _RENAMED if name.startswith(old)), None)
        if old is not None:
            named[_RENAMED[old] + name.removeprefix(old)] = weight
        elif not name.startswith(_LEFT_OUT):
            named[name] = weight
    return named


def _seitpp_masked(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Encoder and decoder apart; the bias of the ranks is [1,1,K] there and [K] here."""
    own = _renamed(weights)
    learnt = weights.get("decoder_pos_embed_learned")
    if learnt is not None:
        own["decoder_pos_embed"] = learnt
    if "decoder_head_bias" in own:
        own["decoder_head_bias"] = own["decoder_head_bias"].flatten()
    return {n if n.startswith(_OUTSIDE_ENCODER) else f"encoder.{n}": w for n, w in own.items()}
