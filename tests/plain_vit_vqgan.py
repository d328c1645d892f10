"""ViT-VQGAN written out plainly over a flat dict of tensors, to compare the package with.

Slow and readable: explicit softmax, convolutions, one step a line. Shares no code with the package.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Half:
    """One transformer."""

    dim: int = 64
    depth: int = 2
    heads: int = 2
    dim_head: int = 64
    mlp_dim: int = 96


@dataclass(frozen=True)
class Model:
    """One model: `grid` is (h, w) in cells."""

    encoder: Half = Half()
    decoder: Half = Half()
    patch: int = 8
    grid: tuple[int, int] = (4, 4)
    codes: int = 64
    width: int = 16

    @property
    def size(self) -> tuple[int, int]:
        return (self.grid[0] * self.patch, self.grid[1] * self.patch)

    def yaml(self) -> dict[str, Any]:
        """The settings in the published form."""
        sides = list(self.size)
        params = {
            "image_size": sides[0] if sides[0] == sides[1] else sides,
            "patch_size": self.patch,
            "encoder": vars(self.encoder).copy(),
            "decoder": vars(self.decoder).copy(),
            "quantizer": {"embed_dim": self.width, "n_embed": self.codes},
        }
        return {"model": {"target": "enhancing.modules.stage1.vitvqgan.ViTVQ", "params": params}}


def random_tensors(model: Model, seed: int = 0) -> Tensors:
    """Tensors of a model by their published names, such that every one of them matters."""
    rng = torch.Generator().manual_seed(seed)

    def drawn(*shape: int, scale: float) -> torch.Tensor:
        return torch.randn(shape, generator=rng) * scale

    def linear(name: str, out: int, into: int) -> Tensors:
        weight = drawn(out, into, scale=1.5 * into**-0.5)
        return {f"{name}.weight": weight, f"{name}.bias": drawn(out, scale=0.2)}

    def norm(name: str, dim: int) -> Tensors:
        return {
            f"{name}.weight": 1 + drawn(dim, scale=0.3),
            f"{name}.bias": drawn(dim, scale=0.2),
        }

    def transformer(name: str, half: Half) -> Tensors:
        tensors: Tensors = {}
        inner = half.heads * half.dim_head
        for number in range(half.depth):
            block = f"{name}.layers.{number}"
            tensors |= norm(f"{block}.0.norm", half.dim) | norm(f"{block}.1.norm", half.dim)
            qkv = f"{block}.0.fn.to_qkv.weight"
            tensors[qkv] = drawn(3 * inner, half.dim, scale=2 * half.dim**-0.5)
            if half.heads > 1 or half.dim_head != half.dim:
                tensors |= linear(f"{block}.0.fn.to_out", half.dim, inner)
            tensors |= linear(f"{block}.1.fn.net.0", half.mlp_dim, half.dim)
            tensors |= linear(f"{block}.1.fn.net.2", half.dim, half.mlp_dim)
        return tensors | norm(f"{name}.norm", half.dim)

    cells, patch = model.grid[0] * model.grid[1], model.patch
    encoder, decoder = model.encoder, model.decoder
    tensors = {
        "encoder.en_pos_embedding": drawn(1, cells, encoder.dim, scale=0.7),
        "encoder.to_patch_embedding.0.weight": drawn(encoder.dim, 3, patch, patch, scale=2 / patch),
        "encoder.to_patch_embedding.0.bias": drawn(encoder.dim, scale=0.2),
        **transformer("encoder.transformer", encoder),
        "decoder.de_pos_embedding": drawn(1, cells, decoder.dim, scale=0.7),
        **transformer("decoder.transformer", decoder),
        "decoder.to_pixel.1.weight": drawn(decoder.dim, 3, patch, patch, scale=0.3),
        "decoder.to_pixel.1.bias": drawn(3, scale=0.2),
        "quantizer.embedding.weight": drawn(model.codes, model.width, scale=1.0)
        * (0.5 + torch.rand(model.codes, 1, generator=rng)),
        **linear("pre_quant", model.width, encoder.dim),
        **linear("post_quant", decoder.dim, model.width),
    }
    # Latents around zero: otherwise they all point the same way, and one code wins everywhere.
    noise = torch.randint(0, 256, (8, *model.size, 3), generator=rng)
    tensors["pre_quant.bias"] -= encode(tensors, encoder, noise).mean((0, 1))
    return tensors


def save_checkpoint(file: Path, tensors: Tensors) -> Path:
    """A file as the published training code writes it."""
    loss = {"loss.discriminator.final_linear.1.weight": torch.ones(1, 8)}
    content = {"epoch": 1, "global_step": 2, "pytorch-lightning_version": "1.5.10"}
    torch.save({**content, "state_dict": {**tensors, **loss}, "optimizer_states": []}, file)
    return file


def encode(tensors: Tensors, half: Half, images: torch.Tensor) -> torch.Tensor:
    """uint8 [n, H, W, 3] to latents [n, cells, width]."""
    pixels = images.permute(0, 3, 1, 2).float() / 255
    kernel = tensors["encoder.to_patch_embedding.0.weight"]
    bias = tensors["encoder.to_patch_embedding.0.bias"]
    tokens = functional.conv2d(pixels, kernel, bias, stride=kernel.shape[2])
    tokens = tokens.flatten(2).transpose(1, 2) + tensors["encoder.en_pos_embedding"]
    tokens = _transformer(tensors, "encoder.transformer", half, tokens)
    return tokens @ tensors["pre_quant.weight"].T + tensors["pre_quant.bias"]


def nearest(latents: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Latents [n, cells, width] to ids [n, cells]."""
    z = latents / latents.norm(dim=-1, keepdim=True)
    e = codebook / codebook.norm(dim=-1, keepdim=True)
    distances = (z**2).sum(-1, keepdim=True) + (e**2).sum(-1) - 2 * z @ e.T
    return distances.argmin(-1)


