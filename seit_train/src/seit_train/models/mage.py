"""MAGE-C: what an encoder sees of two views of an image shall tell the image from all others.

Li et al., "MAGE" (CVPR 2023, arXiv 2211.09117), section 3: an InfoNCE loss in the manner of SimCLR
on the pooled features of the encoder. The encoder-decoder is `MtmModel` with MAGE's sizes; how
images are drawn from it stands in sampler.py.
"""

from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from seit_train.models.masking import MaskPlan
from seit_train.models.mtm import Context, Masked, MaskedModel
from seit_train.models.pooled import mean_of_seen, mlp
from seit_train.models.vit import init_transformer

_Positive = Annotated[int, Field(gt=0)]


class ContrastConfig(BaseModel):
    """Size of the projection and sharpness of the comparison.

    Attributes:
        hidden: width between its two layers; neither this nor `out` is stated in our sources.
        out: numbers of a vector.
        temperature: what cosines are divided by.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: _Positive = 4096
    out: _Positive = 256
    temperature: Annotated[float, Field(gt=0)] = 0.2


class Contrast(Context):
    """A projection, and the contrastive loss of two views: MAGE (arXiv 2211.09117), section 3."""

    def __init__(self, width: int, config: ContrastConfig) -> None:
        """Make it for features of `width` channels."""
        super().__init__()
        self.temperature = config.temperature
        self.projector = mlp(width, config.hidden, config.out)
        init_transformer(self)

    def forward(self, model: MaskedModel, first: Masked, encoded: Tensor, second: Masked) -> Tensor:
        """Float [B]: NT-Xent of both views of each image among the 2B views of this batch."""
        ours = self._project(encoded, first.plan)
        others = self._project(model.encode(*second), second.plan)
        return nt_xent(torch.stack([ours, others]), self.temperature)

    def _project(self, encoded: Tensor, plan: MaskPlan) -> Tensor:
        vectors: Tensor = self.projector(mean_of_seen(encoded, plan))
        return vectors.float()


def nt_xent(vectors: Tensor, temperature: float) -> Tensor:
    """SimCLR's loss (arXiv 2002.05709, equation 1): float [2,B,d] of two views -> float [B].

    Each view shall find the other one of its image among all other views; a mean of both ways.
    """
    images = vectors.shape[1]
    unit = functional.normalize(vectors.flatten(0, 1), dim=1)
    scores = unit @ unit.T / temperature
    scores = scores.masked_fill(torch.eye(2 * images, dtype=torch.bool, device=unit.device), -1e9)
    partner = torch.arange(2 * images, device=unit.device).roll(images)
    losses = functional.cross_entropy(scores, partner, reduction="none")
    return losses.view(2, images).mean(dim=0)
