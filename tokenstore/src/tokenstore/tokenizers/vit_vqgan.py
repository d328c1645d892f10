"""ViT-VQGAN: a transformer that turns each patch of 8x8 pixels into one of 8,192 codes.

Yu et al. 2022 (arXiv 2110.04627); code and weights by thuanz123/enhancing-transformers. Images in
0..1, no mean or deviation; a position table binds the network to the size it was trained at, so
larger images are cut into tiles. Latents and codebook rows become unit vectors before they are
compared, and the decoder is given unit rows.

    vit-vqgan-small   encoder and decoder of 512 numbers a token, 8 blocks, 8 heads
    vit-vqgan         ... of 768, 12 and 12
    vit-vqgan-large   small's encoder; a decoder of 1280, 32 and 16, whose heads stay 64 wide

A checkpoint of other numbers loads too, under any of these names.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

import torch
from torch import nn
from torch.nn import functional

from tokenstore.errors import WeightsError
from tokenstore.preprocess import Preprocess
from tokenstore.tokenizers.base import LoadRequest, TokenizerCard
from tokenstore.tokenizers.checkpoints import fill_module, read_checkpoint, require_family
from tokenstore.tokenizers.evidence import Evidence
from tokenstore.tokenizers.model_yaml import read_model_yaml
from tokenstore.tokenizers.network import Network, NetworkTokenizer
from tokenstore.tokenizers.search import NearestCode
from tokenstore.tokenizers.vit_blocks import PatchEncoder, PixelDecoder, TransformerShape
from tokenstore.tokenizers.vit_shapes import (
    grid_shape,
    patch_size,
    transformer_shape,
    with_present_names,
)
from tokenstore.tokenizers.weights import Published, cached, locate_weights

FAMILY = "vit-vqgan"
LICENCE = "MIT, code and weights, as their README states"
PAGE = "https://huggingface.co/thuanz123/vitvqgan-imagenet-{}"


@dataclass(frozen=True)
class VitVqganShape:
    """The numbers that fix the network's shape."""

    patch_size: int
    grid: tuple[int, int]  # cells (h, w)
    encoder: TransformerShape
    decoder: TransformerShape
    codes: int = 8192
    dimension: int = 32
    use_norm: bool = True  # whether codes are compared, and decoded, as unit vectors

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return (self.grid[0] * self.patch_size, self.grid[1] * self.patch_size)


_SMALL = TransformerShape(dim=512, depth=8, heads=8, dim_head=64, mlp_dim=2048)
_BASE = TransformerShape(dim=768, depth=12, heads=12, dim_head=64, mlp_dim=3072)
_LARGE = TransformerShape(dim=1280, depth=32, heads=16, dim_head=64, mlp_dim=5120)

SHAPES = MappingProxyType(
    {
        "vit-vqgan": VitVqganShape(8, (32, 32), _BASE, _BASE),
        "vit-vqgan-small": VitVqganShape(8, (32, 32), _SMALL, _SMALL),
        "vit-vqgan-large": VitVqganShape(8, (32, 32), _SMALL, _LARGE),
    }
)


def _released(size: str) -> Published:
    page, file = PAGE.format(size), f"imagenet_vitvq_{size}.ckpt"
    return Published(file, f"{page}/resolve/main/{file}", page, LICENCE, None)


PUBLISHED = MappingProxyType(
    {
        "vit-vqgan": _released("base"),
        "vit-vqgan-small": _released("small"),
        "vit-vqgan-large": Published(
            "imagenet_vitvq_large.ckpt",
            None,
            "https://github.com/thuanz123/enhancing-transformers (the large model was never "
            "released; train one by its configs)",
            LICENCE,
            None,
        ),
    }
)


