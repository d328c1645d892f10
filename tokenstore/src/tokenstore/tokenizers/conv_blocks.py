"""The convolutional autoencoder that VQGAN, LDM and LlamaGen share: blocks, encoder and decoder.

    encoder   3x3 conv -> levels, finest first: residual blocks [+ attention] -> half the size
              -> residual block [+ attention] + residual block -> norm, swish, 3x3 conv -> 1x1 conv
    decoder   1x1 conv -> 3x3 conv -> residual block [+ attention] + residual block
              -> levels, coarsest first: residual blocks [+ attention] -> twice the size
              -> norm, swish, 3x3 conv

The three families differ in names, in where attention sits and in how a latent finds its code;
those are the business of vqgan.py and llamagen.py. Submodules have the names of Esser et al.,
"Taming Transformers for High-Resolution Image Synthesis" (2021), so that a state dict of this
module has the keys of a published checkpoint. Nothing here trains, and no layer looks at the size
of the image: any multiple of the stride will do, square or not.
"""

from dataclasses import asdict, dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tokenstore.tokenizers.network import Network

GROUPS = 32
# 2 and 32 images of 256x256. 128 channels at full resolution are 512 bytes a pixel and tensor: on
# a GPU some 5 of them at once are 5 GB; on a CPU 16 images took a third longer each than 1 or 2.
PIXELS_AT_ONCE = MappingProxyType({"cpu": 2**17, "cuda": 2**21})
NORM_EPSILON = 1e-6  # not torch's 1e-5, with which up to a quarter of the tokens change


@dataclass(frozen=True)
class ConvShape:
    """The numbers that fix the network; levels count from the finest, as in the published names."""

    width: int  # channels after the first convolution
    encoder_widths: tuple[int, ...]  # channels of each level
    decoder_widths: tuple[int, ...]
    blocks: int  # residual blocks of a level in the encoder; the decoder has one more
    attention: tuple[int, ...]  # the levels with attention after each residual block
    middle_attention: bool
    z_channels: int  # of the encoder's output and the decoder's input
    dimension: int  # of a code
    codes: int

    @property
    def stride(self) -> int:
        """Pixels a cell, along each side."""
        return 1 << (len(self.encoder_widths) - 1)

    def as_json(self) -> dict[str, Any]:
        """The numbers as they stand in a manifest."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }


class ResidualBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))), 3x3; a 1x1 shortcut where channels change."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1 = group_norm(before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.norm2 = group_norm(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.nin_shortcut = None if before == after else nn.Conv2d(before, after, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[n, before, h, w] -> [n, after, h, w]."""
        between = self.conv1(swish(self.norm1(features)))
        change: torch.Tensor = self.conv2(swish(self.norm2(between)))
        return change.add_(features if self.nin_shortcut is None else self.nin_shortcut(features))


class Attention(nn.Module):
    """x + attention of every cell to all cells of its image: one head, all channels wide."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[n, channels, h, w] -> the same."""
        n, channels, height, width = features.shape
        normed = self.norm(features)
        # One head, [n, 1, cells, channels]: views, since the convolutions give channels last.
        q, k, v = (
            layer(normed).permute(0, 2, 3, 1).reshape(n, 1, height * width, channels)
            for layer in (self.q, self.k, self.v)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v)  # scale: channels ** -0.5
        mixed = mixed.reshape(n, height, width, channels).permute(0, 3, 1, 2)
        change: torch.Tensor = self.proj_out(mixed)
        return change.add_(features)


class Level(nn.Module):
    """The residual blocks of one resolution, with attention after each or after none."""

    def __init__(self, before: int, after: int, *, blocks: int, attention: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResidualBlock(after if number else before, after) for number in range(blocks)
        )
        self.attn = nn.ModuleList(Attention(after) for _ in range(blocks if attention else 0))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[n, before, h, w] -> [n, after, h, w]."""
        for number, block in enumerate(self.block):
            features = block(features)
            if self.attn:
                features = self.attn[number](features)
        return features


class Convolution(nn.Module):
    """A 3x3 convolution that stands one name deeper, as it is published."""

    def __init__(self, channels: int, *, stride: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride, padding)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[n, channels, h, w] -> [n, channels, h / stride, w / stride]."""
        convolved: torch.Tensor = self.conv(features)
        return convolved


