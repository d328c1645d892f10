"""`seit-train segment`: a class for every pixel, from scratch or from another run."""

from typing import TYPE_CHECKING

from seit_train.cli.main import training_command

if TYPE_CHECKING:
    from seit_train.launch import Outcome


def _without_a_network(outcome: "Outcome", place: str) -> list[str]:
    """What tables reach that learn nothing, to hold the run's mIoU against."""
    from seit_train.evaluate.mask_baselines import mask_baselines
    from tokenstore.reader import open_store

    data, facts = outcome.run.config.data, outcome.run.store.facts()
    store = open_store(place, cache=data.cache, cache_bytes=data.cache_bytes)
    if facts.masks is None or not store.splits.get("val"):
        return []
    shares = mask_baselines(store["train"], store["val"], facts.masks, facts.vocabulary_size)
    return [
        f"beside val_miou {shares['by_place']:.4f} with the commonest class of each pixel's place, "
        f"{shares['by_id_and_cell']:.4f} with that of each id in each of 16x16 cells"
    ]


command = training_command(
    "segment",
    "Learn to segment the images of STORE, which has masks.",
    next_command="seit-train evaluate {run} --store {store}",
    remark=_without_a_network,
)
