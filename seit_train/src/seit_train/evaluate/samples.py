"""Pictures that a masked model draws: ranks by parallel decoding, pixels by the tokenizer.

MAGE (section 3) draws its images so; any run of `seit-train mtm` that predicts ranks, and has
learnt to from nothing at all, can. How ranks are drawn stands in models/sampler.py.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from seit_train.evaluate.on_images import load_run_tokenizer
from seit_train.evaluate.trained import Trained, load_trained
from seit_train.models.mtm import MaskedModel
from seit_train.models.sampler import SamplerConfig, sample_ranks
from seit_train.models.transfer import transfer
from seit_train.precision import autocast, resolve_precision
from seit_train.tasks.mtm import MaskedTokenModelling
from tokenstore.errors import TokenizerError, UsageError
from tokenstore.progress import WorkProgress
from tokenstore.tokenizers.base import Tokenizer

_BATCH = 32


def draw_pictures(
    run: Path,
    count: int,
    sampler: SamplerConfig,
    seed: int,
    weights: str | None = None,
    config: str | None = None,
) -> NDArray[np.uint8]:
    """Pictures that the model of a run draws, uint8 [count,H,W,3].

    They have the size of the crops that the model was trained on, or of the store's images where
    the tokenizer decodes no other; positions are then interpolated.

    Args:
        run: of `seit-train mtm`.
        count: how many.
        sampler: how they are drawn.
        seed: equal seeds give equal pictures on one device.
        weights: file or URL of the tokenizer's weights; None means the tokenizer's own place.
        config: file of its architecture, for weights that cannot tell it.

    Raises:
        UsageError: a run that cannot draw.
        Mismatch: the weights or settings of the tokenizer are not those that made the store.
    """
    trained = load_trained(run)
    known, device = trained.run.store, trained.world.device
    task = _drawing_task(trained)
    tokenizer = load_run_tokenizer(known, device, weights, config)
    model = _fitting_model(trained, task, tokenizer).eval()
    rng = torch.Generator(device).manual_seed(seed)
    precision = resolve_precision(trained.run.config.loop.precision, device)
    pictures = []
    with WorkProgress("drawing", total=count, unit="images") as progress:
        for start in range(0, count, _BATCH):
            some = min(_BATCH, count - start)
            with autocast(precision, device):
                ranks = sample_ranks(model, some, task.config.mask, sampler, rng)
            ids = known.vocabulary.to_ids(ranks.cpu().numpy())
            pictures.append(tokenizer.to_uint8(tokenizer.decode(ids)))
            progress.advance(some)
    return np.concatenate(pictures)


def _drawing_task(trained: Trained) -> MaskedTokenModelling:
    """The task of a run that can draw."""
    task, folder = trained.task, trained.run.folder
    if not isinstance(task, MaskedTokenModelling):
        raise UsageError(f"'{folder}' is a run of {task.name}; only runs of mtm draw pictures")
    if not task.method.guesses:
        raise UsageError(f"'{folder}' was trained without predicting ranks (lut.base=null)")
    if task.config.mask.high < 1:
        raise UsageError(
            f"'{folder}' never saw more than {task.config.mask.high:.0%} of an image masked, and "
            "drawing begins with nothing. Train with mask.high=1.0."
        )
    return task


def _fitting_model(
    trained: Trained, task: MaskedTokenModelling, tokenizer: Tokenizer
) -> MaskedModel:
    """The model, for grids of a size that the tokenizer decodes."""
    model = trained.model
    if not isinstance(model, MaskedModel):
        raise TypeError(f"expected a masked model, got {type(model).__name__}")
    try:
        rows, columns = (side * tokenizer.stride for side in task.policy.size)
        tokenizer.check_size(rows, columns)
    except TokenizerError:
        larger = task.make_method(task.facts.grid).build_model().to(trained.world.device)
        transfer(larger, model.state_dict(), larger.encoder.positions)
        return larger
    return model
