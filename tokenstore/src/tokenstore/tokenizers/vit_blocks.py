"""The transformer of ViT-VQGAN: blocks, pixels to tokens and tokens to pixels.

Yu et al. 2022 (arXiv 2110.04627) as published by thuanz123/enhancing-transformers. The names of
the modules are those of the published tensors, so that a state dict fits as it is. Where the
numbers of a shape come from is the business of `vit_shapes`, what a code is that of the families.

    pixels -> a linear map of each patch -> + position table -> blocks -> layer norm
    block  = x + attention(norm(x)), then x + feed_forward(norm(x)) with tanh
    tokens -> + position table -> blocks -> layer norm -> a linear map to each patch -> pixels

Patches do not overlap, so both maps are matrix products; rows of pixels stay channels last.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class TransformerShape:
    """The numbers that fix one transformer."""

    dim: int
    depth: int
    heads: int
    dim_head: int
    mlp_dim: int

    @property
    def inner(self) -> int:
        """Width of all heads together."""
        return self.heads * self.dim_head

    @property
    def projects(self) -> bool:
        """Whether attention ends in a projection; published code leaves out a needless one."""
        return self.heads > 1 or self.dim_head != self.dim


class Attention(nn.Module):
    """Every token looks at every token; no bias in queries, keys and values."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.heads, self.dim_head = shape.heads, shape.dim_head
        self.to_qkv = nn.Linear(shape.dim, 3 * shape.inner, bias=False)
        self.to_out = nn.Linear(shape.inner, shape.dim) if shape.projects else nn.Identity()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[n, cells, dim] -> [n, cells, dim]."""
        n, cells, _ = tokens.shape
        split = self.to_qkv(tokens).view(n, cells, 3, self.heads, self.dim_head)
        queries, keys, values = split.permute(2, 0, 3, 1, 4)  # views: nothing is copied
        seen = functional.scaled_dot_product_attention(queries, keys, values)
        projected: torch.Tensor = self.to_out(seen.transpose(1, 2).flatten(2))
        return projected


class FeedForward(nn.Module):
    """Two linear maps with tanh between them."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        wide, narrow = nn.Linear(shape.dim, shape.mlp_dim), nn.Linear(shape.mlp_dim, shape.dim)
        self.net = nn.ModuleDict({"0": wide, "2": narrow})

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[n, cells, dim] -> [n, cells, dim]."""
        changed: torch.Tensor = self.net["2"](self.net["0"](tokens).tanh_())
        return changed


class Residual(nn.Module):
    """x + fn(norm(x))."""

    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = fn

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[n, cells, dim] -> [n, cells, dim]."""
        change: torch.Tensor = self.fn(self.norm(tokens))
        return tokens + change


class Transformer(nn.Module):
    """Blocks of attention and feed-forward, then a layer norm."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        blocks = (
            nn.Sequential(
                Residual(shape.dim, Attention(shape)), Residual(shape.dim, FeedForward(shape))
            )
            for _ in range(shape.depth)
        )
        self.layers = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(shape.dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[n, cells, dim] -> [n, cells, dim]."""
        normed: torch.Tensor = self.norm(self.layers(tokens))
        return normed


class PatchEncoder(nn.Module):
    """Images to one token a patch."""

    def __init__(self, shape: TransformerShape, cells: int, patch_size: int) -> None:
        """Weights are left unset: they are always read from a file."""
        super().__init__()
        self.patch_size = patch_size
        self.en_pos_embedding = nn.Parameter(torch.empty(1, cells, shape.dim))
        patches = nn.Conv2d(3, shape.dim, patch_size, stride=patch_size)
        self.to_patch_embedding = nn.ModuleDict({"0": patches})
        self.transformer = Transformer(shape)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[n, 3, H, W] -> [n, cells, dim], cells row-major."""
        n, channels, height, width = images.shape
        side = self.patch_size
        lines = images.permute(0, 2, 3, 1)
        cut = lines.reshape(n, height // side, side, width // side, side, channels).transpose(2, 3)
        patches = cut.reshape(n, -1, side * side * channels)
        weight = self.get_parameter("to_patch_embedding.0.weight").permute(0, 2, 3, 1).flatten(1)
        bias = self.get_parameter("to_patch_embedding.0.bias")
        tokens = functional.linear(patches, weight, bias)
        encoded: torch.Tensor = self.transformer(tokens + self.en_pos_embedding)
        return encoded


class PixelDecoder(nn.Module):
    """One token a patch to images."""

    def __init__(self, shape: TransformerShape, cells: int, patch_size: int) -> None:
        """Weights are left unset: they are always read from a file."""
        super().__init__()
        self.patch_size = patch_size
        self.de_pos_embedding = nn.Parameter(torch.empty(1, cells, shape.dim))
        self.transformer = Transformer(shape)
        pixels = nn.ConvTranspose2d(shape.dim, 3, patch_size, stride=patch_size)
        self.to_pixel = nn.ModuleDict({"1": pixels})

    def forward(self, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """[n, h * w, dim] of a grid (h, w), row-major -> [n, 3, H, W], channels last in memory."""
        side = self.patch_size
        decoded = self.transformer(tokens + self.de_pos_embedding)
        weight = self.get_parameter("to_pixel.1.weight").permute(2, 3, 1, 0).flatten(0, 2)
        bias = self.get_parameter("to_pixel.1.bias").repeat(side * side)
        patches = functional.linear(decoded, weight, bias)
        laid = patches.view(len(tokens), *grid, side, side, 3).transpose(2, 3)
        return laid.reshape(len(tokens), grid[0] * side, grid[1] * side, 3).permute(0, 3, 1, 2)
