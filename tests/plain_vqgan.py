"""VQGAN and LlamaGen written out plainly over a flat dict of tensors, to compare the package with.

Slow and readable: explicit softmax and padding, one step a line, each published naming spelt out.
Shares no code with the package.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

Tensors = dict[str, torch.Tensor]
Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Model:
    """One model; `kind` is "vqgan", "vqgan-gumbel" or "llamagen"."""

    kind: str = "vqgan"
    ch: int = 32
    ch_mult: tuple[int, ...] = (1, 2)
    blocks: int = 1
    attention: tuple[int, ...] = ()
    middle: bool = True
    z_channels: int = 16
    dimension: int = 16
    codes: int = 48
    resolution: int = 32
    decoder_ch_mult: tuple[int, ...] = ()  # LlamaGen's may differ

    @property
    def levels(self) -> int:
        return len(self.ch_mult)

    def widths(self, half: str) -> list[int]:
        """Channels by level, finest first."""
        mult = (half == "decoder" and self.decoder_ch_mult) or self.ch_mult
        return [self.ch * factor for factor in mult]

    def level(self, half: str, number: int) -> str:
        if self.kind != "llamagen":
            return f"{half}.{'down' if half == 'encoder' else 'up'}.{number}"
        return f"{half}.conv_blocks.{number if half == 'encoder' else self.levels - 1 - number}"

    def block(self, half: str, level: int, number: int) -> str:
        word = "res" if self.kind == "llamagen" else "block"
        return f"{self.level(half, level)}.{word}.{number}"

    def attn(self, half: str, level: int, number: int) -> str:
        return f"{self.level(half, level)}.attn.{number}"

    def mid(self, half: str) -> list[str]:
        words = ["0", "1", "2"] if self.kind == "llamagen" else ["block_1", "attn_1", "block_2"]
        return [f"{half}.mid.{word}" for word in words]

    def yaml(self) -> dict[str, Any]:
        """The settings in the published form."""
        if self.kind == "llamagen":
            return {
                "vq_model": f"VQ-{2 ** (self.levels - 1)}",
                "codebook_size": self.codes,
                "codebook_embed_dim": self.dimension,
                "codebook_l2_norm": True,
                "encoder_ch_mult": list(self.ch_mult),
                "decoder_ch_mult": list(self.decoder_ch_mult or self.ch_mult),
                "z_channels": self.z_channels,
            }
        ddconfig = {
            "double_z": False,
            "z_channels": self.z_channels,
            "resolution": self.resolution,
            "in_channels": 3,
            "out_ch": 3,
            "ch": self.ch,
            "ch_mult": list(self.ch_mult),
            "num_res_blocks": self.blocks,
            "attn_resolutions": [self.resolution // 2**level for level in self.attention],
            "dropout": 0.0,
        } | ({} if self.middle else {"attn_type": "none"})
        params = {"embed_dim": self.dimension, "n_embed": self.codes, "ddconfig": ddconfig}
        name = "GumbelVQ" if self.kind == "vqgan-gumbel" else "VQModel"
        return {"model": {"target": f"taming.models.vqgan.{name}", "params": params}}


def shapes(model: Model) -> Shapes:
    """Every tensor's published name and shape."""
    z, d = model.z_channels, model.dimension
    yield from conv("encoder.conv_in", 3, model.ch, 3)
    before = model.ch
    for level, width in enumerate(model.widths("encoder")):
        yield from level_shapes(model, "encoder", level, (before, width), model.blocks)
        if level < model.levels - 1:
            name = f"{model.level('encoder', level)}.downsample.conv"
            yield from conv(name, width, width, 3)
        before = width
    yield from mid_shapes(model, "encoder", before)
    yield from norm("encoder.norm_out", before)
    yield from conv("encoder.conv_out", before, z, 3)
    widths = model.widths("decoder")
    yield from conv("decoder.conv_in", z, widths[-1], 3)
    yield from mid_shapes(model, "decoder", widths[-1])
    before = widths[-1]
    for level in reversed(range(model.levels)):
        width = widths[level]
        yield from level_shapes(model, "decoder", level, (before, width), model.blocks + 1)
        if level:
            yield from conv(f"{model.level('decoder', level)}.upsample.conv", width, width, 3)
        before = width
    yield from norm("decoder.norm_out", before)
    yield from conv("decoder.conv_out", before, 3, 3)
    yield from conv("quant_conv", z, d, 1)
    yield from conv("post_quant_conv", d, z, 1)
    if model.kind == "vqgan-gumbel":
        yield from conv("quantize.proj", z, model.codes, 1)
        yield "quantize.embed.weight", (model.codes, d)
    else:
        yield "quantize.embedding.weight", (model.codes, d)


