"""A TokenAdapt made of the tokenizer itself: decoder, warp and encoder, tuned together.

What the tokenizer would say of a warped picture is best told by the tokenizer: its decoder takes
vectors to a picture, and its encoder takes a warped picture to logits, by the distances to its
codes. So the adapted space is that of pixels, and the untrained model is already decode-warp-encode
without its last rounding. Training with the cross-entropy of SeiT++ section 3.2 then makes the
decoder draw what the encoder needs, instead of what an eye does. Nothing but convolutions, so that
grids of any size go through. For `pocket`, whose network is small; SeiT++'s own halves are in
token_adapt.py.
"""

from typing import Self

import torch
from torch import Tensor, nn

from seit_train.models.token_adapt import Adapter
from tokenstore.tokenizers.pocket import STRIDE, PocketConfig, PocketNetwork

_SHARPNESS = 18.0  # of the first logits, over the codebook's variance: fewest nats on photos


class TunedTokenizer(Adapter):
    """Decoder and encoder of `pocket`; logits say how near a code is, by the codebook as it was."""

    scale = STRIDE
    rows: Tensor

    def __init__(self, config: PocketConfig, ids: Tensor, rows: Tensor) -> None:
        """Make it with fresh weights, which are good for loading others only.

        Args:
            config: the tokenizer's numbers.
            ids: int64 [K], the tokenizer's ids that the logits stand for.
            rows: float [K,d] of the codebook, those of `ids`.
        """
        super().__init__()
        network = PocketNetwork(config)
        self.decoder, self.encoder = network.decoder, network.encoder
        self.sharpness = nn.Parameter(_SHARPNESS / rows.float().var(dim=0).sum())
        self.register_buffer("ids", ids.clone())
        self.register_buffer("rows", rows.float().clone())
        self.to(memory_format=torch.channels_last)

    @classmethod
    def start(cls, network: PocketNetwork, ids: Tensor) -> Self:
        """One that begins as the tokenizer itself.

        Args:
            network: of the tokenizer.
            ids: int64 [K] of its codes.
        """
        model = cls(network.config, ids, network.codebook[ids])
        model.decoder.load_state_dict(network.decoder.state_dict())
        model.encoder.load_state_dict(network.encoder.state_dict())
        return model

    def adapt(self, grid: Tensor) -> Tensor:
        """Embedded grids, float [B,d,h,w] -> pictures of about 0..1, [B,3,8h,8w]."""
        picture: Tensor = self.decoder(grid)
        return picture + 0.5  # black, which is what lies outside of a picture, is 0 then

    def restore(self, adapted: Tensor) -> Tensor:
        """Pictures [B,3,8r,8s] -> logits of ids, float [B,r,s,K]."""
        latents = self.encoder(adapted * 2 - 1).permute(0, 2, 3, 1)
        # -|z - row|^2 without |z|^2, which all logits share; 8 bits of precision would blur codes
        with torch.autocast(adapted.device.type, enabled=False):
            nearness = 2 * latents.float() @ self.rows.T - self.rows.square().sum(dim=1)
            logits: Tensor = self.sharpness * nearness
        return logits
