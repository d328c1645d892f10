"""The numbers of one training of a pocket tokenizer.

All of them change the result. Where files go and how many threads work does not stand here.
"""

from dataclasses import dataclass, field

from tokenstore.errors import UsageError
from tokenstore.tokenizers.base import Precision
from tokenstore.tokenizers.pocket import STRIDE, PocketConfig


@dataclass(frozen=True)
class FitConfig:
    """How to train; the defaults are those of the weights in this package, `steps` apart.

    Attributes:
        network: shape of the network that is trained.
        steps: batches in all.
        batch_size: crops a batch.
        crop: side of a crop in pixels.
        scales: short side of the photo a crop is cut from, in pixels: drawn log-uniformly between
            these two, around the 256 pixels at which tokenizers are measured.
        learning_rate: highest rate of AdamW; a cosine takes it to zero.
        warm_up: steps in which the rate rises.
        plain_share: share of the steps before the codebook exists (a plain autoencoder).
        commitment: weight of the pull of latents to their codes.
        edges: weight of the error of neighbour differences, beside the error of pixels.
        codebook_decay: a step, of the running means that are the codebook.
        restart_share: of the steps, after which codes out of use are left alone.
        average_decay: a step, of the running mean of the weights, which is what is kept.
        held_out: photos never trained on, for the PSNR shown.
        photos: at most this many photos are used, to bound memory.
        seed: of everything drawn.
        precision: of the network, "bf16" or "fp32".
    """

    network: PocketConfig = field(default_factory=PocketConfig)
    steps: int = 12_000
    batch_size: int = 16
    crop: int = 128
    scales: tuple[int, int] = (154, 282)
    learning_rate: float = 1e-3
    warm_up: int = 100
    plain_share: float = 0.1
    commitment: float = 0.25
    edges: float = 0.1
    codebook_decay: float = 0.99
    restart_share: float = 0.9
    average_decay: float = 0.998
    held_out: int = 24
    photos: int = 10_000
    seed: int = 0
    precision: Precision = "bf16"

    def __post_init__(self) -> None:
        if self.crop % STRIDE or self.crop < STRIDE:
            raise UsageError(f"crop {self.crop} is no multiple of the stride, {STRIDE} pixels")
        if min(self.steps, self.batch_size, self.held_out, self.photos) < 1:
            raise UsageError("steps, batch size, held-out photos and photos must be at least 1")

    @property
    def plain_steps(self) -> int:
        """Steps before the codebook is made."""
        return int(self.steps * self.plain_share)
