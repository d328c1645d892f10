"""VQGAN: the convolutional tokenizers of taming-transformers and latent-diffusion.

    vqgan-f16-1024, vqgan-f16-16384   Esser et al. 2021 (arXiv 2012.09841), ImageNet
    vqgan-gumbel-f8                   the same authors' OpenImages model with 8,192 codes
    vqgan-f8-256, vqgan-f8-16384      Rombach et al. 2022 (arXiv 2112.10752), OpenImages

The network is that of conv_blocks.py. A latent's code is the nearest row of the codebook, neither
of them normalised; the Gumbel model instead classifies each cell and has no distance. Its published
forward pass adds noise to the logits even outside training, so its ids differ from call to call:
here the largest logit wins. Weights of other shapes of the family load under each of these names.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from tokenstore.errors import WeightsError
from tokenstore.preprocess import Preprocess
from tokenstore.tokenizers.base import LoadRequest, TokenizerCard
from tokenstore.tokenizers.checkpoints import fill_module, read_checkpoint, require_family
from tokenstore.tokenizers.conv_blocks import ConvNetwork, ConvShape
from tokenstore.tokenizers.conv_shape import (
    Variant,
    multipliers,
    published_shape,
    read_shape,
    require_variant,
)
from tokenstore.tokenizers.evidence import Evidence
from tokenstore.tokenizers.model_yaml import read_model_yaml
from tokenstore.tokenizers.network import NetworkTokenizer
from tokenstore.tokenizers.remap import RemappedCode, checked_remap, describe_remap, read_remap
from tokenstore.tokenizers.search import CodeSearch, LargestLogit, NearestCode
from tokenstore.tokenizers.weights import Published, cached, locate_weights

DEFAULT_RULE = "center-crop-opencv"
DEFAULT_RESOLUTION = 256
USED = "quantize.used"  # the remap of a model that was trained with one
HEIBOX = "https://heibox.uni-heidelberg.de"
LDM = "https://ommer-lab.com/files/latent-diffusion"
LICENCE = "no separate statement for the weights; the code of {} is MIT"


class VqganNetwork(ConvNetwork):
    """Codes by distance."""

    codebook_name = "quantize.embedding.weight"
    levels = (np.arange(256) / 127.5 - 1).astype(np.float32)  # in float64, as published

    def __init__(self, shape: ConvShape) -> None:
        super().__init__(shape)
        self.quantize = nn.ModuleDict({"embedding": nn.Embedding(shape.codes, shape.dimension)})
        self.used: torch.Tensor | None = None  # the remap: codes in use, int64 [R]

    def code_rows(self) -> torch.Tensor:
        """See `Network.code_rows`."""
        rows = self.get_parameter(self.codebook_name)
        return rows if self.used is None else rows[self.used]

    def search(self) -> CodeSearch:
        """See `Network.search`."""
        rows = self.get_parameter(self.codebook_name)
        if self.used is None:
            return NearestCode(rows, normalise=False)
        return RemappedCode(rows, self.used)


class GumbelNetwork(VqganNetwork):
    """Codes by a classifier; with a remap it chooses among the codes in use, as published."""

    codebook_name = "quantize.embed.weight"

    def __init__(self, shape: ConvShape) -> None:
        super().__init__(shape)
        self.quantize = nn.ModuleDict(
            {
                "proj": nn.Conv2d(shape.z_channels, shape.codes, 1),
                "embed": nn.Embedding(shape.codes, shape.dimension),
            }
        )

    def search(self) -> CodeSearch:
        """See `Network.search`."""
        some = slice(None) if self.used is None else self.used
        weight = self.get_parameter("quantize.proj.weight").flatten(1)
        return LargestLogit(weight[some], self.get_parameter("quantize.proj.bias")[some])


def heidelberg(name: str, folder: str, file: str) -> Published:
    """A checkpoint of taming-transformers: the page that its README links, and the file in it."""
    return Published(
        file=f"{name}.ckpt",
        url=f"{HEIBOX}/f/{file}/?dl=1",
        page=f"{HEIBOX}/d/{folder}/ (ckpts/last.ckpt)",
        licence=LICENCE.format("taming-transformers"),
    )


def latent_diffusion(name: str, archive: str) -> Published:
    """A first-stage model of latent-diffusion, in a zip archive."""
    return Published(
        file=f"{name}.ckpt",
        url=f"{LDM}/{archive}",
        page=(
            f"{LDM}/{archive} (model.ckpt in it; how its training images were resized is not "
            "published, so taming-transformers' rule is the default)"
        ),
        licence=LICENCE.format("latent-diffusion"),
        member="model.ckpt",
    )


F16, GUMBEL, F8 = (128, 128, 256, 256, 512), (128, 128, 256, 512), (128, 256, 256, 512)
VARIANTS: Mapping[str, Variant] = MappingProxyType({
    "vqgan-f16-1024": Variant(
        published_shape(F16, 256, (1024, 256)),
        heidelberg("vqgan-f16-1024", "8088892a516d4e3baf92", "140747ba53464f49b476"),
        "vqgan",
    ),
    "vqgan-f16-16384": Variant(
        published_shape(F16, 256, (16384, 256)),
        heidelberg("vqgan-f16-16384", "a7530b09fed84f80a887", "867b05fc8c4841768640"),
        "vqgan",
    ),
    "vqgan-gumbel-f8": Variant(
        published_shape(GUMBEL, 256, (8192, 256)),
        heidelberg("vqgan-gumbel-f8", "2e5662443a6b4307b470", "34a747d5765840b5a99d"),
        "vqgan-gumbel",
    ),
    "vqgan-f8-256": Variant(
        published_shape(F8, 4, (256, 4)),
        latent_diffusion("vqgan-f8-256", "vq-f8-n256.zip"),
        "vqgan",
    ),
    "vqgan-f8-16384": Variant(
        published_shape(F8, 4, (16384, 4)),
        latent_diffusion("vqgan-f8-16384", "vq-f8.zip"),
        "vqgan",
    ),
})  # fmt: skip
CLASSES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"vqgan": ("VQModel", "VQModelInterface", "VQNoDiscModel"), "vqgan-gumbel": ("GumbelVQ",)}
)
NETWORKS: Mapping[str, type[VqganNetwork]] = MappingProxyType(
    {"vqgan": VqganNetwork, "vqgan-gumbel": GumbelNetwork}
)


class Vqgan(NetworkTokenizer):
    """The tokenizer; decoder output is about -1..1."""

    variants = tuple(VARIANTS)
    network: VqganNetwork

    @classmethod
    def load(cls, request: LoadRequest) -> Self:
        """See `Tokenizer.load`."""
        variant = VARIANTS[request.name]
        file = locate_weights(request.name, request.weights, variant.published)
        checkpoint = read_checkpoint(file)
        require_family(checkpoint, variant.family, request.name)
        tensors = dict(checkpoint.tensors)
        used = tensors.pop(USED, None)
        yaml = read_model_yaml(Path(request.config)) if request.config else None
        evidence = Evidence(tensors, file, yaml)
        kind = NETWORKS[variant.family]
        shape = read_shape(evidence, kind.codebook_name, lambda name, levels: name)
        check_yaml(evidence, shape, variant.family)
        require_variant(request.name, shape, VARIANTS, file)
        with torch.device("meta"):  # the weights bring the memory
            network = kind(shape)
        fill_module(network, tensors, file)
        network.used = find_remap(evidence, used, shape.codes)
        side = resolution(evidence, shape.stride)
        preprocess = request.preprocess or Preprocess(DEFAULT_RULE, (side, side))
        return cls(network, checkpoint.sha256, replace(request, preprocess=preprocess))

    @classmethod
    def card(cls, name: str) -> TokenizerCard:
        """See `Tokenizer.card`."""
        variant = VARIANTS[name]
        shape, published = variant.shape, variant.published
        return TokenizerCard(
            name=name,
            family="VQGAN, codes by Gumbel softmax" if "gumbel" in variant.family else "VQGAN",
            stride=shape.stride,
            preprocess=DEFAULT_RULE,
            default_size=(DEFAULT_RESOLUTION, DEFAULT_RESOLUTION),
            codebook=(shape.codes, shape.dimension),
            licence=published.licence,
            source=published.page,
            available=cached(published),
        )

    def describe(self) -> dict[str, Any]:
        """See `Tokenizer.describe`."""
        used = self.network.used
        remap = {} if used is None else {"remap": describe_remap(used)}
        return {**self.network.shape.as_json(), **super().describe(), **remap}


def check_yaml(evidence: Evidence, shape: ConvShape, family: str) -> None:
    """Refuse a yaml that describes another network than the weights hold.

    Raises:
        WeightsError: names the first key that differs, and both values.
    """
    if evidence.yaml is None:
        return
    target, known = evidence.yaml.target, CLASSES[family]
    if target and target.rpartition(".")[2] not in known:
        raise WeightsError(
            f"{evidence.said_so} target is {target}, but the weights in '{evidence.file}' are of a "
            f"{known[0]}: give the yaml that belongs to these weights."
        )
    if evidence.said("ddconfig") is None:
        raise WeightsError(
            f"'{evidence.yaml.file}' has no ddconfig, where a {known[0]}'s yaml describes its "
            "network: give the yaml that was published with the weights."
        )
    evidence.check({"embed_dim": shape.dimension, "n_embed": shape.codes})
    settings = {
        "ch": shape.width,
        "ch_mult": multipliers(shape, shape.encoder_widths),
        "num_res_blocks": shape.blocks,
        "z_channels": shape.z_channels,
        "attn_type": "vanilla" if shape.middle_attention else "none",
        "in_channels": 3,
        "out_ch": 3,
        "double_z": False,
        "resamp_with_conv": True,
    }
    evidence.check({f"ddconfig.{key}": value for key, value in settings.items()})
    check_attention(evidence, shape)


def check_attention(evidence: Evidence, shape: ConvShape) -> None:
    """Refuse a yaml that puts attention at other levels than the weights.

    Raises:
        WeightsError: names both lists of resolutions.
    """
    key = "ddconfig.attn_resolutions"
    said, side = evidence.said(key), evidence.said("ddconfig.resolution")
    if said is None or side is None or evidence.said("ddconfig.attn_type") == "none":
        return
    side = resolution(evidence, shape.stride)
    sides = [side >> level for level in range(len(shape.encoder_widths))]
    found = [sides[level] for level in shape.attention]
    # The yaml may list sides that no level has: the published code passes over them, too.
    if not isinstance(said, list) or [side for side in sides if side in said] != found:
        raise evidence.contradicted(key, f"attention at {found} of images of {side} pixels")


def resolution(evidence: Evidence, stride: int) -> int:
    """Side of the images that the model was made for, in pixels.

    Raises:
        WeightsError: the yaml says one that is no multiple of the stride.
    """
    said = evidence.said("ddconfig.resolution")
    if said is None:
        return DEFAULT_RESOLUTION
    if type(said) is not int or said < 1 or said % stride:
        raise WeightsError(
            f"{evidence.said_so} ddconfig.resolution is {said!r}, expected a multiple of the "
            f"stride {stride} of the weights in '{evidence.file}'."
        )
    return said


def find_remap(evidence: Evidence, used: torch.Tensor | None, codes: int) -> torch.Tensor | None:
    """The codes in use, int64 [R], as the weights or the yaml say; None means all.

    Raises:
        WeightsError: they are no list of distinct codes, or weights and yaml differ.
    """
    name = evidence.said("remap")
    found = None if used is None else checked_remap(used.numpy(), codes, str(evidence.file))
    if evidence.yaml is None or name is None:
        return found
    listed = read_remap(evidence.yaml.file, name, codes)
    if found is not None and not torch.equal(found, listed):
        raise evidence.contradicted("remap", f"another list of {len(found)} codes in '{USED}'")
    return listed


PLUGIN = Vqgan