class DownLevel(Level):
    """A level of the encoder that ends at half its size."""

    def __init__(self, before: int, after: int, *, blocks: int, attention: bool) -> None:
        super().__init__(before, after, blocks=blocks, attention=attention)
        self.downsample = Convolution(after, stride=2, padding=0)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[n, before, h, w] -> [n, after, h/2, w/2]."""
        features = super().forward(features)
        # Padded right and below only: symmetric padding would change nearly every token.
        halved: torch.Tensor = self.downsample(functional.pad(features, (0, 1, 0, 1)))
        return halved


class UpLevel(Level):
    """A level of the decoder that ends at twice its size: each cell is repeated as 2x2."""

    def __init__(self, before: int, after: int, *, blocks: int, attention: bool) -> None:
        super().__init__(before, after, blocks=blocks, attention=attention)
        self.upsample = Convolution(after, stride=1, padding=1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[n, before, h, w] -> [n, after, 2h, 2w]."""
        repeated = functional.interpolate(super().forward(features), scale_factor=2.0)
        doubled: torch.Tensor = self.upsample(repeated)
        return doubled


class Middle(nn.Module):
    """Two residual blocks at the coarsest resolution, attention between them or none."""

    def __init__(self, channels: int, *, attention: bool) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels)
        self.attn_1 = Attention(channels) if attention else nn.Identity()
        self.block_2 = ResidualBlock(channels, channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[n, channels, h, w] -> the same."""
        mixed: torch.Tensor = self.block_2(self.attn_1(self.block_1(features)))
        return mixed


class Encoder(nn.Module):
    """Images to features of `z_channels` at the coarsest resolution."""

    def __init__(self, shape: ConvShape) -> None:
        super().__init__()
        widths, coarsest = shape.encoder_widths, len(shape.encoder_widths) - 1
        self.conv_in = nn.Conv2d(3, shape.width, 3, padding=1)
        self.down = nn.ModuleList()
        for number, (before, after) in enumerate(pairwise((shape.width, *widths))):
            kind = Level if number == coarsest else DownLevel
            attention = number in shape.attention
            self.down.append(kind(before, after, blocks=shape.blocks, attention=attention))
        self.mid = Middle(widths[-1], attention=shape.middle_attention)
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], shape.z_channels, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[n, 3, H, W] -> [n, z_channels, H / stride, W / stride]."""
        features = self.conv_in(images)
        for level in self.down:
            features = level(features)
        encoded: torch.Tensor = self.conv_out(swish(self.norm_out(self.mid(features))))
        return encoded


class Decoder(nn.Module):
    """Features of `z_channels` to images."""

    def __init__(self, shape: ConvShape) -> None:
        super().__init__()
        widths, coarsest = shape.decoder_widths, shape.decoder_widths[-1]
        self.conv_in = nn.Conv2d(shape.z_channels, coarsest, 3, padding=1)
        self.mid = Middle(coarsest, attention=shape.middle_attention)
        self.up = nn.ModuleList()
        for number, (after, before) in enumerate(pairwise((*widths, coarsest))):
            kind = UpLevel if number else Level
            attention = number in shape.attention
            self.up.append(kind(before, after, blocks=shape.blocks + 1, attention=attention))
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[n, z_channels, h, w] -> [n, 3, stride * h, stride * w]."""
        features = self.mid(self.conv_in(features))
        for level in reversed(self.up):
            features = level(features)
        images: torch.Tensor = self.conv_out(swish(self.norm_out(features)))
        return images


class ConvNetwork(Network):
    """Encoder, decoder and the 1x1 convolutions around the codes; a family adds the codes."""

    output_range = (-1.0, 1.0)
    pixels_at_once = PIXELS_AT_ONCE

    def __init__(self, shape: ConvShape) -> None:
        super().__init__()
        self.shape, self.stride = shape, shape.stride
        self.encoder, self.decoder = Encoder(shape), Decoder(shape)
        self.quant_conv = nn.Conv2d(shape.z_channels, shape.dimension, 1)
        self.post_quant_conv = nn.Conv2d(shape.dimension, shape.z_channels, 1)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """See `Network.encode`: images in -1..1."""
        latents: torch.Tensor = self.quant_conv(self.encoder(images))
        return latents

    def decode(self, rows: torch.Tensor) -> torch.Tensor:
        """See `Network.decode`: images of about -1..1, unclamped."""
        images: torch.Tensor = self.decoder(self.post_quant_conv(rows))
        return images


def group_norm(channels: int) -> nn.GroupNorm:
    """Normalisation over groups of channels and all cells of an image."""
    return nn.GroupNorm(GROUPS, channels, eps=NORM_EPSILON)


def swish(normed: torch.Tensor) -> torch.Tensor:
    """Apply x * sigmoid(x) in the memory of `normed`, which nobody else reads."""
    return functional.silu(normed, inplace=True)
