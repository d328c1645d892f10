"""Initial: the weights that `--init` names, checked for the store, and given to a fresh model.

They come from another run here, whose vocabulary has to fit, or from a file that others published.
Such a file says nothing of ranks, so a table of them is taken only where it has as many rows as the
store has codes. Nothing in any file is executed. What goes where in a model is the task's business.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from seit_train.checkpoint import MODEL, load_weights
from seit_train.models.published import translated
from seit_train.run import CONFIG, Run, StoreIdentity
from seit_train.tasks.base import Task
from tokenstore.errors import Mismatch, TrainingError
from tokenstore.tokenizers.checkpoints import read_checkpoint

_log = logging.getLogger(__name__)
_ID_TABLES = tuple(
    f"{stem}.ids.table.weight" for stem in ("patch_embed", "encoder.patch_embed", "conv1")
)
_OF_RANKS = ("patch_embed.ids.", "encoder.patch_embed.ids.", "decoder_head_bias")


def start_from(place: Path, task: Task, model: nn.Module, store: StoreIdentity) -> None:
    """Give a fresh model the weights at a place, and tell what became of each.

    Raises:
        TrainingError: there are none, they are of no known layout, or none fits.
        Mismatch: they were trained for another vocabulary: the same rank means another code.
        WeightsError: a damaged file, or one that may run code.
    """
    report = task.load_init(model, init_weights(place, store, reads_ranks=task.reads_ranks))
    _log.info("started from '%s': %d tensors loaded", place, len(report.loaded))
    for what, names in (
        ("interpolated or grown", report.resized),
        ("new, as they are not there or do not fit", report.new),
        ("not used", report.unused),
    ):
        if names:
            _log.info("  %s: %s", what, grouped(names))


def init_weights(
    place: Path, store: StoreIdentity, *, reads_ranks: bool = True
) -> dict[str, Tensor]:
    """The weights to start another run from, if its vocabulary fits.

    Args:
        place: a run, one of its checkpoints, a file of one, or one that others published.
        store: what will be trained on.
        reads_ranks: whether the model to be reads ranks, so that it matters what they mean.

    Raises:
        TrainingError: there are no weights at that place, or they are of no known layout.
        Mismatch: they were trained for another vocabulary: the same rank means another code.
        WeightsError: a damaged file, or one that may run code.
    """
    if (place / CONFIG).is_file():
        place = Run.open(place).result()
    file = place / MODEL if place.is_dir() else place
    if not file.is_file():
        raise TrainingError(
            f"'{place}' holds no weights to start from. Give a run, a checkpoint, or a file of "
            "published weights."
        )
    if file.suffix == ".safetensors":
        weights, origin = load_weights(file)
        if "vocabulary" in origin:
            if reads_ranks and int(origin["vocabulary_size"]):  # a run on pixels knows no ranks
                _refuse_other_vocabulary(file, origin, store)
            return weights
    else:
        weights = read_checkpoint(file).tensors
    return _published(file, weights, store)


def grouped(names: Sequence[str]) -> str:
    """["blocks.0.ls.gamma", "blocks.1.ls.gamma", "head.bias"] -> "blocks.*.ls.gamma, head.bias"."""
    return ", ".join(sorted({re.sub(r"\.\d+\.", ".*.", name) for name in names}))


def _published(file: Path, weights: dict[str, Tensor], store: StoreIdentity) -> dict[str, Tensor]:
    found = None if any(name in weights for name in _ID_TABLES) else translated(weights)
    if found is None:
        raise TrainingError(
            f"'{file}' does not say for which vocabulary it was trained, and is no published model "
            f"known here: it has names such as '{next(iter(weights), 'none')}'. Pass a run of "
            "seit-train, one of its checkpoints, or weights as timm, DeiT, MAE or SeiT have them."
        )
    _log.info("'%s' has the layout of %s", file, found.layout)
    own = found.weights
    table = next((own[name] for name in _ID_TABLES if name in own), None)
    if table is None:
        return own
    codes = len(store.vocabulary)
    if len(table) == codes:
        _log.warning(
            "'%s' does not say what its %d ranks mean: they are taken to be those of the store, as "
            "for the released tokens of SeiT",
            *(file, codes),
        )
        return own
    _log.warning(
        "'%s' embeds %d ranks and the store has %d, so its embedding is left out",
        *(file, len(table), codes),
    )
    return {name: weight for name, weight in own.items() if not name.startswith(_OF_RANKS)}


def _refuse_other_vocabulary(file: Path, origin: dict[str, str], store: StoreIdentity) -> None:
    size = int(origin["vocabulary_size"])  # more codes may have been added behind these
    found = store.vocabulary_fingerprint(size)
    if found != origin["vocabulary"]:
        raise Mismatch(
            f"'{file}' was trained for vocabulary {origin['vocabulary'][:12]} of {size} codes, "
            f"store '{store.place}' has {found[:12]} of {len(store.vocabulary)}: the same rank "
            "means another code. Build the store with --vocabulary of the first run's store, or "
            "leave out --init."
        )