def decode(tensors: Tensors, model: Model, ids: torch.Tensor) -> torch.Tensor:
    """Ids [n, h, w] to images [n, 3, H, W]."""
    rows = tensors["quantizer.embedding.weight"][ids.flatten(1)]
    rows = rows / rows.norm(dim=-1, keepdim=True)
    tokens = rows @ tensors["post_quant.weight"].T + tensors["post_quant.bias"]
    tokens = tokens + tensors["decoder.de_pos_embedding"]
    tokens = _transformer(tensors, "decoder.transformer", model.decoder, tokens)
    grid = tokens.transpose(1, 2).reshape(len(ids), -1, *model.grid)
    kernel, bias = tensors["decoder.to_pixel.1.weight"], tensors["decoder.to_pixel.1.bias"]
    return functional.conv_transpose2d(grid, kernel, bias, stride=model.patch)


def _transformer(tensors: Tensors, name: str, half: Half, tokens: torch.Tensor) -> torch.Tensor:
    for number in range(half.depth):
        block = f"{name}.layers.{number}"
        tokens = tokens + _attention(tensors, f"{block}.0", half, tokens)
        wide = _linear(tensors, f"{block}.1.fn.net.0", _norm(tensors, f"{block}.1.norm", tokens))
        tokens = tokens + _linear(tensors, f"{block}.1.fn.net.2", torch.tanh(wide))
    return _norm(tensors, f"{name}.norm", tokens)


def _attention(tensors: Tensors, block: str, half: Half, tokens: torch.Tensor) -> torch.Tensor:
    n, cells, _ = tokens.shape
    qkv = _norm(tensors, f"{block}.norm", tokens) @ tensors[f"{block}.fn.to_qkv.weight"].T
    heads = (n, cells, half.heads, half.dim_head)
    q, k, v = (part.reshape(heads).transpose(1, 2) for part in qkv.chunk(3, 2))
    weights = torch.softmax(q @ k.transpose(2, 3) * half.dim_head**-0.5, dim=-1)
    seen = (weights @ v).transpose(1, 2).reshape(n, cells, -1)
    if f"{block}.fn.to_out.weight" not in tensors:
        return seen
    return _linear(tensors, f"{block}.fn.to_out", seen)


def _linear(tensors: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    return functional.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def _norm(tensors: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias
