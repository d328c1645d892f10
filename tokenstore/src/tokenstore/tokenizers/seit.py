"""SeiT's own packaging of ViT-VQGAN: a pickled encoder, and the few codes that ImageNet needs.

Park et al. 2023 (arXiv 2303.11114), naver-ai/seit. Two files: `tokenizer.ckpt` is a whole module
whose output are latents before quantization, `codebook.ckpt` a bare tensor of the codes in use, 391
of ViT-VQGAN's 8,192. Ids are rows of that tensor, and only these rows are searched. Nothing in the
packaging makes pictures of them; `tokenstore map-codes` finds the ids of the full codebook.

The numbering inside the module was never published, so the encoder is found by the names that
ViT-VQGAN gives its parts, wherever they stand, and the one linear map beside it ends it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from tokenstore.errors import TokenizerError, WeightsError
from tokenstore.preprocess import Preprocess
from tokenstore.tokenizers.base import LoadRequest, TokenizerCard
from tokenstore.tokenizers.checkpoints import (
    fill_module,
    read_checkpoint,
    read_tensor,
    require_family,
    sha256_of,
)
from tokenstore.tokenizers.evidence import Evidence
from tokenstore.tokenizers.model_yaml import read_model_yaml
from tokenstore.tokenizers.network import Network, NetworkTokenizer
from tokenstore.tokenizers.search import NearestCode
from tokenstore.tokenizers.vit_blocks import PatchEncoder, TransformerShape
from tokenstore.tokenizers.vit_shapes import (
    grid_shape,
    patch_size,
    transformer_shape,
    with_present_names,
)
from tokenstore.tokenizers.weights import cache_folder

FAMILY = "seit encoder"
ENCODER_FILE, CODEBOOK_FILE = "tokenizer.ckpt", "codebook.ckpt"
TABLE = "en_pos_embedding"
ENCODER_PARTS = (TABLE, "to_patch_embedding.", "transformer.", "norm.")
LICENCE = "not stated for the weights; SeiT's code is CC BY-NC 4.0, so treat them as that"
PAGE = "https://github.com/naver-ai/seit"


@dataclass(frozen=True)
class SeitShape:
    """The numbers that fix the network's shape."""

    patch_size: int
    grid: tuple[int, int]  # cells (h, w)
    encoder: TransformerShape
    codes: int
    dimension: int

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return (self.grid[0] * self.patch_size, self.grid[1] * self.patch_size)


