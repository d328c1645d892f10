"""A TokenAdapt made of the tokenizer itself: decoder, warp and encoder, tuned together.

What the tokenizer would say of a warped picture is best told by the tokenizer: its decoder takes
vectors to a picture, and its encoder takes a warped picture to logits, by the distances to its
codes. So the adapted space is that of pixels, and the untrained model is already decode-warp-encode
without its last rounding. Training with the cross-entropy of SeiT++ section 3.2 then makes the
decoder draw what the encoder needs, instead of what an eye does. Nothing but convolutions, so that
grids of any size go through. For `pocket`, whose network is small; SeiT++'s own halves are in
token_adapt.py.
"""

from typing import Self, cast

import torch
from torch import Tensor, nn

from seit_train.models.token_adapt import Adapter
from tokenstore.tokenizers.pocket import STRIDE, PocketConfig, PocketNetwork

RANK = 12  # numbers that a logit is made of; the tokenizer's own are the first of them
_SHARPNESS = 18.0  # of the first logits, over the variance of the codebook: lowest cross-entropy


class TunedTokenizer(Adapter):
    """Decoder and encoder of `pocket`, and a head of low rank that starts as its codebook."""

    scale = STRIDE

    def __init__(self, config: PocketConfig, ids: Tensor) -> None:
        """Make it with fresh weights, which are good for loading others only.

        Args:
            config: the tokenizer's numbers.
            ids: int64 [K], the tokenizer's ids that the logits stand for.
        """
        super().__init__()
        network = PocketNetwork(config)
        self.decoder = network.decoder
        self.encoder = network.encoder[:-1]
        self.squeeze = nn.Linear(config.width, RANK)
        self.head = nn.Linear(RANK, len(ids))
        self.register_buffer("ids", ids.clone())
        self.to(memory_format=torch.channels_last)

    @classmethod
    def start(cls, network: PocketNetwork, ids: Tensor) -> Self:
        """One that begins as the tokenizer itself.

        Args:
            network: of the tokenizer.
            ids: int64 [K] of its codes.
        """
        model = cls(network.config, ids)
        model.decoder.load_state_dict(network.decoder.state_dict())
        model.encoder.load_state_dict(network.encoder[:-1].state_dict())
        latents, rows = cast(nn.Conv2d, network.encoder[-1]), network.codebook[ids].float()
        size, sharpness = rows.shape[1], _SHARPNESS / rows.var(dim=0).sum()
        with torch.no_grad():
            model.squeeze.weight[:size] = latents.weight[:, :, 0, 0]
            model.squeeze.bias[:size] = cast(Tensor, latents.bias)
            model.squeeze.bias[size:] = 0
            # -sharpness |z - row|^2 without |z|^2, which all logits share
            model.head.weight[:, :size], model.head.weight[:, size:] = 2 * sharpness * rows, 0
            model.head.bias.copy_(-sharpness * rows.square().sum(dim=1))
        return model

    def adapt(self, grid: Tensor) -> Tensor:
        """Embedded grids, float [B,d,h,w] -> pictures of about 0..1, [B,3,8h,8w]."""
        picture: Tensor = self.decoder(grid)
        return picture + 0.5  # black, which is what lies outside of a picture, is 0 then

    def restore(self, adapted: Tensor) -> Tensor:
        """Pictures [B,3,8r,8s] -> logits of ids, float [B,r,s,K]."""
        features = self.encoder(adapted * 2 - 1).permute(0, 2, 3, 1)
        logits: Tensor = self.head(self.squeeze(features))
        return logits
