"""One store becomes another: other codec, other shard size, without keys, or some of its samples.

The vocabulary stays: the same ids at the same ranks, also those that do not occur any more, so a
model trained on either store reads the other. Its counts are those of the new store's own images,
by the usual rule. Where classes are chosen, labels count these classes only, in the store's order;
else labels stay as they are. Rejects of the splits that are taken are carried along.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenstore import registry
from tokenstore.build.engine import Running
from tokenstore.build.output import Output, claim_output
from tokenstore.build.plan import PLAN_FORMAT, WorkPlan, locked_versions
from tokenstore.build.run import BuildReport
from tokenstore.codecs.base import CodecSpec
from tokenstore.errors import UsageError
from tokenstore.listed import load_rejects
from tokenstore.manifest import Manifest, SourceEntry, load_manifest, publish
from tokenstore.operations.repack import (
    Form,
    NewSplit,
    Piece,
    columns_like,
    count_ranks,
    fit_form,
    write_splits,
)
from tokenstore.operations.selection import Selection, named_classes, select, taken_classes
from tokenstore.progress import WorkProgress
from tokenstore.reader import Store, open_store
from tokenstore.space import least_store, room_for
from tokenstore.vocabulary import Vocabulary
from tokenstore.writer import write_rejects, write_tables, write_vocabulary


@dataclass(frozen=True)
class ConvertOptions:
    """What a user decides: codec (None: the store's own), images of a shard, and which samples."""

    codec: str | None = None
    shard_size: int = 16_384
    keys: bool = True
    selection: Selection = field(default_factory=Selection)


def convert_store(
    old: str, place: str | Path, options: ConvertOptions, running: Running
) -> BuildReport:
    """Write a store anew, or continue where an earlier call was interrupted.

    Raises:
        UnknownName: no such codec, split or class.
        UsageError: no such key, or nothing is left of the selection.
        BuildError: the place is taken.
        NoRoom: the disk is too full.
        CorruptStore: the store is damaged; names the place.
    """
    store = open_store(old)
    options = replace(options, selection=named_classes(options.selection, store))
    plan = _plan(store, options)
    with WorkProgress("looking for keys", None, stream=running.stream) as progress:
        splits = _splits(store, options, progress)
    images = sum(map(len, splits))
    if not images:
        raise UsageError(f"no image of '{store.url}' meets all that was asked for")
    manifest = store.manifest
    needed = least_store(images, manifest.grid, manifest.vocabulary.entropy)
    output = claim_output(place, plan, needed)
    if output.is_done:
        output.clear_staging()
        return BuildReport(output.target.url, load_manifest(output.target), False, 0)
    with room_for(output.target.url, needed):
        job = _Job(store, splits, taken_classes(store, options.selection), plan)
        whole = _convert(job, output, running)
    output.clear_staging()
    return BuildReport(output.target.url, whole, is_new=True, tokenized=images)


def _plan(store: Store, options: ConvertOptions) -> WorkPlan:
    codec = options.codec or store.manifest.table_sets[-1].codec
    registry.find("tokenstore.codecs", codec)
    facts = {
        "plan": PLAN_FORMAT,
        "operation": "convert",
        "source": {"kind": "store", "listing": store.fingerprint},
        "codec": codec,
        "shard_size": options.shard_size,
        "keys": options.keys,
        "versions": locked_versions(),
        **options.selection.as_facts(),
    }
    return WorkPlan(facts)


def _splits(store: Store, options: ConvertOptions, progress: WorkProgress) -> list[NewSplit]:
    """The new splits: what is selected, with the columns that are kept."""
    classes = taken_classes(store, options.selection)
    labels = None
    if classes is not None and classes != store.manifest.classes:
        place = {name: label for label, name in enumerate(classes)}
        labels = np.array([place.get(name, 0) for name in store.manifest.classes or ()], np.int64)
    splits: list[NewSplit] = []
    for name, numbers in select(store, options.selection, progress.advance).items():
        kept = [c for c in store[name].columns if c != "key" or options.keys]
        piece = Piece(store, name, numbers, labels)
        splits.append(NewSplit(name, (piece,), columns_like(kept, len(classes or ()))))
    return splits


class _Job(NamedTuple):
    """A conversion, decided."""

    store: Store
    splits: list[NewSplit]
    classes: tuple[str, ...] | None
    plan: WorkPlan


def _convert(job: _Job, output: Output, running: Running) -> Manifest:
    store, splits, plan = job.store, job.splits, job.plan
    old, stream, total = store.manifest, running.stream, sum(map(len, splits))
    with WorkProgress("counting", total, stream=stream) as progress:
        pieces = [split.pieces[0] for split in splits]
        counts = count_ranks(pieces, running.workers, progress.advance)
    vocabulary = _recounted(store, splits, counts)
    codec = fit_form(plan.facts["codec"], splits, CodecSpec(len(vocabulary), old.grid))
    form = Form(codec, write_tables(output.target, codec), plan.facts["shard_size"], old.block)
    with WorkProgress("converting", total, stream=stream) as progress:
        entries = write_splits(output, splits, form, running.workers, progress.advance)
    rejects = [r for r in load_rejects(store.storage, old.rejects) if r.split in entries]
    changes = {
        "version": 0,
        "parent": None,
        "vocabulary": write_vocabulary(output.target, vocabulary),
        "table_sets": (form.tables,),
        "splits": entries,
        "classes": job.classes,
        "source": SourceEntry(**plan.facts["source"]),
        "rejects": write_rejects(output.target, rejects),
        "plan": plan.hash,
    }
    return publish(output.target, old.model_copy(update=changes))


def _recounted(store: Store, splits: list[NewSplit], counts: list[NDArray[np.int64]]) -> Vocabulary:
    """The store's ids at their ranks, with the counts of what is taken, by the usual rule."""
    ids = store.vocabulary.ids
    by_id = {split.name: np.zeros(int(ids.max()) + 1, np.int64) for split in splits}
    for split, found in zip(splits, counts, strict=True):
        by_id[split.name][ids] = found
    recounted = store.vocabulary.recounted(by_id)
    return Vocabulary(recounted.ids, recounted.counts, store.codebook)