class SeitNetwork(Network):
    """ViT-VQGAN's encoder and some rows of its codebook."""

    def __init__(self, shape: SeitShape) -> None:
        """A network on the meta device; `fill_module` gives it values."""
        super().__init__()
        self.shape, self.stride, self.tile = shape, shape.patch_size, shape.image_size
        with torch.device("meta"):
            cells = shape.grid[0] * shape.grid[1]
            self.encoder = PatchEncoder(shape.encoder, cells, shape.patch_size)
            self.pre_quant = nn.Linear(shape.encoder.dim, shape.dimension)
            self.codebook = nn.Parameter(torch.empty(shape.codes, shape.dimension))

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images in 0..1, [n, 3, H, W], to latents [n, d, h, w], not normalised."""
        latents: torch.Tensor = self.pre_quant(self.encoder(images))
        return latents.view(len(images), *self.shape.grid, -1).permute(0, 3, 1, 2)

    def decode(self, rows: torch.Tensor) -> torch.Tensor:
        """There is no decoder.

        Raises:
            TokenizerError: always; says how to get pictures.
        """
        raise TokenizerError(
            f"seit's packaging has no decoder, so {len(rows)} grids of its codes cannot become "
            "pictures. Map its ids to the full codebook's with `tokenstore map-codes`, and decode "
            "those with the full ViT-VQGAN checkpoint (vit-vqgan or vit-vqgan-small)."
        )

    def code_rows(self) -> torch.Tensor:
        """See `Network.code_rows`."""
        return self.codebook

    def search(self) -> NearestCode:
        """See `Network.search`: the nearest row, both sides as unit vectors."""
        return NearestCode(self.codebook, normalise=True)


class Seit(NetworkTokenizer):
    """The tokenizer. It only encodes.

    `weights_sha256` is of both files together: the SHA-256 of the two files' own digests, in
    lower-case hex, the encoder's first and nothing between them.
    """

    network: SeitNetwork

    @classmethod
    def load(cls, request: LoadRequest) -> Self:
        """See `Tokenizer.load`; `weights` is the folder of both files, or one of them."""
        encoder_file, codebook_file = _both_files(request.weights)
        checkpoint = read_checkpoint(encoder_file)
        require_family(checkpoint, FAMILY, request.name)
        codebook = read_tensor(codebook_file)
        yaml = read_model_yaml(Path(request.config)) if request.config else None
        tensors = with_published_names(checkpoint.tensors, encoder_file)
        shape = _shape_of(Evidence(tensors, encoder_file, yaml), codebook, codebook_file)
        network = SeitNetwork(shape)
        fill_module(network, {**tensors, "codebook": codebook}, encoder_file)
        digests = checkpoint.sha256 + sha256_of(codebook_file)
        both = hashlib.sha256(digests.encode()).hexdigest()
        preprocess = request.preprocess or Preprocess("squash", shape.image_size)
        return cls(network, both, replace(request, preprocess=preprocess))

    @classmethod
    def card(cls, name: str) -> TokenizerCard:
        """See `Tokenizer.card`."""
        return TokenizerCard(
            name=name,
            family="SeiT's packaging of ViT-VQGAN, without a decoder",
            stride=8,
            preprocess="squash",
            default_size=(256, 256),
            codebook=(391, 32),
            licence=LICENCE,
            source=f"{PAGE}: the folder of {ENCODER_FILE} and {CODEBOOK_FILE}",
            available=all(file.is_file() for file in _in(cache_folder() / name)),
        )

    def describe(self) -> dict[str, Any]:
        """See `Tokenizer.describe`."""
        shape = asdict(self.network.shape)
        return {**shape, "grid": list(self.network.shape.grid), **super().describe()}


def with_published_names(
    tensors: Mapping[str, torch.Tensor], file: Path
) -> dict[str, torch.Tensor]:
    """Tensors of the pickled module by ViT-VQGAN's names: `encoder...` and `pre_quant...`.

    `"0.en_pos_embedding" -> "encoder.en_pos_embedding"`, `"1.weight" -> "pre_quant.weight"`

    Raises:
        WeightsError: no encoder or several, or not one linear map beside it.
    """
    tables = [name for name in tensors if name.rpartition(".")[2] == TABLE]
    if len(tables) != 1:
        raise WeightsError(
            f"'{file}' has {len(tables)} tensors called ...{TABLE}, expected the one of a "
            "ViT-VQGAN encoder."
        )
    prefix = tables[0].removesuffix(TABLE)
    inside = {name for name in tensors if name.startswith(tuple(prefix + p for p in ENCODER_PARTS))}
    outside = sorted(tensors.keys() - inside)
    stem = outside[0].removesuffix("bias") if outside else ""
    if outside != [f"{stem}bias", f"{stem}weight"]:
        raise WeightsError(
            f"'{file}' has {len(outside)} tensors beside the encoder ({', '.join(outside[:4])}), "
            "expected weight and bias of one linear map to the codebook's numbers."
        )
    named = {f"encoder.{name.removeprefix(prefix)}": tensors[name] for name in sorted(inside)}
    named |= {f"pre_quant.{name.removeprefix(stem)}": tensors[name] for name in outside}
    return with_present_names(named)


def _shape_of(evidence: Evidence, codebook: torch.Tensor, codebook_file: Path) -> SeitShape:
    dimension = evidence.size("pre_quant.weight", 2)[0]
    if codebook.ndim != 2 or not len(codebook) or codebook.shape[1] != dimension:
        raise WeightsError(
            f"'{codebook_file}' is a tensor {list(codebook.shape)}, expected codes of {dimension} "
            f"numbers, as '{evidence.file}' makes."
        )
    if not torch.isfinite(codebook).all():
        raise WeightsError(f"'{codebook_file}' holds values that are not finite. Fetch it anew.")
    evidence.check({"quantizer.embed_dim": dimension})
    side = patch_size(evidence, "encoder.to_patch_embedding.0.weight")
    grid = grid_shape(evidence, "encoder", TABLE, side)
    encoder = transformer_shape(evidence, "encoder")
    return SeitShape(side, grid, encoder, len(codebook), dimension)


def _in(folder: Path) -> tuple[Path, Path]:
    return (folder / ENCODER_FILE, folder / CODEBOOK_FILE)


def _both_files(weights: str | None) -> tuple[Path, Path]:
    """Encoder and codebook, from their folder or from one of them."""
    here = cache_folder() / "seit" if weights is None else Path(weights)
    files = _in(here.parent if here.name in (ENCODER_FILE, CODEBOOK_FILE) else here)
    for file in files:
        if not file.is_file():
            raise WeightsError(
                f"there is no file '{file}'. seit takes {ENCODER_FILE} and {CODEBOOK_FILE} of "
                f"{PAGE}: put both into one folder and name it with --weights, or put them into "
                f"'{cache_folder() / 'seit'}'."
            )
    return files


PLUGIN = Seit
