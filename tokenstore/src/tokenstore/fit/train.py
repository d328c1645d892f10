"""One training of a pocket network, step by step; batches come in, numbers go out.

First a plain autoencoder, then k-means over its latents makes the codebook, then both are trained
together: squared error of the pixels, squared error of the differences of neighbours (edges), and
the pull of latents to their codes. What is kept is a running mean of the weights. This module
reads and writes no files and draws no crops.
"""

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch

from tokenstore.errors import TrainingError
from tokenstore.fit.config import FitConfig
from tokenstore.fit.quantiser import STEPS_BETWEEN_RESTARTS, Quantiser
from tokenstore.single_images import psnr
from tokenstore.tokenizers.network import arithmetic, as_pictures
from tokenstore.tokenizers.pocket import PocketNetwork, as_network_input, embed, nearest_ids

Batches = Callable[[int], np.ndarray]  # step -> uint8 [n, crop, crop, 3]
KMEANS_BATCHES = 16
LOSS_SCALE = 100.0  # brings squared errors near 1, so that the gradient clip of 1 means something


@dataclass(frozen=True)
class Quality:
    """Hard-quantised reconstruction: mean PSNR in dB, codes used, the pictures [n, H, W, 3]."""

    psnr: float
    codes_used: int
    pictures: np.ndarray


class Trainer:
    """The state of a training and its one step."""

    def __init__(self, config: FitConfig, batches: Batches, device: torch.device) -> None:
        """Begin at step 0 with weights drawn by the seed."""
        self.config, self.batches, self.device = config, batches, device
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            network = PocketNetwork(config.network)
        self.network = network.to(device).to(memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.network).requires_grad_(False)
        self.quantiser = Quantiser(self.network.codebook, config.codebook_decay)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=0.01,
            fused=True,
        )
        self.step = 0

    def train_step(self, crops: np.ndarray) -> float:
        """Learn from one batch of crops and give its loss.

        Raises:
            TrainingError: the loss is not finite.
        """
        if self.step == self.config.plain_steps:
            self._start_codebook()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.config)
        loss = self._loss(self._images(crops))
        if not math.isfinite(loss.item()):
            raise TrainingError(
                f"the loss of step {self.step} is {loss.item()}. Run again with a lower --lr."
            )
        (LOSS_SCALE * loss).backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self._average()
        return loss.item()

    @torch.no_grad()
    def measure(self, pictures: np.ndarray) -> Quality:
        """Quality of the averaged network on uint8 [n, H, W, 3]; no codes in the plain steps."""
        errors, used, decoded = [], set(), []
        for picture in pictures:
            images = self._images(picture[None])
            with self._arithmetic():
                latents = self.averaged.encode(images).float()
            if self.step > self.config.plain_steps:
                ids = nearest_ids(latents, self.averaged.codebook)
                used.update(ids.unique().tolist())
                latents = embed(ids, self.averaged.codebook)
            with self._arithmetic():
                images = self.averaged.decode(latents)
            decoded.append(as_pictures(images, self.averaged.output_range)[0])
            errors.append(psnr(picture, decoded[-1]))
        return Quality(float(np.mean(errors)), len(used), np.stack(decoded))

    def _loss(self, images: torch.Tensor) -> torch.Tensor:
        config = self.config
        with self._arithmetic():
            latents = self.network.encode(images)
        latents, distance = self._quantised(latents.float())
        with self._arithmetic():
            decoded = self.network.decode(latents)
        error = decoded - images
        right, down = error.diff(dim=3), error.diff(dim=2)
        edges = right.square().mean() + down.square().mean()
        # A weight relative to the scale of squared errors, since LOSS_SCALE multiplies all.
        pull = config.commitment / LOSS_SCALE * distance
        loss: torch.Tensor = error.square().mean() + config.edges * edges + pull
        return loss

    def _quantised(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
        """Latents [n, d, h, w] as codes, with their distance; untouched in the plain steps."""
        config, step = self.config, self.step
        if step < config.plain_steps:
            return latents, 0.0
        n, d, h, w = latents.shape
        flat = latents.permute(0, 2, 3, 1).reshape(-1, d)
        codes, distance = self.quantiser(flat)
        if step % STEPS_BETWEEN_RESTARTS == 0 and step < config.restart_share * config.steps:
            self.quantiser.restart(flat.detach(), self._rng())
        return codes.view(n, h, w, d).permute(0, 3, 1, 2), distance

    @torch.no_grad()
    def _start_codebook(self) -> None:
        latents = []
        for ahead in range(KMEANS_BATCHES):
            with self._arithmetic():
                found = self.network.encode(self._images(self.batches(self.step + ahead)))
            latents.append(found.float().permute(0, 2, 3, 1).flatten(0, 2))
        uses = len(latents[0]) / self.config.network.codes
        self.quantiser.start(torch.cat(latents), uses, self._rng())
        self.averaged.codebook.copy_(self.network.codebook)

    @torch.no_grad()
    def _average(self) -> None:
        """Running mean of weights and codebook; nearer to the newest while there are few steps."""
        decay = min(self.config.average_decay, self.step / (self.step + 10))
        mean, newest = self.averaged.state_dict().values(), self.network.state_dict().values()
        torch._foreach_lerp_(list(mean), list(newest), 1 - decay)

    def _images(self, pictures: np.ndarray) -> torch.Tensor:
        return as_network_input(torch.from_numpy(pictures).to(self.device))

    def _arithmetic(self) -> AbstractContextManager[object]:
        return arithmetic(self.config.precision, self.device)

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng((self.config.seed, 2, self.step))


def learning_rate(step: int, config: FitConfig) -> float:
    """Linear warm-up, then half a cosine that ends at zero."""
    rising = min(1.0, (step + 1) / config.warm_up)
    return config.learning_rate * rising * (1 + math.cos(math.pi * step / config.steps)) / 2
