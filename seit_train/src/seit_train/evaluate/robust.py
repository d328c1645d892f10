"""Accuracy on corrupted pictures, kind by kind and level by level."""

from collections.abc import Callable, Sequence
from typing import Any

from seit_train.evaluate.corruptions import Corruption, corruption_change
from seit_train.evaluate.gallery import Change
from tokenstore.errors import UsageError

Judge = Callable[[Change | None, str], dict[str, Any]]  # metrics of changed pictures; what it is


def judge_corrupted(
    judge: Judge, corruptions: Sequence[Corruption], metric: str, seed: int
) -> dict[str, Any]:
    """One metric under each corruption.

    Args:
        judge: gives the metrics of a run on changed pictures.
        corruptions: kinds and levels.
        metric: which of the metrics, e.g. top1.
        seed: of what corruptions draw.

    Returns:
        `metric`, its name; by `kinds` the metric at each of the `levels` and their `mean`; and the
        `mean` of these over all kinds.

    Raises:
        UsageError: a kind is given twice.
    """
    kinds: dict[str, Any] = {}
    for corruption in corruptions:
        if corruption.kind in kinds:
            raise UsageError(
                f"corruption {corruption.kind} is given twice; list its levels at once"
            )
        levels = {
            str(level): judge(
                corruption_change(corruption.kind, level, seed), f"{corruption.kind} {level}"
            )[metric]
            for level in corruption.levels
        }
        kinds[corruption.kind] = {"levels": levels, "mean": sum(levels.values()) / len(levels)}
    mean = sum(kind["mean"] for kind in kinds.values()) / len(kinds)
    return {"metric": metric, "kinds": kinds, "mean": mean}
