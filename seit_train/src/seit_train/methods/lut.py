"""LUT (Kim et al., ECCV 2024, arXiv 2310.13593): masked modelling, and the broader context.

The first view is reconstructed as masked token modelling does it, or as SimMIM does it, whose mask
tokens stay in the encoder. Beside that, what the encoder sees of either view shall agree with what
a moving average of it makes of all of the other one (section 3). View 2 sees the positions that
come next in the random order of view 1, so at least half of them are masked.
"""

from collections.abc import Callable
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from seit_train.config import Settings
from seit_train.methods.base import Losses, Method, Scene, refuse_dropping
from seit_train.models.lut import BroaderContext, ContextConfig
from seit_train.models.masking import MaskConfig, MaskPlan, draw_disjoint_plans, fixed_plan, plan_of
from seit_train.models.mtm import Masked, MaskedModel, MtmModel
from seit_train.models.simmim import SimmimModel
from seit_train.models.vit import init_transformer
from tokenstore.errors import TrainingError


class LutOptions(Settings):
    """What LUT adds, and to what.

    Attributes:
        base: what is reconstructed and how; null leaves only the broader context, and the model has
            no decoder.
        weight: of the broader context beside the reconstruction (supplement, Tables B and C: 0.1 to
            0.5 work, 1.0 hurts).
        context: projector, predictor and teacher.
    """

    base: Literal["mtm", "simmim"] | None = "mtm"
    weight: Annotated[float, Field(gt=0)] = 0.25
    context: ContextConfig = ContextConfig()


class Lut(Method):
    """Reconstruction of the first view, and agreement between both."""

    masks = MaskConfig(low=0.5, high=1.0, mean=0.55, deviation=0.25)
    compares = True  # by the BatchNorm of projector and predictor

    def __init__(self, scene: Scene, options: LutOptions) -> None:
        """Keep what it is made for.

        Raises:
            TrainingError: fewer than half of the positions may be masked, or positions would be
                dropped that its base needs.
        """
        super().__init__(scene)
        if scene.mask.low < 0.5:
            raise TrainingError(
                "lut masks at least half of the positions, so that its second view finds others "
                f"to see than the first; mask.low is {scene.mask.low}. Set mask.low=0.5."
            )
        if options.base == "simmim":
            refuse_dropping(scene.mask)
        self.options, self.guesses = options, options.base is not None

    def build_model(self) -> MaskedModel:
        """The base's model with projector, predictor and teacher."""
        encoder = self.make_encoder()
        model: MaskedModel
        if self.options.base is None:
            model = MaskedModel(encoder)
            init_transformer(model)
        else:
            is_mtm = self.options.base == "mtm"
            model = MtmModel(encoder, self.scene.model.decoder) if is_mtm else SimmimModel(encoder)
            self.start_by_frequency(model)
        model.context = BroaderContext(encoder, self.options.context)
        return model

    def losses(self, model: nn.Module, draw: Callable[[], Tensor], rng: torch.Generator) -> Losses:
        """The reconstruction of view 1, and the broader context of both."""
        first, second = draw(), draw()
        shape = (len(first), self.positions)
        plan, other = draw_disjoint_plans(shape, self.scene.mask, rng)
        logits, context = model(first, plan, Masked(second, other))
        parts = {"context": context, "mask_ratio": self.mask_ratio(plan.masked)}
        total = self.options.weight * context
        if self.guesses:
            entropies = self.cross_entropy(logits, first, plan.masked)
            parts["reconstruction"] = entropies.mean(dim=(1, 2))
            total = total + parts["reconstruction"]
        return Losses(total, parts)

    def judge(self, model: nn.Module, ranks: Tensor, index: Tensor) -> Tensor:
        """Nats of a masked rank; without a base, the broader context of one view seen twice."""
        if self.guesses:
            return super().judge(model, ranks, index)
        plan, masked = fixed_plan(index, self.positions, self.scene.mask)
        dropped = self.scene.mask.count_dropped(self.positions)
        other = plan_of(_next_order(plan, masked), masked[:, None], dropped)
        context: Tensor = model(ranks, plan, Masked(ranks, other)).context
        return context

    def after_step(self, model: MaskedModel, progress: float) -> None:
        """The teacher follows."""
        cast(BroaderContext, model.context).follow(model.encoder, progress)

    def after_init(self, model: MaskedModel) -> None:
        """The teacher starts where its student does."""
        cast(BroaderContext, model.context).restart(model.encoder)


def _next_order(plan: MaskPlan, masked: Tensor) -> Tensor:
    """The order of the second view for each image's own number of masked positions, int64 [B,N]."""
    positions = plan.masked.shape[1]
    place = torch.arange(positions, device=masked.device)
    return plan.masked.take_along_dim((place - (positions - masked)[:, None]) % positions, dim=1)
