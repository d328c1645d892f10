"""TokenAdapt: into a space where geometry works as on pixels, and back to ids (SeiT++ section 3.2).

`adapt` makes of an embedded grid a finer one, in which a picture's augmentation is imitated;
`restore` makes of that the logits of the ids that the tokenizer would have given for the augmented
picture. `Adapter` is what both say; `TokenAdapt` is the published one, whose halves are one
transformer block each and whose space has twice the sides. Another, made of a tokenizer's own
halves, stands in tuned_tokenizer.py. What happens in between, and how it is learnt, stands
elsewhere.
"""

from abc import ABC, abstractmethod
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from timm.layers import LayerNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from seit_train.models.vit import DeviceAttention, init_transformer, refuse_uneven, sincos_positions

_Positive = Annotated[int, Field(gt=0)]


class TokenAdaptConfig(BaseModel):
    """Size of both halves; the default is published, 3.8 million weights for 391 codes of 32."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: _Positive = 384
    heads: _Positive = 6
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0

    @model_validator(mode="after")
    def _divides(self) -> Self:
        refuse_uneven(self.width, self.heads)
        return self


class Adapter(nn.Module, ABC):
    """Both halves, whatever they are made of.

    Attributes:
        ids: int64 [K], the tokenizer's ids that the logits stand for; saved with the weights.
        scale: sides of the adapted space, in sides of the grid.
    """

    ids: Tensor
    scale: int

    @abstractmethod
    def adapt(self, grid: Tensor) -> Tensor:
        """Embedded grids, float [B,d,h,w] -> the adapted space, [B,c,scale*h,scale*w]."""

    @abstractmethod
    def restore(self, adapted: Tensor) -> Tensor:
        """The adapted space, [B,c,scale*r,scale*s] -> logits of ids, float [B,r,s,K]."""


class TokenAdapt(Adapter):
    """The published halves, for grids of one size: they know where a token stands.

    SeiT++ (arXiv 2312.10105), section 3.2.
    """

    scale = 2
    pos_embed: Tensor

    def __init__(
        self, config: TokenAdaptConfig, grid: tuple[int, int], channels: int, ids: Tensor
    ) -> None:
        """Make it with fresh weights.

        Args:
            config: its size.
            grid: (h, w) of the grids that `adapt` takes.
            channels: numbers of a codebook row.
            ids: int64 [K], the tokenizer's ids that the logits stand for.
        """
        super().__init__()
        width = config.width
        self.patch_embed = nn.Linear(channels, width)
        self.register_buffer("pos_embed", sincos_positions(grid, width)[:, 1:], persistent=False)
        self.adapt_block = _block(config)
        self.unfold = nn.ConvTranspose2d(width, channels, 2, 2)
        self.fold = nn.Conv2d(channels, width, 2, 2)
        self.restore_block = _block(config)
        self.head = nn.Linear(width, len(ids))
        self.register_buffer("ids", ids.clone())
        init_transformer(self)

    def adapt(self, grid: Tensor) -> Tensor:
        """Embedded grids, float [B,d,h,w] -> the adapted space, [B,d,2h,2w]."""
        batch, _, rows, columns = grid.shape
        tokens = self.patch_embed(grid.flatten(2).transpose(1, 2)) + self.pos_embed
        tokens = self.adapt_block(tokens).transpose(1, 2).reshape(batch, -1, rows, columns)
        adapted: Tensor = self.unfold(tokens)
        return adapted

    def restore(self, adapted: Tensor) -> Tensor:
        """The adapted space, [B,d,2r,2c] of any even sides -> logits of ids, float [B,r,c,K]."""
        tokens = self.fold(adapted)
        batch, _, rows, columns = tokens.shape
        tokens = self.restore_block(tokens.flatten(2).transpose(1, 2))
        logits: Tensor = self.head(tokens)
        return logits.view(batch, rows, columns, -1)


def layer_of(parameter: str) -> int:
    """Depth of a parameter for layer-wise decay: stem 0, the halves 1 and 2, head 3."""
    first = parameter.partition(".")[0]
    layers = {"patch_embed": 0, "adapt_block": 1, "unfold": 1, "fold": 2, "restore_block": 2}
    return layers.get(first, 3)


class _Norm(LayerNorm):
    """Timm's, with the epsilon of the published code."""

    def __init__(self, width: int, **where: Any) -> None:
        super().__init__(width, eps=1e-5, **where)


def _block(config: TokenAdaptConfig) -> nn.Module:
    """A block with tanh between the layers of its MLP, as in the published code."""
    return Block(
        config.width,
        config.heads,
        mlp_ratio=config.mlp_ratio,
        qkv_bias=True,
        act_layer=nn.Tanh,
        norm_layer=_Norm,
        attn_layer=DeviceAttention,
    )
