"""LlamaGen: the convolutional tokenizers of Sun et al. 2024 (arXiv 2406.06525).

`llamagen-16` (VQ-16) and `llamagen-8` (VQ-8) are VQGAN's network (conv_blocks.py) under other
names, with attention at the coarsest level whatever the size of the image, and with codes of unit
length: latents and codebook are normalised to find the nearest, and the decoder gets the normalised
row. The codebook is stored as it was trained, not normalised. Weights of other shapes of the
family load under both names.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from torch.nn import functional

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
from tokenstore.tokenizers.network import UNIT, NetworkTokenizer
from tokenstore.tokenizers.search import NearestCode
from tokenstore.tokenizers.weights import Published, cached, locate_weights

DEFAULT_RULE = "center-crop-box"
DEFAULT_SIZE = (256, 256)
CODEBOOK = "quantize.embedding.weight"
MIDDLE = MappingProxyType({"block_1": "0", "attn_1": "1", "block_2": "2"})
HUGGING_FACE = "https://huggingface.co/FoundationVision/LlamaGen"
LICENCE = (
    "no file beside the weights; LlamaGen's model class declares MIT, as does most of its code"
)


def published_name(name: str, levels: int) -> str:
    """LlamaGen's name of a tensor, or of a prefix; its decoder counts levels from the coarsest.

    `decoder.up.0.block.1.norm1.bias, 5 -> decoder.conv_blocks.4.res.1.norm1.bias`
    """
    name = re.sub(r"^encoder\.down\b", "encoder.conv_blocks", name)
    name = re.sub(
        r"^decoder\.up\.(\d+)", lambda up: f"decoder.conv_blocks.{levels - 1 - int(up[1])}", name
    )
    name = re.sub(r"^(\w+\.conv_blocks\.\d+)\.block\b", r"\1.res", name)
    return re.sub(r"\.mid\.(\w+)", lambda middle: f".mid.{MIDDLE[middle[1]]}", name)


class LlamaGenNetwork(ConvNetwork):
    """Codes by the angle between vectors; its state dict has LlamaGen's names."""

    levels = (UNIT - np.float32(0.5)) / np.float32(0.5)

    def __init__(self, shape: ConvShape) -> None:
        super().__init__(shape)
        self.quantize = nn.ModuleDict({"embedding": nn.Embedding(shape.codes, shape.dimension)})
        self.normalise = True
        levels = len(shape.encoder_widths)
        names = {name: published_name(name, levels) for name, _ in self.named_parameters()}
        ours = {published: name for name, published in names.items()}
        self.register_state_dict_post_hook(lambda _, state, *__: rename(state, names))
        self.register_load_state_dict_pre_hook(lambda _, state, *__: rename(state, ours))

    def code_rows(self) -> torch.Tensor:
        """See `Network.code_rows`."""
        return self.get_parameter(CODEBOOK)

    def decoder_rows(self) -> torch.Tensor:
        """See `Network.decoder_rows`: of unit length."""
        rows = self.code_rows()
        return functional.normalize(rows, dim=1) if self.normalise else rows

    def search(self) -> NearestCode:
        """See `Network.search`."""
        return NearestCode(self.code_rows(), normalise=self.normalise)


def rename(state: dict[str, torch.Tensor], names: Mapping[str, str]) -> None:
    """Rename the tensors of a state dict in place; those without a new name keep theirs."""
    renamed = {names.get(name, name): state.pop(name) for name in list(state)}
    state.update(renamed)


def hugging_face(name: str, file: str) -> Published:
    """Weights in the repository of LlamaGen's authors."""
    return Published(
        file=f"{name}.pt",
        url=f"{HUGGING_FACE}/resolve/main/{file}",
        page=f"{HUGGING_FACE} ({file})",
        licence=LICENCE,
    )


