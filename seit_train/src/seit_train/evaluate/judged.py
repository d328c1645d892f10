"""All that one evaluation was asked for: plain figures, then corruptions, then an attack."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seit_train.data import iterate
from seit_train.evaluate.adversarial import CAUTION, PictureAttack, judge_attacked
from seit_train.evaluate.class_map import BY_NAME, Scope
from seit_train.evaluate.corruptions import Corruption
from seit_train.evaluate.gallery import Change, Gallery, judge_gallery
from seit_train.evaluate.greedy_ids import judge_substituted
from seit_train.evaluate.on_images import TokenGallery, TokenizerFiles, open_gallery
from seit_train.evaluate.on_masks import evaluate_masks
from seit_train.evaluate.on_pictures import open_pixel_gallery
from seit_train.evaluate.on_store import evaluate_store, matching_split
from seit_train.evaluate.robust import judge_corrupted
from seit_train.evaluate.trained import Trained
from tokenstore.errors import UsageError


@dataclass(frozen=True)
class Asked:
    """What is to be found out besides the plain figures.

    Attributes:
        split: which; None takes val.
        scope: which pictures, and what their folders stand for.
        corruptions: done to the pictures, one after the other.
        attack: of pictures.
        budgets: how many ids may be replaced; None leaves them alone.
    """

    split: str | None = None
    scope: Scope = BY_NAME
    corruptions: tuple[Corruption, ...] = ()
    attack: PictureAttack | None = None
    budgets: tuple[int, ...] | None = None


def judge_store(trained: Trained, place: str, asked: Asked) -> dict[str, Any]:
    """Figures of a run on a store, which has tokens only.

    Raises:
        UsageError: an attack of pictures is asked for.
        Mismatch: vocabulary, grid or classes are not those of the run.
    """
    if asked.attack is not None:
        raise UsageError("apgd attacks pictures: give --images DIR, or attack with greedy-ids")
    split = asked.split or "val"
    metrics = evaluate_store(trained, place, split)
    if asked.budgets is not None:
        samples = matching_split(trained, place, split)
        batches = iterate(trained.task.evaluation_batches(samples, trained.world))
        labels = tuple(range(len(trained.run.store.classes)))
        rows = judge_substituted(trained, batches, asked.budgets, labels)
        metrics["attack"] = _told(rows)
    return metrics


def judge_folder(
    trained: Trained, folder: Path, files: TokenizerFiles, asked: Asked
) -> dict[str, Any]:
    """Figures of a run on pictures.

    Raises:
        UsageError: a folder, a split or an attack that does not go with the run.
    """
    gallery: Gallery
    if trained.task.reads_ranks:
        gallery = open_gallery(trained, folder, asked.split, files, asked.scope)
    else:
        gallery = open_pixel_gallery(trained, folder, asked.split, asked.scope)

    def judged(change: Change | None, what: str) -> dict[str, Any]:
        if trained.task.uses_masks and isinstance(gallery, TokenGallery):
            return evaluate_masks(trained, gallery, change, what)
        return judge_gallery(trained, gallery, change, what)

    metrics = judged(None, "evaluating")
    if asked.corruptions:
        best = trained.task.best_metric.removeprefix("val_")
        seed = asked.scope.seed
        metrics["corruptions"] = judge_corrupted(judged, asked.corruptions, best, seed)
    if asked.attack is not None:
        metrics["attack"] = judge_attacked(trained, gallery, asked.attack)
    if asked.budgets is not None:
        gallery.targets.refuse_sets()
        batches = map(gallery.batch, gallery.decoded())
        rows = judge_substituted(trained, batches, asked.budgets, gallery.targets.among)
        metrics["attack"] = _told(rows)
    return metrics


def _told(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": "greedy-ids", "rows": rows, "caution": CAUTION}
