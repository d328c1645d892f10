"""Masked token modelling: predict the ranks under a mask (SeiT++ section 3.1), and its neighbours.

The augmentations act on codebook vectors; every position of their result is turned back into the
nearest rank, and those ranks are both input and target. How a loss is made of them is the method's
business (`seit_train.methods`, docs/methods.md); here they get their views, are averaged and are
judged. What is learnt is the encoder, which classification starts from.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from seit_train.augment.compose import Policy, PolicyEntries
from seit_train.config import RunConfig
from seit_train.data import TokenBatch
from seit_train.distributed import sum_over_processes
from seit_train.embed import Codebook, Metric
from seit_train.methods.base import Completion, Method, MtmModelConfig, Scene
from seit_train.methods.lut import Lut, LutOptions
from seit_train.methods.mage import Mage, MageOptions
from seit_train.methods.mtm import Mtm
from seit_train.methods.simmim import Simmim
from seit_train.models.masking import MaskConfig
from seit_train.models.mtm import MaskedModel
from seit_train.models.transfer import exchanged_stem, transfer
from seit_train.models.vit import layer_of
from seit_train.tasks.base import InitReport, StepResult, StoreFacts, Task

METHODS: dict[str, type[Method]] = {"mtm": Mtm, "lut": Lut, "simmim": Simmim, "mage": Mage}
_WITH_OPTIONS = ("lut", "mage")


class MtmConfig(RunConfig):
    """A run of masked token modelling: what every run has, the model, masks and augmentations.

    Attributes:
        method: how losses are made of masked ranks.
        model: encoder and decoder.
        mask: distribution of the mask ratio; what is not given is as published for the method.
        lut: what LUT adds; only with that method.
        mage: what MAGE has beside masked token modelling; only with that method.
        augment: the policy.
        requantise: how augmented vectors become ranks again.
    """

    method: Literal["mtm", "lut", "simmim", "mage"] = "mtm"
    model: MtmModelConfig = MtmModelConfig()
    mask: MaskConfig
    lut: LutOptions | None = None
    mage: MageOptions | None = None
    augment: PolicyEntries = ({"random_resized_crop": {"scale": [0.2, 1.0]}},)
    requantise: Metric = "cosine"

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, values: dict[str, Any]) -> dict[str, Any]:
        method = values.get("method", "mtm")
        if method not in METHODS:
            return values
        for name in _WITH_OPTIONS:
            if name != method and values.get(name) is not None:
                raise ValueError(
                    f"the keys {name}.* belong to method {name}, and the method is {method}: leave "
                    f"them out, or set method={name}"
                )
        own = {method: values.get(method) or {}} if method in _WITH_OPTIONS else {}
        lut = own.get("lut", {})
        on_simmim = isinstance(lut, dict) and lut.get("base") == "simmim"
        masks = METHODS["simmim" if on_simmim else method].masks
        return {**values, **own, "mask": {**masks.model_dump(), **(values.get("mask") or {})}}


class MaskedTokenModelling(Task):
    """Cross-entropy on the masked positions; see `evaluate` for what it is compared with."""

    name = "mtm"
    Config = MtmConfig
    best_metric = "val_loss"
    higher_is_better = False
    uses_labels = False
    config: MtmConfig

    def __init__(self, config: MtmConfig, facts: StoreFacts) -> None:
        super().__init__(config, facts)
        codebook = facts.codebook
        embed = None if codebook is None else Codebook(codebook, config.requantise)
        self.policy = Policy(config.augment, facts.surroundings, embed, "ranks")
        self.method = self.make_method(self.policy.size)
        self.positions = self.method.positions

    @property
    def fewest_images(self) -> int:
        """Two for methods that compare images."""
        return 2 if self.method.compares else 1

    def make_method(self, size: tuple[int, int]) -> Method:
        """The configured method for grids of this size."""
        config = self.config
        counts, codebook = self.facts.counts, self.facts.codebook
        scene = Scene(config.model, config.mask, size, counts, codebook)
        if config.lut is not None:
            return Lut(scene, config.lut)
        if config.mage is not None:
            return Mage(scene, config.mage)
        return METHODS[config.method](scene)

    def build_model(self) -> MaskedModel:
        """The method's model for the crops that the policy makes."""
        return self.method.build_model()

    def loss(self, model: nn.Module, batch: TokenBatch, rng: torch.Generator) -> StepResult:
        """Mean over images of what the method makes of them."""
        policy = self.policy.to(batch.ranks.device)

        def view() -> Tensor:
            tokens: Tensor = policy(batch.ranks, None, rng).tokens
            return tokens

        losses = self.method.losses(model, view, rng)
        valid = batch.valid.float()
        count = valid.sum().clamp(min=1)
        means = {n: (x.detach() * valid).sum() / count for n, x in losses.parts.items()}
        return StepResult((losses.total * valid).sum() / count, means)

    def after_step(self, model: nn.Module, progress: float) -> None:
        """What the method does between steps."""
        self.method.after_step(_masked(model), progress)

    def evaluate(self, model: nn.Module, batches: Iterable[TokenBatch]) -> dict[str, float]:
        """Masked loss on centre crops, beside the entropy of the ranks that are to be guessed.

        Each image has one fixed mask; their ratios follow the distribution of training, so
        `val_loss` (nats a token) is the loss of reconstruction without augmentation, on unseen
        images. `val_unigram` is the order-0 entropy of all ranks in the same crops: what a guess
        from the best fixed distribution would cost, fitted to these very ranks. `val_gain` is the
        share of it that the model saves. Where a method guesses no ranks, there is `val_loss` only,
        and it is the method's own.
        """
        device = next(model.parameters()).device
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        counts = torch.zeros(self.facts.vocabulary_size, dtype=torch.float64, device=device)
        policy = self.policy.to(device)
        for batch in batches:
            ranks, valid = policy.plain(batch.ranks), batch.valid
            losses = self.method.judge(model, ranks, batch.index)
            sums += torch.stack([losses[valid].double().sum(), valid.double().sum()])
            counts += torch.bincount(ranks[valid].flatten(), minlength=len(counts)).double()
        total, images = sum_over_processes(sums).tolist()
        loss, unigram = total / images, _entropy(sum_over_processes(counts))
        if not self.method.guesses:
            return {"val_loss": loss}
        return {"val_loss": loss, "val_unigram": unigram, "val_gain": 1 - loss / unigram}

    def complete(self, model: nn.Module, batch: TokenBatch) -> Completion | None:
        """Centre crops with guesses under the masks of `evaluate`; None where none are made."""
        if not self.method.guesses:
            return None
        ranks = self.policy.to(batch.ranks.device).plain(batch.ranks)
        return self.method.complete(model, ranks, batch.index)

    def load_init(self, model: nn.Module, weights: Mapping[str, Tensor]) -> InitReport:
        """Go on from another masked run, or start the encoder from a classifier or a published ViT.

        The stem stays fresh where it was fed something else than ids.
        """
        masked = _masked(model)
        if not any(name.startswith("encoder.") for name in weights):
            weights = {f"encoder.{name}": weight for name, weight in weights.items()}
        stem = exchanged_stem(masked.state_dict(), weights, "encoder.patch_embed.")
        fresh = ("encoder.pos_embed", "encoder.head", *stem)
        report = InitReport(*transfer(masked, weights, masked.encoder.positions, fresh=fresh))
        if not any(name.startswith("context.") for name in weights):
            self.method.after_init(masked)
        return report

    def layer_of(self, parameter: str) -> int:
        """The encoder's layers, and everything of the decoder after them."""
        return layer_of(parameter, self.config.model.encoder.depth)


def _masked(model: nn.Module) -> MaskedModel:
    if not isinstance(model, MaskedModel):
        raise TypeError(f"expected the model of this task, got {type(model).__name__}")
    return model


def _entropy(counts: Tensor) -> float:
    """Order-0 entropy of counts, in nats."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * shares.log()).sum())


PLUGIN = MaskedTokenModelling
