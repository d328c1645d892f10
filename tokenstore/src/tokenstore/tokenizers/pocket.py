"""Pocket: a small convolutional VQ autoencoder of our own, whose weights ship in this package.

It is here so that everything runs on a fresh machine without a download. Stride 8, and no layer
looks at the size of the image: 256x256 is the default, any multiple of 8 works. `tokenstore fit`
trains other weights for it; training is not this module's business, the weights file is.

    encoder   4x4 pixels to channels -> 3x3 conv -> stride 2 -> residual blocks -> d numbers a cell
    code      the nearest row of the codebook [K, d], squared distance in fp32, lowest id on ties
    decoder   3x3 conv -> residual blocks -> x2 -> residual block -> 3x3 conv -> channels to pixels

There is no normalisation: as in super-resolution networks (EDSR, Lim et al. 2017, section 3.1) it
costs range, and it would tie a cell to the whole image. Three quarters of the work is 3x3
convolutions at stride 8, where two CPU cores are at their best and the view is widest.

A weights file is safetensors: the network in float16, `codebook` in float32, and in its metadata
under "pocket" JSON: the numbers of `PocketConfig` as "network", and "notes" of how it was made.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional

from tokenstore.errors import TokenizerError, WeightsError
from tokenstore.preprocess import Preprocess
from tokenstore.tokenizers.base import LoadRequest, TokenizerCard
from tokenstore.tokenizers.checkpoints import fill_module, read_tensors, write_tensors
from tokenstore.tokenizers.network import Network, NetworkTokenizer
from tokenstore.tokenizers.search import NearestCode, nearest_codes
from tokenstore.tokenizers.weights import locate_weights

STRIDE = 8
DEFAULT_SIZE = (256, 256)
DEFAULT_RULE = "center-crop"
METADATA_KEY = "pocket"
LICENCE = (
    "code Apache-2.0; weights for non-commercial research only, since their training photos are "
    "under ImageNet terms and CC BY-NC 4.0 (docs/model_card_pocket.md)"
)


@dataclass(frozen=True)
class PocketConfig:
    """The numbers that fix the network's shape."""

    codes: int = 1024
    dimension: int = 8
    width: int = 128  # channels at stride 8
    fine_width: int = 64  # channels at stride 4
    blocks: int = 3  # residual blocks at stride 8, in each half

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise TokenizerError(f"pocket setting {field.name} is {value!r}, not a whole > 0")


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), 3x3; starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[n, width, h, w] -> [n, width, h, w]."""
        change: torch.Tensor = self.second(functional.relu(self.first(functional.relu(features))))
        return features + change


class PocketNetwork(Network):
    """The network and its codebook; knows tensors only."""

    stride = STRIDE
    codebook: torch.Tensor

    def __init__(self, config: PocketConfig) -> None:
        """Random weights, and a codebook of zeros."""
        super().__init__()
        self.config = config
        width, fine = config.width, config.fine_width
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, fine, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(fine, width, 2, stride=2),
            *(ResidualBlock(width) for _ in range(config.blocks)),
            nn.Conv2d(width, config.dimension, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(config.dimension, width, 3, padding=1),
            *(ResidualBlock(width) for _ in range(config.blocks)),
            nn.Conv2d(width, 4 * fine, 1),
            nn.PixelShuffle(2),
            ResidualBlock(fine),
            nn.Conv2d(fine, 48, 3, padding=1),
            nn.PixelShuffle(4),
        )
        self.register_buffer("codebook", torch.zeros(config.codes, config.dimension))

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images in 0..1, [n, 3, H, W], to latents [n, d, H/8, W/8]."""
        latents: torch.Tensor = self.encoder(images * 2 - 1)
        return latents

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents [n, d, h, w] to images of about 0..1, [n, 3, 8h, 8w]."""
        around_grey: torch.Tensor = self.decoder(latents)
        return around_grey.float() + 0.5

    def code_rows(self) -> torch.Tensor:
        """See `Network.code_rows`."""
        return self.codebook

    def search(self) -> NearestCode:
        """See `Network.search`: the nearest row of the codebook."""
        return NearestCode(self.codebook, normalise=False)


def nearest_ids(latents: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Ids of the nearest codes for latents [n, d, h, w], int64 [n, h, w]."""
    n, d, h, w = latents.shape
    return nearest_codes(latents.float().permute(0, 2, 3, 1).reshape(-1, d), codebook).view(n, h, w)


