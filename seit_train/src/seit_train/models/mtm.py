"""The encoder-decoder of masked token modelling (SeiT++ section 3.1 and appendix, after MAGE).

The encoder is the token ViT with an id embedding in its stem; it sees the kept positions only. A
small decoder gets its output back in place, fills the dropped positions, and predicts the ranks
of the masked ones by comparison with the id embedding. Masks are drawn elsewhere; so is the loss.
"""

from typing import Annotated, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from timm.layers import LayerNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from seit_train.models.masking import MaskPlan
from seit_train.models.stem import STEMS
from seit_train.models.vit import (
    DeviceAttention,
    TokenViT,
    init_transformer,
    refuse_uneven,
    sincos_positions,
)

_Positive = Annotated[int, Field(gt=0)]


class DecoderConfig(BaseModel):
    """Size of the decoder.

    Attributes:
        width: channels.
        depth: blocks.
        heads: attention heads of a block.
        dropout: on attention weights and on the outputs of attention and MLP.
        padding: what stands at dropped positions: the encoder's class-token output (published
            code) or one learned vector (paper).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: _Positive = 512
    depth: _Positive = 4
    heads: _Positive = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    padding: Literal["class-token", "learned"] = "class-token"

    @model_validator(mode="after")
    def _divides(self) -> Self:
        refuse_uneven(self.width, self.heads)
        return self


class MtmModel(nn.Module):
    """Predicts the ranks under a mask. `encoder.*` are the names of a `TokenViT`."""

    def __init__(self, encoder: TokenViT, config: DecoderConfig) -> None:
        """Put a decoder behind an encoder without a head.

        Args:
            encoder: its stem has an id embedding and windows that do not overlap.
            config: the decoder's size.
        """
        super().__init__()
        ids = encoder.patch_embed.ids
        if ids is None:
            raise TypeError("masked token modelling needs a stem with an id embedding")
        width, patch = encoder.cls_token.shape[-1], STEMS[encoder.patch_embed.stem].kernel
        self.encoder = encoder
        self.patch = patch
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_embed = nn.Linear(width, config.width)
        self.decoder_pos_embed = nn.Parameter(sincos_positions(encoder.positions, config.width))
        if config.padding == "learned":
            self.pad_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.decoder_blocks = nn.ModuleList(
            Block(
                config.width,
                config.heads,
                qkv_bias=True,
                proj_drop=config.dropout,
                attn_drop=config.dropout,
                attn_layer=DeviceAttention,
            )
            for _ in range(config.depth)
        )
        self.decoder_norm = LayerNorm(config.width)
        self.decoder_head = nn.Linear(config.width, patch * patch * ids.width)
        self.decoder_head_act = nn.GELU()
        self.decoder_head_norm = LayerNorm(ids.width)
        self.decoder_head_bias = nn.Parameter(torch.zeros(ids.table.num_embeddings))
        init_transformer(self)

    def forward(self, ranks: Tensor, plan: MaskPlan) -> Tensor:
        """Int64 [B,h,w] and a plan -> logits [B,M,patch*patch,K] of `plan.masked`, in its order.

        Ranks under the mask are read by nobody but the caller's loss.
        """
        decoded = self.decode(self.encode(ranks, plan), plan)
        return self.predict(take_rows(decoded, 1 + plan.masked))

    def encode(self, ranks: Tensor, plan: MaskPlan) -> Tensor:
        """Int64 [B,h,w] -> float [B,1+V,width]: class token and kept positions, normed."""
        patches = take_rows(self.encoder.tokenize(ranks), plan.kept)
        patches = torch.where(plan.hidden[..., None], self.mask_token.to(patches.dtype), patches)
        positions = self.encoder.pos_embed[0, 1:].to(patches.dtype)
        encoded: Tensor = self.encoder.norm(self.encoder.encode(patches + positions[plan.kept]))
        return encoded

    def decode(self, encoded: Tensor, plan: MaskPlan) -> Tensor:
        """Float [B,1+V,width] -> float [B,1+N,decoder width]: all positions in place, normed."""
        narrow = self.decoder_embed(encoded)
        pad = self.pad_token if hasattr(self, "pad_token") else narrow[:, :1]
        decoded = fill_positions(narrow, pad, plan.kept, self.decoder_pos_embed.shape[1] - 1)
        decoded = decoded + self.decoder_pos_embed.to(decoded.dtype)
        for block in self.decoder_blocks:
            decoded = block(decoded)
        normed: Tensor = self.decoder_norm(decoded)
        return normed

    def predict(self, decoded: Tensor) -> Tensor:
        """Float [B,M,decoder width] -> logits [B,M,patch*patch,K].

        The published order is: un-patch, GELU, norm, product. All of it works on each id alone, so
        only the masked positions take part.
        """
        vectors = self.decoder_head(decoded).unflatten(-1, (self.patch * self.patch, -1))
        vectors = self.decoder_head_norm(self.decoder_head_act(vectors))
        # Detached: the table learns as an input only, else the easiest way down is to shrink it.
        table = self.encoder.get_parameter("patch_embed.ids.table.weight").detach()
        return nn.functional.linear(vectors, table, self.decoder_head_bias)


def patch_ranks(ranks: Tensor, patch: int) -> Tensor:
    """The ranks under each token, as `MtmModel` orders them: int64 [B,h,w] -> [B,N,patch*patch]."""
    batch, rows, columns = ranks.shape
    split = ranks.reshape(batch, rows // patch, patch, columns // patch, patch)
    return split.transpose(2, 3).reshape(batch, -1, patch * patch)


def unpatch(values: Tensor, size: tuple[int, int], patch: int) -> Tensor:
    """The reverse of `patch_ranks`: [B,N,patch*patch] -> [B,*size]."""
    rows, columns = size[0] // patch, size[1] // patch
    split = values.reshape(len(values), rows, columns, patch, patch)
    return split.transpose(2, 3).reshape(len(values), *size)


def take_rows(rows: Tensor, places: Tensor) -> Tensor:
    """[B,N,d] and int64 [B,n] -> [B,n,d]: some rows of each image, in the order asked."""
    batch, count = places.shape
    start = torch.arange(batch, device=rows.device)[:, None] * rows.shape[1]
    return rows.flatten(0, 1).index_select(0, (start + places).flatten()).view(batch, count, -1)


def fill_positions(encoded: Tensor, pad: Tensor, kept: Tensor, positions: int) -> Tensor:
    """Rows back in their places, the pad in the others: [B,1+V,d] -> [B,1+positions,d].

    Row 0, the class token, stays first. `pad` is [B or 1,1,d], `kept` int64 [B,V].
    """
    batch, count = kept.shape
    rows = torch.cat([encoded, pad.expand(batch, -1, -1).to(encoded.dtype)], dim=1)
    source = torch.full((batch, 1 + positions), 1 + count, device=kept.device)
    source[:, 0] = 0
    number = torch.arange(1, 1 + count, device=kept.device).expand(batch, -1)
    return take_rows(rows, source.scatter(1, 1 + kept, number))
