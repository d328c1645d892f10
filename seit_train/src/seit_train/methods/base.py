"""The law of the method: one way to learn an encoder from ranks under a mask, without labels.

A method builds a model around an encoder and makes losses of views of images. Its names are those
of its file. It knows neither stores nor augmentations nor the loop: the task `mtm` hands it views
and averages what it gives back. What it shares with other methods is here: one view, one plan, and
the cross-entropy of the masked ranks.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from seit_train.config import Settings
from seit_train.models.cross_entropy import cross_entropy
from seit_train.models.masking import MaskConfig, draw_plan, fixed_plan
from seit_train.models.mtm import DecoderConfig, MaskedModel, RankPredictor, patch_ranks, unpatch
from seit_train.models.stem import STEMS, IdConfig, IdEmbedding, StemAdapter, count_positions
from seit_train.models.vit import TokenViT, VitConfig
from tokenstore.errors import TrainingError


class MtmModelConfig(Settings):
    """What a masked model is made of.

    Attributes:
        encoder: size of the ViT that is kept.
        stem: its windows, which must not overlap: 2x2, or single positions for coarse grids.
        ids: the id embedding, whose table also predicts.
        decoder: size of the decoder, which is thrown away; simmim has none.
    """

    encoder: VitConfig = VitConfig(drop_path=0.0)
    stem: Literal["conv2x2", "linear"] = "conv2x2"
    ids: IdConfig = IdConfig()
    decoder: DecoderConfig = DecoderConfig()


@dataclass(frozen=True)
class Scene:
    """What a method is made for.

    Attributes:
        model: sizes.
        mask: distribution of the mask ratio.
        size: (h, w) of the grids of ranks that models get.
        counts: int64 [K], how often each rank occurs in training.
        codebook: float32 [K,d], or None where the store has none.
    """

    model: MtmModelConfig
    mask: MaskConfig
    size: tuple[int, int]
    counts: Tensor
    codebook: Tensor | None


class Losses(NamedTuple):
    """What a method makes of a batch: float [B] to descend, and more float [B] to log."""

    total: Tensor
    parts: Mapping[str, Tensor]


class Completion(NamedTuple):
    """Grids with masked places, and what was guessed for them.

    Attributes:
        ranks: int64 [B,h,w], as they are.
        masked: bool [B,h,w], which of them were hidden.
        guessed: int64 [B,h,w], `ranks` with guesses at the hidden places.
    """

    ranks: Tensor
    masked: Tensor
    guessed: Tensor


class Method(ABC):
    """One way to learn; see the law above.

    Attributes:
        masks: the published distribution of the mask ratio.
        guesses: whether the model predicts ranks, so that `judge` gives nats a token.
        compares: whether the loss of an image depends on the others of its batch.
    """

    masks: ClassVar[MaskConfig]
    smoothing: float = 0.0  # of the targets of `losses`
    guesses: bool = True
    compares: bool = False

    def __init__(self, scene: Scene) -> None:
        """Keep what it is made for.

        Raises:
            TrainingError: the stem does not cover the grids evenly.
        """
        self.scene = scene
        rows, columns = count_positions(scene.model.stem, scene.size)
        self.positions = rows * columns

    @abstractmethod
    def build_model(self) -> MaskedModel:
        """A freshly initialised model."""

    def losses(self, model: nn.Module, draw: Callable[[], Tensor], rng: torch.Generator) -> Losses:
        """Losses of one batch.

        Args:
            model: maybe wrapped.
            draw: gives a newly augmented view of the batch, int64 [B,h,w].
            rng: all that is random comes from it.
        """
        ranks = draw()
        plan = draw_plan((len(ranks), self.positions), self.scene.mask, rng)
        losses = self.cross_entropy(model(ranks, plan), ranks, plan.masked, self.smoothing)
        return Losses(losses.mean(dim=(1, 2)), {"mask_ratio": self.mask_ratio(plan.masked)})

    def judge(self, model: nn.Module, ranks: Tensor, index: Tensor) -> Tensor:
        """The loss of plain views on unseen images, a pure function of each image.

        Args:
            model: in evaluation mode.
            ranks: int64 [B,h,w].
            index: int64 [B], sample numbers, which decide the masks.

        Returns:
            Float [B]: mean nats of a masked rank, without smoothing.
        """
        plan, masked = fixed_plan(index, self.positions, self.scene.mask)
        entropies = self.cross_entropy(model(ranks, plan), ranks, plan.masked).mean(dim=2)
        place = torch.arange(self.positions, device=ranks.device)
        return (entropies * (place < masked[:, None])).sum(dim=1) / masked

    def complete(self, model: nn.Module, ranks: Tensor, index: Tensor) -> Completion:
        """The likeliest rank at each place that `judge` masks, each guessed on its own."""
        plan, masked = fixed_plan(index, self.positions, self.scene.mask)
        guesses = model(ranks, plan).argmax(dim=-1)  # [B,N,p] in the order of the plan
        hidden = torch.arange(self.positions, device=ranks.device) < masked[:, None]
        order = plan.masked.argsort(dim=1)  # where in the plan each place of the grid stands
        guesses = guesses.take_along_dim(order[..., None], dim=1)
        hidden = hidden.take_along_dim(order, dim=1)[..., None].expand_as(guesses)
        patch = STEMS[self.scene.model.stem].kernel
        guessed, under = (unpatch(x, self.scene.size, patch) for x in (guesses, hidden))
        return Completion(ranks, under, torch.where(under, guessed, ranks))

    def after_step(self, model: MaskedModel, progress: float) -> None:
        """What happens after each step of the optimizer, at a share 0..1 of the run."""
        return

    def after_init(self, model: MaskedModel) -> None:
        """What happens when a model was started from weights that knew nothing of this method."""
        return

    def make_encoder(self) -> TokenViT:
        """A fresh encoder with an id embedding and fixed positions."""
        model = self.scene.model
        ids = IdEmbedding(len(self.scene.counts), model.ids, self.scene.codebook)
        stem = StemAdapter(model.stem, model.encoder.width, ids)
        return TokenViT(stem, self.scene.size, model.encoder, fixed_positions=True)

    def start_by_frequency(self, model: RankPredictor) -> None:
        """Let the biases guess by frequency, which would be learnt first anyway."""
        counts = self.scene.counts + 1.0
        with torch.no_grad():
            model.decoder_head_bias.copy_((counts / counts.sum()).log())

    def mask_ratio(self, masked: Tensor) -> Tensor:
        """Float [B], the same for all images of a step."""
        ratio = masked.shape[1] / self.positions
        return torch.full((len(masked),), ratio, device=masked.device)

    def cross_entropy(
        self, logits: Tensor, ranks: Tensor, masked: Tensor, smoothing: float = 0.0
    ) -> Tensor:
        """Logits [B,M,p,K] and the ranks [B,h,w] they predict -> nats, float32 [B,M,p]."""
        targets = patch_ranks(ranks, STEMS[self.scene.model.stem].kernel).take_along_dim(
            masked[..., None], dim=1
        )
        return cross_entropy(logits, targets, smoothing)


def refuse_dropping(mask: MaskConfig) -> None:
    """Refuse masks that keep positions from an encoder that must have them all.

    Raises:
        TrainingError: a share is dropped.
    """
    share = mask.low if mask.dropped is None else mask.dropped
    if share:
        raise TrainingError(
            f"simmim predicts from the encoder's own output, so no masked position may be dropped "
            f"before it, and mask.dropped is {share}. Set mask.dropped=0."
        )
