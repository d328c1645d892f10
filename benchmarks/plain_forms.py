"""The straightforward form of two published encoders: what benchmarks/tokenize.py compares with.

Written as one glues such a model together: eager fp32 in torch's default memory format, the whole
batch at once, attention by its scores (softmax(q k^T) v), all distances to all codes in one matrix.
Works on a flat dict of the network's own tensors and shares no code with the package.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Tensors = Mapping[str, torch.Tensor]


def vit_vqgan_ids(tensors: Tensors, pictures: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 [n, H, W, 3] to ids [n, cells] of a ViT-VQGAN, codes compared as unit vectors."""
    kernel = tensors["encoder.to_patch_embedding.0.weight"]
    images = torch.from_numpy(pictures).to(kernel.device).permute(0, 3, 1, 2).float() / 255
    bias = tensors["encoder.to_patch_embedding.0.bias"]
    x = functional.conv2d(images, kernel, bias, stride=kernel.shape[2]).flatten(2).transpose(1, 2)
    x = x + tensors["encoder.en_pos_embedding"]
    number, block = 0, "encoder.transformer.layers.0"
    while f"{block}.0.norm.weight" in tensors:
        x = x + _heads_attention(tensors, f"{block}.0.fn", _layer_norm(tensors, f"{block}.0", x))
        h = _linear(tensors, f"{block}.1.fn.net.0", _layer_norm(tensors, f"{block}.1", x))
        x = x + _linear(tensors, f"{block}.1.fn.net.2", torch.tanh(h))
        number += 1
        block = f"encoder.transformer.layers.{number}"
    x = _linear(tensors, "pre_quant", _layer_norm(tensors, "encoder.transformer", x))
    latents = functional.normalize(x.flatten(0, 1), dim=1)
    codebook = functional.normalize(tensors["quantizer.embedding.weight"], dim=1)
    return _nearest(latents, codebook).view(len(pictures), -1)


def vqgan_ids(tensors: Tensors, pictures: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 [n, H, W, 3] to ids [n, cells] of a VQGAN with two blocks a level."""
    codebook = tensors["quantize.embedding.weight"]
    images = torch.from_numpy(pictures).to(codebook.device).permute(0, 3, 1, 2).float()
    x = _conv(tensors, "encoder.conv_in", images / 127.5 - 1, padding=1)
    level = 0
    while f"encoder.down.{level}.block.0.conv1.weight" in tensors:
        for number in range(2):
            x = _residual(tensors, f"encoder.down.{level}.block.{number}", x)
            if f"encoder.down.{level}.attn.{number}.q.weight" in tensors:
                x = _cells_attention(tensors, f"encoder.down.{level}.attn.{number}", x)
        if f"encoder.down.{level}.downsample.conv.weight" in tensors:
            x = functional.pad(x, (0, 1, 0, 1))
            x = _conv(tensors, f"encoder.down.{level}.downsample.conv", x, stride=2)
        level += 1
    x = _residual(tensors, "encoder.mid.block_1", x)
    x = _cells_attention(tensors, "encoder.mid.attn_1", x)
    x = _residual(tensors, "encoder.mid.block_2", x)
    x = _conv(tensors, "encoder.conv_out", _swish(_norm(tensors, "encoder.norm_out", x)), padding=1)
    x = _conv(tensors, "quant_conv", x)
    latents = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    return _nearest(latents, codebook).view(len(pictures), -1)


def _nearest(latents: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    squares = (latents**2).sum(1, keepdim=True) + (codebook**2).sum(1)
    return (squares - 2 * latents @ codebook.t()).argmin(1)


def _heads_attention(tensors: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    """Heads of 64 numbers."""
    n, cells, _ = x.shape
    qkv = functional.linear(x, tensors[f"{name}.to_qkv.weight"])
    q, k, v = (part.reshape(n, cells, -1, 64).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    weights = torch.softmax(q @ k.transpose(-2, -1) * 64**-0.5, dim=-1)
    seen = (weights @ v).transpose(1, 2).reshape(n, cells, -1)
    return _linear(tensors, f"{name}.to_out", seen)


def _cells_attention(tensors: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    n, channels, height, width = x.shape
    h = _norm(tensors, f"{name}.norm", x)
    q, k, v = (_conv(tensors, f"{name}.{part}", h).flatten(2) for part in "qkv")
    weights = torch.softmax(torch.bmm(q.transpose(1, 2), k) * channels**-0.5, dim=2)
    seen = torch.bmm(v, weights.transpose(1, 2)).view(n, channels, height, width)
    return x + _conv(tensors, f"{name}.proj_out", seen)


def _residual(tensors: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    h = _conv(tensors, f"{name}.conv1", _swish(_norm(tensors, f"{name}.norm1", x)), padding=1)
    h = _conv(tensors, f"{name}.conv2", _swish(_norm(tensors, f"{name}.norm2", h)), padding=1)
    if f"{name}.nin_shortcut.weight" in tensors:
        x = _conv(tensors, f"{name}.nin_shortcut", x)
    return x + h


def _swish(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


def _norm(tensors: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    return functional.group_norm(
        x, 32, tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps=1e-6
    )


def _conv(tensors: Tensors, name: str, x: torch.Tensor, **how: int) -> torch.Tensor:
    return functional.conv2d(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], **how)


def _layer_norm(tensors: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    weight = tensors[f"{name}.norm.weight"]
    return functional.layer_norm(x, weight.shape, weight, tensors[f"{name}.norm.bias"])


def _linear(tensors: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    return functional.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])
