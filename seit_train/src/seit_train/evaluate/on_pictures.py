"""Evaluation of a run on pixels: the pictures of a folder, as its validation saw them."""

from pathlib import Path

from seit_train.data import iterate
from seit_train.evaluate.on_images import labelled_pictures
from seit_train.evaluate.trained import Trained
from seit_train.pictures import PictureSplit
from tokenstore.sources import open_source


def evaluate_pictures(trained: Trained, folder: Path, split: str | None) -> dict[str, float]:
    """Metrics over a folder of pictures.

    Args:
        trained: a model that reads pictures.
        folder: class folders, or a folder with train/ val/ ...
        split: which of its splits; None takes val where there is one, else the only one.

    Raises:
        UsageError: class folders that the run does not know, or a split that is not there.
        TrainingError: a picture that cannot be read.
    """
    source = open_source(str(folder))
    listing = source.listing()
    pictures = labelled_pictures(listing, trained.run.store.classes, split)
    items = tuple(item._replace(label=label) for item, label in pictures)
    some = PictureSplit(split or "val", source, items, listing.sha256())
    return trained.judge(iterate(trained.task.evaluation_batches(some, trained.world)))
