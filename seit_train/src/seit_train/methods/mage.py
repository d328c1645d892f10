"""MAGE (Li et al., CVPR 2023, arXiv 2211.09117), and MAGE-C with its contrastive loss.

Masked token modelling with other sizes: ratios from [0.5, 1], dropout in the encoder, a decoder as
wide as the encoder with 8 blocks, label smoothing. MAGE-C adds a contrastive loss between two views
that are masked each for itself. All of it stands in section 3. The same model draws images.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from seit_train.config import Settings, Share
from seit_train.methods.base import Losses, Method, Scene
from seit_train.models.mage import Contrast, ContrastConfig
from seit_train.models.masking import MaskConfig, draw_plan
from seit_train.models.mtm import Masked, MtmModel


class MageOptions(Settings):
    """What MAGE has beside masked token modelling.

    Attributes:
        label_smoothing: share of the target that is spread over all ranks.
        contrast: weight of the contrastive loss, 0.1 in MAGE-C; 0 leaves it out (MAGE).
        contrastive: its projection and temperature.
    """

    label_smoothing: Share = 0.1
    contrast: Share = 0.0
    contrastive: ContrastConfig = ContrastConfig()


class Mage(Method):
    """Smoothed cross-entropy on the masked ranks, and with MAGE-C the contrast of two views."""

    masks = MaskConfig(low=0.5, high=1.0, mean=0.55, deviation=0.25)

    def __init__(self, scene: Scene, options: MageOptions) -> None:
        super().__init__(scene)
        self.options, self.smoothing = options, options.label_smoothing
        self.compares = options.contrast > 0

    def build_model(self) -> MtmModel:
        """Encoder and decoder, and a projection for MAGE-C."""
        model = MtmModel(self.make_encoder(), self.scene.model.decoder)
        self.start_by_frequency(model)
        if self.options.contrast:
            width = self.scene.model.encoder.width
            model.context = Contrast(width, self.options.contrastive)
        return model

    def losses(self, model: nn.Module, draw: Callable[[], Tensor], rng: torch.Generator) -> Losses:
        """As in the law; MAGE-C reconstructs the first of its two views."""
        if not self.options.contrast:
            return super().losses(model, draw, rng)
        first, second = draw(), draw()
        shape = (len(first), self.positions)
        plan, other = (draw_plan(shape, self.scene.mask, rng) for _ in range(2))
        logits, contrast = model(first, plan, Masked(second, other))
        entropies = self.cross_entropy(logits, first, plan.masked, self.smoothing)
        reconstruction = entropies.mean(dim=(1, 2))
        parts = {"reconstruction": reconstruction, "contrast": contrast}
        total = reconstruction + self.options.contrast * contrast
        return Losses(total, {**parts, "mask_ratio": self.mask_ratio(plan.masked)})
