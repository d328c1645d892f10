"""Masked token modelling: predict the ranks under a mask (SeiT++ section 3.1).

The augmentations act on codebook vectors; every position of their result is turned back into the
nearest rank, and those ranks are both input and target. What is learnt is the encoder, which
classification starts from.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from seit_train.augment.compose import Policy, PolicyEntries
from seit_train.config import RunConfig, Settings
from seit_train.data import TokenBatch
from seit_train.distributed import sum_over_processes
from seit_train.embed import Codebook, Metric
from seit_train.models.masking import MaskConfig, draw_plan, fixed_plan
from seit_train.models.mtm import DecoderConfig, MtmModel, patch_ranks, unpatch
from seit_train.models.stem import STEMS, IdConfig, IdEmbedding, StemAdapter, count_positions
from seit_train.models.transfer import transfer
from seit_train.models.vit import TokenViT, VitConfig, layer_of
from seit_train.tasks.base import InitReport, StepResult, StoreFacts, Task
from tokenstore.errors import TrainingError

# Logits that become float32 at a time. Larger blocks come fresh from the system in each step, page
# by page, which on a CPU took a third of the step.
_CHUNK_LOGITS = 1 << 21


class MtmModelConfig(Settings):
    """The encoder-decoder.

    Attributes:
        encoder: size of the ViT that is kept.
        stem: its windows, which must not overlap: 2x2, or single positions for coarse grids.
        ids: the id embedding, whose table also predicts.
        decoder: size of the decoder, which is thrown away.
    """

    encoder: VitConfig = VitConfig(drop_path=0.0)
    stem: Literal["conv2x2", "linear"] = "conv2x2"
    ids: IdConfig = IdConfig()
    decoder: DecoderConfig = DecoderConfig()


class MtmConfig(RunConfig):
    """A run of masked token modelling: what every run has, the model, masks and augmentations.

    Attributes:
        model: encoder and decoder.
        mask: distribution of the mask ratio.
        augment: the policy.
        requantise: how augmented vectors become ranks again.
    """

    model: MtmModelConfig = MtmModelConfig()
    mask: MaskConfig = MaskConfig()
    augment: PolicyEntries = ({"random_resized_crop": {"scale": [0.2, 1.0]}},)
    requantise: Metric = "cosine"


class Completion(NamedTuple):
    """Crops with masked places, and what was guessed for them.

    Attributes:
        ranks: int64 [B,h,w], as they are.
        masked: bool [B,h,w], which of them were hidden.
        guessed: int64 [B,h,w], `ranks` with guesses at the hidden places.
    """

    ranks: Tensor
    masked: Tensor
    guessed: Tensor


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
        rows, columns = count_positions(config.model.stem, self.policy.size)
        self.positions = rows * columns

    def build_model(self) -> MtmModel:
        """Encoder and decoder for the crops that the policy makes."""
        model = self.config.model
        ids = IdEmbedding(self.facts.vocabulary_size, model.ids, self.facts.codebook)
        stem = StemAdapter(model.stem, model.encoder.width, ids)
        encoder = TokenViT(stem, self.policy.size, model.encoder, fixed_positions=True)
        whole = MtmModel(encoder, model.decoder)
        # Guessing by frequency is learnt at once if it is where the biases start.
        counts = self.facts.counts + 1.0
        with torch.no_grad():
            whole.decoder_head_bias.copy_((counts / counts.sum()).log())
        return whole

    def loss(self, model: nn.Module, batch: TokenBatch, rng: torch.Generator) -> StepResult:
        """Mean over images of the mean cross-entropy of their masked ranks."""
        ranks = self.policy.to(batch.ranks.device)(batch.ranks, None, rng).tokens
        plan = draw_plan((len(ranks), self.positions), self.config.mask, rng)
        entropies = self._cross_entropy(model(ranks, plan), ranks, plan.masked)
        valid = batch.valid.float()
        loss = (entropies.mean(dim=(1, 2)) * valid).sum() / valid.sum().clamp(min=1)
        ratio = plan.masked.shape[1] / self.positions
        return StepResult(loss, {"mask_ratio": torch.full_like(valid[0], ratio)})

    def evaluate(self, model: nn.Module, batches: Iterable[TokenBatch]) -> dict[str, float]:
        """Masked loss on centre crops, beside the entropy of the ranks that are to be guessed.

        Each image has one fixed mask; their ratios follow the distribution of training, so
        `val_loss` (nats a token) is the training loss without augmentation, on unseen images.
        `val_unigram` is the order-0 entropy of all ranks in the same crops: what a guess from the
        best fixed distribution would cost, fitted to these very ranks. `val_gain` is the share of
        it that the model saves.
        """
        device = next(model.parameters()).device
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        counts = torch.zeros(self.facts.vocabulary_size, dtype=torch.float64, device=device)
        policy = self.policy.to(device)
        for batch in batches:
            ranks = policy.plain(batch.ranks)
            plan, masked = fixed_plan(batch.index, self.positions, self.config.mask)
            entropies = self._cross_entropy(model(ranks, plan), ranks, plan.masked).mean(dim=2)
            place = torch.arange(self.positions, device=device)
            mean = (entropies * (place < masked[:, None])).sum(dim=1) / masked
            sums += torch.stack([mean[batch.valid].double().sum(), batch.valid.double().sum()])
            seen = ranks[batch.valid].flatten()
            counts += torch.bincount(seen, minlength=len(counts)).double()
        total, images = sum_over_processes(sums).tolist()
        loss, unigram = total / images, _entropy(sum_over_processes(counts))
        return {"val_loss": loss, "val_unigram": unigram, "val_gain": 1 - loss / unigram}

    def complete(self, model: nn.Module, batch: TokenBatch) -> Completion:
        """Guess what lies under the masks of `evaluate`: the likeliest rank at each place."""
        ranks = self.policy.to(batch.ranks.device).plain(batch.ranks)
        plan, counts = fixed_plan(batch.index, self.positions, self.config.mask)
        guesses = model(ranks, plan).argmax(dim=-1)  # [B,N,p], in the order of plan.masked
        patch = STEMS[self.config.model.stem].kernel
        hidden = torch.arange(self.positions, device=ranks.device) < counts[:, None]
        order = plan.masked.argsort(dim=1)  # from the order of the plan to that of the grid
        guessed = guesses.take_along_dim(order[..., None], dim=1)
        masked = hidden.take_along_dim(order, dim=1)[..., None].expand_as(guessed)
        masked, guessed = (unpatch(values, self.policy.size, patch) for values in (masked, guessed))
        return Completion(ranks, masked, torch.where(masked, guessed, ranks))

    def load_init(self, model: nn.Module, weights: Mapping[str, Tensor]) -> InitReport:
        """Go on from another masked run, or start the encoder from a classifier with id stem."""
        if not isinstance(model, MtmModel):
            raise TypeError(f"expected the model of this task, got {type(model).__name__}")
        if not any(name.startswith("encoder.") for name in weights):
            weights = {f"encoder.{name}": weight for name, weight in weights.items()}
        if "encoder.patch_embed.ids.table.weight" not in weights:
            raise TrainingError(
                "masked token modelling can only start from weights with an id embedding "
                "(patch_embed.ids): those of an mtm run, or of a classifier with embedding: ids"
            )
        fresh = ("encoder.pos_embed", "encoder.head")
        return InitReport(*transfer(model, weights, model.encoder.positions, fresh=fresh))

    def layer_of(self, parameter: str) -> int:
        """The encoder's layers, and everything of the decoder after them."""
        return layer_of(parameter, self.config.model.encoder.depth)

    def _cross_entropy(self, logits: Tensor, ranks: Tensor, masked: Tensor) -> Tensor:
        """Logits [B,M,p,K] and the ranks [B,h,w] they predict -> nats, float32 [B,M,p]."""
        targets = patch_ranks(ranks, STEMS[self.config.model.stem].kernel).take_along_dim(
            masked[..., None], dim=1
        )
        step = max(1, _CHUNK_LOGITS // self.facts.vocabulary_size)
        pairs = zip(logits.flatten(0, 2).split(step), targets.flatten().split(step), strict=True)
        losses = [functional.cross_entropy(x.float(), y, reduction="none") for x, y in pairs]
        return torch.cat(losses).view(targets.shape)


def _entropy(counts: Tensor) -> float:
    """Order-0 entropy of counts, in nats."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * shares.log()).sum())


PLUGIN = MaskedTokenModelling