def embed(ids: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Rows of a codebook [K, d] for ids [n, h, w], as latents [n, d, h, w]."""
    return codebook[ids].permute(0, 3, 1, 2)


def as_network_input(images: torch.Tensor) -> torch.Tensor:
    """uint8 [n, H, W, 3] to float32 [n, 3, H, W] in 0..1, channels last in memory."""
    return images.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last).float() / 255


def save_weights(file: Path, network: PocketNetwork, notes: Mapping[str, Any]) -> None:
    """Write a weights file; `notes` are JSON and say how the weights were made."""
    tensors = {name: value.half() for name, value in network.state_dict().items()}
    tensors["codebook"] = network.codebook
    # One entry only: safetensors writes several in any order, and equal fits give equal bytes.
    content = {"network": asdict(network.config), "notes": dict(notes)}
    write_tensors(file, tensors, {METADATA_KEY: json.dumps(content)})


def load_weights(file: Path) -> tuple[PocketNetwork, dict[str, Any]]:
    """Read a weights file into a float32 network; also its notes.

    Raises:
        WeightsError: the file is missing, damaged, or of another model.
    """
    tensors, metadata = read_tensors(file)
    if METADATA_KEY not in metadata:
        raise WeightsError(
            f"'{file}' holds no weights of pocket: its metadata has no '{METADATA_KEY}' entry, "
            f"only {sorted(metadata)}. `tokenstore fit` makes such files."
        )
    try:
        content = json.loads(metadata[METADATA_KEY])
        config, notes = PocketConfig(**content["network"]), dict(content["notes"])
    except (ValueError, TypeError, KeyError, TokenizerError) as error:
        raise WeightsError(f"'{file}' describes no pocket network: {error}.") from error
    network = PocketNetwork(config)
    fill_module(network, tensors, file)
    return network, notes


class Pocket(NetworkTokenizer):
    """The tokenizer; decoder output is about 0..1."""

    network: PocketNetwork

    @classmethod
    def load(cls, request: LoadRequest) -> Self:
        """See `Tokenizer.load`."""
        if request.config is not None:
            raise TokenizerError(f"pocket takes no --config, its weights say all: {request.config}")
        given = request.weights
        file = package_weights() if given is None else locate_weights("pocket", given, None)
        network, _ = load_weights(file)
        preprocess = request.preprocess or Preprocess(DEFAULT_RULE, DEFAULT_SIZE)
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        return cls(network, sha256, replace(request, preprocess=preprocess))

    @classmethod
    def card(cls, name: str) -> TokenizerCard:
        """See `Tokenizer.card`."""
        config = PocketConfig()
        return TokenizerCard(
            name=name,
            family="convolutional VQ autoencoder",
            stride=STRIDE,
            preprocess=DEFAULT_RULE,
            default_size=DEFAULT_SIZE,
            codebook=(config.codes, config.dimension),
            licence=LICENCE,
            source="inside this package; or your own, made by `tokenstore fit`",
            available=package_weights().is_file(),
        )

    def describe(self) -> dict[str, Any]:
        """See `Tokenizer.describe`."""
        return {**asdict(self.network.config), "precision": self.precision}


def package_weights() -> Path:
    """Where the weights of this package lie."""
    return Path(str(resources.files("tokenstore.tokenizers"))) / "pocket.safetensors"


PLUGIN = Pocket