VARIANTS: Mapping[str, Variant] = MappingProxyType({
    "llamagen-16": Variant(
        published_shape((128, 128, 256, 256, 512), 256, (16384, 8)),
        hugging_face("llamagen-16", "vq_ds16_c2i.pt"),
        "llamagen",
    ),
    "llamagen-8": Variant(
        published_shape((128, 256, 256, 512), 256, (16384, 8)),
        hugging_face("llamagen-8", "vq_ds8_c2i.pt"),
        "llamagen",
    ),
})  # fmt: skip


class LlamaGen(NetworkTokenizer):
    """The tokenizer; decoder output is about -1..1."""

    variants = tuple(VARIANTS)
    network: LlamaGenNetwork

    @classmethod
    def load(cls, request: LoadRequest) -> Self:
        """See `Tokenizer.load`."""
        variant = VARIANTS[request.name]
        file = locate_weights(request.name, request.weights, variant.published)
        checkpoint = read_checkpoint(file)
        require_family(checkpoint, variant.family, request.name)
        yaml = read_model_yaml(Path(request.config)) if request.config else None
        evidence = Evidence(checkpoint.tensors, file, yaml)
        shape = read_shape(evidence, CODEBOOK, published_name)
        # Its code puts attention at the coarsest level always: tensors that lack it are incomplete.
        coarsest = (len(shape.encoder_widths) - 1,)
        shape = replace(shape, attention=coarsest, middle_attention=True)
        check_yaml(evidence, shape)
        require_variant(request.name, shape, VARIANTS, file)
        with torch.device("meta"):  # the weights bring the memory
            network = LlamaGenNetwork(shape)
        fill_module(network, checkpoint.tensors, file)
        network.normalise = unit_length(evidence)
        preprocess = request.preprocess or Preprocess(DEFAULT_RULE, DEFAULT_SIZE)
        return cls(network, checkpoint.sha256, replace(request, preprocess=preprocess))

    @classmethod
    def card(cls, name: str) -> TokenizerCard:
        """See `Tokenizer.card`."""
        shape, published = VARIANTS[name].shape, VARIANTS[name].published
        return TokenizerCard(
            name=name,
            family="VQGAN with codes of unit length (LlamaGen)",
            stride=shape.stride,
            preprocess=DEFAULT_RULE,
            default_size=DEFAULT_SIZE,
            codebook=(shape.codes, shape.dimension),
            licence=published.licence,
            source=published.page,
            available=cached(published),
        )

    def describe(self) -> dict[str, Any]:
        """See `Tokenizer.describe`."""
        shape = self.network.shape.as_json()
        return {**shape, **super().describe(), "codebook_l2_norm": self.network.normalise}


def check_yaml(evidence: Evidence, shape: ConvShape) -> None:
    """Refuse a yaml, LlamaGen's `ModelArgs` by name, that describes another network.

    Raises:
        WeightsError: names the first key that differs, and both values.
    """
    settings = {
        "vq_model": f"VQ-{shape.stride}",
        "codebook_size": shape.codes,
        "codebook_embed_dim": shape.dimension,
        "encoder_ch_mult": multipliers(shape, shape.encoder_widths),
        "decoder_ch_mult": multipliers(shape, shape.decoder_widths),
        "z_channels": shape.z_channels,
    }
    yaml = evidence.yaml
    if yaml and (yaml.target or not settings.keys() & yaml.params):
        raise WeightsError(
            f"'{yaml.file}' has target {yaml.target!r} and the keys {sorted(yaml.params)}, "
            f"expected LlamaGen's settings ({', '.join(settings)}) to go with '{evidence.file}'."
        )
    evidence.check(settings)


def unit_length(evidence: Evidence) -> bool:
    """Whether vectors are normalised before the search: yes, unless the yaml says no.

    Raises:
        WeightsError: the yaml says neither true nor false.
    """
    key = "codebook_l2_norm"
    said = True if evidence.said(key) is None else evidence.said(key)
    if not isinstance(said, bool):
        raise WeightsError(f"{evidence.said_so} {key} is {said!r}, expected true or false.")
    return said


PLUGIN = LlamaGen
