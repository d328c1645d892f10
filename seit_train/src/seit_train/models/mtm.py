"""Models that predict ranks under a mask: what all of them share, and the one of SeiT++.

The encoder is the token ViT with an id embedding in its stem; it sees the kept positions only
(`MaskedModel`). Ranks are predicted by comparison with the id embedding (`RankPredictor`). In
SeiT++ (section 3.1 and appendix, after MAGE, section 3) a small decoder stands between the two,
which gets the encoder's output back in place and fills the dropped positions (`MtmModel`). Masks
are drawn elsewhere; so is the loss.
"""

from typing import Annotated, Literal, NamedTuple, Self, overload

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from timm.layers import LayerNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from seit_train.models.dropout import use_device_dropout
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


class Masked(NamedTuple):
    """Ranks int64 [B,h,w], and which of them a model sees."""

    ranks: Tensor
    plan: MaskPlan


class Prediction(NamedTuple):
    """What a model says of two views of the same images.

    Attributes:
        logits: float [B,M,patch*patch,K] of the masked ranks of the first view; None where the
            model predicts none.
        context: float [B], what the model's `Context` says of each image.
    """

    logits: Tensor | None
    context: Tensor


class Context(nn.Module):
    """What is learnt from two views of an image beside their ranks: the law of such losses."""

    def forward(
        self, model: "MaskedModel", first: Masked, encoded: Tensor, second: Masked
    ) -> Tensor:
        """A loss for each image, float [B].

        Args:
            model: the one that owns this module, and whose encoder is trained.
            first: the first view.
            encoded: float [B,1+V,width], what the model's encoder makes of it.
            second: the second view.
        """
        raise NotImplementedError


class MaskedModel(nn.Module):
    """An encoder under a mask. `encoder.*` are the names of a `TokenViT`.

    SeiT++ (arXiv 2312.10105), section 3.1, after MAGE (arXiv 2211.09117), section 3.
    Masked positions that enter get one learned vector in place of what the stem makes of them.
    Where windows do not overlap, that is MAGE's mask id in another place, and the class token is
    its fake class id. Outside the table of ids they leave its rows to the ranks, so that it can
    grow with a vocabulary and goes over to classifiers as it is.
    """

    def __init__(self, encoder: TokenViT) -> None:
        """Take an encoder without a head.

        Args:
            encoder: its stem has an id embedding and windows that do not overlap.
        """
        super().__init__()
        if encoder.patch_embed.ids is None:
            raise TypeError("masked token modelling needs a stem with an id embedding")
        self.encoder = encoder
        self.patch = STEMS[encoder.patch_embed.stem].kernel
        self.mask_token = nn.Parameter(torch.zeros(1, 1, encoder.cls_token.shape[-1]))
        self.context: Context | None = None

    @overload
    def forward(self, ranks: Tensor, plan: MaskPlan) -> Tensor: ...
    @overload
    def forward(self, ranks: Tensor, plan: MaskPlan, other: Masked) -> Prediction: ...
    def forward(
        self, ranks: Tensor, plan: MaskPlan, other: Masked | None = None
    ) -> Tensor | Prediction | None:
        """Int64 [B,h,w] and a plan -> logits [B,M,patch*patch,K] of `plan.masked`, in its order.

        With another view of the same images, also what the model's context says of the two. Ranks
        under the mask are read by nobody but the caller's loss.
        """
        encoded = self.encode(ranks, plan)
        logits = self.logits(encoded, plan)
        if other is None:
            return logits
        if self.context is None:
            raise TypeError(f"this {type(self).__name__} learns nothing from a second view")
        return Prediction(logits, self.context(self, Masked(ranks, plan), encoded, other))

    def encode(self, ranks: Tensor, plan: MaskPlan) -> Tensor:
        """Int64 [B,h,w] -> float [B,1+V,width]: class token and kept positions, normed."""
        patches = take_rows(self.encoder.tokenize(ranks), plan.kept)
        patches = torch.where(plan.hidden[..., None], self.mask_token.to(patches.dtype), patches)
        positions = self.encoder.pos_embed[0, 1:].to(patches.dtype)
        encoded: Tensor = self.encoder.norm(self.encoder.encode(patches + positions[plan.kept]))
        return encoded

    def logits(self, encoded: Tensor, plan: MaskPlan) -> Tensor | None:
        """What `encode` gives -> logits as in `forward`; an encoder alone predicts none."""
        return None


class RankPredictor(MaskedModel):
    """A masked model with the head that all of them share."""

    def __init__(self, encoder: TokenViT, width: int) -> None:
        """Add a head for vectors of `width` channels; whoever derives from this initialises it."""
        super().__init__(encoder)
        table = encoder.get_parameter("patch_embed.ids.table.weight")
        codes, channels = table.shape
        self.decoder_head = nn.Linear(width, self.patch * self.patch * channels)
        self.decoder_head_act = nn.GELU()
        self.decoder_head_norm = LayerNorm(channels)
        self.decoder_head_bias = nn.Parameter(torch.zeros(codes))

    def predict(self, vectors: Tensor) -> Tensor:
        """Float [B,M,width of the head] -> logits [B,M,patch*patch,K].

        The published order is: un-patch, GELU, norm, product. All of it works on each id alone, so
        only the masked positions take part.
        """
        vectors = self.decoder_head(vectors).unflatten(-1, (self.patch * self.patch, -1))
        vectors = self.decoder_head_norm(self.decoder_head_act(vectors))
        # Detached: the table learns as an input only, else the easiest way down is to shrink it.
        table = self.encoder.get_parameter("patch_embed.ids.table.weight").detach()
        return nn.functional.linear(vectors, table, self.decoder_head_bias)


class MtmModel(RankPredictor):
    """The encoder-decoder of SeiT++ and of MAGE, which differ in their sizes.

    SeiT++ (arXiv 2312.10105), section 3.1 and appendix; MAGE (arXiv 2211.09117), section 3.
    """

    def __init__(self, encoder: TokenViT, config: DecoderConfig) -> None:
        """Put a decoder behind an encoder.

        Args:
            encoder: as in `MaskedModel`.
            config: the decoder's size.
        """
        super().__init__(encoder, config.width)
        width = encoder.cls_token.shape[-1]
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
        init_transformer(self)
        use_device_dropout(self)

    def logits(self, encoded: Tensor, plan: MaskPlan) -> Tensor:
        """Float [B,1+V,width] -> logits [B,M,patch*patch,K], through the decoder."""
        return self.predict(take_rows(self.decode(encoded, plan), 1 + plan.masked))

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
