"""SimMIM on ranks: mask tokens go through the whole encoder, and a light head predicts from there.

After Xie et al. (CVPR 2022, arXiv 2111.09886, section 3): nothing is dropped, there is no decoder,
one linear layer turns the encoder's output at a masked position into its prediction. What pixels
are there are ranks here, compared with the id embedding as in the other masked models.
"""

from torch import Tensor

from seit_train.models.masking import MaskPlan
from seit_train.models.mtm import RankPredictor
from seit_train.models.vit import TokenViT, init_transformer


class SimmimModel(RankPredictor):
    """An encoder that sees all positions, the masked ones as mask tokens, and a linear head.

    SimMIM (arXiv 2111.09886), section 3.
    """

    def __init__(self, encoder: TokenViT) -> None:
        """Put the head behind an encoder as in `MaskedModel`."""
        super().__init__(encoder, encoder.cls_token.shape[-1])
        init_transformer(self)

    def logits(self, encoded: Tensor, plan: MaskPlan) -> Tensor:
        """Float [B,1+N,width] -> logits [B,M,patch*patch,K].

        `plan` keeps all positions, in any order, and lists them in `masked` in the same order, as
        plans without dropped positions do: the masked ones first.
        """
        return self.predict(encoded[:, 1 : 1 + plan.masked.shape[1]])
