"""Masked token modelling as SeiT++ does it (section 3.1, arXiv 2312.10105).

One view, a ratio from a normal distribution truncated to [0.4, 1], 40% of all positions never seen
by the encoder, and cross-entropy on the masked ranks alone.
"""

from seit_train.methods.base import Method
from seit_train.models.masking import MaskConfig
from seit_train.models.mtm import MtmModel


class Mtm(Method):
    """The method of the law, with a decoder."""

    masks = MaskConfig(low=0.4, high=1.0, mean=0.45, deviation=0.25)

    def build_model(self) -> MtmModel:
        """Encoder and decoder."""
        model = MtmModel(self.make_encoder(), self.scene.model.decoder)
        self.start_by_frequency(model)
        return model
