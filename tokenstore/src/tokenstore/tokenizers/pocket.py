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
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from tokenstore.errors import TokenizerError, WeightsError
from tokenstore.preprocess import Preprocess
from tokenstore.tokenizers.base import Images, LoadRequest, Precision, Tokenizer, TokenizerCard
from tokenstore.tokenizers.checkpoints import fill_module, read_tensors, write_tensors

STRIDE = 8
DEFAULT_SIZE = (256, 256)
METADATA_KEY = "pocket"
PIXELS_AT_ONCE = 2**20  # 16 images of 256x256; bounds the memory of activations
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


class PocketNetwork(nn.Module):
    """The network and its codebook; knows tensors only."""

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


def nearest_codes(latents: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Ids of the nearest rows of a codebook [K, d] for float32 latents [N, d], int64 [N].

    |z - c|^2 without |z|^2, which is the same for all codes; argmin takes the first of equals.
    """
    return torch.addmm(codebook.square().sum(1), latents, codebook.t(), alpha=-2).argmin(1)


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


def as_pictures(images: torch.Tensor) -> NDArray[np.uint8]:
    """Float [n, 3, H, W] in about 0..1 to uint8 [n, H, W, 3], clamped and rounded."""
    levels = (images.float().clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(levels.permute(0, 2, 3, 1).cpu().numpy())


def arithmetic(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context in which a network computes in one precision."""
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    # Left alone, cuDNN computes in tf32; on the CPU these flags change nothing.
    return torch.backends.cudnn.flags(True, deterministic=True, allow_tf32=precision == "tf32")


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


class Pocket(Tokenizer):
    """The tokenizer; decoder output is about 0..1."""

    name = "pocket"
    stride = STRIDE

    def __init__(self, network: PocketNetwork, sha256: str, request: LoadRequest) -> None:
        """Use a loaded network at the size, device and precision of a request."""
        self.preprocessing = request.preprocess or Preprocess("center-crop", DEFAULT_SIZE)
        if any(side % STRIDE for side in self.preprocessing.size):
            height, width = self.preprocessing.size
            raise TokenizerError(
                f"pocket takes images whose sides are multiples of {STRIDE}, not {height}x{width}"
            )
        self.precision: Precision = request.precision
        self.device = checked_device(request.device, request.precision)
        self.weights_sha256 = sha256
        self.codebook = network.codebook.numpy().copy()
        network = network.to(self.device).eval().requires_grad_(False)
        self.network = network.to(memory_format=torch.channels_last)

    @classmethod
    def load(cls, request: LoadRequest) -> Self:
        """See `Tokenizer.load`."""
        if request.config is not None:
            raise TokenizerError(f"pocket takes no --config, its weights say all: {request.config}")
        file = Path(request.weights) if request.weights else package_weights()
        network, _ = load_weights(file)
        return cls(network, hashlib.sha256(file.read_bytes()).hexdigest(), request)

    @classmethod
    def card(cls, name: str) -> TokenizerCard:
        """See `Tokenizer.card`."""
        config = PocketConfig()
        return TokenizerCard(
            name=name,
            family="convolutional VQ autoencoder",
            stride=STRIDE,
            default_size=DEFAULT_SIZE,
            codebook=(config.codes, config.dimension),
            licence=LICENCE,
            source="inside this package; or your own, made by `tokenstore fit`",
            available=package_weights().is_file(),
        )

    def describe(self) -> dict[str, Any]:
        """See `Tokenizer.describe`."""
        return {**asdict(self.network.config), "precision": self.precision}

    @torch.inference_mode()
    def encode(self, images: Images) -> torch.Tensor:
        """See `Tokenizer.encode`."""
        pixels = self.check_images(images)
        ids = torch.empty((len(pixels), *self.grid), dtype=torch.int64)
        for part in self._parts(len(pixels)):
            batch = as_network_input(pixels[part].to(self.device))
            with arithmetic(self.precision, self.device):
                latents = self.network.encode(batch)
            ids[part] = nearest_ids(latents, self.network.codebook).cpu()
        return ids

    @torch.inference_mode()
    def decode(self, ids: NDArray[np.integer] | torch.Tensor) -> torch.Tensor:
        """See `Tokenizer.decode`; the output is about 0..1."""
        checked = self.check_ids(ids)
        if tuple(checked.shape[1:]) != self.grid:
            raise TokenizerError(
                f"pocket at {self.preprocessing.size} decodes ids [n, *{self.grid}], got "
                f"{list(checked.shape)}"
            )
        images = torch.empty((len(checked), 3, *self.preprocessing.size))
        for part in self._parts(len(checked)):
            latents = embed(checked[part].to(self.device), self.network.codebook)
            with arithmetic(self.precision, self.device):
                images[part] = self.network.decode(latents).cpu()
        return images

    def to_uint8(self, images: torch.Tensor) -> NDArray[np.uint8]:
        """See `Tokenizer.to_uint8`."""
        return as_pictures(images)

    def _parts(self, count: int) -> list[slice]:
        height, width = self.preprocessing.size
        step = max(1, PIXELS_AT_ONCE // (height * width))
        return [slice(start, start + step) for start in range(0, count, step)]


def package_weights() -> Path:
    """Where the weights of this package lie."""
    return Path(str(resources.files("tokenstore.tokenizers"))) / "pocket.safetensors"


def checked_device(name: str, precision: Precision) -> torch.device:
    """The torch device called `name`, refused where it is absent or cannot do `precision`.

    Raises:
        TokenizerError: no such device here, or tf32 on anything but cuda.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TokenizerError(f"unknown device '{name}': say cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise TokenizerError(f"device '{name}' was asked for, but torch finds no CUDA here")
    if precision == "tf32" and device.type != "cuda":
        raise TokenizerError(f"precision tf32 exists on cuda only; use fp32 or bf16 on '{name}'")
    return device


PLUGIN = Pocket