def level_shapes(
    model: Model, half: str, level: int, channels: tuple[int, int], blocks: int
) -> Shapes:
    before, after = channels
    for number in range(blocks):
        yield from block_shapes(model.block(half, level, number), before, after)
        before = after
        if level in model.attention:
            yield from attention_shapes(model.attn(half, level, number), after)


def mid_shapes(model: Model, half: str, width: int) -> Shapes:
    first, attn, second = model.mid(half)
    yield from block_shapes(first, width, width)
    if model.middle:
        yield from attention_shapes(attn, width)
    yield from block_shapes(second, width, width)


def block_shapes(name: str, before: int, after: int) -> Shapes:
    yield from norm(f"{name}.norm1", before)
    yield from conv(f"{name}.conv1", before, after, 3)
    yield from norm(f"{name}.norm2", after)
    yield from conv(f"{name}.conv2", after, after, 3)
    if before != after:
        yield from conv(f"{name}.nin_shortcut", before, after, 1)


def attention_shapes(name: str, width: int) -> Shapes:
    yield from norm(f"{name}.norm", width)
    for word in ("q", "k", "v", "proj_out"):
        yield from conv(f"{name}.{word}", width, width, 1)


def conv(name: str, into: int, out: int, side: int) -> Shapes:
    yield f"{name}.weight", (out, into, side, side)
    yield f"{name}.bias", (out,)


def norm(name: str, width: int) -> Shapes:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def random_tensors(model: Model, seed: int = 0) -> Tensors:
    """Weights such that every tensor matters, and a codebook of which latents use many codes."""
    rng = torch.Generator().manual_seed(seed)
    tensors: Tensors = {}
    for name, shape in shapes(model):
        drawn = torch.randn(shape, generator=rng)
        if len(shape) == 1:
            tensors[name] = drawn * 0.3 + (name.endswith("weight"))
        else:
            tensors[name] = drawn * 1.3 * (drawn[0].numel() ** -0.5)
    # So that the norms' epsilon shows, as with a picture of nearly one colour.
    tensors["encoder.conv_in.weight"] *= 0.02
    if model.kind != "vqgan-gumbel":
        sides = 8 * 2 ** (model.levels - 1)
        images = torch.rand((2, 3, sides, sides), generator=rng) * 2 - 1
        cells = encode(model, tensors, images).permute(0, 2, 3, 1).reshape(-1, model.dimension)
        chosen = torch.randint(len(cells), (model.codes,), generator=rng)
        noise = torch.randn((model.codes, model.dimension), generator=rng) * cells.std() * 0.3
        tensors["quantize.embedding.weight"] = cells[chosen] + noise
    return tensors


