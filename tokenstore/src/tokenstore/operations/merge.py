"""Several stores of one tokenizer become one.

Their samples follow each other in the order in which the stores are named, split by split. The
vocabulary is that of a store built of all of them: the ids that occur, ordered by their count in
train. Labels go by the name of the class: the classes of the first store keep their labels, those
that only later stores have come behind. Of two samples of a split with one key the later one
becomes a reject, beside the rejects of the stores themselves.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tokenstore import registry
from tokenstore.build.engine import Running
from tokenstore.build.output import Output, claim_output
from tokenstore.build.plan import PLAN_FORMAT, WorkPlan, locked_versions
from tokenstore.build.run import BuildReport
from tokenstore.codecs.base import CodecSpec
from tokenstore.listed import load_rejects
from tokenstore.manifest import (
    Manifest,
    OrderEntry,
    SourceEntry,
    load_manifest,
    publish,
)
from tokenstore.operations.repack import (
    Form,
    NewSplit,
    Piece,
    columns_like,
    count_ranks,
    fit_form,
    write_splits,
)
from tokenstore.operations.repeated import Repeated, repeated_keys
from tokenstore.operations.united import check_alike, united_classes, united_vocabulary
from tokenstore.progress import WorkProgress
from tokenstore.reader import Store, open_store
from tokenstore.space import least_store, room_for
from tokenstore.vocabulary import Vocabulary
from tokenstore.writer import Reject, write_rejects, write_tables, write_vocabulary

ORDER = "concatenated"


@dataclass(frozen=True)
class MergeOptions:
    """What a user decides: codec (None: that of the first store), images of a shard."""

    codec: str | None = None
    shard_size: int = 16_384


def merge_stores(
    places: Sequence[str], place: str | Path, options: MergeOptions, running: Running
) -> BuildReport:
    """Make one store of several, or continue where an earlier call was interrupted.

    Raises:
        UsageError: fewer than two stores, or one of them twice.
        Mismatch: they are not of one tokenizer, or their splits do not have the same columns.
        BuildError: the place is taken.
        NoRoom: the disk is too full.
        CorruptStore: a store is damaged; names the place.
    """
    stores = [open_store(one) for one in places]
    check_alike(stores)
    plan = _plan(stores, options)
    grid = stores[0].manifest.grid
    needed = sum(least_store(_images(s), grid, s.manifest.vocabulary.entropy) for s in stores)
    output = claim_output(place, plan, needed)
    if output.is_done:
        output.clear_staging()
        return BuildReport(output.target.url, load_manifest(output.target), False, 0)
    with room_for(output.target.url, needed):
        manifest = _merge(stores, plan, output, running)
    output.clear_staging()
    return BuildReport(output.target.url, manifest, is_new=True, tokenized=_count(manifest))


def _plan(stores: Sequence[Store], options: MergeOptions) -> WorkPlan:
    codec = options.codec or stores[0].manifest.table_sets[-1].codec
    registry.find("tokenstore.codecs", codec)
    fingerprints = [store.fingerprint for store in stores]
    listing = hashlib.sha256("\n".join(fingerprints).encode()).hexdigest()
    facts = {
        "plan": PLAN_FORMAT,
        "operation": "merge",
        "stores": fingerprints,
        "source": {"kind": "merge", "listing": listing},
        "codec": codec,
        "shard_size": options.shard_size,
        "versions": locked_versions(),
    }
    return WorkPlan(facts)


def _merge(stores: Sequence[Store], plan: WorkPlan, output: Output, running: Running) -> Manifest:
    classes = united_classes([store.manifest.classes for store in stores])
    splits = [
        _joined(split, [store for store in stores if split in store], classes)
        for split in dict.fromkeys(name for store in stores for name in store)
    ]
    total, stream = sum(map(len, splits)), running.stream
    with WorkProgress("comparing keys", total, stream=stream) as progress:
        splits, repeated = _without_repeated(splits, stores, progress)
    pieces = [piece for split in splits for piece in split.pieces]
    with WorkProgress("counting", sum(map(len, pieces)), stream=stream) as progress:
        counts = count_ranks(pieces, running.workers, progress.advance)
    vocabulary = united_vocabulary(stores, splits, counts)
    splits = [_renamed(split, vocabulary) for split in splits]
    first = stores[0].manifest
    codec = fit_form(plan.facts["codec"], splits, CodecSpec(len(vocabulary), first.grid))
    form = Form(codec, write_tables(output.target, codec), plan.facts["shard_size"], first.block)
    with WorkProgress("merging", sum(map(len, splits)), stream=stream) as progress:
        entries = write_splits(output, splits, form, running.workers, progress.advance)
    carried = [r for s in stores for r in load_rejects(s.storage, s.manifest.rejects)]
    return publish(
        output.target,
        Manifest(
            tokenizer=first.tokenizer,
            preprocess=first.preprocess,
            grid=first.grid,
            vocabulary=write_vocabulary(output.target, vocabulary),
            table_sets=(form.tables,),
            block=first.block,
            splits=entries,
            classes=classes,
            ignore_index=first.ignore_index,
            source=SourceEntry(**plan.facts["source"]),
            order=OrderEntry(rule=ORDER, seed=None),
            rejects=write_rejects(output.target, [*carried, *repeated]),
            plan=plan.hash,
        ),
    )


def _joined(split: str, stores: Sequence[Store], classes: tuple[str, ...] | None) -> NewSplit:
    """A split of all stores that have it, its labels by the united classes."""
    place = {name: label for label, name in enumerate(classes or ())}
    pieces = []
    for store in stores:
        names = store.manifest.classes or ()
        labels = np.array([place[name] for name in names], np.int64)
        pieces.append(Piece(store, split, labels=labels))
    filled = [store for store in stores if len(store[split])] or [stores[0]]
    columns = columns_like(filled[0][split].columns, len(classes or ()))
    return NewSplit(split, tuple(pieces), columns)


def _without_repeated(
    splits: Sequence[NewSplit], stores: Sequence[Store], progress: WorkProgress
) -> tuple[list[NewSplit], list[Reject]]:
    """The splits without samples whose key occurred before, and these as rejects."""
    kept, rejects = [], []
    for split in splits:
        if all(column.name != "key" for column in split.columns):
            progress.say(f"{split.name} keeps no keys: images that occur twice are not found")
            kept.append(split)
            continue
        found = repeated_keys(split.pieces, progress.advance)
        rejects += [_reject(split, repeated, stores) for repeated in found]
        pieces = [
            _without(piece, [r.place for r in found if r.piece == number])
            for number, piece in enumerate(split.pieces)
        ]
        kept.append(replace(split, pieces=tuple(pieces)))
    for reject in rejects:
        progress.say(f"rejected {reject.split}/{reject.key}: {reject.reason}")
    return kept, rejects


def _reject(split: NewSplit, repeated: Repeated, stores: Sequence[Store]) -> Reject:
    earlier = split.pieces[repeated.earlier].store
    reason = (
        f"its key is already that of an image of store {stores.index(earlier) + 1} of "
        f"{len(stores)} ({earlier.fingerprint[:16]})"
    )
    return Reject(split.name, repeated.key, repeated.key, reason)


def _without(piece: Piece, places: Sequence[int]) -> Piece:
    if not places:
        return piece
    return replace(piece, numbers=np.delete(piece.numbers_of(0, len(piece)), places))


def _renamed(split: NewSplit, vocabulary: Vocabulary) -> NewSplit:
    """The split with the new rank of every old one; 0 where an old one does not occur."""
    pieces = []
    for piece in split.pieces:
        ids = piece.store.vocabulary.ids
        occurs = np.isin(ids, vocabulary.ids)
        ranks = np.zeros(len(ids), np.uint16)
        ranks[occurs] = vocabulary.to_ranks(ids[occurs])
        pieces.append(replace(piece, ranks=ranks))
    return replace(split, pieces=tuple(pieces))


def _images(store: Store) -> int:
    return sum(map(len, store.splits.values()))


def _count(manifest: Manifest) -> int:
    return sum(split.count for split in manifest.splits.values())