class VitVqganNetwork(Network):
    """Encoder, decoder and codebook; its tensors have the published names."""

    def __init__(self, shape: VitVqganShape) -> None:
        """A network on the meta device; `fill_module` gives it values."""
        super().__init__()
        self.shape, self.stride, self.tile = shape, shape.patch_size, shape.image_size
        cells = shape.grid[0] * shape.grid[1]
        with torch.device("meta"):
            self.encoder = PatchEncoder(shape.encoder, cells, shape.patch_size)
            self.decoder = PixelDecoder(shape.decoder, cells, shape.patch_size)
            self.quantizer = nn.ModuleDict(
                {"embedding": nn.Embedding(shape.codes, shape.dimension)}
            )
            self.pre_quant = nn.Linear(shape.encoder.dim, shape.dimension)
            self.post_quant = nn.Linear(shape.dimension, shape.decoder.dim)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images in 0..1, [n, 3, H, W], to latents [n, d, h, w], not normalised."""
        latents: torch.Tensor = self.pre_quant(self.encoder(images))
        return latents.view(len(images), *self.shape.grid, -1).permute(0, 3, 1, 2)

    def decode(self, rows: torch.Tensor) -> torch.Tensor:
        """`decoder_rows` [n, d, h, w] to images of about 0..1, [n, 3, H, W]."""
        tokens = self.post_quant(rows.permute(0, 2, 3, 1).flatten(1, 2))
        images: torch.Tensor = self.decoder(tokens, self.shape.grid)
        return images

    def code_rows(self) -> torch.Tensor:
        """See `Network.code_rows`."""
        return self.get_parameter("quantizer.embedding.weight")

    def decoder_rows(self) -> torch.Tensor:
        """See `Network.decoder_rows`: unit vectors."""
        rows = self.code_rows()
        return functional.normalize(rows, dim=1) if self.shape.use_norm else rows

    def search(self) -> NearestCode:
        """See `Network.search`: the nearest row, both sides as unit vectors."""
        return NearestCode(self.code_rows(), normalise=self.shape.use_norm)


class VitVqgan(NetworkTokenizer):
    """The tokenizer; decoder output is about 0..1."""

    variants: ClassVar[tuple[str, ...]] = tuple(SHAPES)
    network: VitVqganNetwork

    @classmethod
    def load(cls, request: LoadRequest) -> Self:
        """See `Tokenizer.load`."""
        file = locate_weights(request.name, request.weights, PUBLISHED[request.name])
        checkpoint = read_checkpoint(file)
        require_family(checkpoint, FAMILY, request.name)
        yaml = read_model_yaml(Path(request.config)) if request.config else None
        tensors = with_present_names(checkpoint.tensors)
        shape = shape_of(Evidence(tensors, file, yaml))
        _refuse_other_variant(shape, request.name, file)
        network = VitVqganNetwork(shape)
        fill_module(network, tensors, file)
        preprocess = request.preprocess or Preprocess("squash-bilinear", shape.image_size)
        return cls(network, checkpoint.sha256, replace(request, preprocess=preprocess))

    @classmethod
    def card(cls, name: str) -> TokenizerCard:
        """See `Tokenizer.card`."""
        shape, published = SHAPES[name], PUBLISHED[name]
        return TokenizerCard(
            name=name,
            family="ViT-VQGAN, a transformer of patches",
            stride=shape.patch_size,
            preprocess="squash-bilinear",
            default_size=shape.image_size,
            codebook=(shape.codes, shape.dimension),
            licence=LICENCE,
            source=published.page,
            available=cached(published),
        )

    def describe(self) -> dict[str, Any]:
        """See `Tokenizer.describe`."""
        shape = asdict(self.network.shape)
        return {**shape, "grid": list(self.network.shape.grid), **super().describe()}


def shape_of(evidence: Evidence) -> VitVqganShape:
    """The shape of the network in a checkpoint.

    Raises:
        WeightsError: a tensor that tells it is missing, the yaml contradicts, or asks for another
            kind of quantizer.
    """
    _refuse_other_kinds(evidence)
    side = patch_size(evidence, "encoder.to_patch_embedding.0.weight")
    grid = grid_shape(evidence, "encoder", "en_pos_embedding", side)
    if grid_shape(evidence, "decoder", "de_pos_embedding", side) != grid:
        raise WeightsError(
            f"'{evidence.file}': 'decoder.de_pos_embedding' has another number of cells than "
            f"'encoder.en_pos_embedding', which has {grid[0] * grid[1]}."
        )
    codes, dimension = evidence.size("quantizer.embedding.weight", 2)
    evidence.check({"quantizer.n_embed": codes, "quantizer.embed_dim": dimension})
    encoder = transformer_shape(evidence, "encoder")
    decoder = transformer_shape(evidence, "decoder")
    use_norm = evidence.said("quantizer.use_norm") is not False
    return VitVqganShape(side, grid, encoder, decoder, codes, dimension, use_norm)


def _refuse_other_kinds(evidence: Evidence) -> None:
    target = evidence.yaml.target if evidence.yaml else None
    if target is not None and target.rpartition(".")[2] != "ViTVQ":
        raise WeightsError(
            f"{evidence.said_so} target is {target}, expected ...ViTVQ: of the models of this "
            "family only that one is served."
        )
    if evidence.said("quantizer.use_residual"):
        raise WeightsError(
            f"{evidence.said_so} quantizer.use_residual is true: such a model gives several ids a "
            "cell, which is not served."
        )


def _refuse_other_variant(shape: VitVqganShape, name: str, file: Path) -> None:
    """A published size under another's name is a mix-up; a size of one's own is welcome."""
    for known, published in SHAPES.items():
        if shape == published and known != name:
            raise WeightsError(f"'{file}' holds {known}, not {name}: ask for it by that name.")


PLUGIN = VitVqgan
