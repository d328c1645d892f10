"""The token ViT: a Vision Transformer (DeiT sizes) whose patches are windows of a token grid.

Fed by a stem, with a class token that is kept and a head that reads the mean of the patch tokens
*before* the final norm, as SeiT does. The encoder of masked token modelling is this same class
without a head, so that its weights carry over by name. timm's `Block` does the work.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from timm.layers import Attention, LayerNorm, trunc_normal_
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from seit_train.models.dropout import use_device_dropout
from seit_train.models.stem import StemAdapter, count_positions

_Positive = Annotated[int, Field(gt=0)]
SizeName = Literal["Ti", "S", "B", "L"]

# Ti, S and B as in DeiT (arXiv 2012.12877, Table 1), L as in ViT (arXiv 2010.11929, Table 1).
SIZES: dict[SizeName, dict[str, int]] = {
    "Ti": {"width": 192, "depth": 12, "heads": 3},
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 768, "depth": 12, "heads": 12},
    "L": {"width": 1024, "depth": 24, "heads": 16},
}


class VitConfig(BaseModel):
    """Size of a transformer, its dropout and its stochastic depth.

    Attributes:
        size: a published size, in place of width, depth and heads.
        width: channels of a token.
        depth: number of blocks.
        heads: attention heads of a block; they share the width.
        mlp_ratio: hidden width of a block's MLP in widths.
        dropout: on attention weights and on the outputs of attention and MLP.
        drop_path: chance that the last block is skipped for an image; earlier ones linearly less.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: SizeName | None = None
    width: _Positive = 384
    depth: _Positive = 12
    heads: _Positive = 6
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @model_validator(mode="before")
    @classmethod
    def _sized(cls, values: Any) -> Any:
        size = values.get("size") if isinstance(values, dict) else None
        if size not in SIZES:
            return values
        for key, number in SIZES[size].items():
            if values.get(key, number) != number:
                raise ValueError(
                    f"size {size} means {key}={number}, and {key}={values[key]} is set as well: "
                    "leave out one of them"
                )
        return {**values, **SIZES[size]}

    @model_validator(mode="after")
    def _divides(self) -> Self:
        refuse_uneven(self.width, self.heads)
        return self


def refuse_uneven(width: int, heads: int) -> None:
    """Refuse a width that does not divide among the heads and the four parts of a position.

    Raises:
        ValueError: for pydantic, which says where.
    """
    if width % heads or width % 4:
        raise ValueError(f"width {width} must be a multiple of 4 and of heads, which is {heads}")


