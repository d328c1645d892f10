"""SimMIM on ranks (arXiv 2111.09886): all positions enter the encoder, a linear layer predicts.

Xie et al. mask 60% at random. LUT has a variant on it.
"""

from seit_train.methods.base import Method, Scene, refuse_dropping
from seit_train.models.masking import MaskConfig
from seit_train.models.simmim import SimmimModel


class Simmim(Method):
    """The method of the law, where nothing is dropped and nothing decodes."""

    masks = MaskConfig(low=0.6, high=0.6, mean=0.6, deviation=0.25, dropped=0.0)

    def __init__(self, scene: Scene) -> None:
        """Keep what it is made for.

        Raises:
            TrainingError: some positions would not enter the encoder.
        """
        super().__init__(scene)
        refuse_dropping(scene.mask)

    def build_model(self) -> SimmimModel:
        """Encoder and linear head."""
        model = SimmimModel(self.make_encoder())
        self.start_by_frequency(model)
        return model