def residual(tensors: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    h = normed(tensors, f"{name}.norm1", x)
    h = convolved(tensors, f"{name}.conv1", h * torch.sigmoid(h))
    h = normed(tensors, f"{name}.norm2", h)
    h = convolved(tensors, f"{name}.conv2", h * torch.sigmoid(h))
    if f"{name}.nin_shortcut.weight" in tensors:
        x = convolved(tensors, f"{name}.nin_shortcut", x, padding=0)
    return x + h


def attended(tensors: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    n, channels, height, width = x.shape
    h = normed(tensors, f"{name}.norm", x)
    q, k, v = (convolved(tensors, f"{name}.{word}", h, padding=0).flatten(2) for word in "qkv")
    shares = torch.softmax(q.transpose(1, 2) @ k / channels**0.5, dim=2)  # [n, query, key]
    mixed = (v @ shares.transpose(1, 2)).reshape(n, channels, height, width)
    return x + convolved(tensors, f"{name}.proj_out", mixed, padding=0)


def normed(tensors: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    grouped = x.reshape(len(x), 32, -1)
    mean = grouped.mean(2, keepdim=True)
    variance = grouped.var(2, keepdim=True, unbiased=False)
    unit = ((grouped - mean) / torch.sqrt(variance + 1e-6)).reshape(x.shape)
    weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    return unit * weight[:, None, None] + bias[:, None, None]


def convolved(
    tensors: Tensors, name: str, x: torch.Tensor, *, stride: int = 1, padding: int = 1
) -> torch.Tensor:
    weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    return functional.conv2d(x, weight, bias, stride, padding)


def run_level(model: Model, tensors: Tensors, half: str, level: int, x: torch.Tensor) -> Any:
    for number in range(model.blocks + (half == "decoder")):
        x = residual(tensors, model.block(half, level, number), x)
        if level in model.attention:
            x = attended(tensors, model.attn(half, level, number), x)
    return x


def run_mid(model: Model, tensors: Tensors, half: str, x: torch.Tensor) -> torch.Tensor:
    first, attn, second = model.mid(half)
    x = residual(tensors, first, x)
    if model.middle:
        x = attended(tensors, attn, x)
    return residual(tensors, second, x)


def encode(model: Model, tensors: Tensors, images: torch.Tensor) -> torch.Tensor:
    """[n, 3, H, W] in -1..1 -> latents [n, d, h, w]."""
    x = convolved(tensors, "encoder.conv_in", images)
    for level in range(model.levels):
        x = run_level(model, tensors, "encoder", level, x)
        if level < model.levels - 1:
            padded = functional.pad(x, (0, 1, 0, 1))
            name = f"{model.level('encoder', level)}.downsample.conv"
            x = convolved(tensors, name, padded, stride=2, padding=0)
    x = normed(tensors, "encoder.norm_out", run_mid(model, tensors, "encoder", x))
    x = convolved(tensors, "encoder.conv_out", x * torch.sigmoid(x))
    return convolved(tensors, "quant_conv", x, padding=0)


def losses(model: Model, tensors: Tensors, latents: torch.Tensor) -> torch.Tensor:
    """What each code costs in each cell, smallest best: [n, h, w, K]."""
    cells = latents.permute(0, 2, 3, 1)
    if model.kind == "vqgan-gumbel":
        logits = convolved(tensors, "quantize.proj", latents, padding=0)
        return -logits.permute(0, 2, 3, 1)
    codes = tensors["quantize.embedding.weight"]
    if model.kind == "llamagen":
        cells = cells / cells.norm(dim=-1, keepdim=True)
        codes = codes / codes.norm(dim=-1, keepdim=True)
    return (cells[..., None, :].double() - codes.double()).square().sum(-1)


def decode(model: Model, tensors: Tensors, ids: torch.Tensor) -> torch.Tensor:
    """Ids [n, h, w] -> images [n, 3, H, W], about -1..1."""
    name = "quantize.embed.weight" if "gumbel" in model.kind else "quantize.embedding.weight"
    rows = tensors[name]
    if model.kind == "llamagen":
        rows = rows / rows.norm(dim=-1, keepdim=True)
    x = convolved(tensors, "post_quant_conv", rows[ids].permute(0, 3, 1, 2), padding=0)
    x = run_mid(model, tensors, "decoder", convolved(tensors, "decoder.conv_in", x))
    for level in reversed(range(model.levels)):
        x = run_level(model, tensors, "decoder", level, x)
        if level:
            x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            x = convolved(tensors, f"{model.level('decoder', level)}.upsample.conv", x)
    x = normed(tensors, "decoder.norm_out", x)
    return convolved(tensors, "decoder.conv_out", x * torch.sigmoid(x))


def save_checkpoint(file: Path, tensors: Tensors) -> str:
    """A file in the nesting of the published ones."""
    torch.save({"state_dict": tensors, "epoch": 3}, file)
    return str(file)
