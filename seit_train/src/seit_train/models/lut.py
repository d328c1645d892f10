"""The broader context of LUT: what is seen of one view shall tell what is in all of another.

"Learning with Unmasked Tokens Drives Stronger Vision Learners" (Kim et al., ECCV 2024, arXiv
2310.13593, section 3). Two views of an image show the encoder disjoint positions; the mean of what
it sees, projected and predicted, shall point where a teacher points that sees the whole of the
other view. The teacher is a moving average of encoder and projector. Reconstruction is elsewhere.
"""

import copy
import math
from typing import Annotated, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from seit_train.models.masking import MaskPlan
from seit_train.models.mtm import Context, Masked, MaskedModel
from seit_train.models.pooled import mean_of_seen, mlp
from seit_train.models.vit import TokenViT, init_transformer

_Positive = Annotated[int, Field(gt=0)]


class ContextConfig(BaseModel):
    """Size of projector and predictor, and how slowly the teacher follows.

    Attributes:
        hidden: width between the two layers of both.
        out: numbers of a vector; the paper does not say, 256 is usual (BYOL, MoCo v3).
        momentum: share of the teacher that a step keeps at first; it rises to 1 by a cosine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: _Positive = 4096
    out: _Positive = 256
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.996


class BroaderContext(Context):
    """Projector, predictor and teacher, and L_BC of two views.

    LUT (arXiv 2310.13593), section 3; weights of L_BC are in its supplement, Tables B and C.
    """

    def __init__(self, encoder: TokenViT, config: ContextConfig) -> None:
        """Make them for an encoder, of which the teacher is a copy from now on."""
        super().__init__()
        width = encoder.cls_token.shape[-1]
        self.momentum = config.momentum
        self.projector = mlp(width, config.hidden, config.out)
        self.predictor = mlp(config.out, config.hidden, config.out)
        init_transformer(self)
        self.teacher_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.teacher_projector = copy.deepcopy(self.projector).requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """As usual, but the teacher's encoder never drops anything."""
        super().train(mode)
        self.teacher_encoder.eval()
        return self

    def forward(self, model: MaskedModel, first: Masked, encoded: Tensor, second: Masked) -> Tensor:
        """Float [B]: mean of 2 - 2 cos(student of one view, teacher of the other), both ways."""
        ours = self._student(encoded, first.plan)
        others = self._student(model.encode(*second), second.plan)
        crossed = ((ours, self._teacher(second.ranks)), (others, self._teacher(first.ranks)))
        distances = [2 - 2 * functional.cosine_similarity(a, b, dim=1) for a, b in crossed]
        return (distances[0] + distances[1]) / 2

    def _student(self, encoded: Tensor, plan: MaskPlan) -> Tensor:
        vectors: Tensor = self.predictor(self.projector(mean_of_seen(encoded, plan)))
        return vectors.float()

    @torch.no_grad()
    def _teacher(self, ranks: Tensor) -> Tensor:
        teacher = self.teacher_encoder
        patches = teacher.tokenize(ranks)
        encoded = teacher.encode(patches + teacher.pos_embed[:, 1:].to(patches.dtype))
        vectors: Tensor = self.teacher_projector(teacher.norm(encoded)[:, 1:].mean(dim=1))
        return vectors.float()

    @torch.no_grad()
    def follow(self, encoder: TokenViT, progress: float) -> None:
        """Move the teacher a step towards its student.

        Args:
            encoder: the one that is trained.
            progress: share of the run that is done, 0..1.
        """
        momentum = 1 - (1 - self.momentum) * (math.cos(math.pi * progress) + 1) / 2
        self._move(encoder, 1 - momentum)

    @torch.no_grad()
    def restart(self, encoder: TokenViT) -> None:
        """Make the teacher equal to its student."""
        self._move(encoder, 1.0)

    def _move(self, encoder: TokenViT, share: float) -> None:
        teachers: list[Tensor] = list(self.teacher_encoder.parameters())
        students: list[Tensor] = list(encoder.parameters())
        teachers += self.teacher_projector.parameters()
        students += self.projector.parameters()
        torch._foreach_lerp_(teachers, students, share)
