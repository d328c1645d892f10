"""The report of runs: how they went, how they differ, and what their models see, on one HTML page.

    records.py   what a run's folder says      curves.py    several runs on the same axes
    compared.py  settings that differ          material.py  a trained model with images to look at
    sections/    one thing to look at, a file  blocks.py    what a section is made of
    page.py      the page itself, from runs.html.jinja

`report_on` looks, `page.render` writes. A run is never changed, and what cannot be shown of it, for
want of a checkpoint, its store or the tokenizer's weights, is said in its place.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seit_train.report.compared import Setting, differing
from seit_train.report.curves import Curve, draw_curves
from seit_train.report.material import Lookups, gather
from seit_train.report.records import RunRecord, read_records
from seit_train.report.sections.base import Findings, Section
from tokenstore.errors import TokenstoreError
from tokenstore.registry import find, names

SAMPLE = 1024

Reach = Callable[[int, int], None]


@dataclass(frozen=True)
class ReportOptions:
    """What to look at: stores in place of the runs' own, a split, images of it, and weights."""

    stores: tuple[str, ...] = ()
    split: str = "val"
    sample: int = SAMPLE
    weights: str | None = None
    config: str | None = None


@dataclass(frozen=True)
class Look:
    """One run looked into.

    Attributes:
        found: what each section found, by its title.
        absent: titles of the sections that this kind of run has nothing for.
        problems: what cannot be shown, in words that are the same on every machine.
        details: what was said here, for the terminal.
    """

    found: Mapping[str, Findings]
    absent: tuple[str, ...]
    problems: tuple[str, ...]
    details: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """All that a page tells: `looks` has one entry a record, in the same order."""

    records: tuple[RunRecord, ...]
    curves: tuple[Curve, ...]
    settings: tuple[Setting, ...]
    looks: tuple[Look, ...]


def report_on(
    folders: Sequence[Path], options: ReportOptions, reach: Reach = lambda done, total: None
) -> Report:
    """Look at runs.

    Args:
        folders: of the runs.
        options: what to look at.
        reach: called with steps done and steps in all.

    Raises:
        TrainingError: a folder holds no run, or a damaged one.
        Mismatch: a store that was asked for fits none of the runs.
    """
    records = read_records(folders)
    known = sections()
    total, lookups = len(records) * (len(known) + 1), Lookups(options.stores, options.split)
    looks = []
    for number, record in enumerate(records):
        done = number * (len(known) + 1)
        looks.append(_look(record, lookups, options, _counting(reach, done, total)))
        reach(done + len(known) + 1, total)
    lookups.refuse_useless()
    return Report(
        records=records,
        curves=draw_curves(records),
        settings=differing(records),
        looks=tuple(looks),
    )


def sections() -> list[type[Section]]:
    """Every section there is, in the order of the page."""
    package = "seit_train.report.sections"
    kinds: list[type[Section]] = [find(package, name) for name in names(package)]
    return sorted(kinds, key=lambda kind: (kind.order, kind.title))


def _counting(reach: Reach, done: int, total: int) -> Callable[[int], None]:
    return lambda more: reach(done + more, total)


def _look(
    record: RunRecord, lookups: Lookups, options: ReportOptions, step: Callable[[int], None]
) -> Look:
    material, problems, details = gather(record, lookups, options.weights, options.config)
    found: dict[str, Findings] = {}
    absent: list[str] = []
    if material is not None:
        for number, kind in enumerate(sections()):
            step(number + 1)
            if not kind.serves(material.trained):
                absent.append(kind.title)
                continue
            try:
                found[kind.title] = kind.look(material, options.sample)
            except TokenstoreError as error:
                problems.append(f"'{kind.title}' could not be made: {type(error).__name__}.")
                details.append(str(error))
        if not found:
            problems.append(f"For runs of {record.run.config.task} there is nothing else to show.")
    return Look(found, tuple(absent), tuple(problems), tuple(details))
