"""Settings of several runs side by side: those that differ, and all of one run.

Settings are those of config.json with dotted keys; the store, the weights that a run began from and
the machine are among them, since they explain differences too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seit_train.report.records import RunRecord
from tokenstore.report.templates import compact

MACHINE = ("device", "processes", "threads", "precision")
ABSENT = "\N{EN DASH}"
SHARES = ("top1", "top5", "miou", "accuracy", "gain", "exact", "naive")


@dataclass(frozen=True)
class Setting:
    """One setting: a dotted key, and its value in each run as text."""

    key: str
    values: tuple[str, ...]


def differing(records: Sequence[RunRecord]) -> tuple[Setting, ...]:
    """Settings that are not the same in all of these runs; all of them where there is one run."""
    everything = [settings_of(record) for record in records]
    keys = list(dict.fromkeys(key for settings in everything for key in settings))
    rows = [
        Setting(key, tuple(settings.get(key, ABSENT) for settings in everything)) for key in keys
    ]
    return tuple(row for row in rows if len(records) == 1 or len(set(row.values)) > 1)


def settings_of(record: RunRecord) -> dict[str, str]:
    """{"optim.betas": "[0.9, 0.95]", ..., "store": "photos.tokenstore 2fe011ee", ...}."""
    plain = _flat(record.run.config.model_dump(mode="json"))
    store = record.run.store
    plain["store"] = f"{store_name(store.place)} {store.fingerprint[:8]}"
    init = record.environment.get("init")
    plain["init"] = ABSENT if init is None else store_name(init)
    plain |= {name: record.environment[name] for name in MACHINE if name in record.environment}
    return {
        key: value if isinstance(value, str) else compact(value) for key, value in plain.items()
    }


def store_name(place: str) -> str:
    """The last part of a store's place, so that no path gets about."""
    return place.rstrip("/").rpartition("/")[2]


def _flat(group: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optim": {"betas": [0.9, 0.95]}} -> {"optim.betas": [0.9, 0.95]}."""
    flat: dict[str, Any] = {}
    for key, value in group.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        steps: "4,005 of 4,005".
        time: "6 min", over all resumes; ABSENT where no checkpoint says so.
        best: best value of the task's metric with its name, and the step it came at.
        metrics: the last evaluation, by name and as text.
    """

    steps: str
    time: str
    best: str
    metrics: Mapping[str, str]


def result_of(record: RunRecord) -> Result:
    """How a run ended, as texts."""
    best, name = record.best, record.run.task.best_metric
    told = ABSENT
    if best is not None:
        told = f"{as_text(name, best[name])} at step {best['step'] or 0:,.0f}"
    of = "" if record.steps is None else f" of {record.steps:,}"
    seconds = record.state.get("seconds")
    return Result(
        steps=f"{record.step:,}{of}",
        time=ABSENT if seconds is None else duration(float(seconds)),
        best=f"{name} {told}",
        metrics={
            key: as_text(key, value)
            for key, value in record.judged_last.items()
            if key.startswith("val_") and "/" not in key  # of single classes: for a section
        },
    )


def as_text(name: str, value: float | None) -> str:
    """Shares as percent, others with four figures: ("val_top1", 0.59) -> "59.0%"."""
    if value is None:
        return "not finite"
    return f"{value:.1%}" if any(word in name for word in SHARES) else f"{value:.4g}"


def duration(seconds: float) -> str:
    """384 -> "6 min"; two units at most."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
