"""Evaluation on a split of a store whose ranks mean the same codes as those of the run."""

from typing import Any

from seit_train.data import iterate
from seit_train.evaluate.trained import Trained
from tokenstore.errors import Mismatch
from tokenstore.reader import Split, open_store


def evaluate_store(trained: Trained, place: str, split: str) -> dict[str, Any]:
    """Metrics over a whole split.

    Raises:
        Mismatch: vocabulary, grid or classes are not those of the run.
        UnknownName: no such split.
    """
    samples = matching_split(trained, place, split)
    return trained.judge(iterate(trained.task.evaluation_batches(samples, trained.world)))


def matching_split(trained: Trained, place: str, split: str) -> Split:
    """A split whose ranks and labels mean what those of the run meant.

    Raises:
        Mismatch: vocabulary, grid or classes are not those of the run.
        UnknownName: no such split.
    """
    store, known = open_store(place), trained.run.store
    samples = store[split]
    vocabulary = known.vocabulary_fingerprint(len(store.vocabulary))
    classes = tuple(store.manifest.classes or ())
    for what, ours, theirs in (
        ("vocabulary", vocabulary[:12], store.vocabulary_fingerprint[:12]),
        ("grid", known.grid, tuple(store.manifest.grid)),
        ("classes", known.classes if trained.task.uses_classes else classes, classes),
    ):
        if ours != theirs:
            raise Mismatch(
                f"run '{trained.run.folder}' was trained on {what} {ours}, store '{place}' has "
                f"{theirs}. Evaluate on the images themselves with --images."
            )
    return samples