class DeviceAttention(Attention):
    """timm's attention, with torch's fused kernel wherever that is the faster one.

    On a CPU its backward pass in bfloat16 takes 2 to 6 times as long as the plain products (128
    images, 40 to 257 tokens), so there the fused kernel only evaluates.
    """

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Float [B,N,width] -> the same shape."""
        if x.is_cuda or not torch.is_grad_enabled():
            return super().forward(x, attn_mask, is_causal)
        batch, count, width = x.shape
        heads = self.qkv(x).view(batch, count, 3, self.num_heads, self.head_dim)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (query * self.scale) @ key.transpose(-2, -1)
        weights = self.attn_drop(scores.softmax(dim=-1))
        mixed = (weights @ value).transpose(1, 2).reshape(batch, count, width)
        projected: Tensor = self.proj_drop(self.proj(mixed))
        return projected


class TokenViT(nn.Module):
    """A ViT over the tokens of a stem. Parameter names are timm's: `blocks.0.attn.qkv.weight`.

    Sizes are those of DeiT (arXiv 2012.12877, Table 1) and ViT (arXiv 2010.11929, Table 1), the
    stem that of SeiT (arXiv 2303.11114, section 3.3 and Table 6). All norms are timm's
    `LayerNorm`, whose epsilon is 1e-6.
    """

    def __init__(
        self,
        stem: StemAdapter,
        grid: tuple[int, int],
        config: VitConfig,
        *,
        classes: int = 0,
        fixed_positions: bool = False,
    ) -> None:
        """Make a freshly initialised ViT.

        Args:
            stem: what turns a grid into tokens of `config.width` channels.
            grid: (h, w) of the grids that the stem is fed.
            config: its size.
            classes: outputs of the head; 0 makes an encoder without a head.
            fixed_positions: whether the positions stay as they start, 2-D sin-cos, or are learned.
        """
        super().__init__()
        width, depth = config.width, config.depth
        self.num_features = width
        self.positions = count_positions(stem.stem, grid)
        self.patch_embed = stem
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        start = sincos_positions(self.positions, width)
        if fixed_positions:
            self.register_buffer("pos_embed", start)
        else:
            self.pos_embed = nn.Parameter(start)
        rates = [config.drop_path * block / max(1, depth - 1) for block in range(depth)]
        self.blocks = nn.ModuleList(
            Block(
                width,
                config.heads,
                mlp_ratio=config.mlp_ratio,
                qkv_bias=True,
                proj_drop=config.dropout,
                attn_drop=config.dropout,
                drop_path=rate,
                attn_layer=DeviceAttention,
            )
            for rate in rates
        )
        self.norm: nn.Module = LayerNorm(width)
        self.head = nn.Linear(width, classes) if classes else nn.Identity()
        init_transformer(self)
        use_device_dropout(self)

    def tokenize(self, tokens: Tensor) -> Tensor:
        """A batch as the stem takes it -> float [B,N,width], positions not yet added."""
        embedded: Tensor = self.patch_embed(tokens)
        return embedded

    def encode(self, patches: Tensor) -> Tensor:
        """Patch tokens with their positions, any number of them: [B,n,width] -> [B,1+n,width].

        The class token comes first. The final norm is not applied.
        """
        encoded = self._with_class_token(patches)
        for block in self.blocks:
            encoded = block(encoded)
        return encoded

    def maps(self, tokens: Tensor, behind: Sequence[int]) -> list[Tensor]:
        """What some of the blocks give, as maps: float [B,width,rows,columns] each.

        Args:
            tokens: a batch as the stem takes it.
            behind: numbers of those blocks, rising.
        """
        patches = self.tokenize(tokens)
        encoded = self._with_class_token(patches + self.pos_embed[:, 1:].to(patches.dtype))
        found = []
        for number, block in enumerate(self.blocks):
            encoded = block(encoded)
            if number in behind:
                found.append(encoded[:, 1:].transpose(1, 2).unflatten(2, self.positions))
        return found

    def forward(self, tokens: Tensor) -> Tensor:
        """A batch as the stem takes it -> float [B,classes] (or [B,width] without a head)."""
        patches = self.tokenize(tokens)
        encoded = self.encode(patches + self.pos_embed[:, 1:].to(patches.dtype))
        pooled = self.norm(encoded[:, 1:].mean(dim=1))
        logits: Tensor = self.head(pooled)
        return logits

    def _with_class_token(self, patches: Tensor) -> Tensor:
        """[B,n,width] -> [B,1+n,width], the class token first."""
        first = (self.cls_token + self.pos_embed[:, :1]).to(patches.dtype)
        return torch.cat([first.expand(patches.shape[0], -1, -1), patches], dim=1)


def init_transformer(model: nn.Module) -> None:
    """Xavier-uniform matrices (MAE, MAGE), zero biases, learned tokens of deviation 0.02.

    Tables of positions, also those that are learned, start as sin-cos: from noise, a short run
    spends its time on finding out who is whose neighbour (docs/log.md).

    At a width of 768 this is close to DeiT's 0.02 for all; narrow models start with larger weights.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, parameter in model.named_parameters():
        if name.endswith(("cls_token", "mask_token", "pad_token")):
            trunc_normal_(parameter, std=0.02)


def sincos_positions(positions: tuple[int, int], width: int) -> Tensor:
    """2-D sin-cos table, float32 [1,1+N,width]; row 0, the class token's, is zero (MAE)."""
    table = build_sincos2d_pos_embed(list(positions), width)
    return torch.cat([torch.zeros(1, width), table.float()])[None]


def layer_of(parameter: str, depth: int) -> int:
    """Depth of a ViT's parameter for layer-wise decay, grouped as timm does.

    0 is stem, class token and positions; block i is i + 1, and the final norm goes with the last
    block; the head is depth + 1. A leading `encoder.` is ignored.
    """
    name = parameter.removeprefix("encoder.")
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    if name.startswith("norm."):
        return depth
    return 0 if name.startswith(("patch_embed", "cls_token", "pos_embed")) else depth + 1
